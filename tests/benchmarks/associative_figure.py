"""Energy of every layer of the associative benchmark: racetrack by component, other machines as marks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dse.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    new_figure,
    paper_style,
    render,
)
from dse.files import write_atomically
from energy.cost import Cost

_GROUPS = {
    "search": ("search",),
    "cell writes": ("cell writes", "row loads"),
    "shifts": ("shifts",),
    "program": ("program memory", "dram"),
    "leakage": ("leakage",),
    "rest": (),
}
_COLOURS = dict(zip(_GROUPS, (BLUE, ORANGE, SKY, YELLOW, GREY, GREEN), strict=True))
_MARKS = {"FeFET": ("o", VERMILION), "CMOS": ("s", PURPLE)}


def draw(costs: Mapping[str, Cost], crossbar: Cost | None, stem: Path) -> list[Path]:
    """``stem.png`` and ``stem.svg``."""
    racetrack = costs["racetrack"]
    names = list(racetrack.energy_j)
    with paper_style():
        figure = new_figure(height_in=0.8 + 0.17 * len(names), width_in=6.6)
        axes = figure.add_subplot()
        left = [0.0] * len(names)
        for group, colour in _COLOURS.items():
            widths = [_group_uj(racetrack, name, group) for name in names]
            axes.barh(
                range(len(names)), widths, left=left, color=colour, label=f"racetrack: {group}", height=0.7
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        marks = {name: (costs[name], *style) for name, style in _MARKS.items()}
        if crossbar is not None:
            marks["crossbar"] = (crossbar, "x", BLACK)
        for label, (cost, marker, colour) in marks.items():
            values = [sum(b.nominal for b in cost.energy_j[n].values()) * 1e6 for n in names]
            axes.plot(values, range(len(names)), marker, color=colour, ms=3.5, label=label)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("energy of an inference, uJ")
        axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=5)
        files = render(figure)
    return [
        write_atomically(stem.with_name(f"{stem.name}.{suffix}"), content)
        for suffix, content in files.items()
    ]


def _group_uj(cost: Cost, layer: str, group: str) -> float:
    parts = cost.energy_j[layer]
    named = {p for members in _GROUPS.values() for p in members}
    members = _GROUPS[group] or tuple(p for p in parts if p not in named)
    return sum(parts[p].nominal for p in members if p in parts) * 1e6
