"""How fast a pipelined element runs on a fabric: an estimate.

A register behind every sum leaves one carry chain between two of them: a period of a fixed part and one per bit of the
widest sum, fitted to elements placed and routed on an iCE40 HX. Other fabrics take the same shape, stretched so that
the sums of a published design reach that design's clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from energy.cost import Band
from energy.technology import Technology


def fit_period(bits: Sequence[int], periods_ns: Sequence[float]) -> tuple[float, float]:
    """Fixed part and part per bit, in ns, that minimise the squares of the relative errors."""
    measured = np.asarray(periods_ns, float)
    rows = np.stack([np.ones(len(measured)), np.asarray(bits, float)], axis=1) / measured[:, None]
    start, slope = np.linalg.lstsq(rows, np.ones(len(measured)), rcond=None)[0]
    return float(start), float(slope)


def clock_hz(technology: Technology, device: str, widest_bits: int) -> Band:
    """Clock of a design whose widest sum has so many bits, no faster than a published one: narrow sums are not alone.

    The band is how far designs stray from the law.
    """
    start, slope = (technology[f"fabric.period.{part}"].value for part in ("start", "per_bit"))
    known = technology[f"fpga.clock.{device}"]
    bits = technology[f"fpga.clock_bits.{device}"].value
    stretch = (start + slope * bits) / (start + slope * widest_bits)
    return known.band * min(stretch, 1.0)
