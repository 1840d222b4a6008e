"""The tables a run leaves behind: every trial, the non-dominated ones, and what each column means."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dse.files import write_atomically
from dse.objectives import Metric
from dse.records import TrialRecord
from dse.summary import StudySummary

TEST_ACCURACY = "test_accuracy"
_LEADING = {
    "number": ("", "Number of the trial in the study"),
    "label": ("", "Name of the baseline; empty for a trial of the search"),
    "state": ("", "COMPLETE or FAIL"),
    "on_front": ("", "true where no other trial is at least as good in every objective and better in one"),
}
_TRAILING = {
    "plan": ("", "Digest of the compression plan: equal digests compute equal numbers"),
    "arithmetic": ("", "What the accuracy was computed in: integers, or float and why"),
    "kept": (
        "",
        "as planned, or without repairs where that came nearer to the float network; empty: no repairs",
    ),
    "duration_s": ("s", "Wall time of the trial"),
    "retry_of": ("", "Number of the interrupted trial that this one repeats"),
    "error": ("", "First line of the error of a failed trial"),
}

_SECONDS = "seconds.{}"


def stage_names(records: Iterable[TrialRecord]) -> list[str]:
    """Every stage that any of the records spent time on, in order of first appearance."""
    return list(dict.fromkeys(s for r in records if r.evaluation for s in r.evaluation.seconds))


def parameter_names(records: Iterable[TrialRecord]) -> list[str]:
    """Every parameter any of the records has, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record.params))


def trial_row(record: TrialRecord, summary: StudySummary) -> dict[str, str]:
    """One row of ``trials.csv``: column -> text, with "" for what is absent.

    Metrics are in their own unit (``Metric.unit``), written with all digits so that they read back exactly. A
    metric that no finished trial has gets no column; ``columns.json`` says why.
    """
    evaluation = record.evaluation
    row: dict[str, Any] = {
        "number": record.number,
        "label": record.label,
        "state": record.state,
        "on_front": record.number in summary.front_numbers,
    }
    for metric in _shown(summary):
        row[metric.column] = evaluation.metrics.get(metric.name) if evaluation else None
    row |= {f"params.{name}": value for name, value in record.params.items()}
    spent = evaluation.seconds if evaluation else {}
    row |= {_SECONDS.format(stage): value for stage, value in spent.items()}
    row |= {
        "plan": evaluation.plan if evaluation else None,
        "arithmetic": evaluation.arithmetic if evaluation else None,
        "kept": evaluation.kept if evaluation else None,
        "duration_s": record.duration_s,
        "retry_of": record.retry_of,
        "error": first_line(record.error),
    }
    return {column: _cell(value) for column, value in row.items()}


def first_line(text: str) -> str:
    """The first line of ``text`` that is not blank, or ""."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def trials_csv(summary: StudySummary) -> str:
    """``trials.csv``: one row per finished or failed trial, by number."""
    return _csv(_columns(summary), [trial_row(record, summary) for record in summary.records])


def pareto_csv(summary: StudySummary, test_accuracy: Mapping[int, float]) -> str:
    """``pareto.csv``: the non-dominated trials, lowest energy (first minimised objective) first.

    ``test_accuracy`` maps trial numbers to a fraction in [0, 1]; a trial that is not in it has an empty cell.
    """
    columns = _columns(summary)
    columns.insert(columns.index("on_front") + 1, TEST_ACCURACY)
    rows = [
        trial_row(record, summary) | {TEST_ACCURACY: _cell(test_accuracy.get(record.number))}
        for record in summary.front
    ]
    return _csv(columns, rows)


def describe_columns(summary: StudySummary) -> dict[str, dict[str, str | None]]:
    """Column of ``trials.csv`` or ``pareto.csv`` -> unit, origin, direction, title, and why it is not there.

    ``origin`` and ``direction`` are None for what is no metric; ``absent_reason`` is there only where no
    finished trial has the metric, hence no table a column of it.
    """
    columns = {name: _plain_column(*about) for name, about in _LEADING.items()}
    for metric in summary.metrics.values():
        columns[metric.column] = _metric_column(metric)
        if metric.name in summary.absent:
            columns[metric.column]["absent_reason"] = summary.absent[metric.name]
    for name in parameter_names(summary.records):
        columns[f"params.{name}"] = _plain_column("", f"Parameter {name} of the search space")
    for stage in stage_names(summary.records):
        columns[_SECONDS.format(stage)] = _plain_column("s", f"Wall time of the stage {stage!r}")
    columns |= {name: _plain_column(*about) for name, about in _TRAILING.items()}
    if "accuracy" in summary.metrics:
        title = "Accuracy on the test split (pareto.csv only)"
        columns[TEST_ACCURACY] = _metric_column(summary.metrics["accuracy"]) | {"title": title}
    return columns


def write_tables(run: Path, summary: StudySummary, test_accuracy: Mapping[int, float]) -> list[Path]:
    """Write ``trials.csv``, ``columns.json`` and ``pareto.csv`` into ``run``; returns their paths.

    Raises:
        RunFolderError: the folder cannot be written to.
    """
    columns = json.dumps(describe_columns(summary), indent=2, ensure_ascii=False) + "\n"
    return [
        write_atomically(run / "trials.csv", trials_csv(summary)),
        write_atomically(run / "columns.json", columns),
        write_atomically(run / "pareto.csv", pareto_csv(summary, test_accuracy)),
    ]


def _shown(summary: StudySummary) -> list[Metric]:
    """The metrics with a column: those some finished trial has; all of them before any trial has finished."""
    return summary.present if summary.complete else list(summary.metrics.values())


def _columns(summary: StudySummary) -> list[str]:
    metrics = [metric.column for metric in _shown(summary)]
    parameters = [f"params.{name}" for name in parameter_names(summary.records)]
    stages = [_SECONDS.format(stage) for stage in stage_names(summary.records)]
    return [*_LEADING, *metrics, *parameters, *stages, *_TRAILING]


def _plain_column(unit: str, title: str) -> dict[str, str | None]:
    return {"unit": unit, "origin": None, "direction": None, "title": title}


def _metric_column(metric: Metric) -> dict[str, str | None]:
    return {
        "unit": metric.unit,
        "origin": metric.origin,
        "direction": metric.direction,
        "title": metric.title,
    }


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # csv of Python before 3.13 leaves a lone carriage return unquoted, and readers take it for a new row.
        return value.replace("\r\n", "\n").replace("\r", "\n")
    # JSON keeps every digit of a float and tells true from 1.
    return json.dumps(value)
