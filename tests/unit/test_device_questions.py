"""The open questions about a sensor, put to one of which everything is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.gpu.questions import Durations, Questions, changes, counter_w, integrated_w, period_s
from tests.gpu.questions_machine import Look, Machine, trained_matrix

IDLE_W, CONTEXT_W, BUSY_W, ZEROS_W = 40.0, 90.0, 400.0, 300.0
SHORT = Durations(ticks_s=2.0, wave_s=3.0, idle_s=2.0, block_s=1.0, blocks=4)
NO_NVML: Any = SimpleNamespace()


class Sensor(Machine):
    """Changes every ``update_s`` to the mean power of the last ``window_s``; the counter adds up what it is told."""

    simulated = True

    def __init__(self, update_s: float, window_s: float, integrates: str) -> None:
        super().__init__(NO_NVML, None)
        self.facts = {"device": "a sensor of known truth (not a GPU)", "driver": "SIMULATED"}
        self.update_s, self.window_s, self.integrates = update_s, window_s, integrates
        self._time_s, self._rest_w, self._looks_j = 0.0, IDLE_W, 0.0
        self._edges: list[tuple[float, float]] = [(0.0, IDLE_W)]  # from then on, so many watts

    def now(self) -> float:
        return self._time_s

    def sleep(self, seconds: float) -> None:
        self._time_s += seconds

    def begin_context(self) -> None:
        self._rest_w = CONTEXT_W
        self._set(CONTEXT_W)

    def step(self, busy: bool, seconds: float, kind: str = "weights") -> tuple[Look, float]:
        loaded = {"weights": BUSY_W, "zeros": ZEROS_W}[kind]
        self._set(loaded if busy else self._rest_w)
        self.sleep(seconds / 2)
        look = self.look(busy)
        self.sleep(seconds / 2)
        self._set(self._rest_w)
        return look, 4.0 if busy else 0.0

    def look(self, busy: bool = False) -> Look:
        tick_s = self._time_s // self.update_s * self.update_s
        self._forget(tick_s - 2.0)
        mean_w = self._joules(tick_s - self.window_s, tick_s) / self.window_s
        return Look(self._time_s, self._counter(tick_s), round(mean_w * 1000), None, busy)

    def samples(self) -> tuple[list[tuple[int, int]], str]:
        return [(i * 20_000, 1) for i in range(51)], ""

    def _set(self, watts: float) -> None:
        if self._edges[-1][1] != watts:
            self._edges.append((self._time_s, watts))

    def _counter(self, tick_s: float) -> int:
        """Millijoules: of everything, or of the windows' means over whole periods."""
        if self.integrates == "all":
            return round(self._joules(0.0, tick_s) * 1000)
        while self._told_s + self.update_s <= tick_s + 1e-9:
            self._told_s += self.update_s
            mean_w = self._joules(self._told_s - self.window_s, self._told_s) / self.window_s
            self._looks_j += mean_w * self.update_s
        return round(self._looks_j * 1000)

    _told_s = 0.0
    _past_j = 0.0

    def _forget(self, before_s: float) -> None:
        """Add up what lies far back, so that a look takes no longer later on."""
        while len(self._edges) > 1 and self._edges[1][0] < before_s and self.integrates == "all":
            (start_s, watts), (end_s, _) = self._edges[:2]
            self._past_j += watts * (end_s - start_s)
            self._edges.pop(0)
        while len(self._edges) > 1 and self._edges[1][0] < before_s and self.integrates != "all":
            self._edges.pop(0)

    def _joules(self, start_s: float, end_s: float) -> float:
        ends = [edge_s for edge_s, _ in self._edges[1:]] + [float("inf")]
        found = self._past_j if start_s <= self._edges[0][0] else 0.0
        for (begin_s, watts), until_s in zip(self._edges, ends, strict=True):
            found += watts * max(0.0, min(end_s, until_s) - max(start_s, begin_s))
        return found


def answers(sensor: Sensor) -> tuple[Questions, dict[str, float | None]]:
    questions = Questions(sensor, SHORT)
    questions.run()
    return questions, {answer.question: answer.value for answer in questions.answers}


@pytest.mark.parametrize(("integrates", "sees"), [("all", 1.0), ("window", 0.0)])
def test_what_is_answered_is_what_the_sensor_does(integrates: str, sees: float) -> None:
    questions, found = answers(Sensor(0.1, 0.025, integrates))
    assert found["1 counter period"] == pytest.approx(0.1, rel=0.02)
    assert found["2 counter sees power outside the window"] == sees
    swing = found["2 instant over phases"]
    assert swing is not None and swing > 0.4
    assert found["3 power samples in the driver"] == pytest.approx(50.0)
    assert found["4 idle without a CUDA context"] == pytest.approx(IDLE_W, rel=0.01)
    assert found["4 idle with a CUDA context"] == pytest.approx(CONTEXT_W, rel=0.01)
    assert found["4 looking 100 times a second adds"] == pytest.approx(0.0, abs=0.5)
    assert found["5 energy of a product of trained weights"] == pytest.approx(BUSY_W * 0.002 / 4, rel=0.01)
    assert found["5 zeros instead of trained weights save"] == pytest.approx(1 - ZEROS_W / BUSY_W, abs=0.01)
    spread = found["5 spread of equal blocks"]
    assert spread is not None and spread < 0.01
    assert found["1 average power period"] is None
    expected = {"idle_bare", "idle_context", "idle_10_hz", "idle_100_hz", "idle_1000_hz", "ticks"}
    assert set(questions.traces) == expected | {f"wave_{phase}" for phase in range(8)}


def looks(*values: tuple[float, int | None]) -> list[Look]:
    return [Look(time_s, mj, mj, None, False) for time_s, mj in values]


def test_changes_are_seen_across_looks_that_gave_nothing() -> None:
    seen = looks((0.0, 5), (0.1, 5), (0.2, None), (0.3, 8), (0.4, 8), (0.5, 14))
    assert changes(seen, "counter_mj") == ([0.3, 0.5], [3, 6])
    assert counter_w(seen) == pytest.approx(6e-3 / 0.2)
    assert counter_w(seen[:4]) is None and integrated_w(seen[:1]) is None
    assert integrated_w(looks((0.0, 1000), (1.0, 3000), (2.0, 3000))) == pytest.approx(2.5)
    assert period_s([0.0, 0.1, 0.2, 0.4]) == pytest.approx(0.1)


def test_the_matrix_is_made_of_trained_weights() -> None:
    matrix = trained_matrix(64)
    assert matrix.shape == (64, 64) and matrix.dtype == "float32"
    assert len(set(matrix.ravel().tolist())) > 1000 and abs(float(matrix.mean())) < 0.1
