"""The samplers of a search, made so that nothing of a trial depends on what a process remembers.

Optuna keeps no sampler state in its storage, and a sampler seeded once repeats itself after a
restart. Here every trial gets samplers of its own, seeded from the trial's place in the study: what
they draw depends on that seed and on the finished trials, which the journal keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from dse.front_walk import FrontWalkSampler
from dse.search import parameter_seed

# Trials drawn at random before TPE builds its model, Optuna's default.
_STARTUP = 10


class Nsga2(NSGAIISampler):
    """NSGA-II whose parents have one order, whether just selected or read back from the study.

    A baseline from outside the space has no parameters to hand on, hence is no parent.
    """

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        parents = [trial for trial in super().select_parent(study, generation) if trial.params]
        return sorted(parents, key=lambda trial: trial.number)

    @classmethod
    def first_generation(cls) -> dict[str, Any]:
        """The attributes that make a trial a founder of the population."""
        return {cls._get_generation_key(): 0}


def _common_space(study: optuna.Study) -> dict[str, BaseDistribution]:
    """What can be drawn jointly: the parameters that every finished trial has, leaving out trials that have none.

    Optuna's own inference would find nothing in common with a baseline from outside the space and draw every
    parameter by itself from then on.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    spaces = [trial.distributions for trial in finished if trial.distributions]
    if not spaces:
        return {}
    common = set(spaces[0].items()).intersection(*(space.items() for space in spaces[1:]))
    return {name: distribution for name, distribution in sorted(common) if not distribution.single()}


class TrialSampler(BaseSampler):
    """The sampler of one trial; what it draws depends on ``seed`` and the finished trials alone.

    Parameters drawn one by one each get a sampler with a seed of their own, because a trial that is
    tried again after half of its parameters were drawn must get the same other half.
    """

    def __init__(self, name: str, seed: int, *, population_size: int, n_baselines: int) -> None:
        self._name, self._seed = name, seed
        self._population_size = population_size
        # Baselines say little about the space, so they do not count as exploration of it.
        self._startup = _STARTUP + n_baselines
        self._joint = self._make(seed)
        self.recording: Trial | None = None

    def _make(self, seed: int) -> BaseSampler:
        # seeds of consecutive trials alternate between odd and even
        if self._name == "walk" or (self._name == "mixed" and self._seed % 2):
            return FrontWalkSampler(seed)
        if self._name in ("tpe", "mixed"):
            return TPESampler(
                seed=seed,
                multivariate=True,
                constant_liar=True,
                n_startup_trials=self._startup,
            )
        if self._name == "nsga2":
            return Nsga2(seed=seed, population_size=self._population_size)
        return RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {} if self._name == "random" or self._exploring(study) else _common_space(study)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self._joint.sample_relative(study, trial, search_space)
        if drawn:
            self._record_seed()
        return drawn

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._record_seed()
        name = param_name
        if self._exploring(study):
            # The first candidates treat every group of layers alike: they lie nearer to the front than arbitrary
            # mixtures do, and tell the model what a choice is worth before it learns where.
            name = param_name.rpartition(".")[2]
        single = self._make(parameter_seed(self._seed, name))
        return single.sample_independent(study, trial, param_name, param_distribution)

    def _exploring(self, study: optuna.Study) -> bool:
        if self._name in ("random", "nsga2"):
            return False
        return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < self._startup

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._joint.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._joint.after_trial(study, trial, state, values)

    def _record_seed(self) -> None:
        trial = self.recording
        if trial is not None and "seed_of" not in trial.user_attrs and "seed" not in trial.user_attrs:
            trial.set_user_attr("seed", self._seed)
