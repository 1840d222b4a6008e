"""The open questions about an energy sensor, as experiments on a machine; see ``open_questions.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.gpu.questions_machine import Look, Machine

_STEP_S = 0.002
_PHASES = 8
_DUTY = 0.25
_FLAT, _SWINGING = 0.15, 0.4


@dataclass(frozen=True)
class Answer:
    """One figure; None where it could not be had, the note says why."""

    question: str
    value: float | None
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Durations:
    """Seconds of each part."""

    ticks_s: float = 10.0
    wave_s: float = 8.0
    idle_s: float = 15.0
    block_s: float = 2.0
    blocks: int = 10


QUICK = Durations(ticks_s=3.0, wave_s=4.0, idle_s=3.0, block_s=1.0, blocks=4)


class Questions:
    """Puts the questions to a machine, one after the other, and keeps what was seen."""

    def __init__(self, machine: Machine, durations: Durations) -> None:
        self.machine, self.durations = machine, durations
        self.answers: list[Answer] = []
        self.traces: dict[str, list[Look]] = {}
        self._period_s = 0.1

    def run(self) -> None:
        """All of them; what is drawn without a CUDA context comes first."""
        bare_w = self._idle("idle_bare")
        self.machine.begin_context()
        self._run_for(True, 3.0)  # clocks rise
        self._ticks()
        self._samples()
        self._windows()
        self._blocks()
        self._idle_costs(bare_w)

    def _say(self, question: str, value: float | None, unit: str, note: str = "") -> None:
        self.answers.append(Answer(question, value, unit, note))

    def _run_for(self, busy: bool, seconds: float, kind: str = "weights") -> list[Look]:
        end_s, looks = self.machine.now() + seconds, []
        while self.machine.now() < end_s:
            looks.append(self.machine.step(busy, _STEP_S, kind)[0])
        return looks

    def _ticks(self) -> None:
        looks = self.traces["ticks"] = self._run_for(True, self.durations.ticks_s)
        counter_s, jumps = changes(looks, "counter_mj")
        if len(counter_s) < 4:
            self._say(
                "1 counter period", None, "s", "the counter did not change: this GPU has none, or it is stuck"
            )
        else:
            self._period_s = period_s(counter_s)
            spread = np.subtract(*np.percentile(np.diff(counter_s), [75, 25]))
            self._say("1 counter period", self._period_s, "s", f"quartiles {spread:.2g} s apart")
            self._say("1 counter resolution", float(np.gcd.reduce(jumps[1:])), "mJ", "of all its steps")
        for name in ("instant", "average"):
            power_s, _ = changes(looks, f"{name}_mw")
            if len(power_s) < 4:
                self._say(f"1 {name} power period", None, "s", "it did not change, or is not supported")
            else:
                self._say(f"1 {name} power period", period_s(power_s), "s")

    def _samples(self) -> None:
        found, why = self.machine.samples()
        if len(found) < 2:
            self._say("3 power samples in the driver", None, "Hz", why or "none were there")
            return
        span_s = (found[-1][0] - found[0][0]) * 1e-6
        rate = (len(found) - 1) / span_s if span_s > 0 else None
        self._say("3 power samples in the driver", rate, "Hz", f"{len(found)} over {span_s:.3g} s")

    def _windows(self) -> None:
        """The same wave at each phase of the counter's period."""
        means = {"counter": [], "instant": []}  # type: dict[str, list[float]]
        for phase in range(_PHASES):
            looks = self._wave(phase / _PHASES)
            self.traces[f"wave_{phase}"] = looks
            for name, mean in (("counter", counter_w(looks)), ("instant", integrated_w(looks))):
                if mean is not None:
                    means[name].append(mean)
        for name, found in means.items():
            if len(found) < _PHASES:
                self._say(
                    f"2 {name} over phases", None, "of the mean", "not at every phase there was a reading"
                )
                continue
            swing = (max(found) - min(found)) / float(np.mean(found))
            self._say(f"2 {name} over phases", swing, "of the mean", "greatest less least of eight phases")
            if name == "counter":
                self._say("2 counter sees power outside the window", *_verdict(swing))

    def _wave(self, phase: float) -> list[Look]:
        """On for a quarter of every period, from ``phase`` of one behind a tick on."""
        period_s, looks = self._period_s, []  # type: float, list[Look]
        start_s = self._next_tick() + (1.0 + phase) * period_s
        end_s = start_s + self.durations.wave_s
        while (now_s := self.machine.now()) < end_s:
            within = (now_s - start_s) / period_s % 1.0
            looks.append(self.machine.step(now_s >= start_s and within < _DUTY, _STEP_S)[0])
        return looks

    def _next_tick(self) -> float:
        """When the counter changes next; where it does not, now."""
        first, end_s = self.machine.look(), self.machine.now() + 1.0
        while self.machine.now() < end_s:
            look = self.machine.look()
            if look.counter_mj != first.counter_mj:
                return look.time_s
            self.machine.sleep(5e-4)
        return self.machine.now()

    def _blocks(self) -> None:
        each = {}
        for kind in ("weights", "zeros"):
            self._run_for(True, 2.0, kind)
            found = [self._block(kind) for _ in range(self.durations.blocks)]
            each[kind] = [joules for joules in found if joules is not None]
        blocks = each["weights"]
        if len(blocks) < 2 or len(each["zeros"]) < 2:
            self._say("5 spread of equal blocks", None, "of the mean", "the counter gave too few blocks")
            return
        spread = float(np.std(blocks, ddof=1) / np.mean(blocks))
        self._say("5 energy of a product of trained weights", float(np.mean(blocks)), "J")
        self._say("5 spread of equal blocks", spread, "of the mean", f"{len(blocks)} blocks between ticks")
        saved = 1.0 - float(np.mean(each["zeros"]) / np.mean(blocks))
        self._say("5 zeros instead of trained weights save", saved, "of the energy")

    def _block(self, kind: str) -> float | None:
        """Joules of one call, between two ticks of the counter while the load goes on."""
        machine, first = self.machine, None  # type: Machine, tuple[int, float] | None
        before, calls, end_s = machine.look().counter_mj, 0.0, machine.now() + self.durations.block_s
        deadline_s = end_s + 5.0
        while machine.now() < deadline_s:
            look, made = machine.step(True, _STEP_S, kind)
            if look.counter_mj != before and look.counter_mj is not None:
                at = calls + made / 2
                if first is None:
                    first = look.counter_mj, at
                elif machine.now() >= end_s:
                    return (look.counter_mj - first[0]) * 1e-3 / (at - first[1])
                before = look.counter_mj
            calls += made
        return None

    def _idle(self, name: str, rate_hz: float = 2.0) -> float | None:
        """Mean power at rest while the sensor is looked at so often."""
        self.machine.sleep(3.0)
        end_s, looks = self.machine.now() + self.durations.idle_s, []
        while self.machine.now() < end_s:
            looks.append(self.machine.look())
            self.machine.sleep(1.0 / rate_hz)
        self.traces[name] = looks
        mean = counter_w(looks)
        return integrated_w(looks) if mean is None else mean

    def _idle_costs(self, bare_w: float | None) -> None:
        quiet_w = self._idle("idle_context")
        self._say("4 idle without a CUDA context", bare_w, "W", "" if bare_w else "no reading")
        self._say("4 idle with a CUDA context", quiet_w, "W", "" if quiet_w else "no reading")
        for rate in (10, 100, 1000):
            watched_w = self._idle(f"idle_{rate}_hz", rate)
            more = None if watched_w is None or quiet_w is None else watched_w - quiet_w
            note = "beside two looks a second" if more is not None else "no reading"
            self._say(f"4 looking {rate} times a second adds", more, "W", note)


def _verdict(swing: float) -> tuple[float | None, str, str]:
    if swing <= _FLAT:
        return 1.0, "yes or no", "yes: it hardly depends on the phase"
    if swing >= _SWINGING:
        return 0.0, "yes or no", "no: it depends on the phase as single samples do"
    return None, "yes or no", "neither flat nor swinging; see the traces"


def changes(looks: Sequence[Look], what: str) -> tuple[list[float], list[int]]:
    """When a reading changed, and by how much."""
    times, steps, last = [], [], None  # type: list[float], list[int], int | None
    for look in looks:
        value = getattr(look, what)
        if value is None:
            continue
        if last is not None and value != last:
            times.append(look.time_s)
            steps.append(abs(value - last))
        last = value
    return times, steps


def period_s(times: Sequence[float]) -> float:
    """Time between changes, some of which may have been missed."""
    span_s = times[-1] - times[0]
    return float(span_s / max(1, round(span_s / float(np.median(np.diff(times))))))


def counter_w(looks: Sequence[Look]) -> float | None:
    """Mean power by the counter, between its first and its last change."""
    seen = [(look.time_s, look.counter_mj) for look in looks if look.counter_mj is not None]
    ticks = [b for a, b in zip(seen, seen[1:], strict=False) if a[1] != b[1]]
    if len(ticks) < 2:
        return None
    return (ticks[-1][1] - ticks[0][1]) * 1e-3 / (ticks[-1][0] - ticks[0][0])


def integrated_w(looks: Sequence[Look]) -> float | None:
    """Mean of the instant power over time."""
    seen = [(look.time_s, look.instant_mw) for look in looks if look.instant_mw is not None]
    if len(seen) < 2:
        return None
    times, watts = np.array(seen).T
    return float(np.trapezoid(watts * 1e-3, times) / (times[-1] - times[0]))
