"""What tables, plots and the report say of a study: its front, its knee, its baselines, what is absent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dse.objectives import Metric
from dse.pareto import knee, non_dominated
from dse.records import TrialRecord, acceptable

FLOAT_LABEL = "float"
REFERENCE_LABEL = "uniform 8"


@dataclass(frozen=True)
class StudySummary:
    """A study read once, for everything that shows it.

    Attributes:
        records: finished (COMPLETE) and failed trials, by number.
        pending: how many trials are still running or waiting.
        objectives: what the study optimises, in its order.
        metrics: every metric the study may report, by name.
        front: acceptable trials that no other one dominates over the objectives, lowest first minimised objective
            first.
        knee: the front's trial at the bend of the trade-off; None while the front is empty.
        baselines: label -> its finished trial, by number.
        absent: metrics that no finished trial has -> why.
    """

    records: tuple[TrialRecord, ...]
    pending: int
    objectives: tuple[Metric, ...]
    metrics: Mapping[str, Metric]
    front: tuple[TrialRecord, ...]
    knee: TrialRecord | None
    baselines: Mapping[str, TrialRecord]
    absent: Mapping[str, str]

    @property
    def complete(self) -> tuple[TrialRecord, ...]:
        return tuple(record for record in self.records if record.evaluation is not None)

    @property
    def front_numbers(self) -> frozenset[int]:
        return frozenset(record.number for record in self.front)

    @property
    def float_accuracy(self) -> float | None:
        """Accuracy of the float baseline on the search split, a fraction; None where it has not finished."""
        record = self.baselines.get(FLOAT_LABEL)
        return value_of(record, self.metrics["accuracy"]) if record and "accuracy" in self.metrics else None

    @property
    def present(self) -> list[Metric]:
        """Metrics that at least one finished trial has."""
        return [metric for name, metric in self.metrics.items() if name not in self.absent]


def summarise(
    records: Sequence[TrialRecord], objectives: Sequence[Metric], metrics: Mapping[str, Metric]
) -> StudySummary:
    """Read a study's records once.

    An objective that no finished trial has (energy measured where nothing can measure) takes no part in the
    comparison; a trial that lacks one of the others is on no front.
    """
    ended = sorted((r for r in records if r.state in ("COMPLETE", "FAIL")), key=lambda r: r.number)
    complete = [record for record in ended if record.evaluation is not None]
    front = _front(complete, objectives)
    return StudySummary(
        records=tuple(ended),
        pending=len(records) - len(ended),
        objectives=tuple(objectives),
        metrics=metrics,
        front=tuple(_by_first_minimised(front, objectives)),
        knee=_knee(front, objectives),
        baselines={record.label: record for record in complete if record.label},
        absent={name: _reason(name, complete) for name in metrics if not _having(complete, name)},
    )


def value_of(record: TrialRecord, metric: Metric) -> float | None:
    """The record's value of ``metric`` in the metric's own unit; None where it is absent."""
    return record.evaluation.metrics.get(metric.name) if record.evaluation else None


def display_value(metric: Metric, value: float, *, with_unit: bool = True) -> str:
    """``value`` as people read it: three significant digits (accuracy: two decimals), in ``display_unit``."""
    shown = value * metric.display_scale
    unit = f" {metric.display_unit}" if with_unit and metric.display_unit else ""
    return (f"{shown:.2f}" if metric.name == "accuracy" else significant(shown)) + unit


def significant(value: float, digits: int = 3) -> str:
    """``value`` to so many significant digits, without an exponent between 1e-4 and 1e9."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 <= magnitude < 9:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def _having(records: Sequence[TrialRecord], name: str) -> list[TrialRecord]:
    return [r for r in records if r.evaluation is not None and name in r.evaluation.metrics]


def comparable(
    records: Sequence[TrialRecord], objectives: Sequence[Metric]
) -> tuple[list[TrialRecord], np.ndarray, list[str]]:
    """Records that can be compared: themselves, their values float64 [n, m] and the m directions.

    The m columns are the objectives that at least one record has; records that lack one of them are left out.
    """
    used = [metric for metric in objectives if _having(records, metric.name)]
    rows = [r for r in records if r.evaluation and all(m.name in r.evaluation.metrics for m in used)]
    values = [[r.evaluation.metrics[m.name] for m in used] for r in rows if r.evaluation]
    return (
        rows,
        np.asarray(values, dtype=np.float64).reshape(len(rows), len(used)),
        [m.direction for m in used],
    )


def _front(records: Sequence[TrialRecord], objectives: Sequence[Metric]) -> list[TrialRecord]:
    rows, values, directions = comparable(acceptable(records), objectives)
    if not rows or not directions:
        return []
    return [row for row, kept in zip(rows, non_dominated(values, directions), strict=True) if kept]


def _knee(front: Sequence[TrialRecord], objectives: Sequence[Metric]) -> TrialRecord | None:
    rows, values, directions = comparable(front, objectives)
    return rows[knee(values, directions)] if rows else None


def _by_first_minimised(front: Sequence[TrialRecord], objectives: Sequence[Metric]) -> list[TrialRecord]:
    used = (m for m in objectives if m.direction == "minimize" and _having(front, m.name))
    metric = next(used, None)
    if metric is None:
        return list(front)
    return sorted(front, key=lambda r: (value_of(r, metric), r.number))


def _reason(name: str, complete: Sequence[TrialRecord]) -> str:
    reasons = Counter(r.evaluation.absent[name] for r in complete if name in r.evaluation.absent)
    if reasons:
        return reasons.most_common(1)[0][0]
    return "no finished trial reports it" if complete else "no trial has finished yet"
