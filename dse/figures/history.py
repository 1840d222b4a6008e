"""How much of the objective space the search had covered after each trial."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dse.figures.scales import ROUND_STEPS
from dse.figures.style import BLUE, GREY, new_figure

_NEAR_TOP = 0.88


def hypervolume_figure(hypervolumes: Sequence[float], baselines: int) -> Figure:
    """Normalised hypervolume after each comparable trial, in the order of their numbers.

    Args:
        hypervolumes: one value in [0, 1] per trial, never falling; at least one.
        baselines: how many of the first trials were baselines rather than proposals of the search.
    """
    figure = new_figure(2.1)
    axes = figure.add_subplot()
    count = range(1, len(hypervolumes) + 1)
    axes.plot(count, hypervolumes, drawstyle="steps-post", color=BLUE, linewidth=1.1, zorder=3)
    _mark_end(axes, len(hypervolumes), hypervolumes[-1])
    if 0 < baselines < len(hypervolumes):
        _shade_baselines(axes, baselines)
    axes.set_xlim(0.5, max(len(hypervolumes), 2) + 0.5)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND_STEPS))
    axes.set_xlabel("Finished trials")
    axes.set_ylabel("Hypervolume (normalised)")
    axes.grid(True)
    return figure


def _mark_end(axes: Axes, x: int, y: float) -> None:
    # Above the line, which never comes from there; below it only where the top of the axes is too near.
    offset, side = (-5, "top") if y > _NEAR_TOP else (4, "bottom")
    axes.scatter([x], [y], s=14, color=BLUE, zorder=4, clip_on=False)
    place = {"xytext": (0, offset), "textcoords": "offset points", "ha": "right", "va": side}
    axes.annotate(f"{y:.3f}", (x, y), fontsize=7, color=BLUE, **place)


def _shade_baselines(axes: Axes, count: int) -> None:
    axes.axvspan(0.5, count + 0.5, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    place = {"xycoords": axes.get_xaxis_transform(), "xytext": (3, 3), "textcoords": "offset points"}
    axes.annotate("baselines", (count + 0.5, 0), fontsize=6.5, color=GREY, **place)
