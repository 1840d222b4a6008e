"""Resources and cycles of FINN's matrix-vector units, by FINN's own estimates.

Blott et al., "FINN-R", ACM TRETS 2018, as the FINN compiler evaluates them (``MVAU_hls.lut_estimation``,
``MVAU.bram_estimation``, ``get_exp_cycles``; DSPs of the RTL unit): ``pe`` rows and ``simd`` columns of a matrix of
``rows`` x ``columns`` are worked on per cycle. Everything also takes arrays of ``pe`` and ``simd``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Number = TypeVar("Number", int, np.ndarray)

EMBEDDED_DEPTH = 128
"""Weights of up to so many words per element lie in LUTs, deeper ones in block RAM."""


@dataclass(frozen=True)
class Unit:
    """A matrix-vector unit, unfolded.

    Attributes:
        rows, columns: of the matrix (``MH``, ``MW``).
        weight_bits, input_bits: ``W``, ``A``.
        signed: inputs are two's complement.
        output_bits: of the activation behind the sums; None where sums are given on.
        dsp: products are made by DSP slices instead of LUTs.
        threshold_memory: ``distributed`` counts thresholds and their comparators in LUTs, ``block`` does not.
    """

    rows: int
    columns: int
    weight_bits: int
    input_bits: int
    signed: bool = False
    output_bits: int | None = None
    dsp: bool = False
    threshold_memory: str = "distributed"

    @property
    def accumulator_bits(self) -> int:
        """Of the widest sum that the formats allow (Colbert et al., arXiv 2301.13376), 32 at most."""
        alpha = math.log2(self.columns) + self.weight_bits + self.input_bits - 1 - int(self.signed)
        return min(32, math.ceil(alpha + math.log2(1 + 2.0**-alpha) + 1))

    def cycles(self, pe: Number, simd: Number, vectors: int) -> Number:
        """For ``vectors`` input vectors; ``pe`` divides the rows, ``simd`` the columns."""
        return (self.rows // pe) * (self.columns // simd) * vectors

    def weight_words(self, pe: Number, simd: Number) -> Number:
        """Depth of every element's weight memory."""
        return self.rows * self.columns // (pe * simd)

    def luts(self, pe: Number, simd: Number) -> Number:
        """``300 + 1.1 PE (multipliers + tree + accumulator + thresholds + comparators)``, and weights kept in LUTs."""
        both = self.weight_bits + self.input_bits
        multipliers = 0 if self.dsp else simd * (2 * math.ceil(both / 6) - 1) * both
        tree = both * (2 * simd - 1)
        wide = self.accumulator_bits
        thresholds = comparators = 0 * pe
        if self.output_bits is not None and self.threshold_memory == "distributed":
            steps = 2**self.output_bits - 1
            thresholds = steps * wide * _up(self.rows // pe, 64)
            comparators = steps * wide
        words = self.weight_words(pe, simd)
        embedded = np.where(words <= EMBEDDED_DEPTH, pe * simd * self.weight_bits * _up(words, 64), 0)
        total = 300 + 1.1 * (pe * (multipliers + tree + wide + thresholds + comparators)) + embedded
        return np.floor(total).astype(np.int64)[()]

    def bram18(self, pe: Number, simd: Number) -> Number:
        """Block RAMs of 18 kbit for the weights."""
        words = self.weight_words(pe, simd)
        return np.where(words <= EMBEDDED_DEPTH, 0, bram18(words, pe * simd * self.weight_bits))[()]

    def dsps(self, pe: Number, simd: Number) -> Number:
        """DSP slices; operands of up to 4 bits share one between four rows, up to 8 bits between two."""
        if not self.dsp:
            return 0 * pe * simd
        widest = max(self.weight_bits, self.input_bits)
        packed = 4 if widest <= 4 else 2 if widest <= 8 else 1
        return _up(pe, packed) * simd


def dsp58(pe: int, simd: int) -> tuple[int, float]:
    """DSP58 slices of a unit whose rows are chains of them, three products each, and a chain's delay in ns."""
    chain = -(-simd // 3)
    return pe * chain, 0.741 + 0.605 * chain


def bram18(words: Number, width: Number) -> Number:
    """Block RAMs of 18 kbit for ``words`` of ``width`` bits, shaped 1, 2, 4, 9, 18 or 36 bits wide as FINN does."""
    ladder = (
        (width == 1, _up(words, 16384)),
        (width == 2, _up(words, 8192)),
        (width <= 4, _up(words, 4096) * _up(width, 4)),
        (width <= 9, _up(words, 2048) * _up(width, 9)),
        ((width <= 18) | (words > 512), _up(words, 1024) * _up(width, 18)),
    )
    widest = _up(words, 512) * _up(width, 36)
    return np.select([condition for condition, _ in ladder], [blocks for _, blocks in ladder], widest)[()]


def _up(value: Number, step: int) -> Number:
    return -(-value // step)
