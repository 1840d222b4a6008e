"""Something that goes on while the meter is read: calls of a workload, or nothing at all."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from energy.meters.base import Meter, Reading

# Share of the expected run time in which the meter is read: the GPU must not stand idle for a late reading.
_WATCHED_SHARE = 0.9
_READS_IN_CHUNK = 2.0


@dataclass(frozen=True)
class Observed:
    """A reading, and how many calls had been finished by then (a fraction of the one under way counts)."""

    reading: Reading
    iterations: float


class Activity(ABC):
    """What is measured. ``finished`` counts calls, ``dropped`` readings that gave nothing."""

    def __init__(self, meter: Meter, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.meter, self.clock, self.sleep = meter, clock, sleep
        self.finished = 0
        self.dropped = 0
        self._read_s = 0.0
        self._jitter = random.Random(0)

    @abstractmethod
    def watch(self, duration_s: float, interval_s: float) -> list[Observed]:
        """Go on for about ``duration_s``, reading the meter at least once and then every ``interval_s``."""

    def _readings_until(self, end_s: float, interval_s: float) -> list[Reading]:
        readings = [*self._reading()]
        while (pause_s := self._pause_s(interval_s)) + self._read_s + self.clock() < end_s:
            self.sleep(pause_s)
            readings += self._reading()
        return readings

    def _reading(self) -> list[Reading]:
        begin_s = self.clock()
        reading = self.meter.read()
        self._read_s = self.clock() - begin_s
        if reading.energy_j is None and reading.power_w is None:
            self.dropped += 1
            return []
        return [reading]

    def _pause_s(self, interval_s: float) -> float:
        # A regular pause could fall into step with the sensor and see every tick equally late.
        return interval_s * self._jitter.uniform(0.5, 1.5)


class Idle(Activity):
    """Nothing runs."""

    def watch(self, duration_s: float, interval_s: float) -> list[Observed]:
        end_s = self.clock() + duration_s
        # Sleep first: without work, only the interval keeps the meter from being read in a tight loop.
        self.sleep(min(interval_s, duration_s))
        return [Observed(reading, 0.0) for reading in self._readings_until(end_s, interval_s)]


class Load(Activity):
    """Calls of a workload, launched in chunks and waited for.

    The meter is read between launching a chunk and waiting for it, and while launching where that is slow. On
    a GPU, which works on after the launch, reading then costs the load nothing. The calls finished at a
    reading follow from how far through the chunk it was.
    """

    def __init__(
        self,
        meter: Meter,
        run_once: Callable[[], None],
        synchronize: Callable[[], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        super().__init__(meter, clock, sleep)
        self._run_once, self._synchronize = run_once, synchronize
        self._iteration_s = 0.0

    def run_and_wait(self, n: int) -> None:
        """Do ``n`` calls to the end."""
        for _ in range(n):
            self._run_once()
        self._synchronize()
        self.finished += n

    def warm_up(self, duration_s: float, iterations: int, chunk_s: float) -> None:
        """Run for at least that long and that often; the last chunk tells how long one call takes."""
        end_s, already, n = self.clock() + duration_s, self.finished, 1
        while True:
            begin_s = self.clock()
            self.run_and_wait(n)
            self._iteration_s = (self.clock() - begin_s) / n
            if self.clock() >= end_s and self.finished - already >= iterations:
                return
            n = min(2 * n, self._calls_in(chunk_s))

    def watch(self, duration_s: float, interval_s: float) -> list[Observed]:
        # A chunk outlasts a slow driver's answer, or the GPU would run dry meanwhile.
        n = self._calls_in(max(duration_s, _READS_IN_CHUNK * self._read_s))
        begin_s = self.clock()
        readings = self._launch_watched(n, interval_s)
        readings += self._readings_until(begin_s + _WATCHED_SHARE * n * self._iteration_s, interval_s)
        self._synchronize()
        elapsed_s = self.clock() - begin_s
        before = self.finished
        self.finished += n
        shares = (min((r.time_s - begin_s) / elapsed_s, 1.0) if elapsed_s > 0 else 1.0 for r in readings)
        return [Observed(r, before + n * share) for r, share in zip(readings, shares, strict=True)]

    def _calls_in(self, duration_s: float) -> int:
        return max(1, round(duration_s / self._iteration_s)) if self._iteration_s > 0 else 1

    def _launch_watched(self, n: int, interval_s: float) -> list[Reading]:
        readings: list[Reading] = []
        next_s = self.clock() + self._pause_s(interval_s)
        for _ in range(n):
            self._run_once()
            if self.clock() >= next_s:
                readings += self._reading()
                next_s = self.clock() + self._pause_s(interval_s)
        return readings
