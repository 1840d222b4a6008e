"""Parity plots: what the models say against what was published."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from dse.figures.style import BLUE, GREY, INK, VERMILION, new_figure
from dse.validation import KINDS, Answer
from energy.published import Check

_COLUMNS = 4
_PANEL_IN = 1.75
_LOOKS = {"calibrated": ("o", BLUE), "blind": ("^", VERMILION)}
_BAND = 0.15


def parity_figure(answers: Sequence[Answer]) -> Figure:
    """A panel per target of more than one published value, both axes logarithmic and in the target's own units.

    The line is equality, the grey band 15 % to either side; circles are calibrated figures, triangles blind ones.
    Figures of a target in several units are each divided by the geometric mean of the published ones of their unit.
    """
    answers = [a for a in answers if len({check.published for check in a.checks}) > 1] or answers
    rows = -(-len(answers) // _COLUMNS)
    columns = min(_COLUMNS, len(answers))
    figure = new_figure(_PANEL_IN * rows + 0.35, _PANEL_IN * columns)
    for place, answer in enumerate(answers, 1):
        _panel(figure.add_subplot(rows, columns, place), answer)
    handles = [
        figure.axes[0].plot([], [], marker, color=colour, markersize=3.5, label=kind)[0]
        for kind, (marker, colour) in _LOOKS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    figure.supxlabel("published", fontsize=8)
    figure.supylabel("modelled", fontsize=8)
    return figure


def _panel(axes: Axes, answer: Answer) -> None:
    scaled = _scaled(answer.checks)
    values = [v for pair in scaled for v in pair]
    low, high = min(values) / 1.4, max(values) * 1.4
    line = np.array([low, high])
    axes.fill_between(line, line * (1 - _BAND), line * (1 + _BAND), color=GREY, alpha=0.25, linewidth=0)
    axes.plot(line, line, color=INK, linewidth=0.6)
    for kind in KINDS:
        points = [pair for pair, check in zip(scaled, answer.checks, strict=True) if check.kind == kind]
        if points:
            marker, colour = _LOOKS[kind]
            size = 3.5 if len(points) < 40 else 2.0
            axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=size, markeredgewidth=0)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    decades = math.log10(high / low)
    for axis in (axes.xaxis, axes.yaxis):
        if decades > 3:
            axis.set_major_locator(LogLocator(10, numticks=4))
        elif decades < 0.7:  # of too little to hold two of 1, 2 and 5
            axis.set_major_locator(FixedLocator([float(f"{v:.2g}") for v in (min(values), max(values))]))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_locator(NullLocator())
        elif decades < 1.5:
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    units = {check.unit for check in answer.checks}
    axes.set_title(f"{answer.target.name} ({units.pop() if len(units) == 1 else 'relative'})", fontsize=7)
    axes.tick_params(labelsize=6)


def _scaled(checks: Sequence[Check]) -> list[tuple[float, float]]:
    """Published and modelled figure of each check, in a unit that all of the target's share."""
    units = {check.unit for check in checks}
    mean = {u: math.exp(np.mean([math.log(c.published) for c in checks if c.unit == u])) for u in units}
    scale = {u: 1.0 if len(units) == 1 else mean[u] for u in units}
    return [(c.published / scale[c.unit], c.model / scale[c.unit]) for c in checks]
