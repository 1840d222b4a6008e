"""Codebooks: every weight takes the nearest of a few shared values, fitted to the weights themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.methods.integers import integer_tensor
from compressors.methods.planes import check_choice, to_rows
from compressors.methods.sorted_rows import SortedRows, count_below
from compressors.methods.tables import check_table, integer_levels, nearest, used_levels, with_zero
from compressors.registry import register
from compressors.tensor import SlicedTensor

SPANS = ("tensor", "channel")
_STARTS = (0.0, 2.0 / 3.0, 1.0)
_TRIAL_ROUNDS, _ROUNDS = 12, 300


@dataclass(frozen=True)
class KmeansConfig:
    """``2**bits`` shared values (Han et al., Deep Compression, arXiv 1510.00149; Lloyd 1982, Max 1960).

    Attributes:
        bits: of an index.
        per: ``tensor`` for one table, ``channel`` for one each.
        table_bits: an entry is a signed integer of that many bits, times one scale per table.
        zero: whether 0 always is an entry; else it is where any weight is pruned.
    """

    bits: int = 4
    per: str = "tensor"
    table_bits: int = 8
    zero: bool = True

    def __post_init__(self) -> None:
        check_table("kmeans", self.bits, self.table_bits, self.zero)
        check_choice("kmeans.per", self.per, SPANS)


def _alphabet(tensor: SlicedTensor, config: KmeansConfig) -> np.ndarray:
    return used_levels(tensor, config.per == "tensor")


@register("kmeans", KmeansConfig, _alphabet)
def compress_kmeans(weight: np.ndarray, keep: np.ndarray, config: KmeansConfig) -> SlicedTensor:
    """Share values among the weights ``[N, K]``; pruned weights are the entry 0."""
    rows = to_rows(weight, keep, 0, config.per)
    ordered = SortedRows.of(rows.weight, rows.keep)
    levels, count = shared_values(ordered, 1 << config.bits, config.zero | ~rows.keep.all(1))
    table, scale = integer_levels(levels, count, config.table_bits)
    codes = nearest(np.where(rows.keep, rows.weight, 0.0), table, scale)
    return integer_tensor(rows, codes, scale, config.table_bits)


def shared_values(rows: SortedRows, entries: int, zero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``entries`` levels per row of little squared error, by Lloyd's iteration from several starts.

    Args:
        zero: booleans ``[rows]``, where 0 has to be one of the levels.

    Returns:
        Levels ``float64 [rows, entries]``, ascending, and how many weights take each.
    """
    everyone = np.arange(len(rows.kept))
    starts = []
    for power in _STARTS:
        levels = _start(rows, entries, power)
        for pinned, index in with_zero(levels):
            starts.append((np.where(zero[:, None], pinned, levels), np.where(zero, index, -1)))
    row = np.tile(everyone, len(starts))
    levels = np.concatenate([levels for levels, _ in starts])
    fixed = np.concatenate([index for _, index in starts])
    levels = _lloyd(rows, row, levels, fixed, _TRIAL_ROUNDS)
    best = rows.distortion(row, levels).reshape(len(starts), -1).argmin(0) * len(everyone) + everyone
    levels = _lloyd(rows, everyone, levels[best], fixed[best], _ROUNDS)
    return levels, rows.totals(everyone, rows.cells(everyone, levels))[0]


def _start(rows: SortedRows, entries: int, power: float) -> np.ndarray:
    """Weights at equal distances, a distance being the sum of the gaps between weights to some ``power``.

    0 are quantiles, 1 equal steps, and 2/3 the density that is best for many levels: gaps are inverse to the density
    of the weights, so that levels lie with its cube root (Panter & Dite 1951).
    """
    everyone = np.arange(len(rows.kept))
    rank = np.arange(rows.ascending.shape[1])
    value = rows.at(everyone, np.broadcast_to(rank, rows.ascending.shape))
    gap = np.diff(value, axis=1)
    span = value[:, -1:] - value[:, :1]
    relative = gap / np.where(span > 0, span, 1.0)
    if power == 0.0:
        relative = (rank[1:] < rows.kept[:, None]).astype(np.float64)
    elif power != 1.0:
        relative = np.cbrt(relative) ** 2
    distance = np.concatenate([np.zeros((len(relative), 1)), np.cumsum(relative, axis=1)], axis=1)
    target = distance[:, -1:] * ((np.arange(entries) + 0.5) / entries)
    above = np.clip(count_below(distance, np.maximum(rows.kept, 1), everyone, target), 0, len(rank) - 1)
    under = np.maximum(above - 1, 0)
    there = np.take_along_axis(distance, above, 1) - target
    back = target - np.take_along_axis(distance, under, 1)
    return rows.at(everyone, np.where(back < there, under, above))


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
        own = row[active]
        count, total = rows.totals(own, ends)
        # the mean of equal weights, a difference of sums, may come out beside them
        mean = np.clip(
            total / np.maximum(count, 1.0), rows.at(own, ends[:, :-1]), rows.at(own, ends[:, 1:] - 1)
        )
        levels[active] = np.where((count > 0) & moving[active], mean, levels[active])
    return levels
