"""The report page, read as a browser would: its texts, its resources, its numbers and its commands."""

from __future__ import annotations

import base64
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import ACCELERATOR, METRICS, NO_GPU, OBJECTIVES, make_records, with_metric

from dse.errors import RunFolderError
from dse.records import TrialRecord
from dse.report import (
    best_tradeoffs,
    export_command,
    flattened,
    hydra_argument,
    partly_absent,
    render_page,
    write_report,
)
from dse.summary import summarise, value_of

ENERGY = METRICS[f"energy.{ACCELERATOR}"]
_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Texts, tags and resources of a page; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.resources: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.resources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(records: list[TrialRecord], run: Path = Path("results/run"), **changes: object) -> Page:
    """The page of these records, without figures."""
    options = {"figures": [], "test_accuracy": {}, "provenance": {}, "config_yaml": None} | changes
    return Page(render_page(run, summarise(records, OBJECTIVES, METRICS), **options))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], Page]:
    """A whole report: its folder, the paths returned, its page."""
    run = tmp_path_factory.mktemp("results") / "digits"
    records = make_records(30)
    cheapest = summarise(records, OBJECTIVES, METRICS).front[0].number
    options = {
        "test_accuracy": {cheapest: 0.98765},
        "provenance": {"python": "3.11"},
        "config_yaml": "seed: 0\n",
    }
    paths = write_report(run, records, OBJECTIVES, METRICS, **options)
    return run, paths, Page((run / "report.html").read_text("utf-8"))


def test_everything_is_written_and_named(written):
    run, paths, page = written
    assert len(set(paths)) == len(paths)
    assert set(paths) == {path for path in run.rglob("*") if path.is_file()}
    assert {"trials.csv", "columns.json", "pareto.csv", "report.html"} <= {path.name for path in paths}
    assert page.tags.count("img") == len(list((run / "figures").glob("*.svg"))) > 0
    assert "98.77" in page.text and "Test accuracy" in page.text
    for expected in ("energy.measured", NO_GPU, "µJ, modelled", "%, measured", "How to read", "seed: 0"):
        assert expected in page.text


def test_the_page_needs_nothing_from_outside(written):
    _, _, page = written
    assert page.resources and all(r.startswith("data:image/svg+xml;base64,") for r in page.resources)
    assert all(base64.b64decode(r.partition(",")[2]).startswith(b"<?xml") for r in page.resources)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_texts_of_users_are_texts():
    attack = "<script>alert('1')</script>&amp;"
    records = make_records(2)
    hostile = TrialRecord(1, "COMPLETE", attack, {attack: attack}, records[1].evaluation)
    failed = TrialRecord(90, "FAIL", "", {}, None, error=attack)
    page = page_of([records[0], hostile, failed], provenance={attack: [attack]}, config_yaml=attack)
    assert "script" not in page.tags
    assert page.text.count(attack) >= 5


def test_the_order_of_records_does_not_matter():
    assert page_of(make_records(30)).texts == page_of(make_records(30)[::-1]).texts


def test_a_study_without_a_finished_trial(tmp_path: Path):
    records = [TrialRecord(0, "RUNNING", "float", {}, None)]
    options = {"test_accuracy": {}, "provenance": {}, "config_yaml": None}
    paths = write_report(tmp_path / "run", records, OBJECTIVES, METRICS, **options)
    assert [path.name for path in paths] == ["trials.csv", "columns.json", "pareto.csv", "report.html"]
    page = Page(paths[-1].read_text("utf-8"))
    assert "No trial has finished yet" in page.text and "no provenance" in page.text
    assert "img" not in page.tags


def test_failed_trials_say_why_and_whether_they_were_repeated():
    done = make_records(0)
    failed = TrialRecord(7, "FAIL", "", {}, None, error="BadTensor: NaN in conv1\nTraceback")
    orphan = TrialRecord(8, "FAIL", "", {}, None)
    again = TrialRecord(9, "COMPLETE", "", {}, done[1].evaluation, retry_of=8)
    page = page_of([*done, failed, orphan, again])
    assert "7 no BadTensor: NaN in conv1" in page.text and "Traceback" not in page.text
    assert "8 yes interrupted" in page.text


def by_hand() -> list[TrialRecord]:
    """float 0.90 without energy; uniform 8 at 10 µJ; four trials of known accuracy and energy (µJ)."""
    records = make_records(0)[:2]
    table = [("uniform 8", 0.899, 10.0), ("", 0.895, 6.0), ("", 0.89, 2.5), ("", 0.85, 1.0), ("", 0.5, 0.1)]
    trials = [
        with_metric(
            TrialRecord(1 + i, "COMPLETE", label, {}, records[1].evaluation),
            accuracy=a,
            energy__bitserial=e * 1e-6,
        )
        for i, (label, a, e) in enumerate(table)
    ]
    return [with_metric(records[0], accuracy=0.90), *trials]


def test_best_tradeoffs_of_a_case_worked_by_hand():
    # Floors 0.895, 0.89, 0.88, 0.85: met by trials 2 (6 µJ), 3 (2.5), 3, 4 (1.0); uniform 8 takes 10 µJ.
    rows = best_tradeoffs(summarise(by_hand(), OBJECTIVES, METRICS), ENERGY)
    assert [row.trial.number for row in rows] == [2, 3, 3, 4]
    assert [row.factor for row in rows] == pytest.approx([10 / 6, 4.0, 4.0, 10.0])


def test_best_tradeoffs_by_brute_force():
    summary = summarise(make_records(200, seed=2), OBJECTIVES, METRICS)
    for row in best_tradeoffs(summary, ENERGY):
        energies = [
            value_of(r, ENERGY)
            for r in summary.complete
            if value_of(r, ENERGY) and r.evaluation.metrics["accuracy"] >= 0.995 - row.loss - 1e-9
        ]
        assert value_of(row.trial, ENERGY) == min(energies)


def test_tradeoffs_without_baselines_count_from_the_best_and_give_no_factor():
    summary = summarise(by_hand()[2:], OBJECTIVES, METRICS)
    rows = best_tradeoffs(summary, ENERGY)
    assert [row.floor for row in rows] == pytest.approx([0.89, 0.885, 0.875, 0.845])
    assert [row.trial.number for row in rows] == [3, 3, 3, 4] and {row.factor for row in rows} == {None}


def test_a_floor_that_nobody_reaches_is_said():
    records = by_hand()
    weak = [with_metric(records[0], accuracy=0.99), *records[1:]]
    assert {row.trial for row in best_tradeoffs(summarise(weak, OBJECTIVES, METRICS), ENERGY)} == {None}
    assert page_of(weak).text.count("no trial reaches it") == 4


def test_partly_absent_metrics():
    found = {m.name: (n, why) for m, n, why in partly_absent(summarise(make_records(5), OBJECTIVES, METRICS))}
    assert set(found) == {f"{quantity}.{ACCELERATOR}" for quantity in ("energy", "latency", "area")}
    assert found["energy.bitserial"] == (1, "the bit-serial array computes integers only")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="$"), min_size=1))
def test_arguments_reach_hydra_unchanged(value: str):
    (argument,) = shlex.split(hydra_argument("run", value))
    parsed = OverridesParser.create().parse_override(argument)
    assert (parsed.key_or_group, parsed.value()) == ("run", value) and not parsed.is_sweep_override()


@pytest.mark.parametrize(
    "value", ["null", "2024", "1e3", "true", "a,b", "trial=3", "my run/it's", "$HOME/x", "x\\"]
)
def test_awkward_arguments_survive_shell_and_hydra(value: str):
    command = f"printf '%s' {hydra_argument('select', value)}"
    argument = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert OverridesParser.create().parse_override(argument).value() == value


def test_export_command_is_short_below_the_working_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        export_command(Path("results/digits"), "knee")
        == "python -m dse export run=results/digits select=knee"
    )
    assert export_command(tmp_path / "r", "trial=3") == "python -m dse export run=r \"select='trial=3'\""
    assert str(tmp_path.parent / "other") in export_command(tmp_path.parent / "other", "knee")


def test_the_page_gives_the_commands(written):
    run, _, page = written
    cheapest = summarise(make_records(30), OBJECTIVES, METRICS).front[0].number
    assert export_command(run, "knee") in page.text
    assert export_command(run, f"trial={cheapest}") in page.text


def test_flattened():
    data = {"a": {"b": [1, {"c": "x"}]}, "d": None, "e": [], "f": True}
    assert list(flattened(data)) == [
        ("a.b.0", "1"),
        ("a.b.1.c", "x"),
        ("d", "null"),
        ("e", "[]"),
        ("f", "true"),
    ]


def test_a_run_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="trials.csv"):
        write_report(
            tmp_path / "run", [], OBJECTIVES, METRICS, test_accuracy={}, provenance={}, config_yaml=None
        )


def test_importing_the_report_is_light():
    heavy = "{'matplotlib', 'torch', 'hydra', 'pandas', 'jinja2'}"
    code = f"import sys, dse.report; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
