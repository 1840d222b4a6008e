"""Text beside points of a plot, put where it covers neither another text nor a point that matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

_DISTANCES_PT = (5.0, 9.0, 15.0, 23.0, 33.0, 45.0)
_DIRECTIONS = tuple((float(np.cos(angle)), float(np.sin(angle))) for angle in np.arange(16) * (np.pi / 8))
_LEADER_FROM_PT = 8.0


@dataclass(frozen=True)
class Label:
    """``text`` for the point (``x``, ``y``), in data coordinates."""

    text: str
    x: float
    y: float
    colour: str
    weight: str = "normal"


def place_labels(
    axes: Axes, labels: Sequence[Label], avoid: np.ndarray, faint: np.ndarray, size_pt: float = 7.0
) -> None:
    """Write the labels near their points.

    Of 16 directions and 6 distances each label takes the place of least cost: leaving the axes and covering
    another label cost most, then points of ``avoid``, then distance and points of ``faint``. Labels with the
    least free room around them go first. A label that ends up away from its point gets a thin line to it.

    Args:
        axes: with final limits and layout, as places are found in pixels.
        labels: what to write.
        avoid: float [n, 2], data coordinates of points (and of samples along lines) not to be covered.
        faint: float [m, 2], data coordinates of points that may be covered if need be.
        size_pt: font size in points.
    """
    per_pt = axes.figure.dpi / 72.0
    anchors = _pixels(axes, np.array([[label.x, label.y] for label in labels]).reshape(-1, 2))
    important = np.vstack([_pixels(axes, avoid), anchors])
    background = _pixels(axes, faint)
    taken: list[np.ndarray] = []
    sizes = [_text_size(axes, label, size_pt) for label in labels]
    boxes = [_candidates(anchor, size, per_pt) for anchor, size in zip(anchors, sizes, strict=True)]
    fixed = [
        _fixed_cost(axes, candidates, important, background)
        + 40.0 * _nearer_to_another(candidates, anchors, i)
        for i, candidates in enumerate(boxes)
    ]
    for i in sorted(range(len(labels)), key=lambda i: -float(np.min(fixed[i]))):
        cost = fixed[i] + sum(
            (1000.0 * _overlap(boxes[i], other) for other in taken), np.zeros(len(boxes[i]))
        )
        best = boxes[i][int(np.argmin(cost))]
        taken.append(best)
        _write(axes, labels[i], anchors[i], best, size_pt, per_pt)


def _pixels(axes: Axes, points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return axes.transData.transform(points) if len(points) else points


def _text_size(axes: Axes, label: Label, size_pt: float) -> tuple[float, float]:
    probe = axes.text(0, 0, label.text, fontsize=size_pt, fontweight=label.weight)
    extent = probe.get_window_extent(axes.figure.canvas.get_renderer())
    probe.remove()
    return extent.width, extent.height


def _candidates(anchor: np.ndarray, size: tuple[float, float], per_pt: float) -> np.ndarray:
    """Boxes (x0, y0, x1, y1) in pixels whose nearest edge lies in each direction at each distance."""
    half = np.array(size) / 2
    boxes = []
    for distance in _DISTANCES_PT:
        for direction in np.array(_DIRECTIONS):
            # The box touches the circle of this distance with the side that faces the point.
            centre = anchor + direction * distance * per_pt + np.sign(np.round(direction, 6)) * half
            boxes.append([*(centre - half), *(centre + half)])
    return np.array(boxes)


def _fixed_cost(axes: Axes, boxes: np.ndarray, important: np.ndarray, background: np.ndarray) -> np.ndarray:
    frame = axes.bbox
    outside = (
        np.maximum(0, frame.x0 - boxes[:, 0])
        + np.maximum(0, boxes[:, 2] - frame.x1)
        + np.maximum(0, frame.y0 - boxes[:, 1])
        + np.maximum(0, boxes[:, 3] - frame.y1)
    )
    distance = np.repeat(_DISTANCES_PT, len(_DIRECTIONS))
    crowd = np.minimum(_inside(boxes, background), 20)
    return 100.0 * outside + 60.0 * _inside(boxes, important) + 2.0 * distance + 3.0 * crowd


def _nearer_to_another(boxes: np.ndarray, anchors: np.ndarray, own: int) -> np.ndarray:
    """1.0 where a box lies nearer to another label's point than to its own, and would seem to name that."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    gaps = np.maximum(0, np.maximum(low - anchors, anchors - high))
    distance = np.hypot(gaps[..., 0], gaps[..., 1])
    others = np.delete(distance, own, axis=1)
    # A point at the very same place cannot be told apart by distance.
    others = np.where(np.isclose(np.delete(anchors, own, axis=0), anchors[own]).all(axis=1), np.inf, others)
    return (others.min(axis=1, initial=np.inf) < distance[:, own] + 1.0).astype(np.float64)


def _inside(boxes: np.ndarray, points: np.ndarray, margin_px: float = 2.0) -> np.ndarray:
    """How many points lie in each box, int [boxes]."""
    if not len(points):
        return np.zeros(len(boxes), dtype=int)
    x, y = points[:, 0], points[:, 1]
    within_x = (x >= boxes[:, :1] - margin_px) & (x <= boxes[:, 2:3] + margin_px)
    within_y = (y >= boxes[:, 1:2] - margin_px) & (y <= boxes[:, 3:] + margin_px)
    return (within_x & within_y).sum(axis=1)


def _overlap(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """1.0 where a box meets ``other``, else 0.0."""
    apart = (
        (boxes[:, 0] > other[2])
        | (boxes[:, 2] < other[0])
        | (boxes[:, 1] > other[3])
        | (boxes[:, 3] < other[1])
    )
    return (~apart).astype(np.float64)


def _write(
    axes: Axes, label: Label, anchor: np.ndarray, box: np.ndarray, size_pt: float, per_pt: float
) -> None:
    nearest = np.clip(anchor, box[:2], box[2:])
    away = float(np.hypot(*(nearest - anchor))) / per_pt
    centre = (box[:2] + box[2:]) / 2
    if away > _LEADER_FROM_PT:
        ends = axes.transData.inverted().transform([anchor, nearest])
        axes.plot(ends[:, 0], ends[:, 1], color=label.colour, linewidth=0.4, alpha=0.7, zorder=5)
    axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=tuple((centre - anchor) / per_pt),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size_pt,
        fontweight=label.weight,
        color=label.colour,
        bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        zorder=6,
    )
