"""One worker: ask the study for a trial, evaluate it, tell the result, until the budget is spent."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dse.errors import DseError, RunFolderError
from dse.progress import Progress
from dse.records import Evaluation
from dse.search import Budget

if TYPE_CHECKING:
    from optuna.trial import Trial

    from dse.study import Study

Evaluate = Callable[["Trial"], Evaluation]


class TooManyFailures(DseError):
    """Trial after trial failed: the cause lies with all of them, so going on is of no use."""


class StopFlag:
    """A request to end after the trial in hand; may be set from a signal handler or another thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep for ``seconds``, or less if the request comes; whether it came."""
        return self._event.wait(seconds)


@dataclass(frozen=True)
class Outcome:
    """How a worker ended. ``evaluated`` counts the trials this worker evaluated, failed ones too."""

    interrupted: bool
    evaluated: int
    complete: int
    total: int


@contextmanager
def interruptible(stop: StopFlag, announce: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM set ``stop`` and the second raise KeyboardInterrupt.

    The handlers found are put back at the end. Outside the main thread, where Python allows no
    handlers, nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.request()
        announce("stopping after the trial in hand; once more stops at once and leaves it to the next run")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_worker(
    study: Study,
    evaluate: Evaluate,
    on_event: Callable[[Progress], None] = lambda progress: None,
    stop: StopFlag | None = None,
    *,
    poll_s: float = 0.25,
) -> Outcome:
    """Work on ``study`` until its budget of finished trials is reached or ``stop`` is requested.

    While other workers have the rest of the budget in hand, this one waits and takes over what they
    leave behind. An exception of ``evaluate`` fails the trial and not the worker.

    Args:
        on_event: called at the start, after every trial, and while waiting.
        poll_s: seconds between two looks at the others while waiting.

    Raises:
        TooManyFailures: ``study.settings.max_failures`` trials of this worker in a row failed.
        RunFolderError: the run folder cannot be written any more.
    """
    stop = stop or StopFlag()
    watch = _Watch(study, on_event)
    in_a_row = evaluated = 0
    with study.worker() as worker:
        watch.report()
        while not stop.requested:
            trial, budget = study.ask(worker)
            if trial is None:
                if budget.spent:
                    break
                watch.report(waiting_for=budget.running)
                stop.wait(poll_s)
                continue
            error = _work(study, trial, evaluate)
            evaluated += 1
            in_a_row = in_a_row + 1 if error else 0
            watch.report()
            if error and in_a_row >= study.settings.max_failures:
                raise _too_many(in_a_row, trial.number, error)
    budget = watch.report()
    return Outcome(stop.requested, evaluated, budget.complete, budget.total)


def _work(study: Study, trial: Trial, evaluate: Evaluate) -> str:
    """Evaluate one trial and close it; the traceback if it failed, else an empty text."""
    try:
        study.tell(trial, evaluate(trial))
    except RunFolderError:
        # Nothing can be written: the trial stays open, and the next run tries it again.
        raise
    except Exception:
        error = traceback.format_exc()
        study.fail(trial, error)
        return error
    return ""


def _too_many(n: int, number: int, error: str) -> TooManyFailures:
    last = error.strip().splitlines()[-1]
    return TooManyFailures(
        f"{n} trials in a row failed, the last one (trial {number}) with: {last}\n"
        "Mend the cause and give the same command again to go on; raise study.max_failures if failures are "
        f"expected. The whole of the last error:\n{error.rstrip()}"
    )


class _Watch:
    """Turns the study's records into events, each finished trial reported once."""

    def __init__(self, study: Study, on_event: Callable[[Progress], None]) -> None:
        self._study, self._on_event = study, on_event
        self._seen: set[int] = set()

    def report(self, waiting_for: int = 0) -> Budget:
        fresh, budget = self._study.finished_since(self._seen)
        self._seen.update(record.number for record in fresh)
        self._on_event(Progress(budget.complete, budget.total, tuple(fresh), waiting_for))
        return budget
