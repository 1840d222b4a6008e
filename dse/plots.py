"""The figures a run leaves behind, as PNG and SVG, drawn from plain records alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dse.figures.breakdown import energy_components_figure, energy_layers_figure, layer_energy
from dse.figures.history import hypervolume_figure
from dse.figures.style import paper_style, render
from dse.figures.tradeoff import tradeoff_figure
from dse.files import write_atomically
from dse.objectives import Metric
from dse.pareto import hypervolume_history, on_log_scale
from dse.records import acceptable
from dse.summary import StudySummary, comparable, value_of


@dataclass(frozen=True)
class WrittenFigure:
    """A figure on disk: its name without suffix, what it shows in one sentence, and its two files."""

    name: str
    caption: str
    png: Path
    svg: Path


def write_figures(folder: Path, summary: StudySummary) -> list[WrittenFigure]:
    """Draw every figure the study has data for into ``folder``, as NAME.png and NAME.svg.

    ``accuracy_<metric>`` for each cost that finished trials have, ``hypervolume``, and for each accelerator
    ``energy_layers.<accelerator>`` and ``energy_components.<accelerator>``. The same records give the same
    bytes.

    Raises:
        RunFolderError: the folder cannot be written to.
    """
    return write_drawn(folder, _figures(summary))


def write_drawn(folder: Path, drawn: Iterator[tuple[str, str, Figure]]) -> list[WrittenFigure]:
    """Write (name, caption, figure) as NAME.png and NAME.svg; they are drawn, one by one, in the house's style.

    Raises:
        RunFolderError: the folder cannot be written to.
    """
    written = []
    with paper_style():
        for name, caption, figure in drawn:
            files = {suffix: folder / f"{name}.{suffix}" for suffix in ("png", "svg")}
            for suffix, content in render(figure).items():
                write_atomically(files[suffix], content)
            written.append(WrittenFigure(name, caption, files["png"], files["svg"]))
    return written


def _figures(summary: StudySummary) -> Iterator[tuple[str, str, Figure]]:
    for cost in _plottable_costs(summary):
        yield (
            f"accuracy_{cost.name}",
            f"Accuracy against {_lower_first(cost.title)}.",
            tradeoff_figure(summary, cost),
        )
    history = _hypervolumes(summary)
    if history:
        caption = "Share of the objective space that the front dominates, after each finished trial."
        yield "hypervolume", caption, hypervolume_figure(history, _leading_baselines(summary))
    for energy, accelerator in _accelerators(summary):
        layers = energy_layers_figure(summary, energy, accelerator)
        if layers is not None:
            yield f"energy_layers.{accelerator}", f"{energy.title} by layer and component.", layers
        components = energy_components_figure(summary, energy, accelerator)
        if components is not None:
            caption = f"{energy.title} by component, of baselines and of trials along the front."
            yield f"energy_components.{accelerator}", caption, components


def _plottable_costs(summary: StudySummary) -> list[Metric]:
    accuracy = summary.metrics.get("accuracy")
    if accuracy is None:
        return []
    with_accuracy = [r for r in summary.complete if value_of(r, accuracy) is not None]
    first = [metric for metric in summary.objectives if metric.name not in summary.absent]
    costs = dict.fromkeys(metric for metric in [*first, *summary.present] if metric.name != "accuracy")
    return [m for m in costs if any(value_of(record, m) is not None for record in with_accuracy)]


def _accelerators(summary: StudySummary) -> list[tuple[Metric, str]]:
    """Energy metrics that some finished trial has a breakdown by layer for, with their accelerator."""
    found = []
    for metric in summary.present:
        quantity, _, accelerator = metric.name.partition(".")
        if quantity == "energy" and any(layer_energy(r, accelerator) for r in summary.complete):
            found.append((metric, accelerator))
    return found


def _hypervolumes(summary: StudySummary) -> list[float]:
    """After each comparable trial; one beyond the bound on accuracy adds nothing."""
    rows, values, directions = comparable(summary.complete, summary.objectives)
    if not rows or not directions:
        return []
    within = {row.number for row in acceptable(rows)}
    counted = np.array([row.number in within for row in rows])
    history = np.zeros(len(rows) + 1)
    history[1:][counted] = hypervolume_history(on_log_scale(values[counted], directions), directions)
    return [float(volume) for volume in np.maximum.accumulate(history)[1:]]


def _leading_baselines(summary: StudySummary) -> int:
    rows, _, _ = comparable(summary.complete, summary.objectives)
    labels = [record.label for record in rows]
    return next((i for i, label in enumerate(labels) if not label), len(labels))


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if not text[:2].isupper() else text
