"""Every constant of the measurement protocol, in one place and in every record."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from compressors.errors import ConfigError


@dataclass(frozen=True)
class ProtocolSettings:
    """How long, how often, and when to give up. Times in seconds.

    Attributes:
        idle_settle_s: rest before idle power is taken, for the clocks to fall.
        idle_s: how long idle power is measured; 0 leaves out idle power and what is above it.
        warmup_s: load before the first block, at least.
        warmup_iterations: calls before the first block, at least.
        block_s: length of a block, at least; it ends at the sensor's next tick.
        block_iterations: calls in a block, at least.
        n_blocks: blocks that make a result; a 95 % interval of their median needs 6.
        max_rejected_blocks: rejected blocks after which there is no result.
        poll_interval_s: pause between looks at the energy counter while waiting for its tick.
        edge_chunk_s: work launched at once while waiting for a tick.
        body_chunk_s: work launched at once within a block; the counter is looked at once in each.
        power_interval_s: pause between looks at the power where there is no counter.
        max_power_gap_s: longest time without a power reading before a block is rejected.
        tick_timeout_s: time without a change of the counter after which it counts as stuck.
        period_ticks: ticks from which the counter's update period is told.
        max_power_factor: a block whose mean power is above this multiple of the power limit is rejected.
    """

    idle_settle_s: float = 1.0
    idle_s: float = 2.0
    warmup_s: float = 2.0
    warmup_iterations: int = 10
    block_s: float = 2.0
    block_iterations: int = 10
    n_blocks: int = 10
    max_rejected_blocks: int = 10
    poll_interval_s: float = 1e-3
    edge_chunk_s: float = 1e-2
    body_chunk_s: float = 0.2
    power_interval_s: float = 1e-2
    max_power_gap_s: float = 1.0
    tick_timeout_s: float = 3.0
    period_ticks: int = 8
    max_power_factor: float = 1.5

    def __post_init__(self) -> None:
        may_be_zero = {"idle_settle_s", "idle_s", "warmup_s", "warmup_iterations", "max_rejected_blocks"}
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            kind = "a whole number" if whole else "a number"
            bound = "of 0 or more" if field.name in may_be_zero else "above 0"
            valid = isinstance(value, (int,) if whole else (int, float)) and not isinstance(value, bool)
            if not valid or not math.isfinite(value) or value < 0 or (value == 0 and bound == "above 0"):
                raise ConfigError(f"meter.protocol.{field.name}", value, f"{kind} {bound}")
