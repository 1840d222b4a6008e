"""Levels that equally many weights take: the means of equally probable bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.methods.integers import integer_tensor
from compressors.methods.planes import SPANS, check_choice, to_rows
from compressors.methods.sorted_rows import SortedRows
from compressors.methods.tables import check_table, integer_levels, nearest, used_levels, with_zero
from compressors.registry import register
from compressors.tensor import SlicedTensor


@dataclass(frozen=True)
class QuantileConfig:
    """``2**bits`` levels at the means of bins that hold the same number of weights (quantile quantization).

    The mean is the level of least squared error for its bin. A weight takes the nearest level, which near the ends of
    a bin may be that of the next.

    Attributes:
        bits: of an index.
        per: ``channel`` for one table each, ``tensor`` for one.
        table_bits: an entry is a signed integer of that many bits, times one scale per table.
        zero: whether 0 always is an entry, in place of the level next to it; else it is where any weight is pruned.
    """

    bits: int = 4
    per: str = "channel"
    table_bits: int = 8
    zero: bool = True

    def __post_init__(self) -> None:
        check_table("quantile", self.bits, self.table_bits, self.zero)
        check_choice("quantile.per", self.per, SPANS)


def _alphabet(tensor: SlicedTensor, config: QuantileConfig) -> np.ndarray:
    return used_levels(tensor, config.per == "tensor")


@register("quantile", QuantileConfig, _alphabet)
def compress_quantile(weight: np.ndarray, keep: np.ndarray, config: QuantileConfig) -> SlicedTensor:
    """Weights ``[N, K]`` by the levels of equally probable bins; pruned weights are the entry 0."""
    rows = to_rows(weight, keep, 0, config.per)
    ordered = SortedRows.of(rows.weight, rows.keep)
    everyone = np.arange(len(ordered.kept))
    levels = bin_means(ordered, 1 << config.bits)
    zero = config.zero | ~rows.keep.all(1)
    below, above = (pinned for pinned, _ in with_zero(levels))
    lower = ordered.distortion(everyone, below) <= ordered.distortion(everyone, above)
    levels = np.where(zero[:, None], np.where(lower[:, None], below, above), levels)
    count, _ = ordered.totals(everyone, ordered.cells(everyone, levels))
    table, scale = integer_levels(levels, count, config.table_bits)
    codes = nearest(np.where(rows.keep, rows.weight, 0.0), table, scale)
    return integer_tensor(rows, codes, scale, config.table_bits)


def bin_means(rows: SortedRows, entries: int) -> np.ndarray:
    """Means ``float64 [rows, entries]`` of equally many weights, those at a border counting in part on either side."""
    everyone = np.arange(len(rows.kept))
    border = rows.kept[:, None] * np.arange(entries + 1) / entries
    whole = np.floor(border).astype(np.int64)
    cumulative = rows.sums[everyone[:, None], whole] + (border - whole) * rows.at(everyone, whole)
    mean = np.diff(cumulative) * entries / np.maximum(rows.kept, 1)[:, None]
    last = np.ceil(border[:, 1:]).astype(np.int64) - 1
    return np.clip(mean, rows.at(everyone, whole[:, :-1]), rows.at(everyone, last))
