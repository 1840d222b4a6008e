"""Trials beyond the bound on accuracy are kept and shown, but are on no front and lead no search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from dse.errors import ConfigError
from dse.front_walk import FrontWalkSampler
from dse.objectives import metrics_for, select_objectives
from dse.pareto import front_of, select
from dse.plots import _hypervolumes
from dse.records import Evaluation, TrialRecord, acceptable
from dse.search import SearchSettings
from dse.settings import SweepSettings
from dse.study import load_records, open_study
from dse.summary import summarise
from dse.tables import trials_csv
from dse.worker import run_worker

OBJECTIVES = select_objectives(["accuracy", "energy.bitserial"], ["bitserial"])


def record(number: int, accuracy: float, energy_j: float, violation: float | None) -> TrialRecord:
    metrics = {"accuracy": accuracy, "energy.bitserial": energy_j}
    return TrialRecord(number, "COMPLETE", "", {}, Evaluation("p", metrics, violation=violation))


RECORDS = [record(0, 0.9, 3e-6, -0.05), record(1, 0.95, 5e-6, -0.1), record(2, 0.3, 1e-6, 0.55)]


def test_front_knee_and_rules_leave_them_out() -> None:
    assert [r.number for r in front_of(RECORDS, OBJECTIVES)] == [0, 1]
    assert select(RECORDS, OBJECTIVES, "min_energy").number == 0
    assert select(RECORDS, OBJECTIVES, "trial=2").number == 2
    summary = summarise(RECORDS, OBJECTIVES, metrics_for(["bitserial"]))
    assert summary.front_numbers == {0, 1} and len(summary.complete) == 3
    assert trials_csv(summary).count("\n") == 4


def test_where_nothing_is_acceptable_the_best_there_is_is_shown() -> None:
    assert acceptable(RECORDS[2:]) == RECORDS[2:]
    assert [r.number for r in front_of(RECORDS[2:], OBJECTIVES)] == [2]


def test_they_add_nothing_to_the_hypervolume() -> None:
    metrics = metrics_for(["bitserial"])
    with_them = _hypervolumes(summarise(RECORDS, OBJECTIVES, metrics))
    without = _hypervolumes(summarise(RECORDS[:2], OBJECTIVES, metrics))
    assert with_them == [*without, without[-1]]


def test_the_walk_starts_from_acceptable_trials() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    space = {"x": optuna.distributions.IntDistribution(0, 100)}
    for x, values, violation in ((10, (0.9, 2.0), -0.1), (90, (0.1, 1.0), 0.7)):
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": x}, distributions=space, values=values, constraints={"accuracy": violation}
            )
        )
    for seed in range(20):
        drawn = FrontWalkSampler(seed).sample_relative(study, study.ask(), space)
        assert abs(drawn["x"] - 10) <= 4  # two steps of at most two


def test_a_study_tells_the_bound_and_keeps_it(tmp_path: Path) -> None:
    def evaluate(trial: optuna.Trial) -> Evaluation:
        bits = trial.suggest_int("bits", 1, 8)
        accuracy = 1 - 2.0**-bits
        metrics = {"accuracy": accuracy, "energy.bitserial": bits * 1e-6}
        return Evaluation("p", metrics, violation=0.9 - accuracy)

    study = open_study(tmp_path, OBJECTIVES, {}, [], SearchSettings(12))
    run_worker(study, evaluate)
    records = load_records(tmp_path)
    for each in records:
        assert each.acceptable == (each.params["bits"] >= 4)
    bits = sorted(r.params["bits"] for r in front_of(records, OBJECTIVES))
    assert np.all(np.array(bits) >= 4)


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_bound_out_of_range_is_refused(value: float) -> None:
    settings = SweepSettings.__new__(SweepSettings)
    object.__setattr__(settings, "max_loss", value)
    with pytest.raises(ConfigError, match="objectives.max_loss"):
        settings.__post_init__()
