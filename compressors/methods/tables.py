"""Weights by levels out of a table: how levels become integers, and which one a weight takes.

A table's entries are signed integers times one scale, so that a weight still is a sum of digit planes; stored is an
index (see ``compressors.storage``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressors.errors import ConfigError
from compressors.methods.integers import code_runs
from compressors.registry import check_range
from compressors.tensor import SlicedTensor

_SMALLEST_STEP = 1e-36  # a scale that still is a normal float32 after clipping; rows below count as zero


def check_table(method: str, bits: object, table_bits: object, zero: object = True) -> None:
    """Refuse tables of other than 2 to 256 entries, entries too few bits wide to tell them apart, a non-boolean."""
    check_range(f"{method}.bits", bits, 1, 8)
    check_range(f"{method}.table_bits", table_bits, 2, 8)
    if table_bits < bits:
        raise ConfigError(f"{method}.table_bits", table_bits, f"at least {method}.bits, which is {bits}")
    if not isinstance(zero, bool):
        raise ConfigError(f"{method}.zero", zero, "true or false")


def with_zero(levels: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Ascending ``levels [n, L]`` with a 0 in place of the greatest negative one, or of the least other one.

    Returns both as levels and the index of the zero, ``int64 [n]``. Where no level lies on that side, the 0 takes the
    place of the nearest one.
    """
    negative = (levels < 0).sum(1)
    variants = []
    for index in (np.maximum(negative - 1, 0), np.minimum(negative, levels.shape[1] - 1)):
        changed = levels.copy()
        changed[np.arange(len(levels)), index] = 0.0
        variants.append((changed, index))
    return tuple(variants)


def integer_levels(levels: np.ndarray, count: np.ndarray, table_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Tables of integers near ``levels [n, L]``, of which ``count [n, L]`` weights make use.

    The largest magnitude may fall on any code of the upper half: the scale of least squared error is taken.

    Returns ``int64 [n, L]`` and scales ``float64 [n]`` that are exact in float32.
    """
    top = (1 << (table_bits - 1)) - 1
    largest = np.abs(levels).max(1, keepdims=True)
    largest[largest < _SMALLEST_STEP * top] = float(top)  # any scale holds them
    least = np.full(largest.shape, np.inf)
    best = np.ones(largest.shape)
    for code in range(top, top // 2, -1):
        scale = (largest / code).astype(np.float32).astype(np.float64)
        error = (count * (scale * np.rint(levels / scale) - levels) ** 2).sum(1, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return np.rint(levels / best).astype(np.int64), best[:, 0]


def nearest(weight: np.ndarray, table: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The entry nearest to every weight, ``int64 [rows, length]``.

    Args:
        weight: ``float64 [rows, length]``; table: ascending integers ``[L]`` or ``[rows, L]``; scale: ``[rows]``.
    """
    relative = weight / scale[:, None]
    border = 0.5 * (table[..., 1:] + table[..., :-1])
    if table.ndim == 1:
        return table[np.searchsorted(border, relative)]
    index = np.stack([np.searchsorted(*pair) for pair in zip(border, relative, strict=True)])
    return np.take_along_axis(table, index, 1)


def scaled_table(
    kept: np.ndarray, table: np.ndarray, fractions: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The scale of a fixed table ``[L]`` of least squared error, one per row of ``kept [rows, length]``.

    Args:
        fractions: of the largest weight, that the largest entry is tried on. A table that has no mirror image of
            itself is tried mirrored as well (a negative scale).

    Returns:
        Codes ``int64 [rows, length]`` and scales ``float64 [rows]`` that are exact in float32.
    """
    top = np.abs(table).max()
    largest = np.abs(kept).max(1)
    largest[largest < _SMALLEST_STEP * top] = float(top)
    sides = (1.0,) if np.array_equal(table, -table[::-1]) else (1.0, -1.0)
    least = np.full(len(kept), np.inf)
    best = np.ones(len(kept))
    for fraction in fractions:
        for side in sides:
            scale = (side * fraction * largest / top).astype(np.float32).astype(np.float64)
            error = ((scale[:, None] * nearest(kept, table, scale) - kept) ** 2).sum(1)
            best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return nearest(kept, table, best), best


def used_levels(tensor: SlicedTensor, shared: bool) -> np.ndarray:
    """The codes in use, the alphabet of tables fitted to the weights: ``int64 [1, N, groups, L]``.

    Rows of fewer codes than others repeat their largest. ``shared`` is one table for all: ``[1, 1, 1, L]``.
    """
    ordered = np.sort(code_runs(tensor, shared), axis=2)
    first = np.diff(ordered, axis=2, prepend=ordered[..., :1] - 1) != 0
    count = first.sum(2)
    used = np.broadcast_to(ordered[..., -1:], (*count.shape, int(count.max()))).copy()
    row, group, _ = np.nonzero(first)
    place = (np.cumsum(first, axis=2) - 1)[first]
    used[row, group, place] = ordered[first]
    return used[None]
