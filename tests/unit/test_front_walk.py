"""The sampler that steps from the front: valid, new, reproducible, and better than chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import Trial, TrialState

from dse.front_walk import FrontWalkSampler
from dse.pareto import hypervolume

GROUPS = ("a", "b", "c")
DIRECTIONS = ["maximize", "minimize"]


def suggest(trial: Trial) -> dict[str, Any]:
    params = {}
    for group in GROUPS:
        params[f"{group}.method"] = trial.suggest_categorical(f"{group}.method", ["x", "y", "z"])
        params[f"{group}.bits"] = trial.suggest_int(f"{group}.bits", 2, 8)
        params[f"{group}.share"] = trial.suggest_float(f"{group}.share", 0.0, 0.9, step=0.1)
        params[f"{group}.grain"] = trial.suggest_categorical(f"{group}.grain", [1, 2, 4, 8])
    return params


def score(params: dict[str, Any]) -> tuple[float, float]:
    """A product of gains that saturate with the bits, and the logarithm of costs that grow with them."""
    gain, cost = 1.0, 0.0
    for i, group in enumerate(GROUPS, start=1):
        bits, share = params[f"{group}.bits"], params[f"{group}.share"]
        gain *= (
            (1 - 2.0 ** (-bits / i))
            * (1 - share**2)
            * {"x": 1.0, "y": 0.8, "z": 0.3}[params[f"{group}.method"]]
        )
        cost += i * bits * (1 - share) * (1 + abs(params[f"{group}.grain"] - 2))
    return gain, float(np.log(cost))


def searched(kind: type | None, seed: int, n_trials: int) -> optuna.Study:
    """A study of ``n_trials``, the first ten drawn at random."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=DIRECTIONS)
    for i in range(n_trials):
        walking = kind is not None and i >= 10
        study.sampler = FrontWalkSampler(seed + i) if walking else optuna.samplers.RandomSampler(seed + i)
        trial = study.ask()
        study.tell(trial, score(suggest(trial)))
    return study


def test_better_than_chance() -> None:
    def reached(kind: type | None, seed: int) -> float:
        values = np.array([t.values for t in searched(kind, seed, 60).trials])
        return hypervolume(values, DIRECTIONS, [0.0, 5.0])

    seeds = (0, 1000, 2000)
    walking = [reached(FrontWalkSampler, seed) for seed in seeds]
    chance = [reached(None, seed) for seed in seeds]
    assert np.mean(walking) > 1.1 * np.mean(chance)


def test_same_seed_and_history_same_candidate() -> None:
    first, second = (searched(FrontWalkSampler, 5, 25) for _ in range(2))
    assert [t.params for t in first.trials] == [t.params for t in second.trials]


def test_nothing_is_tried_twice() -> None:
    drawn = [tuple(t.params.values()) for t in searched(FrontWalkSampler, 3, 80).trials]
    assert len(set(drawn)) == len(drawn)


def test_steps_start_from_the_front() -> None:
    """With one dominating candidate, most of every step's parameters are that candidate's."""
    study = optuna.create_study(directions=DIRECTIONS)
    best: dict[str, Any] = {}
    for group in GROUPS:
        best |= {f"{group}.method": "x", f"{group}.bits": 4, f"{group}.share": 0.5, f"{group}.grain": 2}
    worse = {**best, **{f"{group}.method": "z" for group in GROUPS}}
    for params, values in ((best, (1.0, 1.0)), (worse, (0.5, 2.0))):
        study.enqueue_trial(params)
        trial = study.ask()
        suggest(trial)
        study.tell(trial, values)
    study.sampler = FrontWalkSampler(0)
    for seed in range(30):
        study.sampler = FrontWalkSampler(seed)
        trial = study.ask()
        drawn = suggest(trial)
        study.tell(trial, state=TrialState.FAIL)
        changed = [name for name in drawn if drawn[name] != pytest.approx(best[name])]
        assert 1 <= len(changed) <= 6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_values_lie_in_the_space_and_near_by(seed: int) -> None:
    walk = FrontWalkSampler(seed)
    bits = optuna.distributions.IntDistribution(2, 8, step=2)
    share = optuna.distributions.FloatDistribution(0.0, 0.9, step=0.1)
    grain = optuna.distributions.CategoricalDistribution([1, 2, 4, 8])
    method = optuna.distributions.CategoricalDistribution(["x", "y"])
    assert walk._near(2, bits) in (4, 6)
    assert walk._near(0.4, share) == pytest.approx(0.4, abs=0.21)
    assert 0.0 <= walk._near(0.9, share) < 0.9
    assert walk._near(1, grain) in (2, 4)
    assert walk._near("x", method) == "y"


def test_an_empty_study_leaves_the_draw_to_chance() -> None:
    study = optuna.create_study(directions=DIRECTIONS, sampler=FrontWalkSampler(0))
    assert suggest(study.ask())
