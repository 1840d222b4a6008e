"""A sampler that steps from the front: a finished candidate nothing dominates, changed in a few places.

Trials are few and the parameters come in alike groups (one per group of layers), which general samplers do not know.
A step is one of three: move single parameters to near values; take over all parameters of some groups from another
member of the front; or set one kind of parameter alike in all groups, which is how a front of one hardware
configuration is reached from another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from dse.pareto import non_dominated

_ATTEMPTS = 30
Params = dict[str, Any]


class FrontWalkSampler(BaseSampler):
    """Draws all parameters jointly from the front of the finished trials; see the module's text.

    Stateless between trials: what it draws follows from ``seed`` and the finished trials.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return optuna.search_space.intersection_search_space(
            study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        )

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        states = (TrialState.COMPLETE, TrialState.RUNNING)
        known = [
            t
            for t in study.get_trials(deepcopy=False, states=states)
            if t.number != trial.number and search_space.keys() <= t.params.keys()
        ]
        finished = [t for t in known if t.state == TrialState.COMPLETE]
        if not search_space or not finished:
            return {}
        finished = [t for t in finished if all(v <= 0 for v in t.constraints.values())] or finished
        directions = [d.name.lower() for d in study.directions]
        mask = non_dominated(np.array([t.values for t in finished]), directions)
        front = [_own(t.params, search_space) for t, on in zip(finished, mask, strict=True) if on]
        tried = [_own(t.params, search_space) for t in known]
        for _ in range(_ATTEMPTS):
            drawn = self._step(front, search_space)
            if drawn not in tried:
                break
        return drawn

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _step(self, front: Sequence[Params], space: Mapping[str, BaseDistribution]) -> Params:
        drawn = dict(front[self._rng.integers(len(front))])
        kind = self._rng.random()
        if kind < 0.25 and len(front) > 1:
            self._take_over(drawn, front[self._rng.integers(len(front))])
        elif kind < 0.45:
            self._set_alike(drawn, space)
        if kind >= 0.45 or self._rng.random() < 0.5:
            self._move(drawn, space)
        return drawn

    def _move(self, drawn: Params, space: Mapping[str, BaseDistribution]) -> None:
        """One to three parameters to near values."""
        names = list(space)
        count = min(len(names), int(self._rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])))
        for i in self._rng.choice(len(names), count, replace=False):
            drawn[names[i]] = self._near(drawn[names[i]], space[names[i]])

    def _take_over(self, drawn: Params, other: Params) -> None:
        """All parameters of each group from another candidate, group by group with even odds."""
        groups = sorted({name.rpartition(".")[0] for name in drawn})
        taken = {group for group in groups if self._rng.random() < 0.5}
        drawn.update({name: value for name, value in other.items() if name.rpartition(".")[0] in taken})

    def _set_alike(self, drawn: Params, space: Mapping[str, BaseDistribution]) -> None:
        """One kind of parameter (the last part of its name) to one value near the first group's."""
        kinds = sorted({name.rpartition(".")[2] for name in drawn})
        kind = kinds[self._rng.integers(len(kinds))]
        names = [name for name in drawn if name.rpartition(".")[2] == kind]
        start = names[self._rng.integers(len(names))]
        value = self._near(drawn[start], space[start])
        drawn.update({name: value for name in names if space[name] == space[start]})

    def _near(self, value: Any, distribution: BaseDistribution) -> Any:
        """A value one or two steps away; any other one where values have no order."""
        if isinstance(distribution, CategoricalDistribution):
            choices = list(distribution.choices)
            if not all(isinstance(choice, (int, float)) for choice in choices):
                others = [choice for choice in choices if choice != value]
                return others[self._rng.integers(len(others))]
            return choices[self._shift(choices.index(value), len(choices))]
        assert isinstance(distribution, (IntDistribution, FloatDistribution))
        step = distribution.step
        if step is None:
            return float(self._rng.uniform(distribution.low, distribution.high))
        count = round((distribution.high - distribution.low) / step) + 1
        moved = distribution.low + step * self._shift(round((value - distribution.low) / step), count)
        return int(moved) if isinstance(distribution, IntDistribution) else float(moved)

    def _shift(self, index: int, count: int) -> int:
        """Another index within two of this one."""
        near = [i for i in range(max(0, index - 2), min(count, index + 3)) if i != index]
        return near[self._rng.integers(len(near))]


def _own(params: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> Params:
    return {name: params[name] for name in space}
