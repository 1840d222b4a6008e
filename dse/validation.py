"""Published figures beside the models' answers: summed up per target, as rows of a reference table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dse.reference import Row
from energy.published import Check, Kind, Target

KINDS: tuple[Kind, ...] = ("calibrated", "blind")


@dataclass(frozen=True)
class Answer:
    """A target and its checks."""

    target: Target
    checks: tuple[Check, ...]

    def of(self, kind: Kind) -> list[Check]:
        return [check for check in self.checks if check.kind == kind]

    def mean_error(self, kind: Kind) -> float | None:
        """Mean absolute relative error of the checks of one kind; None where there are none."""
        errors = [abs(check.error) for check in self.of(kind)]
        return statistics.fmean(errors) if errors else None


def summary_rows(answer: Answer) -> list[Row]:
    """One row per kind of check: its mean error in percent beside what is asked for."""
    rows = []
    for kind in KINDS:
        error = answer.mean_error(kind)
        if error is None:
            continue
        checks = answer.of(kind)
        worst = max(checks, key=lambda check: abs(check.error))
        unit = "points" if {check.unit for check in checks} == {"points"} else "%"
        bar = answer.target.bar.get(kind)
        rows.append(
            Row(
                f"{answer.target.name}: mean error, {kind}",
                100.0 * error,
                None if bar is None else 100.0 * bar,
                "lower",
                unit,
                f"{answer.target.title}; {len(checks)} figures, worst {100 * worst.error:+.1f} {unit} ({worst.name})",
            )
        )
    return rows


def check_rows(answer: Answer) -> list[Row]:
    """One row per published figure, the model's beside it."""
    return [
        Row(
            f"{answer.target.name}: {check.name}",
            check.model,
            None,
            "lower",
            check.unit,
            f"{check.kind}, {100 * check.error:+.1f} %; {check.source}",
            check.published,
            "published",
        )
        for check in answer.checks
    ]


def reference_rows(answers: Sequence[Answer]) -> list[Row]:
    """All summaries, then all figures."""
    return [row for a in answers for row in summary_rows(a)] + [row for a in answers for row in check_rows(a)]
