"""Accuracy against one cost: every trial, the front of the two, the study's front, baselines and the knee."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dse.figures.labels import Label, place_labels
from dse.figures.scales import accuracy_axis, cost_axis
from dse.figures.style import BLACK, BLUE, GREY, INK, VERMILION, new_figure, settle_layout
from dse.objectives import Metric
from dse.pareto import non_dominated
from dse.records import TrialRecord, acceptable
from dse.summary import FLOAT_LABEL, StudySummary, value_of

_HEIGHT_IN = 2.75


def tradeoff_figure(summary: StudySummary, cost: Metric) -> Figure:
    """Accuracy (up is better) against ``cost`` (left is better).

    Faint dots are all finished trials; the step line is the front of just these two metrics, and a filled dot
    is a trial no other one beats over *all* the study's objectives (so it may lie below the step line: it is
    good at something else). Diamonds are baselines, the star is the knee, the dashed line the float network.

    At least one finished trial must have both metrics.
    """
    accuracy = summary.metrics["accuracy"]
    shown = [r for r in summary.complete if _point(r, cost, accuracy) is not None]
    points = np.array([_point(record, cost, accuracy) for record in shown])
    on_front = np.array([record.number in summary.front_numbers for record in shown])
    level = None if summary.float_accuracy is None else summary.float_accuracy * accuracy.display_scale
    figure = new_figure(_HEIGHT_IN)
    axes = figure.add_subplot()
    _prepare(axes, points, level, cost, accuracy)
    _draw_trials(axes, points)
    within = {record.number for record in acceptable(shown)}
    stairs = _draw_front(axes, points[[record.number in within for record in shown]], cost)
    _draw_study_front(axes, points[on_front])
    marked = dict(zip((record.number for record in shown), points, strict=True))
    labels = _draw_marked(axes, summary, marked)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, borderaxespad=0.2)
    settle_layout(figure)
    lines = [stairs] if level is None else [stairs, np.array([[x, level] for x in axes.get_xlim()])]
    kept_free = np.vstack([points[on_front], *(_along(axes, line) for line in lines)])
    place_labels(axes, labels, avoid=kept_free, faint=points)
    return figure


def _prepare(axes: Axes, points: np.ndarray, level: float | None, cost: Metric, accuracy: Metric) -> None:
    """Scales, axis labels, grid and the line of the float network."""
    accuracy_axis(axes, points[:, 1] if level is None else [*points[:, 1], level])
    cost_axis(axes, points[:, 0])
    axes.set_xlabel(cost.axis_label)
    axes.set_ylabel(accuracy.axis_label)
    axes.grid(True)
    if level is not None:
        _draw_float_line(axes, level)


def _point(record: TrialRecord, cost: Metric, accuracy: Metric) -> tuple[float, float] | None:
    x, y = value_of(record, cost), value_of(record, accuracy)
    return None if x is None or y is None else (x * cost.display_scale, y * accuracy.display_scale)


def _draw_trials(axes: Axes, points: np.ndarray) -> None:
    # Fainter the more there are, so that a thousand still show where they are dense.
    alpha = float(np.clip(6.0 / np.sqrt(len(points)), 0.25, 0.6))
    axes.scatter(
        points[:, 0], points[:, 1], s=7, color=GREY, alpha=alpha, linewidths=0, zorder=2, label="all trials"
    )


def _draw_front(axes: Axes, points: np.ndarray, cost: Metric) -> np.ndarray:
    """The staircase of the two metrics, from the cheapest point on to the right edge; its corners [n, 2]."""
    kept = points[non_dominated(points, [cost.direction, "maximize"])]
    kept = np.unique(kept, axis=0)
    corners = np.vstack([kept, [axes.get_xlim()[1], kept[-1, 1]]])
    axes.plot(
        corners[:, 0],
        corners[:, 1],
        drawstyle="steps-post",
        color=BLUE,
        linewidth=0.9,
        zorder=3,
        label="front in this plane",
    )
    return corners


def _draw_study_front(axes: Axes, chosen: np.ndarray) -> None:
    axes.scatter(
        chosen[:, 0],
        chosen[:, 1],
        s=16,
        color=BLUE,
        edgecolors="white",
        linewidths=0.4,
        zorder=4,
        label="front of all objectives",
    )


def _draw_float_line(axes: Axes, accuracy_pct: float) -> None:
    axes.axhline(accuracy_pct, color=INK, linewidth=0.7, linestyle=(0, (4, 2.5)), zorder=1.5)
    axes.annotate(
        "float",
        (1.0, accuracy_pct),
        xycoords=axes.get_yaxis_transform(),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
        annotation_clip=False,
    )


def _draw_marked(axes: Axes, summary: StudySummary, points: dict[int, np.ndarray]) -> list[Label]:
    """Draw baselines and the knee; returns the texts they want beside them."""
    shown = {label: points[r.number] for label, r in summary.baselines.items() if r.number in points}
    if shown:
        xy = np.array(list(shown.values()))
        axes.scatter(
            xy[:, 0],
            xy[:, 1],
            s=20,
            marker="D",
            color=BLACK,
            edgecolors="white",
            linewidths=0.5,
            zorder=4.5,
            label="baseline",
        )
    # The float network's text stands beside its line.
    labels = [Label(text, x, y, INK) for text, (x, y) in shown.items() if text != FLOAT_LABEL]
    if summary.knee is not None and summary.knee.number in points:
        x, y = points[summary.knee.number]
        axes.scatter(
            [x],
            [y],
            s=75,
            marker="*",
            color=VERMILION,
            edgecolors="white",
            linewidths=0.5,
            zorder=4.8,
            label="knee",
        )
        labels.append(Label(f"knee, trial {summary.knee.number}", x, y, VERMILION, "bold"))
    return labels


def _along(axes: Axes, corners: np.ndarray, step_pt: float = 4.0) -> np.ndarray:
    """Points every ``step_pt`` along the staircase, data coordinates [n, 2], so that no text hides it."""
    to_pixels, to_data = axes.transData, axes.transData.inverted()
    bends = _with_bends(to_pixels.transform(corners))
    step_px = step_pt * axes.figure.dpi / 72.0
    pieces = [
        np.linspace(a, b, max(2, int(np.hypot(*(b - a)) / step_px) + 1))
        for a, b in zip(bends[:-1], bends[1:], strict=True)
    ]
    return to_data.transform(np.vstack(pieces)) if pieces else corners


def _with_bends(corners: Sequence[np.ndarray]) -> list[np.ndarray]:
    bends = [corners[0]]
    for corner in corners[1:]:
        bends += [np.array([corner[0], bends[-1][1]]), corner]
    return bends
