"""Codebooks: every weight takes the nearest of a few shared values, fitted to the weights themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.methods.clustering import shared_values
from compressors.methods.integers import integer_tensor
from compressors.methods.planes import check_choice, to_rows
from compressors.methods.sorted_rows import SortedRows
from compressors.methods.tables import check_table, integer_levels, nearest, used_levels
from compressors.registry import register
from compressors.tensor import SlicedTensor

SPANS = ("tensor", "channel")


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
