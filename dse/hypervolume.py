"""Hypervolume: how much of the space between the worst and the ideal a set of points dominates.

Values are arrays of shape [n points, m objectives] in the metrics' own units, with one direction
(``maximize`` or ``minimize``) per objective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
MARGIN = 0.1


def to_minimize(values: ArrayLike, directions: Sequence[str]) -> Array:
    """``values`` as float64 [n, m], with the sign of maximised objectives turned.

    Raises:
        ValueError: another shape, an unknown direction, NaN or infinity.
    """
    signs = []
    for direction in directions:
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"{direction=}: expected 'maximize' or 'minimize'")
        signs.append(-1.0 if direction == "maximize" else 1.0)
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(0, len(signs))
    if array.ndim != 2 or array.shape[1] != len(signs):
        raise ValueError(f"{array.shape=}: expected [points, {len(signs)} objectives]")
    if not np.isfinite(array).all():
        raise ValueError("values hold NaN or infinity; expected finite numbers")
    return array * np.array(signs)


def on_log_scale(values: ArrayLike, directions: Sequence[str]) -> Array:
    """``values`` [n, m] with every minimised objective that is positive throughout replaced by its log10.

    Costs span decades. On a linear scale one outlier, a float baseline say, would make all others look alike.
    """
    array = np.array(values, dtype=np.float64)
    for column, direction in enumerate(directions):
        if direction == "minimize" and array.size and (array[:, column] > 0).all():
            array[:, column] = np.log10(array[:, column])
    return array


def front_mask(costs: Array) -> NDArray[np.bool_]:
    """Which rows of ``costs`` [n, m], all minimised, no other row dominates; equal rows all count."""
    n = len(costs)
    mask = np.ones(n, dtype=bool)
    # In this order no row is dominated by a later one.
    order = np.lexsort(costs.T[::-1])
    front = np.empty_like(costs)
    size = 0
    for index in order:
        row = costs[index]
        below = front[:size]
        if ((below <= row).all(axis=1) & (below < row).any(axis=1)).any():
            mask[index] = False
        else:
            front[size] = row
            size += 1
    return mask


def hypervolume(values: ArrayLike, directions: Sequence[str], reference: ArrayLike) -> float:
    """Volume dominated by ``values`` and bounded by ``reference`` [m], in the product of the units.

    Exact. Points that are not better than the reference in every objective add nothing. The method
    is WFG's sum of exclusive volumes (While, Bradstreet, Barone, IEEE TEVC 16(1), 2012), with a
    sweep for two objectives.
    """
    costs = to_minimize(values, directions)
    corner = to_minimize([np.asarray(reference, dtype=np.float64)], directions)[0]
    return _volume(_inside(costs, corner), corner)


def reference_point(values: ArrayLike, directions: Sequence[str], margin: float = MARGIN) -> Array:
    """The worst of every objective [m] over all given points, moved away by ``margin`` of their range.

    Without the margin the best point of one objective would add nothing whenever it is the worst
    of another. An objective in which all points agree has range 0 and is moved by ``margin`` of its
    size (of 1 where it is 0).
    """
    costs = to_minimize(values, directions)
    worst, ideal = costs.max(axis=0), costs.min(axis=0)
    span = worst - ideal
    size = np.where(worst == 0, 1.0, np.abs(worst))
    corner = worst + margin * np.where(span > 0, span, size)
    return to_minimize([corner], directions)[0]


def normalised_hypervolume(values: ArrayLike, directions: Sequence[str]) -> float:
    """Hypervolume as a share, in [0, 1], of the box between the ideal and the reference point.

    The same as the last entry of `hypervolume_history`, without the others; 0 for no points.
    """
    costs = to_minimize(values, directions)
    if len(costs) == 0:
        return 0.0
    corner = to_minimize([reference_point(values, directions)], directions)[0]
    ideal = costs.min(axis=0)
    ones = np.ones(costs.shape[1])
    return min(1.0, _volume(_inside((costs - ideal) / (corner - ideal), ones), ones))


def hypervolume_history(
    values: ArrayLike, directions: Sequence[str], reference: ArrayLike | None = None
) -> Array:
    """Normalised hypervolume after each of the points in turn, [n], in [0, 1], never decreasing.

    The box reaches from the ideal of all points to ``reference`` (default: `reference_point` of all
    points), so that 1 means one point that is best in everything.
    """
    costs = to_minimize(values, directions)
    if len(costs) == 0:
        return np.zeros(0)
    corner_values = reference_point(values, directions) if reference is None else reference
    corner = to_minimize([np.asarray(corner_values, dtype=np.float64)], directions)[0]
    span = corner - costs.min(axis=0)
    if (span <= 0).any():
        return np.zeros(len(costs))
    scaled, ones = (costs - costs.min(axis=0)) / span, np.ones(costs.shape[1])
    front, total = np.empty((0, costs.shape[1])), 0.0
    history = np.empty(len(costs))
    for i, point in enumerate(scaled):
        if (point < 1).all() and not (front <= point).all(axis=1).any():
            total += _exclusive(point, front, ones)
            front = np.vstack([front[~(front >= point).all(axis=1)], point])
        history[i] = total
    return np.minimum(history, 1.0)


def _inside(costs: Array, corner: Array) -> Array:
    """The distinct non-dominated rows below ``corner``, in ascending order."""
    kept = costs[(costs < corner).all(axis=1)]
    if costs.shape[1] != 2:
        return np.unique(kept[front_mask(kept)], axis=0)
    kept = kept[np.lexsort((kept[:, 1], kept[:, 0]))]
    lowest_before = np.minimum.accumulate(np.concatenate([[np.inf], kept[:-1, 1]])[: len(kept)])
    return kept[kept[:, 1] < lowest_before]


def _exclusive(point: Array, others: Array, corner: Array) -> float:
    """Volume that ``point`` dominates and none of ``others`` does."""
    box = float(np.prod(corner - point))
    if len(others) == 0:
        return box
    return box - _volume(_inside(np.maximum(others, point), corner), corner)


def _volume(front: Array, corner: Array) -> float:
    """Volume of distinct, mutually non-dominated rows in ascending order, all below ``corner``."""
    n, m = front.shape
    if n == 0:
        return 0.0
    if m == 1:
        return float(corner[0] - front[0, 0])
    if m == 2:
        heights = np.concatenate([[corner[1]], front[:-1, 1]]) - front[:, 1]
        return float(((corner[0] - front[:, 0]) * heights).sum())
    # Rows before the i-th are better in the first objective, so limited to it they all share its
    # depth there, and one dimension is gone.
    rest, depth = front[:, 1:], corner[0] - front[:, 0]
    return float(sum(depth[i] * _exclusive(rest[i], rest[:i], corner[1:]) for i in range(n)))
