"""What a measurement comes to: its blocks, their median, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from energy.meters.base import Absent, Method
from energy.meters.settings import ProtocolSettings


@dataclass(frozen=True)
class Block:
    """A stretch of time between two ticks of the sensor: J, s, calls (a fraction of one may count)."""

    energy_j: float
    duration_s: float
    iterations: float

    @property
    def power_w(self) -> float:
        return self.energy_j / self.duration_s


@dataclass(frozen=True)
class RejectedBlock:
    """A block that was measured and does not count; ``after`` good blocks came before it."""

    after: int
    reason: str


@dataclass(frozen=True)
class Measurement:
    """Energy and time of one call, the medians over all good blocks.

    Attributes:
        energy_j: joules of one call, what the device drew in all.
        energy_interval_j: 95 % confidence interval of the median; of the spread, not of the sensor's gain.
        energy_above_idle_j: joules of one call beyond what the idle device draws in that time.
        latency_s: seconds of one call, back to back with the next.
        power_w: mean power of the median block.
        idle_power_w: watts before the load, with everything that was loaded by then (a CUDA context, say).
        method: cumulative energy ``counter``, or sampled ``power`` integrated over time.
        update_period_s: time between ticks of the counter.
        blocks, rejected: everything that was measured.
        dropped_readings: looks at the sensor that gave nothing.
        meter: the meter's own description.
        settings: the protocol's constants.
    """

    energy_j: float
    energy_interval_j: tuple[float, float] | Absent
    energy_above_idle_j: float | Absent
    latency_s: float
    power_w: float
    idle_power_w: float | Absent
    method: Method
    update_period_s: float | Absent
    blocks: tuple[Block, ...]
    rejected: tuple[RejectedBlock, ...]
    dropped_readings: int
    meter: Mapping[str, Any]
    settings: ProtocolSettings

    @property
    def n_blocks(self) -> int:
        return len(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an absent value is ``{"absent": reason, "remedy": ...}``."""
        plain = asdict(self)
        for name in plain:
            value = getattr(self, name)
            if isinstance(value, Absent):
                plain[name] = {"absent": value.reason, "remedy": value.remedy}
        return {**plain, "origin": "measured", "n_blocks": self.n_blocks}
