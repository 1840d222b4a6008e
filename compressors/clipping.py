"""Where to clip a distribution of values before rounding it to a uniform grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

DISTRIBUTIONS = ("gauss", "laplace")

_BINS = 2048
_FLOOR = 1e-4
_CANDIDATES = 128
_HALVINGS = 200  # more than it takes to halve an interval down to neighbouring floats


@cache
def aciq_multiple(bits: int, distribution: str) -> float:
    """The clipping point of least expected squared error (ACIQ; Banner et al., arXiv 1810.05723, section 3).

    For ``2**bits`` levels over ``[-a, a]`` the rounding error is ``a**2 / (3 * 4**bits)``; the derivative of that plus
    the clipping error of the distribution is zero at the optimum. A grid over ``[0, a]`` of a density that is half
    such a distribution has the optimum of one bit more.

    Args:
        bits: 1 or more.
        distribution: ``gauss`` or ``laplace``.

    Returns:
        ``a`` as a multiple of the standard deviation (Gauss) or of the mean absolute value (Laplace).
    """
    rounding = 1.0 / (3.0 * 4.0**bits)

    def gauss(a: float) -> float:
        return a * (math.erfc(a / math.sqrt(2.0)) + rounding) - math.sqrt(2.0 / math.pi) * math.exp(
            -a * a / 2
        )

    def laplace(a: float) -> float:
        return a * rounding - math.exp(-a)

    derivatives: dict[str, Callable[[float], float]] = {"gauss": gauss, "laplace": laplace}
    slope = derivatives[distribution]
    low, high = 0.0, 2.0 * bits + 10.0  # falling at 0, rising there
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 0.5 * (low + high)


def aciq_clip(magnitudes: np.ndarray, bits: int) -> float:
    """:func:`aciq_multiple` of the likelier of the two distributions, both about zero.

    Args:
        magnitudes: absolute values, not empty; zeros, which every grid holds, are better left out.
        bits: of a grid over ``[-a, a]``; one more for a grid over ``[0, a]``.

    Returns:
        The clipping point ``a``, 0 if all magnitudes are.
    """
    largest = float(magnitudes.max())
    if largest == 0.0:
        return 0.0
    relative = magnitudes / largest  # squares stay in range
    mean, deviation = float(relative.mean()), math.sqrt(float((relative**2).mean()))
    # log-likelihoods per value at the best scale: -log(2 b) - 1 and -log(s sqrt(2 pi)) - 1/2
    laplace = math.log(2.0 * mean) + 1.0 < math.log(deviation * math.sqrt(2.0 * math.pi)) + 0.5
    scale = mean if laplace else deviation
    return largest * scale * aciq_multiple(bits, "laplace" if laplace else "gauss")


def kl_clip(magnitudes_sorted: np.ndarray, levels: int) -> float:
    """The clipping point that loses least information (entropy calibration of TensorRT; Migacz, GTC 2017).

    Values are counted in 2,048 bins. For each of up to 128 clipping points the counts below, those beyond added to the
    last bin, are compared with what is left of them when equal runs of bins are merged to ``levels`` and spread over
    the bins again; the least Kullback-Leibler divergence wins, of equal ones the largest point. Exact zeros do not
    count: every grid holds them.

    Args:
        magnitudes_sorted: absolute values in ascending order, ``[n]``.
        levels: non-negative levels of the grid.

    Returns:
        The clipping point, at most the largest magnitude; that one if there are no more bins than levels.
    """
    values = magnitudes_sorted[np.searchsorted(magnitudes_sorted, 0.0, side="right") :].astype(np.float64)
    largest = float(values[-1]) if len(values) else 0.0
    if largest == 0.0 or levels >= _BINS:
        return largest
    edges = largest * (np.arange(1, _BINS) / _BINS)
    ends = np.concatenate([[0], np.searchsorted(values, edges, side="right"), [len(values)]])
    lengths = np.unique(
        np.linspace(max(levels, _BINS // _CANDIDATES), _BINS, _CANDIDATES).round().astype(np.int64)
    )
    divergences = [_divergence(ends, int(length), levels) for length in lengths]
    best = len(lengths) - 1 - int(np.argmin(divergences[::-1]))
    return largest * float(lengths[best]) / _BINS


def _divergence(ends: np.ndarray, length: int, levels: int) -> float:
    """Divergence of the first ``length`` bins from their merger to ``levels``; ``ends [bins + 1]`` counts up."""
    inside = np.diff(ends[: length + 1]).astype(np.float64)
    if not inside.any():  # everything lies beyond the clipping point
        return math.inf
    clipped = inside.copy()
    clipped[-1] += ends[-1] - ends[length]
    starts = np.arange(levels) * length // levels
    used = clipped > 0
    total, spread = np.add.reduceat(inside, starts), np.add.reduceat(used.astype(np.float64), starts)
    share = np.repeat(total / np.maximum(spread, 1.0), np.diff(np.append(starts, length)))[used]
    p, q = clipped[used] / clipped.sum(), share / inside.sum()
    # where all of the last level lies beyond the clipping point its share is a floor, or no outlier could be clipped
    q = np.maximum(q, _FLOOR)
    return float((p * np.log(p / q)).sum())
