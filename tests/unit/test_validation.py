"""Errors of published figures summed up, tables and parity plots of them, and the command."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from dse.cli import main
from dse.figures.parity import parity_figure
from dse.figures.style import paper_style, render
from dse.reference import table
from dse.validation import Answer, check_rows, reference_rows, summary_rows
from energy.published import Check, Target, targets


def check(name: str, published: float, model: float, kind: str = "blind", unit: str = "pJ") -> Check:
    return Check(name, unit, published, model, kind, "a paper")  # type: ignore[arg-type]


def answer(*checks: Check, **bar: float) -> Answer:
    return Answer(Target("chip", "A chip", dict(bar), lambda: list(checks)), checks)  # type: ignore[arg-type]


def test_errors_by_hand() -> None:
    found = answer(
        check("a", 10.0, 11.0), check("b", 10.0, 8.0), check("c", 4.0, 4.0, "calibrated"), blind=0.1
    )
    blind, calibrated = sorted(summary_rows(found), key=lambda row: row.check)
    assert (blind.check, calibrated.check) == ("chip: mean error, blind", "chip: mean error, calibrated")
    assert blind.ours == pytest.approx(15.0) and blind.bar == 10.0 and blind.verdict == "MISSED"
    assert "worst -20.0 % (b)" in blind.note
    assert calibrated.ours == 0.0 and calibrated.bar is None


def test_the_table_holds_published_and_modelled_figure_side_by_side() -> None:
    found = answer(check("area", 2.0, 2.5, unit="mm2"))
    rows = list(csv.DictReader(io.StringIO(table(reference_rows([found])))))
    assert [row["check"] for row in rows] == ["chip: mean error, blind", "chip: area"]
    assert (rows[1]["ours"], rows[1]["peer"], rows[1]["peer_name"], rows[1]["unit"]) == (
        "2.5",
        "2",
        "published",
        "mm2",
    )
    assert rows[1]["note"] == "blind, +25.0 %; a paper"
    assert check_rows(found)[0].bar is None


def test_a_parity_plot_has_a_panel_per_target() -> None:
    one = answer(check("a", 1.0, 1.1), check("b", 2.0, 1.8, "calibrated"))
    many = answer(*(check(str(i), 10.0**i, 9.0**i, unit="J" if i % 2 else "s") for i in range(1, 9)))
    with paper_style():
        figure = parity_figure([one, many])
        assert render(figure)["png"].startswith(b"\x89PNG")
    assert [axes.get_title() for axes in figure.axes] == ["chip (pJ)", "chip (relative)"]


def test_unknown_targets_are_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "target=no-such-target"]) == 2
    assert "target: unknown target 'no-such-target'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(targets()))
def test_every_target_answers(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["validate", f"target={name}", f"out={tmp_path}"]) == 0
    assert f"{name}: mean error" in capsys.readouterr().out
    assert (tmp_path / "validation.csv").read_text().startswith("check,ours,peer")
    assert (tmp_path / "validation.png").stat().st_size > 1000
