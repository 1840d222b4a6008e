"""The gist of an analysis on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from dse.analysis.records import Analysis
from dse.analysis.summary import ChoiceSummary, by_choice, correlations
from dse.summary import significant

_SHORT = {"nearest": "nearest", "second_order": "2nd order"}


def print_summary(analysis: Analysis, console: Console | None = None) -> None:
    """Medians by choice, rank correlations with the accuracy lost, and what became of repairs."""
    console = console or Console()
    console.print(_choices(analysis))
    console.print(_correlations(analysis))
    if analysis.repairs:
        console.print(_repairs(analysis))


def _choices(analysis: Analysis) -> Table:
    rows = by_choice(analysis)
    roundings = list(dict.fromkeys(r.rounding for r in rows if r.part == "weights"))
    table = _table("each layer alone: medians over layers", "choice")
    for heading in ("oracle", "own error"):
        table.add_column(heading, justify="right")
    for rounding in roundings:
        table.add_column(f"output\n{_SHORT[rounding]}", justify="right")
        table.add_column(f"KL, nats\n{_SHORT[rounding]}", justify="right")
    by_name: dict[str, dict[str, ChoiceSummary]] = {}
    for row in rows:
        by_name.setdefault(row.choice, {})[row.rounding or roundings[0]] = row
    for choice, found in by_name.items():
        first = next(iter(found.values()))
        cells: list[str] = []
        for rounding in roundings:
            row = found.get(rounding)
            cells += ["", ""] if row is None else [_shown(row.output_error), _shown(row.kl_nats)]
        table.add_row(choice, _shown(first.oracle_error), _shown(first.own_error), *cells)
    return table


def _correlations(analysis: Analysis) -> Table:
    table = _table("rank correlation with the accuracy lost", "rows", "proxy")
    for heading in ("over all", "over layers"):
        table.add_column(heading, justify="right")
    found = [c for c in correlations(analysis) if c.target == "accuracy_drop_points"]
    for everything, layers in zip(found[::2], found[1::2], strict=True):
        values = ["–" if c.spearman is None else f"{c.spearman:.2f}" for c in (everything, layers)]
        table.add_row(everything.rows.replace("_", " "), everything.proxy, *values)
    return table


def _repairs(analysis: Analysis) -> Table:
    table = _table("baselines and repairs", "baseline", "recipe", "kept")
    for heading in ("KL with", "without", "points lost", "seconds"):
        table.add_column(heading, justify="right")
    for r in analysis.repairs:
        numbers = (r.planned_kl_nats, r.plain_kl_nats, r.accuracy_drop_points, sum(r.seconds.values()))
        table.add_row(r.baseline, r.recipe.replace("_", " "), r.kept, *map(_shown, numbers))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return significant(value, 2) if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}"
