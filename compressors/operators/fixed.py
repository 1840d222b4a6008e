"""Real factors as integers and shifts."""

from __future__ import annotations

import math

import numpy as np

from compressors.errors import BadTensor

FRACTION = 24
"""Bits behind the point of a stream of integers between layers: as fine as float32 is at 1."""

_ROOM = 61  # bits that a scaled sum may take
_FEWEST = 8


def fixed(factors: np.ndarray, bits: int, bound: np.ndarray) -> tuple[np.ndarray, int]:
    """Integers ``f`` and a shift with ``f * 2**-shift`` next to ``factors``.

    Args:
        factors: float64 of any shape.
        bits: of the largest integer, at most.
        bound: broadcastable Python integers: no number that ``f`` multiplies is larger.

    Raises:
        BadTensor: so few bits would be left that the result means nothing.
    """
    largest = float(np.abs(factors).max(initial=0.0))
    if largest == 0.0:
        return np.zeros(factors.shape, np.int64), 0
    left = _ROOM - int(np.max(bound, initial=0)).bit_length() - (len(factors) - 1).bit_length()
    if left < min(bits, _FEWEST):
        raise BadTensor(f"numbers up to {np.max(bound)} leave {left} bits for the factor that scales them")
    shift = min(bits, left) - math.frexp(largest)[1]
    shift = min(shift, _ROOM)  # beyond it, nothing is left of any sum
    if math.frexp(largest)[1] > min(left, 31):
        raise BadTensor(f"a factor of {largest:.3g} does not fit {min(left, 31)} bits")
    return np.rint(np.ldexp(factors, shift)).astype(np.int64) << max(0, -shift), max(0, shift)


def half(shift: int) -> int:
    """What is added before a shift so that it rounds."""
    return 1 << (shift - 1) if shift else 0


def scaled(value: float, shift: int) -> int:
    """``value * 2**shift``, rounded."""
    return round(math.ldexp(value, shift))
