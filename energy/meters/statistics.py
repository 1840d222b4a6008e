"""The median of a few blocks and how far it can be trusted, without assuming a distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of the median, from order statistics.

    Neighbouring order statistics are interpolated so that the coverage is close to ``confidence`` for any
    continuous distribution: Hettmansperger and Sheather, Statistics & Probability Letters 4 (1986) 75-79.

    Args:
        values: the sample, n numbers in any order.
        confidence: coverage wanted, in (0, 1).

    Returns:
        Low and high end in the sample's unit; None when even the whole range covers less (n < 6 at 95 %).
    """
    ordered = sorted(values)
    n = len(ordered)
    if n == 0 or _coverage(n, 1) < confidence:
        return None
    # The d-th smallest and largest enclose the median with probability _coverage(n, d), falling in d.
    d = max(k for k in range(1, n // 2 + 1) if _coverage(n, k) >= confidence)
    outer, inner = _coverage(n, d), _coverage(n, d + 1)
    share = (outer - confidence) / (outer - inner)
    weight = (n - d) * share / (d + (n - 2 * d) * share)
    low = (1 - weight) * ordered[d - 1] + weight * ordered[d]
    high = (1 - weight) * ordered[n - d] + weight * ordered[n - d - 1]
    return low, high


def _coverage(n: int, d: int) -> float:
    """P(d-th smallest <= median <= d-th largest) of n independent values: 1 - 2 P(Binomial(n, 1/2) < d)."""
    return 1.0 - 2.0 * sum(math.comb(n, k) for k in range(d)) / 2.0**n
