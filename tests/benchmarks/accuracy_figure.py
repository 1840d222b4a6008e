"""The accuracy benchmark as one figure: loss of every condition, ours, the plain recipe's, the peers', and the bar."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from dse.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, new_figure, paper_style, render
from dse.files import write_atomically
from tests.benchmarks.accuracy_rows import Measured
from tests.benchmarks.conditions import Condition

_TICKS = (-1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50)
_SHIFT = 0.14  # ours above the line, all else below: what lies together stays apart
_PEERS = {"brevitas": (ORANGE, "D"), "nncf": (GREEN, "s"), "torchao": (PURPLE, "^")}
_PLAIN = "nearest, norms matched"


def draw_losses(measured: Measured, conditions: Sequence[Condition], stem: Path) -> list[Path]:
    """Draw ``stem.png`` and ``stem.svg``; linear up to one point of loss, logarithmic beyond."""
    with paper_style():
        figure = new_figure(height_in=0.9 + 0.21 * len(conditions), width_in=5.2)
        axes = figure.add_subplot()
        for y, condition in enumerate(conditions):
            _draw_condition(axes, measured, condition, y)
        _label(axes, measured, conditions)
        handles, labels = axes.get_legend_handles_labels()
        unique = {
            label: handle for label, handle in zip(labels, handles, strict=True) if len(handle.get_xdata())
        }
        figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=len(unique))
        files = render(figure)
    return [
        write_atomically(stem.with_name(f"{stem.name}.{suffix}"), content)
        for suffix, content in files.items()
    ]


def _draw_condition(axes: Axes, measured: Measured, condition: Condition, y: int) -> None:
    losses, plain = measured.losses(condition.name), measured.plain_losses(condition.name)
    above, below = y - _SHIFT, y + _SHIFT
    axes.plot(statistics.mean(losses), above, "o", color=BLUE, ms=4.6, mew=0, label="ours", zorder=5)
    axes.plot([min(losses), max(losses)], [above] * 2, color=BLUE, lw=1.6, solid_capstyle="round", zorder=4)
    if not measured.quick and condition.bar is not None:
        axes.plot([condition.bar] * 2, [y - 0.36, y + 0.36], color=INK, lw=1.1, label="asked for", zorder=3)
    axes.plot(statistics.mean(plain), below, "o", mfc="white", mec=GREY, ms=4.2, mew=0.9, label=_PLAIN)
    losses_of_peers = measured.peer_losses(condition.name)
    for package, (colour, marker) in _PEERS.items():
        own = [loss for name, loss in losses_of_peers.items() if name.split()[0] == package]
        axes.plot(own, [below] * len(own), marker, color=colour, ms=3.4, mew=0, alpha=0.85, label=package)


def _label(axes: Axes, measured: Measured, conditions: Sequence[Condition]) -> None:
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.8)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.3), max(high, 12.0))
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in _TICKS])
    axes.set_yticks(range(len(conditions)), [condition.name for condition in conditions])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(conditions) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.axvline(0, color=GREY, lw=0.6, zorder=0)
    axes.set_xlabel(
        f"loss in points against float ({measured.float_percent:.2f} % of {measured.test_images:,} test images)"
    )
    axes.set_ylabel("weights / activations (bits)")
