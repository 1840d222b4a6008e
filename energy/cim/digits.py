"""Digits of operands as analog arrays meet them, from the bits that were counted."""

from __future__ import annotations

import numpy as np

from energy.activity import InputActivity


def in_digits(bits: np.ndarray, terms: int, width: int) -> np.ndarray:
    """Put bits together, ``width`` to a digit.

    Args:
        bits: ``[terms * bits, n]``, least significant first.

    Returns:
        ``[terms, digits, width, n]``, zero where a digit has no more bits.
    """
    planes = bits.reshape(terms, -1, bits.shape[1])
    padded = np.pad(planes, ((0, 0), (0, -planes.shape[1] % width), (0, 0)))
    return padded.reshape(terms, -1, width, bits.shape[1])


def levels(bits: np.ndarray, terms: int, width: int) -> np.ndarray:
    """Sums of digits as shares of the largest, ``float [terms, digits, n]``, of ``bits`` as :func:`in_digits` takes."""
    weights = 2.0 ** np.arange(width)
    return np.einsum("tdwn,w->tdn", in_digits(bits, terms, width), weights) / (2.0**width - 1.0)


def input_level(activity: InputActivity, width: int) -> float:
    """Sum over an input's digits of what they are on average, as shares of the largest digit."""
    return float(levels(np.asarray(activity.nonzero[1], float)[:, None], 1, width).sum())


def input_driven(activity: InputActivity, width: int) -> float:
    """Sum over an input's digits of how often they are not zero.

    Digits of a width that was not counted are taken to have independent bits.
    """
    if width in activity.nonzero:
        return float(np.asarray(activity.nonzero[width], float).sum())
    bits = in_digits(np.asarray(activity.nonzero[1], float)[:, None], 1, width)
    return float((1.0 - (1.0 - bits).prod(2)).sum())
