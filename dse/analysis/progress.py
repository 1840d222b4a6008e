"""A bar on a terminal, and a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dse.progress import duration

_LINE_EVERY_S = 10.0


class Steps:
    """Counts ``total`` steps of work on ``stream`` (default: standard error).

    A terminal gets a bar with what is in hand, anything else a plain line every ten seconds.
    """

    def __init__(
        self, total: int, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self.total, self.done, self._clock = total, 0, clock
        self._begun = self._told = clock()
        console = Console(file=self._stream)
        columns = (
            BarColumn(30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        lively = console.is_terminal and not console.is_dumb_terminal
        self._bar = Progress(*columns, console=console, transient=True) if lively else None
        self._task = None if self._bar is None else self._bar.add_task("", total=total)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One step, begun and finished."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what)
        yield
        self.done += 1
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)
        elif self._clock() - self._told >= _LINE_EVERY_S or self.done == self.total:
            self._told = self._clock()
            took = duration(self._told - self._begun)
            self._stream.write(f"[{self.done}/{self.total}] {what}; {took}\n")
            self._stream.flush()

    def __enter__(self) -> Steps:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
