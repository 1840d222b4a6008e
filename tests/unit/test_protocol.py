"""The protocol against simulated sensors whose true power is known, in virtual time."""

from __future__ import annotations

import json
import math
import random
import statistics
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy import stats

from compressors.errors import ConfigError
from energy.meters.base import Absent, Meter, MeterError, Reading
from energy.meters.blocks import BlockRejected, integrate_power
from energy.meters.null import NullMeter
from energy.meters.protocol import measure_energy
from energy.meters.results import Measurement
from energy.meters.settings import ProtocolSettings
from energy.meters.statistics import median_interval


@dataclass
class Device:
    """A device that works asynchronously in virtual time; knows its true energy at every past moment.

    While it has work it draws ``load_w``, else ``idle_w``. ``launch_s`` is the host's time for one launch.
    """

    iteration_s: float = 1e-3
    load_w: float = 400.0
    idle_w: float = 400.0
    launch_s: float = 2e-5
    now_s: float = 0.0
    calls: int = 0
    _busy: list[tuple[float, float]] = field(default_factory=list)
    _past_s: float = 0.0

    def run_once(self) -> None:
        self.now_s += self.launch_s
        end_s = self._busy[-1][1] if self._busy else 0.0
        if end_s >= self.now_s:
            self._busy[-1] = (self._busy[-1][0], end_s + self.iteration_s)
        else:
            self._busy.append((self.now_s, self.now_s + self.iteration_s))
        self.calls += 1

    def synchronize(self) -> None:
        if self._busy:
            self.now_s = max(self.now_s, self._busy[-1][1])

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def energy_j(self, time_s: float) -> float:
        """True energy drawn from 0 to ``time_s``."""
        while len(self._busy) > 4000:  # forget when the distant past was busy, but not for how long
            start_s, end_s = self._busy.pop(0)
            self._past_s += end_s - start_s
        busy_s = sum(min(end_s, time_s) - start_s for start_s, end_s in self._busy if start_s < time_s)
        return self.idle_w * time_s + (self.load_w - self.idle_w) * (self._past_s + busy_s)

    def power_w(self, time_s: float, window_s: float = 0.025) -> float:
        """Mean power over the window that ends at ``time_s``."""
        start_s = max(0.0, time_s - window_s)
        return (
            (self.energy_j(time_s) - self.energy_j(start_s)) / (time_s - start_s) if time_s else self.idle_w
        )


class SimulatedMeter(Meter):
    """A sensor that updates every ``period_s`` from a random phase, with a gain; not a real device."""

    name = "simulated"

    def __init__(
        self,
        device: Device,
        *,
        kind: str = "counter",
        period_s: float = 0.1,
        phase_s: float = 0.0,
        gain: float = 1.0,
        read_s: float = 1e-4,
        reset_at_s: float = math.inf,
        lost_at_s: float = math.inf,
        stuck_at_s: float = math.inf,
        drop_every: int = 0,
        power_limit_w: float | None = None,
    ) -> None:
        self.device, self.kind, self.period_s, self.phase_s, self.gain = device, kind, period_s, phase_s, gain
        self.read_s, self.reset_at_s, self.lost_at_s, self.stuck_at_s = (
            read_s,
            reset_at_s,
            lost_at_s,
            stuck_at_s,
        )
        self.drop_every, self.power_limit_w, self.reads = drop_every, power_limit_w, 0

    @property
    def method(self):
        return self.kind

    def available(self) -> Absent | None:
        return None

    def describe(self) -> dict:
        return {"meter": self.name, "power_limit_w": self.power_limit_w}

    def read(self) -> Reading:
        self.device.now_s += self.read_s / 2
        now_s = self.device.now_s
        self.device.now_s += self.read_s / 2
        self.reads += 1
        if now_s > self.lost_at_s:
            raise MeterError(Absent("the GPU was lost"))
        if self.drop_every and self.reads % self.drop_every == 0:
            return Reading(now_s)
        seen_s = min(now_s, self.stuck_at_s)
        tick_s = max(0.0, math.floor((seen_s - self.phase_s) / self.period_s) * self.period_s + self.phase_s)
        if self.kind == "power":
            return Reading(now_s, power_w=self.gain * self.device.power_w(tick_s))
        energy_j = 1e4 + self.gain * self.device.energy_j(tick_s)
        if now_s > self.reset_at_s:
            energy_j -= 1e4 + self.gain * self.device.energy_j(self.reset_at_s)
        return Reading(now_s, energy_j=round(max(energy_j, 0.0), 3))


QUICK = ProtocolSettings(idle_settle_s=0.2, idle_s=0.5, warmup_s=0.3, block_s=1.0, n_blocks=6, period_ticks=4)


def with_(settings: ProtocolSettings, **changes: object) -> ProtocolSettings:
    return replace(settings, **changes)


def measure(device: Device, meter: Meter, settings: ProtocolSettings = QUICK) -> Measurement | Absent:
    return measure_energy(
        meter, device.run_once, device.synchronize, settings, clock=device.clock, sleep=device.sleep
    )


def single_block_errors(block_s: float, runs: int, **sensor: float) -> list[float]:
    """Relative error of single blocks at 400 W constant, each run at a random phase."""
    rng = random.Random(1)
    errors = []
    settings = with_(QUICK, idle_s=0.0, block_s=block_s, n_blocks=1, period_ticks=1)
    for _ in range(runs):
        device = Device(iteration_s=rng.uniform(0.5e-3, 3e-3))
        meter = SimulatedMeter(device, phase_s=rng.uniform(0, 0.1), read_s=rng.uniform(5e-5, 5e-4), **sensor)
        result = measure(device, meter, settings)
        assert isinstance(result, Measurement)
        # The truth is a call's own energy: what the gaps between chunks draw counts as error.
        errors.append(result.energy_j / (400.0 * device.iteration_s) - 1)
    return errors


def test_blocks_of_a_second_are_within_half_a_percent():
    errors = single_block_errors(1.0, 60)
    assert abs(statistics.mean(errors)) <= 0.002
    assert statistics.stdev(errors) <= 0.005


def test_twenty_milliseconds_asked_never_give_zero():
    errors = single_block_errors(0.02, 60)
    assert min(errors) > -0.03
    assert statistics.stdev(errors) <= 0.01


def test_a_gain_of_the_sensor_shows_and_nothing_else():
    plain, raised = single_block_errors(1.0, 10), single_block_errors(1.0, 10, gain=1.05)
    assert [(1 + r) / (1 + p) for p, r in zip(plain, raised, strict=True)] == pytest.approx(
        [1.05] * 10, rel=1e-5
    )


@pytest.mark.parametrize("period_s", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("iteration_s", [2e-5, 4e-3, 0.05, 0.3])
def test_energy_time_and_idle_over_sensor_periods_and_call_lengths(period_s: float, iteration_s: float):
    device = Device(iteration_s=iteration_s, load_w=350.0, idle_w=90.0, launch_s=min(2e-5, iteration_s / 4))
    meter = SimulatedMeter(device, period_s=period_s, phase_s=0.013)
    result = measure(device, meter, with_(QUICK, block_s=2.0, idle_settle_s=0.6))
    assert isinstance(result, Measurement)
    assert result.energy_j == pytest.approx(350.0 * iteration_s, rel=0.006)
    assert result.latency_s == pytest.approx(iteration_s, rel=0.006)
    assert result.idle_power_w == pytest.approx(90.0, rel=0.005)
    assert result.energy_above_idle_j == pytest.approx(260.0 * iteration_s, rel=0.01)
    assert result.update_period_s == pytest.approx(period_s, rel=0.05)
    assert all(block.duration_s >= 2.0 and block.iterations >= 9.5 for block in result.blocks)


def test_a_load_that_waits_itself_is_measured_too():
    device = Device(iteration_s=4e-3, load_w=60.0, idle_w=20.0)

    def run_and_wait() -> None:
        device.run_once()
        device.synchronize()

    meter = SimulatedMeter(device, period_s=0.02, phase_s=0.007)
    result = measure_energy(meter, run_and_wait, lambda: None, QUICK, clock=device.clock, sleep=device.sleep)
    assert isinstance(result, Measurement)
    truth_j = 60.0 * device.iteration_s + 20.0 * device.launch_s
    assert result.energy_j == pytest.approx(truth_j, rel=0.005)


@pytest.mark.parametrize("iteration_s", [2.1e-3, 2e-3, 0.0101])
def test_calls_in_step_with_the_sensor_do_not_bias_the_blocks(iteration_s: float):
    device = Device(iteration_s=iteration_s)

    def run_and_wait() -> None:
        device.run_once()
        device.synchronize()

    result = measure_energy(
        SimulatedMeter(device, phase_s=0.0371),
        run_and_wait,
        lambda: None,
        with_(QUICK, block_s=0.5, n_blocks=20),
        clock=device.clock,
        sleep=device.sleep,
    )
    assert isinstance(result, Measurement)
    assert statistics.mean(block.power_w for block in result.blocks) == pytest.approx(400.0, rel=0.002)


@pytest.mark.parametrize("read_s", [1e-3, 5e-3, 0.02])
def test_a_slow_driver_does_not_starve_the_load(read_s: float):
    device = Device(load_w=350.0, idle_w=90.0)
    result = measure(device, SimulatedMeter(device, phase_s=0.02, read_s=read_s), with_(QUICK, block_s=2.0))
    assert isinstance(result, Measurement)
    assert result.latency_s == pytest.approx(1e-3, rel=0.003)
    assert result.energy_j == pytest.approx(0.35, rel=0.006)


def test_energy_of_all_blocks_is_the_true_energy_between_their_ticks():
    device = Device(load_w=400.0, idle_w=50.0)
    result = measure(device, SimulatedMeter(device, phase_s=0.03))
    assert isinstance(result, Measurement)
    for block in result.blocks:
        ticks = block.duration_s / 0.1
        assert ticks == pytest.approx(round(ticks), abs=0.05)
        assert block.energy_j == pytest.approx(400.0 * round(ticks) * 0.1, rel=0.01)


def test_power_readings_are_integrated_where_there_is_no_counter():
    device = Device(iteration_s=5e-3, load_w=300.0, idle_w=80.0)
    result = measure(device, SimulatedMeter(device, kind="power", phase_s=0.04))
    assert isinstance(result, Measurement)
    assert result.method == "power"
    assert isinstance(result.update_period_s, Absent)
    assert result.energy_j == pytest.approx(300.0 * 5e-3, rel=0.005)
    assert result.energy_above_idle_j == pytest.approx(220.0 * 5e-3, rel=0.005)


@pytest.mark.parametrize("kind", ["counter", "power"])
def test_readings_that_give_nothing_are_dropped_and_counted(kind: str):
    device = Device()
    result = measure(device, SimulatedMeter(device, kind=kind, drop_every=3))
    assert isinstance(result, Measurement)
    assert result.dropped_readings > 10
    assert result.energy_j == pytest.approx(0.4, rel=0.01)


def test_a_reset_of_the_counter_rejects_its_block_alone():
    undisturbed = Device()
    measure(undisturbed, SimulatedMeter(undisturbed))
    device = Device()
    result = measure(device, SimulatedMeter(device, reset_at_s=undisturbed.now_s - 2.5))
    assert isinstance(result, Measurement)
    assert [block.reason for block in result.rejected] == ["the energy counter was reset"]
    assert result.n_blocks == 6
    assert result.energy_j == pytest.approx(0.4, rel=0.005)


def test_a_reset_while_idle_leaves_the_energy_above_idle_absent():
    device = Device(idle_w=90.0)
    result = measure(device, SimulatedMeter(device, reset_at_s=0.9))
    assert isinstance(result, Measurement)
    assert isinstance(result.idle_power_w, Absent) and "reset" in result.idle_power_w.reason
    assert result.energy_above_idle_j == result.idle_power_w
    assert result.energy_j == pytest.approx(0.4, rel=0.005)


@pytest.mark.parametrize(
    ("sensor", "reason"),
    [
        ({"lost_at_s": 3.0}, "lost"),
        ({"stuck_at_s": 3.0}, "did not move for 3 s"),
        ({"stuck_at_s": 0.0}, "did not move for 3 s"),
        ({"drop_every": 1}, "gave no reading for 3 s"),
        ({"drop_every": 1, "kind": "power"}, "no power reading"),
        ({"power_limit_w": 200.0}, "implausible power: 400 W"),
    ],
)
def test_a_sensor_that_fails_gives_absent_with_the_reason(sensor: dict, reason: str):
    device = Device()
    result = measure(device, SimulatedMeter(device, **sensor))
    assert isinstance(result, Absent)
    assert reason in result.reason


def test_an_absent_meter_gives_its_reason_and_runs_nothing():
    device = Device()
    assert measure(device, NullMeter("no GPU")) == Absent("no GPU")
    assert device.calls == 0


def test_errors_of_the_workload_come_through():
    device = Device()

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure_energy(SimulatedMeter(device), broken, device.synchronize, QUICK, clock=device.clock)


def test_few_blocks_and_no_idle_leave_interval_and_difference_absent():
    device = Device()
    result = measure(device, SimulatedMeter(device), with_(QUICK, n_blocks=5, idle_s=0.0))
    assert isinstance(result, Measurement)
    assert isinstance(result.energy_interval_j, Absent) and "5 blocks" in result.energy_interval_j.reason
    assert isinstance(result.energy_above_idle_j, Absent)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["energy_interval_j"]["absent"].startswith("5 blocks")
    assert plain["settings"]["block_s"] == 1.0
    assert plain["n_blocks"] == len(plain["blocks"]) == 5
    assert plain["origin"] == "measured"


def test_the_interval_encloses_the_median():
    device = Device()
    result = measure(device, SimulatedMeter(device), with_(QUICK, n_blocks=10))
    assert isinstance(result, Measurement) and isinstance(result.energy_interval_j, tuple)
    low, high = result.energy_interval_j
    assert low <= result.energy_j <= high


@pytest.mark.parametrize("n", [6, 7, 10, 11, 25])
def test_median_interval_agrees_with_scipy(n: int):
    values = np.random.default_rng(n).normal(size=n)
    assert median_interval(values.tolist()) == pytest.approx(stats.mstats.median_cihs(values), rel=1e-9)


@pytest.mark.parametrize("n", [6, 10, 15])
def test_median_interval_covers_the_median_as_often_as_it_says(n: int):
    samples = np.random.default_rng(0).normal(size=(4000, n)).tolist()
    covered = sum(low <= 0 <= high for low, high in map(median_interval, samples))
    assert 0.935 <= covered / 4000 <= 0.975


def test_median_interval_needs_six():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert median_interval([]) is None


def test_integration_interpolates_the_edges():
    # From 0.5 s to 2.5 s under 100, 200, 200, 400 W at 0, 1, 2, 3 s: 0.5*175 + 1*200 + 0.5*250 = 412.5 J.
    points = [(0.0, 100.0), (1.0, 200.0), (2.0, 200.0), (3.0, 400.0)]
    assert integrate_power(points, 0.5, 2.5, max_gap_s=1.0) == pytest.approx(412.5)


def test_integration_lies_between_readings_alone():
    # The line from 100 W to 300 W over 4 s has 200 W as its mean from 1 s to 3 s.
    assert integrate_power([(0.0, 100.0), (4.0, 300.0)], 1.0, 3.0, max_gap_s=5.0) == pytest.approx(400.0)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([], "edge"),
        ([(0.0, 1.0), (1.5, 1.0)], "edge"),
        ([(0.0, 1.0), (0.5, 1.0), (2.5, 1.0)], "no power reading for 2 s"),
    ],
)
def test_integration_refuses_gaps(points: list[tuple[float, float]], reason: str):
    with pytest.raises(BlockRejected, match=reason):
        integrate_power(points, 0.5, 2.0, max_gap_s=1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_s", 0.0),
        ("n_blocks", 2.5),
        ("idle_s", -1.0),
        ("poll_interval_s", math.nan),
        ("n_blocks", True),
    ],
)
def test_settings_refuse_what_makes_no_sense(name: str, value: object):
    with pytest.raises(ConfigError, match=f"meter.protocol.{name}={value}: expected a (whole )?number"):
        ProtocolSettings(**{name: value})
