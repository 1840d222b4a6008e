"""The main job end to end on real images: search, resume, report, export, evaluate, interruption and death."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from dse.cli import main
from dse.pareto import front_of
from dse.records import TrialRecord
from dse.study import load_records, load_study_info
from tests.integration.sweeping import (
    LABELS,
    PATIENCE_S,
    check_whole,
    finished,
    start,
    sweep_words,
    wait_for_trials,
)

N_TRIALS = 7


@pytest.fixture(scope="module", autouse=True)
def torch_threads() -> Iterator[None]:
    """``evaluation.threads`` is torch's setting for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("results")
    assert main(sweep_words(folder, N_TRIALS)) == 0
    return folder / "run"


@pytest.fixture
def copied(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "elsewhere" / "run"))


@pytest.fixture(scope="module")
def exported(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the exported knee."""
    run = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(swept, run)
    assert main(["export", f"run={run}", "select=knee"]) == 0
    (folder,) = (run / "exports").iterdir()
    return folder


def trials(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "trials.csv", keep_default_na=False)


def record(run: Path, number: int) -> TrialRecord:
    return next(r for r in load_records(run) if r.number == number)


def test_a_sweep_leaves_the_files_it_promises(swept: Path) -> None:
    names = {path.name for path in swept.iterdir()}
    promised = {"journal.log", "config.yaml", "provenance.json", "trials.csv", "pareto.csv", "report.html"}
    assert promised | {"figures", "columns.json", "test_accuracy.json"} <= names
    stems = {path.stem for path in (swept / "figures").iterdir()}
    assert {"accuracy_energy.bitserial", "accuracy_area.bitserial", "accuracy_size", "hypervolume"} <= stems
    assert {"energy_components.bitserial", "energy_layers.bitserial"} <= stems
    for stem in stems:
        assert (swept / "figures" / f"{stem}.png").stat().st_size > 1000
        assert "<svg" in (swept / "figures" / f"{stem}.svg").read_text(encoding="utf-8")
    assert not list(swept.rglob("*.tmp"))
    check_whole(swept, N_TRIALS)


def test_trials_csv_reads_back_exactly_what_the_study_holds(swept: Path) -> None:
    table = trials(swept)
    records = load_records(swept)
    assert list(table["number"]) == [r.number for r in records]
    assert set(table["label"]) - {""} == LABELS
    metrics = {
        "accuracy": "accuracy",
        "size_bytes": "size",
        "energy.bitserial_j": "energy.bitserial",
        "latency.bitserial_s": "latency.bitserial",
        "area.bitserial_mm2": "area.bitserial",
    }
    for column, name in metrics.items():
        told = [float(r.evaluation.metrics[name]) for r in records]
        assert [float(v) for v in table[column]] == told
        assert all(math.isfinite(v) and v > 0 for v in told)
    assert list(table["energy.measured_j"]) == [""] * N_TRIALS  # absent: not zero, not NaN, not an estimate
    columns = json.loads((swept / "columns.json").read_text(encoding="utf-8"))
    assert columns["energy.measured_j"]["absent_reason"]
    front = {r.number for r in front_of(records, load_study_info(swept).objectives)}
    assert {
        int(n) for n, on in zip(table["number"], table["on_front"], strict=True) if on in (True, "true")
    } == front
    pareto = pd.read_csv(swept / "pareto.csv", keep_default_na=False)
    assert set(pareto["number"]) == front
    assert all(0 <= float(v) <= 1 for v in pareto["test_accuracy"])


def test_figures_make_sense(swept: Path) -> None:
    table = trials(swept).set_index("label")
    energy, size = table["energy.bitserial_j"], table["size_bytes"]
    order = ["float", "uniform 8", "uniform 4", "uniform 2"]
    for dear, cheap in zip(order, order[1:], strict=False):
        assert energy[dear] > energy[cheap]
        assert size[dear] > size[cheap]
    assert table["accuracy"]["float"] > 0.9  # trained for these images
    for row in load_records(swept):
        breakdown = row.evaluation.breakdown["bitserial"]
        total = sum(sum(parts.values()) for parts in breakdown["energy_j"].values())
        assert total == pytest.approx(row.evaluation.metrics["energy.bitserial"])
        assert sum(breakdown["area_mm2"].values()) == pytest.approx(row.evaluation.metrics["area.bitserial"])


def test_the_same_command_again_has_nothing_to_do(copied: Path) -> None:
    journal, table = (copied / "journal.log").read_bytes(), (copied / "trials.csv").read_bytes()
    assert main(sweep_words(copied.parent, N_TRIALS)) == 0
    assert (copied / "journal.log").read_bytes() == journal
    assert (copied / "trials.csv").read_bytes() == table


def test_a_larger_budget_goes_on(copied: Path) -> None:
    before = load_records(copied)
    assert main(sweep_words(copied.parent, N_TRIALS + 2)) == 0
    check_whole(copied, N_TRIALS + 2)
    assert load_records(copied)[:N_TRIALS] == before
    assert len(trials(copied)) == N_TRIALS + 2


def test_the_memo_may_be_deleted_and_changes_nothing(swept: Path, tmp_path: Path) -> None:
    """A second sweep from nothing proposes and finds exactly the same."""
    assert main(sweep_words(tmp_path, N_TRIALS)) == 0

    def content(run: Path) -> list[tuple]:
        return [
            (r.params, r.label, r.seed, r.evaluation.metrics, r.evaluation.plan) for r in load_records(run)
        ]

    assert content(tmp_path / "run") == content(swept)


def test_report_rebuilds_everything_from_the_folder_alone(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {name: (copied / name).read_bytes() for name in ("trials.csv", "pareto.csv", "columns.json")}
    figures = {path.name for path in (copied / "figures").iterdir()}
    shutil.rmtree(copied / "figures")
    shutil.rmtree(copied / "memo")
    for name in (*tables, "report.html"):
        (copied / name).unlink()
    assert main(["report", f"run={copied}"]) == 0
    assert {name: (copied / name).read_bytes() for name in tables} == tables
    assert {path.name for path in (copied / "figures").iterdir()} == figures
    assert "<html" in (copied / "report.html").read_text(encoding="utf-8")
    for line in capsys.readouterr().out.split():
        assert Path(line).is_file()


def expected_number(table: pd.DataFrame, rule: str) -> int:
    """The trial a rule names, straight from the table."""
    if rule == "max_accuracy":
        return int(table.loc[table["accuracy"].idxmax(), "number"])
    kept = table[table["accuracy"] >= 0.5]
    return int(kept.loc[kept["energy.bitserial_j"].idxmin(), "number"])


@pytest.mark.parametrize("rule", ["max_accuracy", "lowest energy with accuracy >= 0.5", "trial=3"])
def test_export_by_rule(rule: str, copied: Path) -> None:
    words = [rule] if rule.startswith("trial=") else [f"select={rule}"]
    assert main(["export", f"run={copied}", *words]) == 0
    (folder,) = (copied / "exports").iterdir()
    table = trials(copied)
    if rule == "max_accuracy":
        chosen = table[table["number"] == int(folder.name)]
        assert float(chosen["accuracy"].iloc[0]) == table["accuracy"].max()
        assert chosen["on_front"].iloc[0] in (True, "true")
    else:
        number = 3 if rule == "trial=3" else expected_number(table, rule)
        assert int(folder.name) == number


def test_an_export_holds_what_the_trial_says(exported: Path) -> None:
    told = record(exported.parents[1], int(exported.name))
    metrics = json.loads((exported / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["metrics"] == dict(told.evaluation.metrics)
    assert metrics["absent"] == dict(told.evaluation.absent)
    assert metrics["plan_digest"] == told.evaluation.plan
    plan = json.loads((exported / "plan.json").read_text(encoding="utf-8"))
    assert {k: plan[k] for k in ("plan", "granularity")} == told.evaluation.candidate
    with safe_open(exported / "weights.safetensors", "np") as file:
        keys = set(file.keys())
    for layer, layer_plan in plan["plan"]["layers"].items():
        assert (f"{layer}|magnitude" in keys) == (layer_plan["weight"] is not None)
        assert (f"{layer}.weight" in keys) == (layer_plan["weight"] is None)


def test_evaluate_repeats_the_sweeps_figures_exactly(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the packed weights alone, somewhere else, without the run folder."""
    alone = shutil.copytree(exported, tmp_path / "candidate")
    assert main(["evaluate", f"candidate={alone}"]) == 0
    result = json.loads(capsys.readouterr().out)
    told = json.loads((exported / "metrics.json").read_text(encoding="utf-8"))
    assert result["metrics"] == told["metrics"]
    assert result["breakdown"] == told["breakdown"]
    assert (result["trial"], result["split"]) == (int(exported.name), "search")
    assert main(["evaluate", f"candidate={alone}", "split=test"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] == told["test_accuracy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["select=kne"], "select=kne: expected knee, trial=N"),
        (["trial=99"], "select=trial=99: expected a trial from 0 to 6"),
        (["select=min_enrgy"], "select: unknown metric 'enrgy'"),
        (["select=min_energy where accuracy >= 200%"], "trial"),
        (["trial=abc"], "abc"),
    ],
)
def test_a_rule_that_names_nothing(
    words: list[str], message: str, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", f"run={swept}", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dse: ") and message in err and "Traceback" not in err
    assert not (swept / "exports").exists()


def test_an_export_that_would_not_repeat_the_sweep_is_refused(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (copied / "config.yaml").read_text(encoding="utf-8")
    (copied / "config.yaml").write_text(text.replace("lanes: 16", "lanes: 8"), encoding="utf-8")
    assert main(["export", f"run={copied}", "trial=1"]) == 2
    assert "trial 1: the sweep found" in capsys.readouterr().err
    assert not (copied / "exports").exists()


def altered(folder: Path, file: str) -> None:
    path = folder / file
    if file == "plan.json":
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        layer = next(iter(data["granularity"]))
        data["granularity"][layer] = 8 if data["granularity"][layer] != 8 else 4
        path.write_text(json.dumps(data), encoding="utf-8")
    else:
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("file", ["plan.json", "weights.safetensors"])
def test_an_altered_candidate_is_refused(
    file: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "candidate"))
    altered(folder, file)
    assert main(["evaluate", f"candidate={folder}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(folder / file) in captured.err and "altered since the export" in captured.err


def test_ctrl_c_finishes_the_trial_writes_the_report_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(*sweep_words(tmp_path, 200))
    wait_for_trials(run, 3, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "stopping after the trial in hand" in err and "Traceback" not in err
    records = load_records(run)
    assert {r.state for r in records} == {"COMPLETE"} and 3 <= len(records) < 200
    assert len(trials(run)) == len(records)
    assert (run / "report.html").is_file() and (run / "figures" / "hypervolume.png").is_file()
    budget = max(6, len(records) + 1)
    assert main(sweep_words(tmp_path, budget)) == 0
    check_whole(run, budget)
    assert load_records(run)[: len(records)] == records


def test_killed_twice_and_completed(tmp_path: Path) -> None:
    run, n_trials = tmp_path / "run", 8
    for count in (1, 4):
        process = start(*sweep_words(tmp_path, n_trials))
        wait_for_trials(run, count, process)
        process.kill()
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGKILL, err
    survived = finished(run)
    assert main(sweep_words(tmp_path, n_trials)) == 0
    check_whole(run, n_trials)
    done = {r.number: r for r in finished(run)}
    assert all(done[r.number] == r for r in survived)  # nothing lost, nothing done again


def test_two_sweeps_at_once_share_the_budget(tmp_path: Path) -> None:
    n_trials = 9
    both = [start(*sweep_words(tmp_path, n_trials)) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
    check_whole(tmp_path / "run", n_trials)
    assert len(trials(tmp_path / "run")) == n_trials
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text(encoding="utf-8"))
    assert len(provenance if isinstance(provenance, list) else provenance["sessions"]) == 2
