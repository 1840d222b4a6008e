"""``dse validate``: published figures beside the accelerator models' answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dse.figures.parity import parity_figure
from dse.figures.style import paper_style, render
from dse.files import write_atomically
from dse.reference import show, write_table
from dse.validation import Answer, reference_rows, summary_rows
from energy.published import Target, target, targets


def run(config: Mapping[str, Any]) -> int:
    """Run the targets asked for, print every figure, and write table and parity plots where ``out`` says."""
    chosen = _chosen(config["target"])
    console = Console()
    shown = config["figures"] if config["figures"] is not None else len(chosen) == 1
    answers = []
    for one in chosen:
        print(f"{one.name}: {one.title} ...", file=sys.stderr)
        answers.append(Answer(one, tuple(one.run())))
        if shown:
            console.print(_table(answers[-1]))
    rows = [row for answer in answers for row in summary_rows(answer)]
    print(show(rows))
    if config["out"] is not None:
        folder = Path(config["out"])
        print(write_table(folder / "validation.csv", reference_rows(answers)))
        with paper_style():
            drawn = render(parity_figure(answers))
        for suffix, data in drawn.items():
            print(write_atomically(folder / f"validation.{suffix}", data))
    return 0


def _chosen(wanted: str | None) -> list[Target]:
    if wanted is None:
        return list(targets().values())
    if wanted.endswith((".yaml", ".yml")):
        from energy.published.chips import chip_target

        return [chip_target(Path(wanted))]
    return [target(wanted)]


def _table(answer: Answer) -> Table:
    table = Table("figure", "unit", "published", "model", "error", "", title=answer.target.title)
    for check in answer.checks:
        values = (f"{check.published:.4g}", f"{check.model:.4g}", f"{100 * check.error:+.1f} %")
        table.add_row(check.name, check.unit, *values, check.kind)
    return table
