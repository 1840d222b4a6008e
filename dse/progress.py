"""What is seen while a study runs: a live panel on a terminal, one line per trial in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TextIO

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dse.objectives import Metric
from dse.pareto import non_dominated, normalised_hypervolume, objective_matrix, on_log_scale
from dse.records import TrialRecord
from dse.trials import ORPHANED


@dataclass(frozen=True)
class Progress:
    """What a worker reports.

    ``fresh`` are the trials that finished or failed since its last report, by any worker;
    ``waiting_for`` the number of trials other workers have in hand while this one has none to do.
    """

    complete: int
    total: int
    fresh: tuple[TrialRecord, ...] = ()
    waiting_for: int = 0


class ProgressDisplay(Protocol):
    """A context manager that is called with every `Progress`; ``notice`` shows a line of text."""

    def __call__(self, progress: Progress) -> None: ...
    def notice(self, text: str) -> None: ...
    def __enter__(self) -> ProgressDisplay: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_progress(
    total: int,
    objectives: Sequence[Metric],
    stream: TextIO | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> ProgressDisplay:
    """A display for a study of ``total`` trials on ``stream`` (default: standard error).

    A terminal gets a live panel, anything else one plain line per trial, free of control characters.
    """
    stream = stream or sys.stderr
    standing = Standing(total, objectives, clock)
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return LivePanel(standing, console)
    return PlainLines(standing, stream)


class Standing:
    """How a study stands: counts, rate, front and hypervolume, from the reports of a worker."""

    def __init__(self, total: int, objectives: Sequence[Metric], clock: Callable[[], float]) -> None:
        self.total, self.objectives, self._clock = total, list(objectives), clock
        self.complete = self.failed = self.waiting_for = self.front_size = 0
        self.hypervolume = 0.0
        self.last: TrialRecord | None = None
        self._values = np.empty((0, len(self.objectives)))
        self._start: tuple[float, int] | None = None
        self._latest = 0.0

    def take(self, progress: Progress) -> list[TrialRecord]:
        """Add a report; the trials to show, which leaves out those from before this display."""
        resumed = self._start is None
        self._latest = self._clock()
        if self._start is None:
            self._start = (self._latest, progress.complete)
        self.complete, self.total, self.waiting_for = progress.complete, progress.total, progress.waiting_for
        finished = [record for record in progress.fresh if record.acceptable]
        self.failed += sum(
            1 for record in progress.fresh if record.state == "FAIL" and record.error != ORPHANED
        )
        if finished:
            self._values = np.vstack([self._values, objective_matrix(finished, self.objectives)])
            directions = [metric.direction for metric in self.objectives]
            self.front_size = int(non_dominated(self._values, directions).sum())
            self.hypervolume = normalised_hypervolume(on_log_scale(self._values, directions), directions)
        if resumed:
            return []
        self.last = progress.fresh[-1] if progress.fresh else self.last
        return list(progress.fresh)

    @property
    def rate_per_min(self) -> float | None:
        """Finished trials per minute since this display began; None before the first."""
        if self._start is None or self._latest <= self._start[0] or self.complete <= self._start[1]:
            return None
        return (self.complete - self._start[1]) / (self._latest - self._start[0]) * 60.0

    @property
    def left_s(self) -> float | None:
        """Seconds to go at this rate."""
        rate = self.rate_per_min
        return None if rate is None else max(0, self.total - self.complete) / rate * 60.0

    def best(self) -> str:
        """The best accuracy so far (of the first objective where accuracy is none), as text."""
        names = [metric.name for metric in self.objectives]
        index = names.index("accuracy") if "accuracy" in names else 0
        metric, column = self.objectives[index], self._values[:, index]
        if not len(column):
            return f"no {metric.title.lower()} yet"
        best = float(column.max() if metric.direction == "maximize" else column.min())
        return f"best {metric.title.lower()} {_shown(metric, best)}"

    def summary(self) -> str:
        """Rate, time left, front and hypervolume in one line."""
        rate, left = self.rate_per_min, self.left_s
        parts = [] if rate is None or left is None else [f"{rate:.1f} trials/min", f"{duration(left)} left"]
        parts += [f"front {self.front_size}", f"hypervolume {self.hypervolume:.3f}"]
        return ", ".join(parts)


class PlainLines:
    """One line per trial."""

    def __init__(self, standing: Standing, stream: TextIO) -> None:
        self._standing, self._stream = standing, stream
        self._begun = self._waiting = False

    def __call__(self, progress: Progress) -> None:
        standing = self._standing
        shown = standing.take(progress)
        if not self._begun:
            self._begun = True
            self.notice(f"{standing.complete} of {standing.total} trials finished already")
        for record in shown:
            after = f"; {standing.summary()}" if record is shown[-1] else ""
            self.notice(
                f"[{standing.complete}/{standing.total}] {describe(record, standing.objectives)}{after}"
            )
        if progress.waiting_for and not self._waiting:
            self.notice(f"waiting for {progress.waiting_for} trials of other workers")
        self._waiting = bool(progress.waiting_for)

    def notice(self, text: str) -> None:
        self._stream.write("".join(c if c.isprintable() else " " for c in text) + "\n")
        self._stream.flush()

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LivePanel:
    """A few lines redrawn in place; the terminal is put back when the block ends, however it ends."""

    def __init__(self, standing: Standing, console: Console) -> None:
        self._standing = standing
        self._notice = ""
        self._live = Live(self._render(), console=console, auto_refresh=False)

    def __call__(self, progress: Progress) -> None:
        self._standing.take(progress)
        self._live.update(self._render(), refresh=True)

    def notice(self, text: str) -> None:
        self._notice = text
        self._live.update(self._render(), refresh=True)

    def __enter__(self) -> LivePanel:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        standing = self._standing
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=standing.total, completed=min(standing.complete, standing.total), width=30)
        failed = f", {standing.failed} failed" if standing.failed else ""
        head.add_row("trials", bar, f"{standing.complete}/{standing.total}{failed}")
        lines: list[RenderableType] = [head, Text(f"{standing.summary()}, {standing.best()}")]
        if standing.last is not None:
            lines.append(Text(f"last {describe(standing.last, standing.objectives)}", overflow="ellipsis"))
        if standing.waiting_for:
            lines.append(Text(f"waiting for {standing.waiting_for} trials of other workers"))
        if self._notice:
            lines.append(Text(self._notice, style="bold yellow"))
        return Group(*lines)


def describe(record: TrialRecord, objectives: Sequence[Metric]) -> str:
    """One trial in a line: number, label, values in display units, or why it failed."""
    name = f"trial {record.number}" + (f" ({record.label})" if record.label else "")
    if record.evaluation is None:
        lines = record.error.strip().splitlines()
        return f"{name} failed: {lines[-1] if lines else 'no reason recorded'}"
    values = [f"{m.name} {_shown(m, record.evaluation.metrics[m.name])}" for m in objectives]
    took = "" if record.duration_s is None else f" in {duration(record.duration_s)}"
    return f"{name}: {', '.join(values)}{took}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _shown(metric: Metric, value: float) -> str:
    unit = metric.display_unit
    return f"{value * metric.display_scale:.4g}{'' if unit in ('', '%') else ' '}{unit}"
