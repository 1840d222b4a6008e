"""Where the energy goes: by component, and by layer and component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dse.figures.scales import ROUND_STEPS
from dse.figures.style import (
    BLUE,
    COLUMN_IN,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    new_figure,
)
from dse.objectives import Metric
from dse.records import TrialRecord
from dse.summary import FLOAT_LABEL, REFERENCE_LABEL, StudySummary, display_value, significant, value_of

LayerEnergy = Mapping[str, Mapping[str, float]]  # layer -> component -> joules

_KNOWN = {
    "pe array": BLUE,
    "weight buffer": ORANGE,
    "activation buffer": SKY,
    "output buffer": GREEN,
    "dram": VERMILION,
    "post-processing": PURPLE,
    "leakage": GREY,
}
_SPELLED = {"pe array": "PE array", "dram": "DRAM"}
_OTHERS = (YELLOW, "#332288", "#882255", "#117733", "#DDCC77", "#AA4499")
_MAX_LAYERS = 26
_FRONT_EXAMPLES = 4


def layer_energy(record: TrialRecord, accelerator: str) -> LayerEnergy:
    """Energy in joules by layer and component on ``accelerator``; empty where the trial has none."""
    if record.evaluation is None:
        return {}
    return record.evaluation.breakdown.get(accelerator, {}).get("energy_j", {})


def component_energy(record: TrialRecord, accelerator: str) -> dict[str, float]:
    """Energy in joules by component, summed over layers."""
    totals: dict[str, float] = {}
    for parts in layer_energy(record, accelerator).values():
        for component, energy_j in parts.items():
            totals[component] = totals.get(component, 0.0) + energy_j
    return totals


def energy_layers_figure(summary: StudySummary, energy: Metric, accelerator: str) -> Figure | None:
    """Energy by layer (in network order) and component: the uniform 8-bit baseline beside the knee.

    The two panels have scales of their own, since the knee's bars would vanish on the baseline's; totals
    stand above. Layers beyond the 25 costliest are summed up as one bar. None where neither candidate has
    a breakdown.
    """
    pairs = [(REFERENCE_LABEL, summary.baselines.get(REFERENCE_LABEL))]
    if summary.knee is not None and summary.knee.label != REFERENCE_LABEL:
        pairs.append((_name(summary.knee, summary), summary.knee))
    shown = [(name, layer_energy(r, accelerator)) for name, r in pairs if r and layer_energy(r, accelerator)]
    if not shown:
        return None
    layers = _layer_order([table for _, table in shown])
    tables = [_folded(table, layers) for _, table in shown]
    rows = list(tables[0])
    colours = component_colours([p for t in tables for parts in t.values() for p in parts])
    figure = new_figure(0.95 + 0.115 * len(rows), COLUMN_IN)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (name, _), table in zip(panels, shown, tables, strict=True):
        bars = [table.get(row, {}) for row in rows]
        _stacked(axes, bars, colours, energy.display_scale)
        total_j = sum(sum(parts.values()) for parts in bars)
        axes.set_title(f"{name}\n{display_value(energy, total_j)}", fontsize=7)
    panels[0].set_yticks(range(len(rows)), rows, fontsize=6)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.supxlabel(energy.axis_label, fontsize=8)
    _component_legend(figure, colours)
    return figure


def energy_components_figure(summary: StudySummary, energy: Metric, accelerator: str) -> Figure | None:
    """Energy by component of the baselines, the knee and a few trials spread over the front, costliest first.

    At the end of each bar stand its total and its accuracy; a thin line spans the model's band where it
    gives one. None where no candidate has a breakdown.
    """
    chosen = [r for r in _examples(summary) if component_energy(r, accelerator)]
    if not chosen:
        return None
    tables = [component_energy(record, accelerator) for record in chosen]
    totals = [sum(table.values()) for table in tables]
    order = sorted(range(len(chosen)), key=lambda i: (-totals[i], chosen[i].number))
    chosen, tables, totals = ([part[i] for i in order] for part in (chosen, tables, totals))
    colours = component_colours([part for table in tables for part in table])
    figure = new_figure(0.95 + 0.17 * len(chosen), COLUMN_IN)
    axes = figure.add_subplot()
    _stacked(axes, tables, colours, energy.display_scale)
    ends = [_draw_band(axes, row, r, accelerator, energy) for row, r in enumerate(chosen)]
    ends = [max(end, total * energy.display_scale) for end, total in zip(ends, totals, strict=True)]
    texts = [_bar_text(r, total, energy, summary) for r, total in zip(chosen, totals, strict=True)]
    for row, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(text, (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=6)
    # Room for the text at the longest bar's end, about a quarter of the axes.
    axes.set_xlim(0, max(ends) * 1.33)
    axes.set_yticks(range(len(chosen)), [_name(record, summary) for record in chosen])
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set_xlabel(energy.axis_label)
    _component_legend(figure, colours)
    return figure


def component_colours(components: Sequence[str]) -> dict[str, str]:
    """Component -> colour, known ones first and always the same, the others by order of appearance."""
    known = {name: colour for name, colour in _KNOWN.items() if name in components}
    others = [name for name in dict.fromkeys(components) if name not in _KNOWN]
    return known | {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}


def _examples(summary: StudySummary) -> list[TrialRecord]:
    """Baselines, the knee, and a few of the front at even steps along it; each once.

    The float baseline is left out: its bar, ten times the next, would squeeze all others to nothing.
    """
    steps = np.linspace(0, len(summary.front) - 1, _FRONT_EXAMPLES) if summary.front else []
    spread = [summary.front[round(float(step))] for step in steps]
    knee = [summary.knee] if summary.knee else []
    baselines = [record for label, record in summary.baselines.items() if label != FLOAT_LABEL]
    return list({r.number: r for r in [*baselines, *knee, *spread]}.values())


def _name(record: TrialRecord, summary: StudySummary) -> str:
    name = record.label or f"trial {record.number}"
    return f"{name} (knee)" if summary.knee is not None and record.number == summary.knee.number else name


def _layer_order(tables: Sequence[LayerEnergy]) -> list[str]:
    """The costliest layers over all tables, in network order."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    if len(names) <= _MAX_LAYERS:
        return names
    # Shares and not joules, so that layers that matter only to the cheaper candidate are seen too.
    share = {name: max(_share(table, name) for table in tables) for name in names}
    kept = sorted(names, key=lambda name: -share[name])[: _MAX_LAYERS - 1]
    return [name for name in names if name in set(kept)]


def _share(table: LayerEnergy, layer: str) -> float:
    total = sum(sum(parts.values()) for parts in table.values())
    return sum(table.get(layer, {}).values()) / total if total else 0.0


def _folded(table: LayerEnergy, layers: Sequence[str]) -> dict[str, dict[str, float]]:
    """The table of just these layers, the rest summed up in one more row."""
    rows = {layer: dict(table.get(layer, {})) for layer in layers}
    rest = [parts for layer, parts in table.items() if layer not in rows]
    if rest:
        summed = rows.setdefault(f"{len(rest)} others", {})
        for parts in rest:
            for component, energy_j in parts.items():
                summed[component] = summed.get(component, 0.0) + energy_j
    return rows


def _stacked(
    axes: Axes, bars: Sequence[Mapping[str, float]], colours: Mapping[str, str], scale: float
) -> None:
    left = np.zeros(len(bars))
    for component, colour in colours.items():
        widths = np.array([parts.get(component, 0.0) * scale for parts in bars])
        axes.barh(
            range(len(bars)), widths, left=left, height=0.74, color=colour, edgecolor="white", linewidth=0.2
        )
        left = left + widths
    axes.set_xlim(0, (float(left.max()) or 1.0) * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(3 if len(axes.figure.axes) > 1 else 5, steps=ROUND_STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)


def _draw_band(axes: Axes, row: int, record: TrialRecord, accelerator: str, energy: Metric) -> float:
    """Draw the model's band on one bar; returns its upper end in display units, 0 where there is no band."""
    band_j = record.evaluation.breakdown[accelerator].get("energy_band_j") if record.evaluation else None
    if not band_j:
        return 0.0
    low, high = (bound * energy.display_scale for bound in band_j)
    middle = (low + high) / 2
    axes.errorbar(
        middle, row, xerr=(high - low) / 2, fmt="none", ecolor=INK, elinewidth=0.6, capsize=1.6, capthick=0.6
    )
    return high


def _bar_text(record: TrialRecord, total_j: float, energy: Metric, summary: StudySummary) -> str:
    accuracy = summary.metrics.get("accuracy")
    value = value_of(record, accuracy) if accuracy else None
    shown = significant(total_j * energy.display_scale)
    return shown if value is None else f"{shown}, {display_value(accuracy, value)}"


def _component_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    handles = [Patch(color=colour, label=_SPELLED.get(name, name)) for name, colour in colours.items()]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=4,
        handlelength=0.9,
        handleheight=0.9,
        borderaxespad=0.2,
    )
