"""What a search is asked for, and the seeds that follow from it: plain data, free of optuna."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dse.errors import ConfigError, UnknownName

SAMPLERS = ("auto", "mixed", "nsga2", "random", "tpe", "walk")
# TPE asks slower the more trials there are (measured: 0.05 s at 100, 0.25 s at 500); NSGA-II stays
# at a millisecond and, given some ten generations, catches up.
_EVOLVE_FROM = 500
_WEYL = 0x9E3779B1  # odd, so that k -> k * _WEYL visits every 32-bit number once


@dataclass(frozen=True)
class Baseline:
    """A candidate everybody compares with; tried before anything is sampled.

    ``params`` may leave parameters out; the sampler fills them in.
    """

    label: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class SearchSettings:
    """How to search. ``n_trials`` is the total number of finished trials, over all resumptions.

    ``max_failures`` is the number of failed trials in a row after which a worker gives up.

    Raises:
        ConfigError, UnknownName: a setting that cannot be used.
    """

    n_trials: int
    sampler: str = "auto"
    seed: int = 0
    max_failures: int = 5

    def __post_init__(self) -> None:
        if self.n_trials < 1:
            raise ConfigError("study.n_trials", self.n_trials, "a whole number of at least 1")
        if self.max_failures < 1:
            raise ConfigError("study.max_failures", self.max_failures, "a whole number of at least 1")
        if self.sampler not in SAMPLERS:
            raise UnknownName("sampler", self.sampler, SAMPLERS, key="sampler.name")


@dataclass(frozen=True)
class About:
    """What a study is, fixed when it is created; kept in the journal."""

    objectives: list[dict[str, Any]]
    fingerprint: dict[str, Any]
    created: str
    auto_sampler: str
    population_size: int


@dataclass(frozen=True)
class Budget:
    """How much of the budget is spent: finished trials, trials living workers have in hand, total."""

    complete: int
    running: int
    total: int

    @property
    def spent(self) -> bool:
        return self.complete >= self.total

    @property
    def open(self) -> int:
        return max(0, self.total - self.complete - self.running)


def automatic_sampler(n_trials: int) -> str:
    """Steps from the front in turn with TPE for small budgets, NSGA-II for large ones."""
    return "mixed" if n_trials < _EVOLVE_FROM else "nsga2"


def population_size(n_trials: int) -> int:
    """Individuals per generation of NSGA-II: about ten generations within the budget."""
    return min(50, max(10, n_trials // 10))


def trial_seed(study_seed: int, index: int) -> int:
    """Seed of the ``index``-th trial asked for, below 2**32; different for each index of a study."""
    return (_hash32(f"study {study_seed}") + index * _WEYL) % 2**32


def parameter_seed(seed: int, name: str) -> int:
    """Seed for drawing one parameter by itself, independent of which others are drawn before."""
    return _hash32(f"{seed} {name}")


def _hash32(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
