"""Each figure of an analysis, from plain records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter

from dse.analysis.records import Analysis, Histogram, Sensitivity, SliceCount
from dse.analysis.summary import PROXIES, Chosen, Correlation, correlations, fronts
from dse.figures.style import (
    BLACK,
    BLUE,
    COLUMN_IN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
)

PAGE_IN = 7.16
_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
_DECADES = 6  # of colour: what is smaller still counts as the smallest
_MOST_PANELS = 4  # choices of integer codes
_MOST_COLUMNS, _MOST_ROWS = 5, 2  # of histograms
_PROXY_TITLES = {
    "own_error": "Error of the weights, or of the input",
    "output_error": "Error of the layer's output",
    "kl_nats": "Divergence of the answers (nats)",
}
_ROUNDING_TITLES = {"nearest": "nearest", "second_order": "2nd order", "": "input"}
_DENSITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gauss": lambda x: np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    "laplace": lambda x: np.exp(-np.sqrt(2) * np.abs(x)) / np.sqrt(2),
    "uniform": lambda x: np.where(np.abs(x) <= np.sqrt(3), 1 / (2 * np.sqrt(3)), 0.0),
}


def sensitivity_figure(analysis: Analysis, value: str, title: str) -> Figure | None:
    """A map layers x choices of ``value``, a panel for each rounding and one for the inputs; None if all is zero."""
    groups: dict[str, list[Sensitivity]] = {}
    for row in analysis.sensitivities:
        groups.setdefault(row.rounding, []).append(row)
    found = [v for row in analysis.sensitivities if (v := getattr(row, value)) and np.isfinite(v)]
    if not found:
        return None
    layers = [layer.layer for layer in analysis.layers]
    widths = [len({r.choice for r in rows}) for rows in groups.values()]
    figure = new_figure(1.15 + 0.125 * len(layers), PAGE_IN if sum(widths) > 12 else COLUMN_IN)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False, width_ratios=widths)[0]
    norm = LogNorm(max(min(found), max(found) * 10.0**-_DECADES), max(found), clip=True)
    for axes, (rounding, rows) in zip(panels, groups.items(), strict=True):
        choices = list(dict.fromkeys(r.choice for r in rows))
        cells = {(r.layer, r.choice): getattr(r, value) or np.nan for r in rows}
        table = np.array([[cells.get((layer, c), np.nan) for c in choices] for layer in layers], np.float64)
        axes.set_facecolor("#d0d0d0")
        image = axes.imshow(table, norm=norm, cmap="viridis", aspect="auto", interpolation="nearest")
        axes.set_xticks(range(len(choices)), choices, rotation=90, fontsize=6)
        axes.set_yticks(range(len(layers)), layers, fontsize=6)
        axes.tick_params(length=0)
        axes.set_title(_ROUNDING_TITLES.get(rounding, rounding), fontsize=7)
    figure.colorbar(image, ax=panels, label=title, fraction=0.03, pad=0.01)
    return figure


def oracle_figure(analysis: Analysis) -> Figure:
    """Error on the layer against error on its family, logarithmic on both axes, and their ratio; colour by method."""
    figure = new_figure(3.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    shown = [o for o in analysis.oracles if o.oracle_error_same_shape and o.weight_error]
    methods = list(dict.fromkeys(o.choice.partition("-")[0] for o in shown))
    for method, colour in zip(methods, _cycled(len(methods)), strict=True):
        own = [o for o in shown if o.choice.partition("-")[0] == method]
        x, y = (np.array([getattr(o, n) for o in own]) for n in ("oracle_error_same_shape", "weight_error"))
        upper.scatter(x, y, s=7, color=colour, alpha=0.6, linewidths=0, label=method)
        lower.scatter(x, y / x, s=7, color=colour, alpha=0.6, linewidths=0)
    values = [v for o in shown for v in (o.oracle_error_same_shape, o.weight_error)]
    ends = (min(values) / 1.6, max(values) * 1.6)
    upper.plot(ends, ends, color=GREY, linewidth=0.7, zorder=0)
    lower.axhline(1.0, color=GREY, linewidth=0.7, zorder=0)
    upper.set_xscale("log")
    upper.set_yscale("log")
    upper.set_xlim(*ends)
    upper.set_ylim(*ends)
    upper.set_ylabel("Error on the layer's weights")
    lower.set_ylabel("Ratio")
    lower.set_xlabel("Error on the distribution they resemble (oracle)")
    for axes in (upper, lower):
        axes.grid(True)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=4, borderaxespad=0.2)
    return figure


def weights_figure(histograms: Sequence[Histogram]) -> Figure:
    """A histogram for each stage, the largest where there are many, beside the three densities."""
    largest = sorted(histograms, key=lambda h: -h.weights)[: _MOST_COLUMNS * _MOST_ROWS]
    shown = [h for h in histograms if h in largest]
    lines = -(-len(shown) // _MOST_COLUMNS)
    columns = -(-len(shown) // lines)
    figure = new_figure(0.6 + 1.35 * lines, PAGE_IN if columns > 2 else COLUMN_IN)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, histogram in zip(panels, shown, strict=False):
        edges = np.array(histogram.edges)
        axes.stairs(histogram.density, edges, fill=True, color=GREY, alpha=0.55)
        x = np.linspace(edges[0], edges[-1], 400)
        for (family, density), colour in zip(_DENSITIES.items(), (BLUE, VERMILION, GREEN), strict=True):
            axes.plot(x, density(x), color=colour, linewidth=0.9, label=family)
        axes.set_title(f"{histogram.stage} ({histogram.weights:,})", fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    empty = panels[
        len(shown) :
    ]  # at the end of the last row; the panels above it have the numbers of their column
    for axes, above in zip(empty, panels[len(shown) - columns :], strict=False):
        axes.set_visible(False)
        above.tick_params(axis="x", labelbottom=True)
    figure.supxlabel("Weight / root mean square of its channel", fontsize=8)
    figure.supylabel("Density", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, borderaxespad=0.2)
    return figure


def proxies_figure(analysis: Analysis) -> Figure:
    """Three panels: error of weights, error of output and divergence against the drop of accuracy."""
    figure = new_figure(2.6, PAGE_IN)
    panels = figure.subplots(1, len(PROXIES), sharey=True)
    known = {(c.rows, c.proxy): c.spearman for c in correlations(analysis) if _is_headline(c)}
    groups = list(dict.fromkeys(r.rounding or r.part for r in analysis.sensitivities))
    for axes, proxy in zip(panels, PROXIES, strict=True):
        for group, colour in zip(groups, _cycled(len(groups)), strict=True):
            rows = [
                r for r in analysis.sensitivities if (r.rounding or r.part) == group and getattr(r, proxy)
            ]
            rank = known.get((group, proxy))
            label = f"{group.replace('_', ' ')}, rank correlation {'none' if rank is None else f'{rank:.2f}'}"
            x, y = [getattr(r, proxy) for r in rows], [r.accuracy_drop_points for r in rows]
            axes.scatter(x, y, s=6, color=colour, alpha=0.6, linewidths=0, label=label)
        axes.set_xscale("log")
        axes.set_xlabel(_PROXY_TITLES[proxy])
        axes.xaxis.set_major_locator(LogLocator(10, subs=_ticks(axes.get_xlim()), numticks=6))
        axes.xaxis.set_major_formatter(
            LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(99, 99))
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True)
        above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.1}
        axes.legend(handletextpad=0.1, **above)
    panels[0].set_ylabel("Accuracy lost (points)")
    return figure


def choices_figure(analysis: Analysis) -> Figure:
    """The front of storage and output error of each layer, logarithmic in the error."""
    figure = new_figure(2.5)
    axes = figure.add_subplot()
    stages = {layer.layer: layer.stage for layer in analysis.layers}
    names = list(dict.fromkeys(stages.values()))
    colours = dict(zip(names, _cycled(len(names)), strict=True))
    by_layer: dict[str, list[Chosen]] = {}
    for chosen in fronts(analysis):
        by_layer.setdefault(chosen.layer, []).append(chosen)
    for layer, line in by_layer.items():
        points = [c for c in line if c.output_error > 0]
        x, y = [c.storage_bits_per_weight for c in points], [c.output_error for c in points]
        style = {"color": colours[stages[layer]], "linewidth": 0.7, "alpha": 0.8}
        axes.plot(x, y, drawstyle="steps-post", marker=".", markersize=2.5, **style)
    axes.set_yscale("log")
    axes.set_xlabel("Storage (bits per weight)")
    axes.set_ylabel("Least error of the output")
    axes.grid(True)
    if len(names) <= len(_COLOURS):
        handles = [Line2D([], [], color=colours[name], label=name) for name in names]
        figure.legend(handles=handles, loc="outside upper center", ncols=5, borderaxespad=0.2)
    return figure


def slices_figure(analysis: Analysis) -> Figure:
    """Share of non-zero digits against granularity, a panel for a few choices of integer codes."""
    integer = [s for s in analysis.slices if s.encoding not in ("ternary", "binary")]
    choices = list(dict.fromkeys(s.choice for s in integer))
    picked = [choices[i] for i in sorted({round(i) for i in np.linspace(0, len(choices) - 1, _MOST_PANELS)})]
    figure = new_figure(2.0, PAGE_IN if len(picked) > 2 else COLUMN_IN)
    panels = figure.subplots(1, len(picked), sharey=True, squeeze=False)[0]
    encodings = list(dict.fromkeys(s.encoding for s in integer))
    for axes, choice in zip(panels, picked, strict=True):
        for encoding, colour in zip(encodings, _cycled(len(encodings)), strict=True):
            _slice_lines(axes, [s for s in integer if (s.choice, s.encoding) == (choice, encoding)], colour)
        axes.set_title(choice, fontsize=7)
        axes.set_xlabel("Bits of a digit")
        axes.set_ylim(0, 1.02)
        axes.grid(True)
    panels[0].set_ylabel("Digits that are not zero")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _slice_lines(axes: Axes, rows: Sequence[SliceCount], colour: str) -> None:
    sizes = sorted({r.granularity_bits for r in rows})
    shares = [[r.nonzero_share for r in rows if r.granularity_bits == g] for g in sizes]
    x = np.arange(len(sizes))
    label = rows[0].encoding.replace("_", " ")
    axes.plot(x, [np.mean(s) for s in shares], color=colour, linewidth=1.0, marker=".", label=label)
    axes.fill_between(
        x, [min(s) for s in shares], [max(s) for s in shares], color=colour, alpha=0.15, linewidth=0
    )
    axes.set_xticks(x, [str(g) for g in sizes])


def repairs_figure(analysis: Analysis) -> Figure:
    """Each baseline and repair on a line: divergence without it, and with it."""
    rows = [r for r in analysis.repairs if r.planned_kl_nats is not None and r.plain_kl_nats is not None]
    figure = new_figure(0.75 + 0.17 * len(rows))
    axes = figure.add_subplot()
    recipes = list(dict.fromkeys(r.recipe for r in rows))
    colours = dict(zip(recipes, _cycled(len(recipes)), strict=True))
    for i, row in enumerate(rows):
        colour = colours[row.recipe]
        axes.plot([row.plain_kl_nats, row.planned_kl_nats], [i, i], color=colour, linewidth=0.9)
        axes.scatter([row.plain_kl_nats], [i], s=16, facecolor="white", edgecolor=colour, zorder=3)
        axes.scatter([row.planned_kl_nats], [i], s=16, color=colour, zorder=3)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row.baseline for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("Divergence from the float network (nats)")
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    names = [Line2D([], [], color=c, label=r.replace("_", " ")) for r, c in colours.items()]
    dots = [
        Line2D([], [], linestyle="", marker="o", markersize=4, color=GREY, markerfacecolor=fill, label=label)
        for label, fill in (("without repair", "white"), ("with repair", GREY))
    ]
    figure.legend(handles=[*dots, *names], loc="outside upper center", ncols=4, borderaxespad=0.2)
    return figure


def _is_headline(correlation: Correlation) -> bool:
    return (correlation.scope, correlation.target) == ("all", "accuracy_drop_points")


def _ticks(limits: tuple[float, float]) -> tuple[float, ...]:
    """Digits that ticks of a logarithmic axis begin with: more where it spans little."""
    return (1.0, 2.0, 5.0) if limits[1] / limits[0] < 100 else (1.0,)


def _cycled(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]
