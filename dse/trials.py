"""Between an evaluation, the attributes a trial keeps in the journal, and the record reports read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any

from dse.errors import BadTensor, DseError
from dse.objectives import Metric
from dse.records import Evaluation, TrialRecord

ORPHANED = "the worker ended before this trial did; it was tried again as another trial"


def objective_values(evaluation: Evaluation, objectives: Sequence[Metric]) -> list[float]:
    """The values of the objectives, in their order and units.

    Raises:
        DseError: one of them is absent.
    """
    for metric in objectives:
        if metric.name not in evaluation.metrics:
            reason = evaluation.absent.get(metric.name, "the evaluation did not give it")
            raise DseError(f"the objective {metric.name} is absent: {reason}; choose other objectives.names")
    return [float(evaluation.metrics[metric.name]) for metric in objectives]


def plain_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON holds it; numbers of other libraries become plain ones.

    Raises:
        BadTensor: a metric is NaN or infinite.
    """
    for name, value in evaluation.metrics.items():
        if not isfinite(value):
            raise BadTensor(
                f"the metric {name} is {value}; expected a finite number, so the trial is not counted"
            )
    return json.loads(json.dumps(evaluation.to_dict(), allow_nan=False, default=float))


def record_of(trial: Any) -> TrialRecord:
    """A stored trial (an ``optuna.trial.FrozenTrial``) as the reports see it."""
    attributes = trial.user_attrs
    complete = trial.state.name == "COMPLETE"
    timed = trial.duration is not None and "orphaned" not in attributes
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        label=attributes.get("label", ""),
        # a step of 0.1 taken six times is 0.6000000000000001
        params={k: round(v, 12) if isinstance(v, float) else v for k, v in trial.params.items()},
        evaluation=Evaluation.from_dict(attributes["evaluation"]) if complete else None,
        duration_s=trial.duration.total_seconds() if timed else None,
        error=attributes.get("error", ""),
        retry_of=attributes.get("retry_of"),
        seed=attributes.get("seed"),
    )
