"""The study: budget, baselines, orphans, seeds, mismatch; deaths simulated at each record written."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import Trial

from dse.errors import BadTensor, ConfigError, DseError, RunFolderError, StudyMismatch, UnknownName
from dse.fingerprint import differences
from dse.journal import JournalFile
from dse.objectives import metrics_for
from dse.records import Evaluation, TrialRecord
from dse.search import automatic_sampler, population_size, trial_seed
from dse.study import Baseline, SearchSettings, Study, load_records, load_study_info, open_study
from dse.worker import run_worker

ALL = metrics_for(["bitserial"])
OBJECTIVES = [ALL["accuracy"], ALL["energy.bitserial"]]
BASELINES = [Baseline("float", {"bits": 8, "share": 0.0}), Baseline("two bits", {"bits": 2})]


def evaluate(trial: Trial) -> Evaluation:
    bits = trial.suggest_int("bits", 1, 8)
    method = trial.suggest_categorical("method", ["a", "b"])
    share = trial.suggest_float("share", 0.0, 1.0)
    energy_j = bits * (1.1 - share) * (1.0 if method == "a" else 1.5)
    return Evaluation(f"{bits}{method}", metrics={"accuracy": 1 - share / bits, "energy.bitserial": energy_j})


def opened(run: Path, n_trials: int = 10, sampler: str = "random", **changes: Any) -> Study:
    given: dict[str, Any] = {
        "objectives": OBJECTIVES,
        "fingerprint": {"space": {"bits": (1, 8)}, "model": "resnet20"},
        "baselines": BASELINES,
        "settings": SearchSettings(n_trials, sampler, seed=3),
    }
    return open_study(run, **{**given, **changes})


def results(records: list[TrialRecord]) -> list[tuple[Any, ...]]:
    return [(r.label, r.params, r.evaluation) for r in records if r.state == "COMPLETE"]


class Killed(BaseException):
    """Stands for the death of the process."""


def die_at(monkeypatch: pytest.MonkeyPatch, record: int, *, torn: bool) -> None:
    """Let the process 'die' on writing its record number ``record``, with half of it on the disk."""
    append, count = JournalFile.append_logs, {"n": 0}

    def appending(self: JournalFile, logs: list[dict[str, Any]]) -> None:
        if count["n"] >= record:
            if torn and count["n"] == record:
                line = json.dumps(logs[0])
                with self.path.open("a") as file:
                    file.write(line[: len(line) // 2])
            count["n"] += 1
            raise Killed
        count["n"] += 1
        append(self, logs)

    monkeypatch.setattr(JournalFile, "append_logs", appending)


@pytest.mark.parametrize(
    ("sampler", "n_trials", "first", "step"),
    [("random", 5, 0, 1), ("mixed", 16, 90, 7), ("nsga2", 12, 85, 1)],
)
def test_a_death_at_any_record_changes_nothing(
    tmp_path: Path, sampler: str, n_trials: int, first: int, step: int
) -> None:
    straight = opened(tmp_path / "straight", n_trials, sampler)
    run_worker(straight, evaluate)
    expected = results(straight.records())
    total = (tmp_path / "straight" / "journal.log").read_bytes().count(b"\n")
    assert len(expected) == n_trials and first < total
    for record in range(first, total, step):
        run = tmp_path / str(record)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            die_at(patch, record, torn=record % 2 == 0)
            run_worker(opened(run, n_trials, sampler), evaluate)
        study = opened(run, n_trials, sampler)
        run_worker(study, evaluate)
        records = study.records()
        assert results(records) == expected, record
        orphans = [r.number for r in records if r.state == "FAIL"]
        assert [r.retry_of for r in records if r.retry_of is not None] == orphans
        seeds = [r.seed for r in records if r.seed is not None]
        # Both baselines leave a parameter to the sampler, so every trial was drawn, once.
        assert len(set(seeds)) == len(seeds) == n_trials


def test_budget_is_total_and_baselines_come_once(tmp_path: Path) -> None:
    run_worker(opened(tmp_path, 4), evaluate)
    first = load_records(tmp_path)
    assert [r.label for r in first] == ["float", "two bits", "", ""]
    run_worker(opened(tmp_path, 4), evaluate)
    assert load_records(tmp_path) == first
    more = [*BASELINES, Baseline("late", {"bits": 1})]
    run_worker(opened(tmp_path, 6, baselines=more), evaluate)
    records = load_records(tmp_path)
    assert records[:4] == first
    assert [r.label for r in records[4:]] == ["late", ""]
    assert records[0].params["bits"] == 8 and records[0].params["share"] == 0.0


def test_resuming_continues_like_a_run_that_never_stopped(tmp_path: Path) -> None:
    for sampler in ("random", "tpe", "nsga2", "walk", "mixed"):
        settings = SearchSettings(25, sampler, seed=1)
        whole = opened(tmp_path / sampler / "whole", settings=settings)
        run_worker(whole, evaluate)
        halves = opened(tmp_path / sampler / "halves", settings=settings)
        with halves.worker() as worker:
            for _ in range(13):
                trial, _budget = halves.ask(worker)
                assert trial is not None
                halves.tell(trial, evaluate(trial))
        run_worker(opened(tmp_path / sampler / "halves", settings=settings), evaluate)
        assert results(load_records(tmp_path / sampler / "halves")) == results(whole.records())


def test_what_is_fully_given_has_no_seed(tmp_path: Path) -> None:
    given = [Baseline("all", {"bits": 8, "method": "a", "share": 0.5}), Baseline("some", {"bits": 8})]
    run_worker(opened(tmp_path, 3, baselines=given), evaluate)
    first, second, third = load_records(tmp_path)
    assert first.seed is None
    assert second.seed == trial_seed(3, 1) and third.seed == trial_seed(3, 2)


def test_another_seed_proposes_other_candidates(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        study = opened(tmp_path / str(seed), settings=SearchSettings(6, "random", seed=seed))
        run_worker(study, evaluate)
        found.append([r.params["share"] for r in study.records()[2:]])
    assert set(found[0]).isdisjoint(found[1])


def test_nsga2_evolves(tmp_path: Path) -> None:
    """Late generations come from good parents: they crowd near the front, and beat random search."""

    def many(trial: Trial) -> Evaluation:
        x = np.array([trial.suggest_float(f"x{i}", 0.0, 1.0) for i in range(8)])
        rest = float(x[1:].sum())
        return Evaluation("", metrics={"accuracy": -x[0] - rest, "energy.bitserial": 1 - x[0] + rest})

    means = {}
    for sampler in ("nsga2", "random"):
        settings = SearchSettings(160, sampler, seed=0)
        study = opened(tmp_path / sampler, baselines=[], settings=settings)
        run_worker(study, many)
        sums = [sum(r.params[f"x{i}"] for i in range(1, 8)) for r in study.records()]
        means[sampler] = (np.mean(sums[:40]), np.mean(sums[-40:]))
    assert means["nsga2"][1] < 0.75 * means["nsga2"][0]
    assert means["nsga2"][1] < 0.75 * means["random"][1]


def test_auto_keeps_the_sampler_it_began_with(tmp_path: Path) -> None:
    assert (automatic_sampler(499), automatic_sampler(500)) == ("mixed", "nsga2")
    assert [population_size(n) for n in (3, 200, 5000)] == [10, 20, 50]
    assert opened(tmp_path, 499, "auto").sampler == "mixed"
    assert opened(tmp_path, 5000, "auto").sampler == "mixed"
    assert opened(tmp_path, 5000, "random").sampler == "random"


@given(st.integers(0, 2**40), st.sets(st.integers(0, 10**6), min_size=2, max_size=50))
def test_seeds_of_a_study_differ(seed: int, indices: set[int]) -> None:
    seeds = {trial_seed(seed, index) for index in indices}
    assert len(seeds) == len(indices)
    assert all(0 <= s < 2**32 for s in seeds)


def test_workers_get_different_indices_and_wait_for_each_other(tmp_path: Path) -> None:
    study = opened(tmp_path, 3, baselines=[])
    with study.worker() as a:
        with study.worker() as b:
            first, _ = study.ask(a)
            second, _ = study.ask(b)
            third, _ = study.ask(b)
            assert first is not None and second is not None and third is not None
            nothing, budget = study.ask(a)
            assert nothing is None
            assert (budget.complete, budget.running, budget.spent) == (0, 3, False)
            params = [evaluate(trial).plan + str(trial.params) for trial in (first, second, third)]
            assert len(set(params)) == 3
        # b is gone, and with it what it had in hand
        taken, budget = study.ask(a)
        assert taken is not None and budget.running == 1
        assert (taken.user_attrs["retry_of"], evaluate(taken).plan) == (1, evaluate(second).plan)
    records = load_records(tmp_path)
    assert [r.state for r in records] == ["RUNNING", "FAIL", "FAIL", "RUNNING", "WAITING"]
    assert "worker ended" in records[1].error and records[1].duration_s is None


def test_a_worker_given_up_for_dead_cannot_count_twice(tmp_path: Path) -> None:
    study = opened(tmp_path, 1, baselines=[])
    with study.worker() as slow, study.worker() as other:
        trial, _ = study.ask(slow)
        assert trial is not None
        evaluation = evaluate(trial)
        (tmp_path / "workers" / f"{slow}.lock").unlink()
        again, _ = study.ask(other)
        assert again is not None
        study.tell(trial, evaluation)
        study.fail(trial, "late")
        study.tell(again, evaluate(again))
    assert [r.state for r in load_records(tmp_path)] == ["FAIL", "COMPLETE"]


def test_threads_open_at_once_and_share_the_budget(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run_worker(opened(tmp_path, 12, "tpe"), evaluate, poll_s=0.01)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    records = load_records(tmp_path)
    assert [r.state for r in records] == ["COMPLETE"] * 12
    assert [r.label for r in records if r.label] == ["float", "two bits"]


def test_mismatch_shows_every_difference_and_the_way_on(tmp_path: Path) -> None:
    opened(tmp_path)
    now = {"space": {"bits": [1, 4], "stages": 3}, "data": "digits"}
    with pytest.raises(StudyMismatch) as caught:
        opened(tmp_path, fingerprint=now, objectives=[OBJECTIVES[0], ALL["size"]])
    lines = str(caught.value).splitlines()
    assert [line.strip() for line in lines[1:-1]] == [
        'objective 2: was "energy.bitserial minimize", now "size minimize"',
        "space.bits: was [1, 8], now [1, 4]",
        'model: was "resnet20", now absent',
        "space.stages: was absent, now 3",
        'data: was absent, now "digits"',
    ]
    assert "study.name=" in lines[-1]
    with pytest.raises(StudyMismatch, match="objective 2: was .*, now absent"):
        opened(tmp_path, objectives=OBJECTIVES[:1])
    opened(tmp_path, 99)  # the budget is no part of it


def test_differences() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": {}}, {"a": {"b": None}}) == [
        "a: was {}, now absent",
        "a.b: was absent, now null",
    ]
    assert differences({"a": "x" * 300}, {"a": 1})[0].endswith("..., now 1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"accuracy": math.nan, "energy.bitserial": 1.0}}, "accuracy is nan; expected a finite"),
        ({"metrics": {"accuracy": 1.0, "energy.bitserial": math.inf}}, "energy.bitserial is inf"),
        ({"metrics": {"accuracy": 1.0}, "absent": {"energy.bitserial": "no meter"}}, "is absent: no meter"),
        ({"metrics": {"accuracy": 1.0}}, "did not give it"),
    ],
)
def test_values_that_cannot_be_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    study = opened(tmp_path)
    with study.worker() as worker:
        trial, _ = study.ask(worker)
        assert trial is not None
        with pytest.raises((BadTensor, DseError), match=message):
            study.tell(trial, Evaluation("p", **change))
        assert [r.state for r in study.records()] == ["RUNNING"]


def test_records_come_back_as_they_were_told(tmp_path: Path) -> None:
    evaluation = Evaluation(
        plan="abc",
        metrics={"accuracy": np.float32(0.5), "energy.bitserial": 2e-6, "size": np.int64(7)},
        absent={"energy.measured": "no GPU"},
        breakdown={"bitserial": {"energy_j": {"conv1": {"dram": 1e-6}}, "energy_band_j": (1.0, 2.0)}},
        seconds={"convert": 0.25},
    )
    study = opened(tmp_path)
    with study.worker() as worker:
        trial, _ = study.ask(worker)
        assert trial is not None
        evaluate(trial)
        study.tell(trial, evaluation)
    (record,) = load_records(tmp_path)
    told = record.evaluation
    assert told is not None and told.plan == "abc"
    assert told.metrics == {"accuracy": 0.5, "energy.bitserial": 2e-6, "size": 7}
    assert (told.absent, told.seconds) == (evaluation.absent, evaluation.seconds)
    layers = {"conv1": {"dram": 1e-6}}
    assert told.breakdown == {"bitserial": {"energy_j": layers, "energy_band_j": [1.0, 2.0]}}
    assert record.duration_s is not None and record.duration_s >= 0
    info = load_study_info(tmp_path)
    assert info.objectives == OBJECTIVES
    assert info.fingerprint == {"space": {"bits": [1, 8]}, "model": "resnet20"}
    assert info.created.endswith("+00:00")


@pytest.mark.parametrize("load", [load_records, load_study_info])
def test_no_study_there(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    for run in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match="holds no study .*run=DIR"):
            load(run)
    (tmp_path / "journal.log").write_text("")
    with pytest.raises(RunFolderError, match="holds no study"):
        load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["journal.log"]  # reading wrote nothing


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"sampler\.name: unknown sampler 'nsga'; did you mean 'nsga2'"):
        SearchSettings(1, "nsga")
    with pytest.raises(ConfigError, match=r"study\.n_trials=0"):
        SearchSettings(0)
    with pytest.raises(ConfigError, match=r"study\.max_failures=0"):
        SearchSettings(1, max_failures=0)
    with pytest.raises(ConfigError, match="at least one objective"):
        opened(tmp_path, objectives=[])
    with pytest.raises(ConfigError, match="labels that differ"):
        opened(tmp_path, baselines=[*BASELINES, BASELINES[0]])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file.*another folder"):
        opened(tmp_path / "file")
