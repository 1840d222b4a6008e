"""Levels at the quantiles of a normal distribution, scaled to the weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from compressors.methods.integers import integer_tensor
from compressors.methods.planes import check_choice, check_layout, to_rows
from compressors.methods.tables import check_table, scaled_table
from compressors.registry import check_range, register
from compressors.tensor import SlicedTensor

CLIPS = ("mse", "minmax")
_FRACTIONS = tuple(float(f) for f in np.linspace(1.0, 0.2, 41))  # of the largest weight


@dataclass(frozen=True)
class NormalFloatConfig:
    """NormalFloat (Dettmers et al., QLoRA, arXiv 2305.14314) of ``bits`` bits.

    Attributes:
        bits: of an index.
        clip: ``minmax`` puts the outermost level on the largest weight as published, ``mse`` takes the scale of least
            squared error of a search over 41 fractions of it.
        group: 0 for one scale per channel, else a scale per run of the largest length up to ``group`` that divides
            the inputs.
        table_bits: levels are rounded to signed integers of that many bits.
    """

    bits: int = 4
    clip: str = "mse"
    group: int = 0
    table_bits: int = 8

    def __post_init__(self) -> None:
        check_range("normal_float.bits", self.bits, 2, 8)
        check_choice("normal_float.clip", self.clip, CLIPS)
        check_layout("normal_float", self.group, "channel")
        check_table("normal_float", self.bits, self.table_bits)


@cache
def normal_levels(bits: int) -> tuple[float, ...]:
    """The ``2**bits`` levels of the paper's construction, from -1 to 1 with 0 among them.

    Quantiles of the normal distribution at equal steps of probability, with one level more above zero than below; the
    outermost probability is the mean of those that the two halves would have alone.
    """
    half = 1 << (bits - 1)
    outermost = 1.0 - 0.25 * (1.0 / (2 * half) + 1.0 / (2 * half - 1))
    quantile = NormalDist().inv_cdf

    def side(levels: int) -> list[float]:
        return [quantile(float(p)) for p in np.linspace(outermost, 0.5, levels + 1)[:-1]]

    levels = sorted([*(-q for q in side(half - 1)), 0.0, *side(half)])
    return tuple(level / levels[-1] for level in levels)


def _table(config: NormalFloatConfig) -> np.ndarray:
    top = (1 << (config.table_bits - 1)) - 1
    return np.unique(np.rint(np.array(normal_levels(config.bits)) * top).astype(np.int64))


def _alphabet(tensor: SlicedTensor, config: NormalFloatConfig) -> np.ndarray:
    return _table(config)[None, None, None, :]


@register("normal_float", NormalFloatConfig, _alphabet)
def compress_normal_float(weight: np.ndarray, keep: np.ndarray, config: NormalFloatConfig) -> SlicedTensor:
    """Weights ``[N, K]`` by the nearest level; the table has more levels on one side and may be mirrored."""
    rows = to_rows(weight, keep, config.group, "channel")
    fractions = _FRACTIONS if config.clip == "mse" else _FRACTIONS[:1]
    codes, scale = scaled_table(np.where(rows.keep, rows.weight, 0.0), _table(config), fractions)
    return integer_tensor(rows, codes, scale, config.table_bits)
