"""One block of a measurement: from tick to tick of an energy counter, or integrated from power.

A counter moves in steps (every 20 to 500 ms, by device). Between two arbitrary moments it is off by up to a
whole step at either end, so a block starts and ends in the moment of a step, with the load running across
both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from energy.meters.base import Absent, MeterError, Reading
from energy.meters.load import Activity, Observed
from energy.meters.results import Block
from energy.meters.settings import ProtocolSettings

BlockMethod = Callable[[Activity, float, int, ProtocolSettings], Block]


class BlockRejected(Exception):
    """A block that cannot count, with the reason."""


def counter_block(
    activity: Activity, duration_s: float, iterations: int, settings: ProtocolSettings
) -> Block:
    """A block of at least ``duration_s`` and ``iterations`` calls, from one tick of the counter to another.

    Raises:
        BlockRejected: the counter went back.
        MeterError: the counter stands still, or the device was lost.
    """
    start = wait_for_tick(activity, settings)
    last = start
    while (lack := _lacking_s(activity, start, duration_s, iterations, settings)) > 0:
        for seen in activity.watch(min(lack, settings.body_chunk_s), settings.body_chunk_s):
            _refuse_reset(last, seen)
            last = seen
    stop = wait_for_tick(activity, settings, last)
    return Block(
        _energy_j(stop) - _energy_j(start),
        stop.reading.time_s - start.reading.time_s,
        stop.iterations - start.iterations,
    )


def power_block(activity: Activity, duration_s: float, iterations: int, settings: ProtocolSettings) -> Block:
    """A block of at least ``duration_s`` and ``iterations`` calls, its power sampled and integrated.

    Raises:
        BlockRejected: too long without a power reading.
        MeterError: the device was lost.
    """
    interval_s = settings.power_interval_s
    # The load runs before and after the block as well, so that both edges lie between two readings.
    samples = _watch_for_power(activity, settings)
    start_s, start_n = activity.clock(), activity.finished
    while (end_s := activity.clock()) - start_s < duration_s or activity.finished - start_n < iterations:
        lack_s = duration_s - (end_s - start_s)
        samples += activity.watch(min(max(lack_s, settings.edge_chunk_s), settings.body_chunk_s), interval_s)
    end_n = activity.finished
    samples += _watch_for_power(activity, settings)
    points = [(s.reading.time_s, s.reading.power_w) for s in samples if s.reading.power_w is not None]
    energy_j = integrate_power(points, start_s, end_s, settings.max_power_gap_s)
    return Block(energy_j, end_s - start_s, float(end_n - start_n))


BLOCK_METHODS: dict[str, BlockMethod] = {"counter": counter_block, "power": power_block}


def wait_for_tick(activity: Activity, settings: ProtocolSettings, last: Observed | None = None) -> Observed:
    """The next tick of the counter: its value after it, the time halfway between the readings around it.

    ``last`` is the reading before, against which a reset in between shows.

    Raises:
        BlockRejected: the counter went back.
        MeterError: it did not move within ``tick_timeout_s``, or gave nothing.
    """
    before: Observed | None = None
    first_s = latest_s = activity.clock()
    while activity.clock() - latest_s < settings.tick_timeout_s:
        for seen in activity.watch(settings.edge_chunk_s, settings.poll_interval_s):
            _refuse_reset(before or last, seen)
            latest_s = seen.reading.time_s
            if before is not None and _energy_j(seen) > _energy_j(before):
                return _halfway(before, seen)
            first_s = latest_s if before is None else first_s
            if latest_s - first_s > settings.tick_timeout_s:
                raise MeterError(_stuck("did not move", settings))
            before = seen
    raise MeterError(_stuck("gave no reading", settings))


def _halfway(before: Observed, after: Observed) -> Observed:
    time_s = 0.5 * (before.reading.time_s + after.reading.time_s)
    return Observed(
        Reading(time_s, energy_j=after.reading.energy_j), 0.5 * (before.iterations + after.iterations)
    )


def _stuck(what: str, settings: ProtocolSettings) -> Absent:
    return Absent(
        f"the energy counter {what} for {settings.tick_timeout_s:g} s",
        "raise meter.protocol.tick_timeout_s, or measure with method power",
    )


def update_period_s(activity: Activity, settings: ProtocolSettings) -> float:
    """Median time between ticks of the counter, in seconds.

    Raises:
        BlockRejected, MeterError: as ``wait_for_tick``.
    """
    ticks = [wait_for_tick(activity, settings).reading.time_s for _ in range(settings.period_ticks + 1)]
    return median(later - sooner for sooner, later in pairwise(ticks))


def integrate_power(
    points: Sequence[tuple[float, float]], start_s: float, end_s: float, max_gap_s: float
) -> float:
    """Joules between two moments from (s, W) points: trapezoids, the power at both edges interpolated.

    Raises:
        BlockRejected: fewer than two points, or no point for longer than ``max_gap_s`` somewhere in between.
    """
    before = [p for p in points if p[0] <= start_s][-1:]
    inside = [p for p in points if start_s < p[0] < end_s]
    after = [p for p in points if p[0] >= end_s][:1]
    path = [*before, *inside, *after]
    if not before or not after:
        raise BlockRejected("no power reading at an edge of the block")
    longest_s = max(later[0] - sooner[0] for sooner, later in pairwise(path))
    if longest_s > max_gap_s:
        raise BlockRejected(f"no power reading for {longest_s:.2g} s")
    energy_j = 0.0
    for (t0, p0), (t1, p1) in pairwise(path):
        left, right = max(t0, start_s), min(t1, end_s)
        # Over a straight line the mean power is the power in the middle.
        middle = p0 + (p1 - p0) * (0.5 * (left + right) - t0) / (t1 - t0) if t1 > t0 else p0
        energy_j += middle * (right - left)
    return energy_j


def _watch_for_power(activity: Activity, settings: ProtocolSettings) -> list[Observed]:
    """Go on until there is a reading, for as long as the block would allow a gap."""
    begin_s = activity.clock()
    while not (seen := activity.watch(settings.edge_chunk_s, settings.power_interval_s)):
        if activity.clock() - begin_s > settings.max_power_gap_s:
            raise BlockRejected(f"no power reading for {settings.max_power_gap_s:g} s")
    return seen


def _lacking_s(
    activity: Activity, start: Observed, duration_s: float, iterations: int, settings: ProtocolSettings
) -> float:
    """Seconds that the block must still go on, 0 when it is long enough."""
    lack_s = duration_s - (activity.clock() - start.reading.time_s)
    if lack_s > 0:
        return lack_s
    return settings.edge_chunk_s if activity.finished - start.iterations < iterations else 0.0


def _refuse_reset(before: Observed | None, seen: Observed) -> None:
    if before is not None and _energy_j(seen) < _energy_j(before):
        raise BlockRejected("the energy counter was reset")


def _energy_j(observed: Observed) -> float:
    if observed.reading.energy_j is None:
        raise MeterError(Absent("the meter gave no energy although it has a counter"))
    return observed.reading.energy_j
