"""How to measure well: idle power, warm-up, tick-aligned blocks, their median and its interval.

A difference of two readings around a short run is wrong by up to a whole update period of the sensor at
either end. On how these sensors sample: Z. Yang, K. Adamek and W. Armour, arXiv 2312.02741 (SC24). The
constants are in ``settings``, one block is in ``blocks``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

from energy.meters.base import Absent, Meter, MeterError
from energy.meters.blocks import BLOCK_METHODS, BlockRejected, update_period_s
from energy.meters.load import Activity, Idle, Load
from energy.meters.results import Block, Measurement, RejectedBlock
from energy.meters.settings import ProtocolSettings
from energy.meters.statistics import median_interval


def measure_energy(
    meter: Meter,
    run_once: Callable[[], None],
    synchronize: Callable[[], None],
    settings: ProtocolSettings | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Measurement | Absent:
    """Energy and time of one call of ``run_once``.

    Args:
        meter: an available meter; its readings must carry the time of ``clock``.
        run_once: launches one unit of work (one batch of real data, say); may return before it is done.
        synchronize: returns when everything launched is done; may do nothing where ``run_once`` waits itself.
        settings: the protocol's constants.
        clock: monotonic seconds.
        sleep: waits that many seconds.

    Returns:
        The measurement, or why there is none. What ``run_once`` raises comes through.
    """
    settings = settings or ProtocolSettings()
    absent = meter.available()
    if absent is not None:
        return absent
    try:
        return _measure(meter, Load(meter, run_once, synchronize, clock, sleep), settings)
    except MeterError as error:
        return error.absent


def _measure(meter: Meter, load: Load, settings: ProtocolSettings) -> Measurement | Absent:
    if meter.method is None:
        return Absent("the meter has neither an energy counter nor power readings")
    facts = meter.describe()
    limit_w = facts.get("power_limit_w")
    max_power_w = limit_w * settings.max_power_factor if limit_w else None
    load.run_and_wait(1)  # what is set up on the first call belongs to the idle device
    idle = Idle(meter, load.clock, load.sleep)
    idle.sleep(settings.idle_settle_s)
    period_s = _period(meter, idle, settings)
    idle_power_w = _idle_power(meter, idle, settings)
    load.warm_up(settings.warmup_s, settings.warmup_iterations, settings.body_chunk_s)
    blocks, rejected = _collect_blocks(meter, load, settings, max_power_w)
    if len(blocks) < settings.n_blocks:
        return _too_many_rejected(rejected, settings)
    return Measurement(
        **_summary(blocks, idle_power_w),
        idle_power_w=idle_power_w,
        method=meter.method,
        update_period_s=period_s,
        blocks=tuple(blocks),
        rejected=tuple(rejected),
        dropped_readings=load.dropped + idle.dropped,
        meter=facts,
        settings=settings,
    )


def _period(meter: Meter, idle: Idle, settings: ProtocolSettings) -> float | Absent:
    if meter.method != "counter":
        return Absent("sampled power has no ticks")
    try:
        return update_period_s(idle, settings)
    except BlockRejected as rejection:
        return Absent(f"{rejection} while its update period was taken")


def _idle_power(meter: Meter, idle: Idle, settings: ProtocolSettings) -> float | Absent:
    if settings.idle_s == 0:
        return Absent("idle power was left out", "set meter.protocol.idle_s above 0")
    try:
        return _block(meter, idle, settings.idle_s, 0, settings).power_w
    except BlockRejected as rejection:
        return Absent(f"{rejection} while idle power was taken")


def _collect_blocks(
    meter: Meter, load: Load, settings: ProtocolSettings, max_power_w: float | None
) -> tuple[list[Block], list[RejectedBlock]]:
    blocks: list[Block] = []
    rejected: list[RejectedBlock] = []
    while len(blocks) < settings.n_blocks and len(rejected) <= settings.max_rejected_blocks:
        try:
            block = _block(meter, load, settings.block_s, settings.block_iterations, settings)
            _refuse_implausible(block, max_power_w)
        except BlockRejected as rejection:
            rejected.append(RejectedBlock(len(blocks), str(rejection)))
        else:
            blocks.append(block)
    return blocks, rejected


def _block(
    meter: Meter, activity: Activity, duration_s: float, iterations: int, settings: ProtocolSettings
) -> Block:
    return BLOCK_METHODS[str(meter.method)](activity, duration_s, iterations, settings)


def _refuse_implausible(block: Block, max_power_w: float | None) -> None:
    if block.energy_j <= 0:
        raise BlockRejected("no energy at all")
    if max_power_w is not None and block.power_w > max_power_w:
        raise BlockRejected(
            f"implausible power: {block.power_w:.3g} W, at most {max_power_w:.3g} W was expected"
        )


def _too_many_rejected(rejected: list[RejectedBlock], settings: ProtocolSettings) -> Absent:
    reasons = Counter(block.reason for block in rejected).most_common()
    listed = ", ".join(f"{reason} ({count} times)" for reason, count in reasons)
    return Absent(
        f"more than {settings.max_rejected_blocks} blocks were rejected: {listed}",
        "see to the cause, or raise meter.protocol.max_rejected_blocks",
    )


def _summary(blocks: list[Block], idle_power_w: float | Absent) -> dict[str, Any]:
    energies_j = [block.energy_j / block.iterations for block in blocks]
    latencies_s = [block.duration_s / block.iterations for block in blocks]
    interval = median_interval(energies_j)
    return {
        "energy_j": median(energies_j),
        "energy_interval_j": interval
        or Absent(
            f"{len(blocks)} blocks are too few for a 95 % interval",
            "set meter.protocol.n_blocks to 6 or more",
        ),
        "energy_above_idle_j": idle_power_w
        if isinstance(idle_power_w, Absent)
        else median(e - idle_power_w * t for e, t in zip(energies_j, latencies_s, strict=True)),
        "latency_s": median(latencies_s),
        "power_w": median(block.power_w for block in blocks),
    }
