"""The report of a run: tables, figures, and one self-contained HTML page that explains them."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.files import write_atomically
from dse.objectives import Metric
from dse.records import TrialRecord
from dse.summary import (
    REFERENCE_LABEL,
    StudySummary,
    display_value,
    significant,
    summarise,
    value_of,
)
from dse.tables import first_line, write_tables

if TYPE_CHECKING:
    from dse.plots import WrittenFigure

ACCURACY_LOSSES = (0.005, 0.01, 0.02, 0.05)
_MAX_ROWS = 80
# What Hydra reads as a plain string without quotes: no number, no list, no null.
_BARE = re.compile(r"[A-Za-z/][A-Za-z0-9_./+-]*")
_WORDS = ("null", "true", "false", "inf", "nan")


@dataclass(frozen=True)
class BestTradeoff:
    """The trial of least energy that loses at most ``loss`` of accuracy; ``factor`` against uniform 8."""

    loss: float
    floor: float
    trial: TrialRecord | None
    factor: float | None


def write_report(
    run: Path,
    records: Sequence[TrialRecord],
    objectives: Sequence[Metric],
    metrics: Mapping[str, Metric],
    *,
    test_accuracy: Mapping[int, float],
    provenance: Mapping[str, Any],
    config_yaml: str | None,
) -> list[Path]:
    """Write everything that shows a study into its run folder; returns the paths written.

    ``trials.csv``, ``columns.json``, ``pareto.csv``, ``figures/*.png`` and ``*.svg``, ``report.html``. A
    study without a finished trial gets tables with a header only, no figures, and a page that says so.

    Args:
        run: the run folder.
        records: every trial of the study, in any state and order.
        objectives: what the study optimises, in its order.
        metrics: every metric the study may report, by name.
        test_accuracy: trial number -> accuracy on the test split, a fraction in [0, 1].
        provenance: versions, machine, seeds; shown as it is.
        config_yaml: the composed configuration as text, or None.

    Raises:
        RunFolderError: the folder is read-only or full; files written so far are whole.
    """
    # Matplotlib takes half a second to load, which commands that only import this module need not pay.
    from dse.plots import write_figures

    summary = summarise(records, objectives, metrics)
    paths = write_tables(run, summary, test_accuracy)
    figures = write_figures(run / "figures", summary)
    paths += [path for figure in figures for path in (figure.png, figure.svg)]
    page = render_page(run, summary, figures, test_accuracy, provenance, config_yaml)
    return [*paths, write_atomically(run / "report.html", page)]


def render_page(
    run: Path,
    summary: StudySummary,
    figures: Sequence[WrittenFigure],
    test_accuracy: Mapping[int, float],
    provenance: Mapping[str, Any],
    config_yaml: str | None,
) -> str:
    """The HTML page: figures inline, no outside resource, every text escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resources.files("dse").joinpath("report.html.j2").read_text("utf-8"))
    failed = [record for record in summary.records if record.state == "FAIL"]
    return template.render(
        name=run.resolve().name,
        summary=summary,
        failed=failed,
        retried={record.retry_of for record in summary.records},
        tradeoffs=[(m, best_tradeoffs(summary, m)) for m in _energies(summary)],
        float_accuracy=summary.float_accuracy,
        reference=REFERENCE_LABEL if REFERENCE_LABEL in summary.baselines else None,
        columns=summary.present,
        test_accuracy=test_accuracy,
        figures=[(figure, _data_uri(figure.svg)) for figure in figures],
        partly_absent=partly_absent(summary),
        export=lambda selection: export_command(run, selection),
        provenance=list(flattened(provenance)),
        config_yaml=config_yaml,
        max_rows=_MAX_ROWS,
        show=_shown,
        significant=significant,
        first_line=first_line,
        parameters=_parameters,
    )


def best_tradeoffs(summary: StudySummary, energy: Metric) -> list[BestTradeoff]:
    """For each permitted loss of accuracy the trial of lowest energy, ties going to the lower number.

    Losses count from the float baseline, or from the best trial of all where the study has no float baseline;
    baselines compete like any other trial. Empty where no trial has an accuracy.
    """
    accuracy = summary.metrics.get("accuracy")
    best = summary.float_accuracy
    if accuracy is None:
        return []
    both = [r for r in summary.complete if None not in (value_of(r, accuracy), value_of(r, energy))]
    if best is None:
        best = max((value_of(r, accuracy) or 0.0 for r in both), default=None)
    if best is None:
        return []
    reference = summary.baselines.get(REFERENCE_LABEL)
    reference_j = value_of(reference, energy) if reference else None
    return [_best(both, accuracy, energy, best, loss, reference_j) for loss in ACCURACY_LOSSES]


def partly_absent(summary: StudySummary) -> list[tuple[Metric, int, str]]:
    """Metrics that some finished trials lack: the metric, how many lack it, the most frequent reason."""
    found = []
    for metric in summary.present:
        lacking = [r.evaluation for r in summary.complete if r.evaluation and value_of(r, metric) is None]
        if lacking:
            reasons = Counter(e.absent.get(metric.name, "no reason recorded") for e in lacking)
            found.append((metric, len(lacking), reasons.most_common(1)[0][0]))
    return found


def export_command(run: Path, selection: str) -> str:
    """The shell command that exports ``selection`` of this run, quoted for the shell and for Hydra."""
    absolute = run.resolve()
    here = Path(os.path.relpath(absolute))
    shown = absolute if ".." in here.parts else here
    arguments = [hydra_argument("run", shown.as_posix()), hydra_argument("select", selection)]
    return " ".join(["python -m dse export", *arguments])


def hydra_argument(key: str, value: str) -> str:
    """``key=value`` for a shell; a value that Hydra's grammar would read otherwise is quoted for it too."""
    if _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return f"{key}={value}"
    # Inside Hydra's single quotes \' is a quote, and only backslashes before a quote need doubling.
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    argument = f"{key}='{escaped}'"
    return shlex.quote(argument) if re.search(r'["$`\\!]', argument) else f'"{argument}"'


def flattened(data: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain data as rows of dotted name and text."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data)
    for key, value in items:
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, (Mapping, list, tuple)) and value:
            yield from flattened(value, name)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def _best(
    trials: Sequence[TrialRecord],
    accuracy: Metric,
    energy: Metric,
    best: float,
    loss: float,
    reference_j: float | None,
) -> BestTradeoff:
    floor = best - loss
    # Accuracies are k/n: a loss of exactly the permitted size must not fail by a rounding error.
    eligible = [r for r in trials if (value_of(r, accuracy) or 0.0) >= floor - 1e-9]
    trial = min(eligible, key=lambda r: (value_of(r, energy) or 0.0, r.number), default=None)
    energy_j = value_of(trial, energy) if trial else None
    return BestTradeoff(loss, floor, trial, reference_j / energy_j if reference_j and energy_j else None)


def _energies(summary: StudySummary) -> list[Metric]:
    return [metric for metric in summary.present if metric.name.startswith("energy.")]


def _shown(metric: Metric, holder: TrialRecord | float | None) -> str:
    value = value_of(holder, metric) if isinstance(holder, TrialRecord) else holder
    return "–" if value is None else display_value(metric, value, with_unit=False)


def _parameters(record: TrialRecord) -> str:
    return ", ".join(f"{name}={value}" for name, value in record.params.items())


def _data_uri(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
