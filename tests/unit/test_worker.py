"""The worker's loop: failures, stopping, events, waiting for others, signals."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from optuna.trial import Trial

from dse.errors import DseError, RunFolderError
from dse.objectives import metrics_for
from dse.progress import Progress
from dse.records import Evaluation
from dse.study import SearchSettings, Study, load_records, open_study
from dse.worker import Evaluate, StopFlag, TooManyFailures, interruptible, run_worker

OBJECTIVES = [metrics_for([])["accuracy"]]


def opened(run: Path, n_trials: int, max_failures: int = 3) -> Study:
    settings = SearchSettings(n_trials, "random", max_failures=max_failures)
    return open_study(run, OBJECTIVES, {}, [], settings)


def evaluate(trial: Trial) -> Evaluation:
    return Evaluation("p", metrics={"accuracy": trial.suggest_float("x", 0.0, 1.0)})


def failing_at(*numbers: int, error: Exception) -> Evaluate:
    def evaluate_or_fail(trial: Trial) -> Evaluation:
        if trial.number in numbers:
            raise error
        return evaluate(trial)

    return evaluate_or_fail


def test_failures_are_kept_and_not_counted(tmp_path: Path) -> None:
    study = opened(tmp_path, 4)
    outcome = run_worker(study, failing_at(0, 1, 3, 4, error=DseError("no such layer")))
    assert (outcome.interrupted, outcome.evaluated, outcome.complete, outcome.total) == (False, 8, 4, 4)
    records = load_records(tmp_path)
    assert [r.number for r in records if r.state == "FAIL"] == [0, 1, 3, 4]
    for record in records:
        if record.state == "FAIL":
            assert record.error.startswith("Traceback")
            assert record.error.rstrip().endswith("DseError: no such layer")
            assert record.retry_of is None and record.evaluation is None


def test_too_many_failures_in_a_row_show_the_last(tmp_path: Path) -> None:
    study = opened(tmp_path, 9)
    with pytest.raises(
        TooManyFailures, match=r"3 trials in a row .*\(trial 4\) with: ZeroDivisionError: why"
    ):
        run_worker(study, failing_at(0, 2, 3, 4, error=ZeroDivisionError("why")))
    assert [r.state for r in load_records(tmp_path)] == ["FAIL", "COMPLETE", "FAIL", "FAIL", "FAIL"]
    assert run_worker(opened(tmp_path, 9), evaluate).complete == 9


def test_a_value_that_is_not_finite_fails_the_trial(tmp_path: Path) -> None:
    def sometimes_nan(trial: Trial) -> Evaluation:
        return Evaluation("p", metrics={"accuracy": float("nan") if trial.number == 1 else 0.5})

    run_worker(opened(tmp_path, 2), sometimes_nan)
    records = load_records(tmp_path)
    assert [r.state for r in records] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "the metric accuracy is nan; expected a finite number" in records[1].error


def test_a_full_disk_stops_the_worker_and_the_trial_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="full"):
        run_worker(opened(tmp_path, 3), failing_at(1, error=RunFolderError("the disk is full")))
    assert [r.state for r in load_records(tmp_path)] == ["COMPLETE", "RUNNING"]
    run_worker(opened(tmp_path, 3), evaluate)
    records = load_records(tmp_path)
    assert [r.state for r in records] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert records[2].retry_of == 1


def test_stop_finishes_the_trial_in_hand(tmp_path: Path) -> None:
    stop = StopFlag()

    def stopping(trial: Trial) -> Evaluation:
        if trial.number == 1:
            stop.request()
        return evaluate(trial)

    outcome = run_worker(opened(tmp_path, 5), stopping, stop=stop)
    assert (outcome.interrupted, outcome.evaluated, outcome.complete) == (True, 2, 2)
    assert [r.state for r in load_records(tmp_path)] == ["COMPLETE", "COMPLETE"]
    assert run_worker(opened(tmp_path, 5), evaluate, stop=stop).evaluated == 0


def test_events_report_every_trial_once_and_resume_where_it_stood(tmp_path: Path) -> None:
    events: list[Progress] = []
    run_worker(opened(tmp_path, 3), failing_at(1, error=ValueError()), events.append)
    assert [e.complete for e in events] == [0, 1, 1, 2, 3, 3]
    assert [[r.number for r in e.fresh] for e in events] == [[], [0], [1], [2], [3], []]
    events.clear()
    run_worker(opened(tmp_path, 4), evaluate, events.append)
    assert [(e.complete, e.total) for e in events] == [(3, 4), (4, 4), (4, 4)]
    assert [r.number for r in events[0].fresh] == [0, 1, 2, 3]


def test_waits_for_others_and_takes_over_what_they_leave(tmp_path: Path) -> None:
    waiting, study = threading.Event(), opened(tmp_path, 1)

    def on_event(progress: Progress) -> None:
        if progress.waiting_for:
            assert progress.waiting_for == 1
            waiting.set()

    with study.worker() as other:
        trial, _ = study.ask(other)
        assert trial is not None
        evaluate(trial)
        worker = threading.Thread(
            target=run_worker, args=(study, evaluate, on_event), kwargs={"poll_s": 0.01}
        )
        worker.start()
        assert waiting.wait(30)
    worker.join(30)
    records = load_records(tmp_path)
    assert [r.state for r in records] == ["FAIL", "COMPLETE"]
    assert records[1].params == records[0].params


def test_signals_set_the_flag_then_abort_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        stop, said = StopFlag(), []
        with pytest.raises(KeyboardInterrupt), interruptible(stop, said.append):
            os.kill(os.getpid(), number)
            assert stop.wait(30)
            assert len(said) == 1 and "after the trial in hand" in said[0]
            os.kill(os.getpid(), number)
            threading.Event().wait(30)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_no_handlers_outside_the_main_thread() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interruptible(StopFlag()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
