"""How far each figure of the kernel benchmark is from what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import NullLocator

from dse.figures.style import BLUE, INK, VERMILION, new_figure, paper_style, render
from dse.files import write_atomically
from dse.reference import Row


def draw(rows: Sequence[Row], stem: Path) -> list[Path]:
    """``stem.png`` and ``stem.svg``: each value over its bar, so that all right of the line is reached."""
    shown = [row for row in rows if row.ours is not None and row.bar]
    if not shown:
        return []
    with paper_style():
        figure = new_figure(height_in=0.7 + 0.23 * len(shown), width_in=6.6)
        axes = figure.add_subplot()
        for y, row in enumerate(shown):
            _draw_row(axes, row, y)
        axes.axvline(1.0, color=INK, lw=0.8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        reaches = [_reach(row) for row in shown]
        axes.set_xlim(min(1.0, *reaches) / 8, max(1.0, *reaches) * 4)  # room for the values
        axes.set_yticks(range(len(shown)), [row.check for row in shown])
        axes.invert_yaxis()
        axes.set_xlabel("measured, over what was asked for")
        files = render(figure)
    return [
        write_atomically(stem.with_name(f"{stem.name}.{suffix}"), content)
        for suffix, content in files.items()
    ]


def _draw_row(axes, row: Row, y: int) -> None:  # type: ignore[no-untyped-def]
    reach = _reach(row)
    colour = BLUE if reach >= 1 else VERMILION
    axes.plot([1, reach], [y, y], color=colour, lw=1.4)
    axes.plot(reach, y, "o", color=colour, ms=4.6, mew=0)
    side, align = (5, "left") if reach >= 1 else (-5, "right")
    text = f"{row.ours:,.0f} {row.unit}" if row.ours >= 1000 else f"{row.ours:.3g} {row.unit}"
    axes.annotate(
        text, (reach, y), (side, 0), textcoords="offset points", ha=align, va="center", fontsize=6.5
    )


def _reach(row: Row) -> float:
    return row.ours / row.bar if row.better == "higher" else row.bar / row.ours
