"""What a study remembers of one trial: plain data, free of torch and optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """Everything known of one candidate after scoring it.

    Attributes:
        plan: digest of the compression plan (what the network computes).
        candidate: the plan and the hardware knobs as plain data, see ``dse.candidate``.
        metrics: metric name -> value in the metric's own unit (see ``dse.objectives``).
        absent: metric name -> why this machine could not give it.
        breakdown: accelerator -> {"energy_j": {layer: {component: J}}, "area_mm2": {component: mm2},
            "energy_band_j": [low, high], "notes": [...]}.
        seconds: stage of the evaluation -> wall seconds it took.
        violation: how much more accuracy is lost than the study allows; positive is not acceptable, None where
            the study sets no bound.
        kept: ``as planned``, or ``without repairs`` where that came nearer to the float network; "" where the plan
            repairs nothing.
        arithmetic: ``integers``, or ``float`` and why; what the accuracy was computed in.
    """

    plan: str
    metrics: Mapping[str, float]
    candidate: Mapping[str, Any] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    breakdown: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    violation: float | None = None
    kept: str = ""
    arithmetic: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the reports see it; ``evaluation`` is None unless it finished.

    ``state`` is COMPLETE, FAIL, RUNNING or WAITING; ``label`` names a baseline ("" otherwise).
    """

    number: int
    state: str
    label: str
    params: Mapping[str, Any]
    evaluation: Evaluation | None
    duration_s: float | None = None
    error: str = ""
    retry_of: int | None = None
    seed: int | None = None

    @property
    def acceptable(self) -> bool:
        """Finished, and within the bound on accuracy if the study sets one."""
        return self.evaluation is not None and (self.evaluation.violation or 0.0) <= 0.0


def acceptable(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The acceptable records; where none is, those that finished, as something has to be shown."""
    finished = [record for record in records if record.evaluation is not None]
    return [record for record in finished if record.acceptable] or finished
