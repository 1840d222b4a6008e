"""Levels of least squared error for the weights of a row (one-dimensional k-means).

Lloyd's iteration ends where it began to look, so it begins at several places: at weights laid out evenly, and, for
few levels, at the best split of the sorted row into cells, by dynamic programming over a limited choice of borders.
"""

from __future__ import annotations

import numpy as np

from compressors.methods.sorted_rows import SortedRows, count_below
from compressors.methods.tables import with_zero

_LAYOUTS = (0.0, 2.0 / 3.0, 1.0)
_TRIAL_ROUNDS, _ROUNDS = 12, 300
_CELLS = 96  # that a row is split into before they are joined; rows of no more weights are split at best
_SPLIT_ENTRIES = 16  # for more levels evenly laid out ones are close to the best
_CHUNK = 1 << 22  # numbers worked on at once


def shared_values(rows: SortedRows, entries: int, zero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``entries`` levels per row of little squared error.

    Args:
        zero: booleans ``[rows]``, where 0 has to be one of the levels.

    Returns:
        Levels ``float64 [rows, entries]``, ascending, and how many weights take each.
    """
    everyone = np.arange(len(rows.kept))
    starts = []
    for power in _LAYOUTS:
        levels = _evenly(rows, entries, power)
        for pinned, index in with_zero(levels):
            starts.append((np.where(zero[:, None], pinned, levels), np.where(zero, index, -1)))
    if entries <= _SPLIT_ENTRIES:
        starts.append(_split(rows, entries, zero))
    row = np.tile(everyone, len(starts))
    levels = np.concatenate([levels for levels, _ in starts])
    fixed = np.concatenate([index for _, index in starts])
    levels = _lloyd(rows, row, levels, fixed, _TRIAL_ROUNDS)
    best = rows.distortion(row, levels).reshape(len(starts), -1).argmin(0) * len(everyone) + everyone
    levels = _lloyd(rows, everyone, levels[best], fixed[best], _ROUNDS)
    return levels, rows.totals(everyone, rows.cells(everyone, levels))[0]


def _way(rows: SortedRows, power: float) -> np.ndarray:
    """How far each weight lies along its row, ``float64 [rows, length]``: the gaps up to it to some ``power``, summed.

    Equal ways are quantiles for 0, equal steps for 1, and the density that is best for many levels for 2/3: gaps are
    inverse to the density of the weights, so that levels lie with its cube root (Panter & Dite 1951).
    """
    everyone = np.arange(len(rows.kept))
    rank = np.arange(rows.ascending.shape[1])
    value = rows.at(everyone, np.broadcast_to(rank, rows.ascending.shape))
    span = value[:, -1:] - value[:, :1]
    relative = np.diff(value, axis=1) / np.where(span > 0, span, 1.0)
    if power == 0.0:
        relative = (rank[1:] < rows.kept[:, None]).astype(np.float64)
    elif power != 1.0:
        relative = np.cbrt(relative) ** 2
    return np.concatenate([np.zeros((len(relative), 1)), np.cumsum(relative, axis=1)], axis=1)


def _evenly(rows: SortedRows, entries: int, power: float) -> np.ndarray:
    """The weights nearest to the middles of ``entries`` equal ways: ``float64 [rows, entries]``."""
    everyone, way = np.arange(len(rows.kept)), _way(rows, power)
    target = way[:, -1:] * ((np.arange(entries) + 0.5) / entries)
    above = count_below(way, np.maximum(rows.kept, 1), everyone, target)
    above = np.minimum(above, way.shape[1] - 1)
    under = np.maximum(above - 1, 0)
    there = np.take_along_axis(way, above, 1) - target
    back = target - np.take_along_axis(way, under, 1)
    return rows.at(everyone, np.where(back < there, under, above))


def _borders(rows: SortedRows) -> np.ndarray:
    """Ranks between which a row may be split, ascending from 0: all of a short row, else at equal ways."""
    count, length = rows.ascending.shape
    if length <= _CELLS:
        return np.minimum(np.arange(length + 1), rows.kept[:, None])
    way = _way(rows, _LAYOUTS[1])
    target = way[:, -1:] * (np.arange(1, _CELLS) / _CELLS)
    between = count_below(way, rows.kept, np.arange(count), target)
    return np.concatenate([np.zeros((count, 1), np.int64), between, rows.kept[:, None]], axis=1)


def _lloyd(
    rows: SortedRows, row: np.ndarray, levels: np.ndarray, fixed: np.ndarray, rounds: int
) -> np.ndarray:
    """Cells of the nearest level and levels at the mean of their cell, in turn until no weight changes its cell.

    Args:
        row: ``[n]``, of which row ``levels [n, L]`` are; fixed: ``[n]``, index of the level that stays 0, or -1.
    """
    levels, active = levels.copy(), np.arange(len(row))
    before = np.full((len(row), levels.shape[1] + 1), -1)
    moving = np.arange(levels.shape[1]) != fixed[:, None]
    for _ in range(rounds):
        ends = rows.cells(row[active], levels[active])
        changed = (ends != before[active]).any(1)
        active, ends = active[changed], ends[changed]
        if not len(active):
            break
        before[active] = ends
        mean = rows.means(row[active], ends)
        filled = np.diff(ends) > 0
        levels[active] = np.where(filled & moving[active], mean, levels[active])
    return levels


def _split(rows: SortedRows, entries: int, zero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels ``[rows, entries]`` of the best split at :func:`_borders`, and the index of the zero or -1."""
    count, length = rows.ascending.shape
    borders, everyone = _borders(rows), np.arange(count)
    squares = np.zeros((count, length + 1))
    np.cumsum(np.where(np.isinf(rows.ascending), 0.0, rows.ascending) ** 2, axis=1, out=squares[:, 1:])
    sums = np.take_along_axis(rows.sums, borders, 1), np.take_along_axis(squares, borders, 1)
    ends, zero_cell = np.empty((count, entries + 1), np.int64), np.empty(count, np.int64)
    step = max(1, _CHUNK // (2 * borders.shape[1] ** 2))
    for start in range(0, count, step):
        part = slice(start, start + step)
        ends[part], zero_cell[part] = _best_cells(
            borders[part], sums[0][part], sums[1][part], entries, zero[part]
        )
    means = rows.means(everyone, np.take_along_axis(borders, ends, 1))
    levels = np.where(np.arange(entries) == zero_cell[:, None], 0.0, means)
    order = np.argsort(levels, axis=1, kind="stable")
    index = np.where(zero_cell < 0, -1, (order == zero_cell[:, None]).argmax(1))
    return np.take_along_axis(levels, order, 1), index


def _best_cells(
    borders: np.ndarray, total: np.ndarray, square: np.ndarray, entries: int, zero: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic programming over the cells from the left, with and without the cell of the zero among them.

    Args:
        borders, total, square: ``[rows, m]``, ranks with the sums of the weights and squares before them.

    Returns:
        Which borders the cells begin and end at, ``[rows, entries + 1]``, and the cell of the zero, -1 if none.
    """
    rows, m = borders.shape
    weights = np.maximum(borders[:, None] - borders[:, :, None], 1)
    about_zero = square[:, None] - square[:, :, None]
    spread = np.maximum(about_zero - (total[:, None] - total[:, :, None]) ** 2 / weights, 0.0)
    forward = np.tri(m, dtype=bool).T
    spread, about_zero = np.where(forward, spread, np.inf), np.where(forward, about_zero, np.inf)
    least = np.full((2, rows, m), np.inf)  # without the zero cell, with it
    least[0, :, 0] = 0.0
    choices = []
    for _ in range(entries):
        without = least[0][:, :, None] + spread
        within = np.concatenate([least[1][:, :, None] + spread, least[0][:, :, None] + about_zero], axis=1)
        choices.append((without.argmin(1), within.argmin(1)))
        least = np.stack([without.min(1), within.min(1)])
    everyone = np.arange(rows)
    ends = np.full((rows, entries + 1), m - 1)
    zero_cell, open_ = np.full(rows, -1), zero.copy()
    for cell in range(entries - 1, -1, -1):
        without, within = (choice[everyone, ends[:, cell + 1]] for choice in choices[cell])
        here = open_ & (within >= m)
        zero_cell[here] = cell
        ends[:, cell] = np.where(open_, within % m, without)
        open_ &= ~here
    return ends, zero_cell
