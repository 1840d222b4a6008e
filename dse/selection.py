"""Rules that name one trial of a study in words: ``knee``, ``min_energy where accuracy >= 98%`` ..."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dse.errors import ConfigError, UnknownName
from dse.objectives import Metric
from dse.records import TrialRecord

FORMS = (
    "knee, trial=N, min_METRIC or max_METRIC, or such with a condition: "
    "'min_energy where accuracy >= 98%', 'lowest energy with accuracy >= 0.98'"
)
_GOALS: dict[str, Literal["min", "max"]] = {
    **dict.fromkeys(("min", "minimum", "lowest", "smallest", "least"), "min"),
    **dict.fromkeys(("max", "maximum", "highest", "largest", "most"), "max"),
}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TRIAL = re.compile(r"trial\s*=?\s*(\d+)")
_GOAL = re.compile(rf"({'|'.join(sorted(_GOALS, key=len, reverse=True))})[\s_]+([\w.\-]+)")
_CONDITION = re.compile(r"([\w.\-]+)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(%?)")
_SPLIT_RULE = re.compile(r"\s+(?:where|with|subject to|such that|if)\s+")
_SPLIT_CONDITIONS = re.compile(r"\s+and\s+|\s*,\s*")


@dataclass(frozen=True)
class Condition:
    """``metric`` (name or start of it) compared with a number in the metric's own unit."""

    metric: str
    comparison: str
    bound: float

    def holds(self, value: float) -> bool:
        return _COMPARE[self.comparison](value, self.bound)

    @property
    def wants_more(self) -> bool:
        return self.comparison.startswith(">")


@dataclass(frozen=True)
class Rule:
    """A parsed rule: the knee, one trial, or the extreme of a metric, among what meets the conditions."""

    goal: Literal["knee", "trial", "min", "max"]
    metric: str = ""
    trial: int = -1
    conditions: tuple[Condition, ...] = ()


def parse_rule(text: str) -> Rule:
    """Read a rule.

    Raises:
        ConfigError: it has none of the known forms.
    """
    clean = " ".join(text.lower().replace("≥", ">=").replace("≤", "<=").split())
    if trial := _TRIAL.fullmatch(clean):
        return Rule("trial", trial=int(trial[1]))
    goal, *rest = _SPLIT_RULE.split(clean, maxsplit=1)
    conditions = tuple(_condition(part, text) for part in _SPLIT_CONDITIONS.split(rest[0])) if rest else ()
    if goal == "knee":
        return Rule("knee", conditions=conditions)
    if extreme := _GOAL.fullmatch(goal):
        return Rule(_GOALS[extreme[1]], extreme[2], conditions=conditions)
    raise ConfigError("select", text, FORMS)


def _condition(part: str, rule: str) -> Condition:
    match = _CONDITION.fullmatch(part)
    if match is None:
        raise ConfigError(
            "select", rule, f"a condition such as 'accuracy >= 98%' instead of {part!r}", f"forms: {FORMS}"
        )
    name, comparison, number, percent = match.groups()
    return Condition(name, comparison, float(number) / 100 if percent else float(number))


def resolve_metric(text: str, objectives: Sequence[Metric], others: Iterable[str]) -> str:
    """The metric called ``text``, or the one that starts with it; objectives come before others.

    Raises:
        UnknownName: there is none.
        ConfigError: there are several.
    """
    names = [metric.name for metric in objectives]
    everything = [*names, *(name for name in sorted(others) if name not in names)]
    for pool in (names, everything):
        found = [name for name in pool if name.lower() == text]
        found = found or [name for name in pool if name.lower().startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError("select", text, f"one metric; {text!r} may be {' or '.join(found)}")
    raise UnknownName("metric", text, everything, key="select")


def meeting(
    rows: Sequence[TrialRecord], conditions: Sequence[tuple[str, Condition]], rule: str
) -> list[TrialRecord]:
    """The rows that meet all conditions (metric name, condition).

    Raises:
        ConfigError: none does; says how close the rows come.
    """
    for name, condition in conditions:
        met = [row for row in rows if (v := value_of(row, name)) is not None and condition.holds(v)]
        if not met:
            raise ConfigError(
                "select", rule, "a rule that a finished trial meets", _closest(rows, name, condition)
            )
        rows = met
    return list(rows)


def value_of(row: TrialRecord, metric: str) -> float | None:
    """The value of a metric, None where the trial has none."""
    return None if row.evaluation is None else row.evaluation.metrics.get(metric)


def _closest(rows: Sequence[TrialRecord], name: str, condition: Condition) -> str:
    having = [row for row in rows if value_of(row, name) is not None]
    asked = f"{name} {condition.comparison} {condition.bound:g}"
    if not having:
        return f"{asked} cannot be met: no trial has a value of {name}"
    pick = max if condition.wants_more else min
    best = pick(having, key=lambda row: row.evaluation.metrics[name] if row.evaluation else 0.0)
    closest = f"trial {best.number} comes closest with {value_of(best, name):g}"
    return f"{asked} is met by none of {len(rows)}; {closest}"
