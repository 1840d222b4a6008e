"""The Pareto front of a study, its knee, and the choice of one trial by a rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dse.errors import ConfigError
from dse.hypervolume import (
    front_mask,
    hypervolume,
    hypervolume_history,
    normalised_hypervolume,
    on_log_scale,
    reference_point,
    to_minimize,
)
from dse.objectives import Metric
from dse.records import TrialRecord, acceptable
from dse.selection import Rule, meeting, parse_rule, resolve_metric, value_of

__all__ = [
    "front_of",
    "hypervolume",
    "hypervolume_history",
    "knee",
    "non_dominated",
    "normalised_hypervolume",
    "objective_matrix",
    "on_log_scale",
    "reference_point",
    "select",
]


def non_dominated(values: ArrayLike, directions: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows of ``values`` [n, m] no other row beats; of equal rows all or none are marked.

    Raises:
        ValueError: wrong shape, unknown direction, NaN or infinity.
    """
    return front_mask(to_minimize(values, directions))


def knee(values: ArrayLike, directions: Sequence[str]) -> int:
    """Index of the row of ``values`` [n, m] on the front where giving up a little of one gains most.

    Objectives are scaled to [0, 1] over the front. The knee is the point farthest, towards the
    ideal, from the hyperplane through the best points of each objective (Das, "On characterizing
    the 'knee' of the Pareto curve", Structural Optimization 18, 1999; the same idea in Branke et al.,
    "Finding knees in multi-objective optimization", PPSN 2004). Where these points span no such
    plane, the plane of equal sum is taken. Ties go to the lowest index.

    Raises:
        ValueError: no rows, or as `non_dominated`.
    """
    costs = to_minimize(values, directions)
    if len(costs) == 0:
        raise ValueError("no points: expected at least one")
    members = np.flatnonzero(front_mask(costs))
    front = costs[members]
    span = np.ptp(front, axis=0)
    scaled = (front - front.min(axis=0)) / np.where(span > 0, span, 1.0)
    varying = scaled[:, span > 0]
    # The plane is n·x = 1 with n > 0: the smaller n·x, the farther below it.
    height = varying @ _plane_normal(varying)
    return int(members[int(np.argmax(height <= height.min() + 1e-12))])


def _plane_normal(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal n of the plane n·x = 1 through the best point of each objective."""
    m = scaled.shape[1]
    equal = np.ones(m)
    if m < 2:
        return equal
    # Among several that are best in one objective, the one that is best in the others.
    anchors = np.array([scaled[np.lexsort((scaled.sum(axis=1), scaled[:, k]))[0]] for k in range(m)])
    if np.linalg.matrix_rank(anchors) < m:
        return equal
    normal = np.linalg.solve(anchors, equal)
    return normal if (normal > 0).all() else equal


def objective_matrix(rows: Sequence[TrialRecord], objectives: Sequence[Metric]) -> NDArray[np.float64]:
    """The objectives of finished trials, float64 [n, m], in the metrics' own units."""
    values = [[value_of(row, metric.name) for metric in objectives] for row in rows]
    return np.array(values, dtype=np.float64).reshape(len(rows), len(objectives))


def front_of(rows: Sequence[TrialRecord], objectives: Sequence[Metric]) -> list[TrialRecord]:
    """The acceptable trials that no other acceptable trial dominates, in the order given."""
    compared = acceptable(rows)
    mask = non_dominated(objective_matrix(compared, objectives), [m.direction for m in objectives])
    return [row for row, kept in zip(compared, mask, strict=True) if kept]


def select(rows: Sequence[TrialRecord], objectives: Sequence[Metric], rule: str) -> TrialRecord:
    """The trial a rule names (forms: `dse.selection.FORMS`).

    Metrics are named in full or by an unambiguous start, objectives before other metrics. Of equally
    good trials one on the front wins over one that is not, then the lowest number. Trials beyond the study's
    bound on accuracy are chosen by number only, unless there are no others.

    Raises:
        ConfigError: the rule cannot be read, names several metrics, or no trial meets it.
        UnknownName: it names a metric that no trial has.
    """
    parsed = parse_rule(rule)
    finished = sorted((row for row in rows if row.evaluation is not None), key=lambda row: row.number)
    if parsed.goal == "trial":
        return _by_number(rows, parsed.trial, rule)
    if not finished:
        raise ConfigError("select", rule, "a study with a finished trial", "this one has none yet")
    names = {name for row in finished if row.evaluation for name in row.evaluation.metrics}
    conditions = [(resolve_metric(c.metric, objectives, names), c) for c in parsed.conditions]
    goal = "" if parsed.goal == "knee" else resolve_metric(parsed.metric, objectives, names)
    kept = acceptable(meeting(finished, conditions, rule))
    if not goal:
        directions = [metric.direction for metric in objectives]
        return kept[knee(objective_matrix(kept, objectives), directions)]
    return _extreme(kept, objectives, parsed, goal)


def _by_number(rows: Sequence[TrialRecord], number: int, rule: str) -> TrialRecord:
    found = next((row for row in rows if row.number == number), None)
    if found is None:
        numbers = [row.number for row in rows]
        expected = f"a trial from {min(numbers)} to {max(numbers)}" if numbers else "a study with trials"
        raise ConfigError("select", rule, expected)
    if found.evaluation is None:
        raise ConfigError("select", rule, "a finished trial", f"trial {number} is {found.state}")
    return found


def _extreme(
    rows: Sequence[TrialRecord], objectives: Sequence[Metric], rule: Rule, metric: str
) -> TrialRecord:
    sign = 1.0 if rule.goal == "min" else -1.0
    front = {row.number for row in front_of(rows, objectives)}
    having = [(v, row) for row in rows if (v := value_of(row, metric)) is not None]
    if not having:
        raise ConfigError("select", metric, "a metric that the trials meeting the rule have")
    return min(having, key=lambda one: (sign * one[0], one[1].number not in front, one[1].number))[1]
