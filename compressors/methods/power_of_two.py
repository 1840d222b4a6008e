"""Weights as powers of two or sums of a few: a multiplication is a shift or a few shifts and additions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError
from compressors.methods.integers import integer_tensor
from compressors.methods.planes import check_layout, to_rows
from compressors.methods.tables import scaled_table
from compressors.registry import check_range, register
from compressors.storage import signed_width
from compressors.tensor import SlicedTensor

_LARGEST_EXPONENTS = 15  # codes stay within 16 bits


@dataclass(frozen=True)
class PowerOfTwoConfig:
    """A sign and ``bits - 1`` bits of magnitude, shared out among ``terms`` powers of two or zeros.

    One term is power-of-two quantization (Zhou et al., INQ, arXiv 1702.03044), more are additive powers of two
    (Li et al., APoT, arXiv 1909.13144), whose exponents are disjoint.

    Attributes:
        bits: sign included.
        terms: powers of two in a weight.
        group: 0 for one scale per channel, else a scale per run of the largest length up to ``group`` that divides
            the inputs.
    """

    bits: int = 4
    terms: int = 1
    group: int = 0

    def __post_init__(self) -> None:
        check_range("power_of_two.bits", self.bits, 2, 8)
        check_range("power_of_two.terms", self.terms, 1, self.bits - 1)
        check_layout("power_of_two", self.group, "channel")
        if sum(_exponents_of(self.bits, self.terms)) > _LARGEST_EXPONENTS:
            enough = next(t for t in range(2, 8) if sum(_exponents_of(self.bits, t)) <= _LARGEST_EXPONENTS)
            raise ConfigError(
                "power_of_two.terms", self.terms, f"at least {enough} where power_of_two.bits={self.bits}"
            )


def _exponents_of(bits: int, terms: int) -> list[int]:
    """How many exponents each term has, fewest first: its share of the magnitude's bits names one of them or zero."""
    share, more = divmod(bits - 1, terms)
    return [(1 << share) - 1] * (terms - more) + [(1 << (share + 1)) - 1] * more


def exponents(bits: int, terms: int) -> tuple[tuple[int, ...], ...]:
    """The exponents of every term, the greatest being 0 and the others negative.

    Terms take turns; those with fewer join in late, where levels are close (3 and 5 bits of magnitude as in the code
    to arXiv 1909.13144; the paper itself has equal shares).
    """
    counts = _exponents_of(bits, terms)
    taken: list[list[int]] = [[] for _ in counts]
    exponent = 0
    for left in range(max(counts), 0, -1):
        for term, count in enumerate(counts):
            if count >= left:
                taken[term].append(exponent)
                exponent -= 1
    return tuple(tuple(term) for term in taken)


def power_table(bits: int, terms: int) -> np.ndarray:
    """All codes in ascending order, ``int64 [2**bits - 1]``: the levels in units of the smallest power."""
    lists = exponents(bits, terms)
    least = min(min(term) for term in lists)
    powers = [[0, *(1 << (exponent - least) for exponent in term)] for term in lists]
    sums = np.array([sum(chosen) for chosen in itertools.product(*powers)])
    return np.unique(np.concatenate([sums, -sums]))


def _fractions(terms: int) -> list[float]:
    """Of the largest weight, that the largest code is tried on.

    The next code of a sum may be far below the largest, which then does best above all weights. For one term the steps
    are the same whatever the bits, so that more of them never are worse.
    """
    if terms == 1:
        return [2.0 ** (step / 16) for step in range(4, -53, -1)]
    return [2.0 ** (step / 32) for step in range(32 * min(terms - 1, 2), -73, -1)]


def _alphabet(tensor: SlicedTensor, config: PowerOfTwoConfig) -> np.ndarray:
    return power_table(config.bits, config.terms)[None, None, None, :]


@register("power_of_two", PowerOfTwoConfig, _alphabet)
def compress_power_of_two(weight: np.ndarray, keep: np.ndarray, config: PowerOfTwoConfig) -> SlicedTensor:
    """Weights ``[N, K]`` by the nearest level, under the scale of least squared error; pruned weights are 0."""
    rows = to_rows(weight, keep, config.group, "channel")
    table = power_table(config.bits, config.terms)
    codes, scale = scaled_table(np.where(rows.keep, rows.weight, 0.0), table, _fractions(config.terms))
    return integer_tensor(rows, codes, scale, signed_width(table))
