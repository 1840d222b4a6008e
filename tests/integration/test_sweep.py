"""The real command line on the real network and digits, in small: search, resume, report, export, evaluate."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dse.cli import main
from dse.study import load_records
from energy.meters import open_meter
from tests.benchmarks.killing import audit, differing
from tests.integration.sweeping import (
    BASELINES,
    N_TRIALS,
    ROOT,
    complete,
    content,
    copied,
    finish,
    in_hand_after,
    start,
    sweep,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("own_threads")

TABLES = ("trials.csv", "pareto.csv", "columns.json")
FIGURES = (
    "accuracy_energy.bitserial",
    "accuracy_area.bitserial",
    "accuracy_latency.bitserial",
    "accuracy_size",
    "hypervolume",
    "energy_components.bitserial",
    "energy_layers.bitserial",
)
OBJECTIVES = {"accuracy": "max", "energy.bitserial_j": "min", "area.bitserial_mm2": "min"}
METRIC_COLUMNS = {
    "accuracy": "accuracy",
    "size": "size_bytes",
    "energy.bitserial": "energy.bitserial_j",
    "latency.bitserial": "latency.bitserial_s",
    "area.bitserial": "area.bitserial_mm2",
}


def table(run: Path, name: str = "trials.csv") -> pd.DataFrame:
    """A table with its figures as written: pandas' own reading of decimals is not exact in every version."""
    exact = dict.fromkeys(["test_accuracy", *METRIC_COLUMNS.values()], _number)
    header = (run / name).read_text().partition("\n")[0].split(",")
    converters = {column: read for column, read in exact.items() if column in header}
    return pd.read_csv(run / name, converters=converters, keep_default_na=False, na_values=[""])


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan


def tables(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in TABLES}


# --- what a sweep leaves behind


def test_a_run_leaves_everything_it_promises(finished_run: Path) -> None:
    names = set(content(finished_run))
    assert {*TABLES, "report.html", "journal.log", "config.yaml", "provenance.json"} <= names
    assert {f"figures/{figure}.{kind}" for figure in FIGURES for kind in ("png", "svg")} <= names
    for figure in FIGURES:
        assert (finished_run / f"figures/{figure}.png").read_bytes().startswith(b"\x89PNG\r\n")
        assert "<svg" in (finished_run / f"figures/{figure}.svg").read_text()
    page = (finished_run / "report.html").read_text()
    assert all(label in page for label in BASELINES)
    session = json.loads((finished_run / "provenance.json").read_text())[0]
    assert session["versions"]["torch"] == torch.__version__ and session["seed"] == 0


def test_the_table_holds_every_trial_with_its_label(finished_run: Path) -> None:
    rows = table(finished_run)
    assert list(rows["number"]) == list(range(N_TRIALS))
    assert list(rows["label"].fillna("")) == [*BASELINES, "", ""]
    assert set(rows["state"]) == {"COMPLETE"}
    figures = rows[list(METRIC_COLUMNS.values())]
    assert figures.notna().all(axis=None) and (figures > 0).all(axis=None)
    # 60 images: every accuracy is a whole number of them
    assert (rows["accuracy"] * 60).map(float.is_integer).all() and rows["accuracy"].max() <= 1
    assert rows.loc[0, "size_bytes"] > 3 * rows.loc[1, "size_bytes"]  # float32 against eight bits


def test_the_front_is_what_no_other_trial_dominates(finished_run: Path) -> None:
    rows = table(finished_run)
    costs = [
        [-row[name] if better == "max" else row[name] for name, better in OBJECTIVES.items()]
        for _, row in rows.iterrows()
    ]
    front = {
        i
        for i, mine in enumerate(costs)
        if not any(o != mine and all(a <= b for a, b in zip(o, mine, strict=True)) for o in costs)
    }
    assert set(rows.index[rows["on_front"]]) == front
    pareto = table(finished_run, "pareto.csv")
    assert set(pareto["number"]) == front
    assert pareto["test_accuracy"].between(0.1, 1).all()


def test_columns_say_unit_and_origin(finished_run: Path) -> None:
    columns = json.loads((finished_run / "columns.json").read_text())
    given = {name for name, column in columns.items() if "absent_reason" not in column}
    assert {"test_accuracy", *table(finished_run).columns} == given
    assert columns["energy.measured_j"]["absent_reason"].startswith("measuring is switched off")
    assert (columns["accuracy"]["origin"], columns["size_bytes"]["origin"]) == ("measured", "measured")
    for name, unit in (("energy", "j"), ("latency", "s"), ("area", "mm2")):
        column = columns[f"{name}.bitserial_{unit}"]
        assert (column["origin"], column["unit"]) == ("modelled", unit)


# --- again, further, and from the folder alone


def test_the_same_command_again_changes_nothing_and_a_larger_budget_goes_on(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(finished_run, tmp_path / "run")
    before = content(run)
    assert sweep(run) == 0
    assert f"{N_TRIALS} of {N_TRIALS} trials finished already" in capsys.readouterr().err
    after = content(run)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    # The log of sessions, the page that shows it, and where the copied folder lies.
    assert changed <= {"provenance.json", "report.html", "config.yaml"}

    assert sweep(run, f"study.n_trials={N_TRIALS + 2}") == 0
    records = load_records(run)
    assert audit(records).finished == len(records) == N_TRIALS + 2
    rows = table(run)
    assert len(rows) == N_TRIALS + 2
    kept = rows.head(N_TRIALS).drop(columns="on_front")
    pd.testing.assert_frame_equal(kept, table(finished_run).drop(columns="on_front"))
    sessions = json.loads((run / "provenance.json").read_text())
    assert len(sessions) == 3


def test_the_report_needs_the_folder_alone_and_no_torch(finished_run: Path, tmp_path: Path) -> None:
    run = copied(finished_run, tmp_path / "elsewhere" / "copy")
    before = tables(run)
    gone = [*(run / name for name in TABLES), run / "report.html", *(run / "figures").iterdir()]
    for path in [*gone, *(run / "memo").iterdir()]:
        path.unlink()
    without_torch = "import sys; sys.modules['torch'] = None; from dse.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", without_torch, "report", f"run={run}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert tables(run) == before
    assert all(path.stat().st_size > 0 for path in gone)
    assert {str(path) for path in gone} <= set(done.stdout.splitlines())


# --- export and evaluate


@pytest.fixture(scope="module")
def exportable(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(finished_run, tmp_path_factory.mktemp("exportable") / "run")


def lowest_energy(rows: pd.DataFrame) -> int:
    return int(rows["energy.bitserial_j"].idxmin())


RULES: list[tuple[str, Callable[[pd.DataFrame], int]]] = [
    ("trial=0", lambda rows: 0),  # the float network
    ("select=trial=4", lambda rows: 4),
    ("select=max_accuracy", lambda rows: int(rows["accuracy"].idxmax())),
    ("select=lowest energy with accuracy >= 0.5", lambda rows: lowest_energy(rows[rows["accuracy"] >= 0.5])),
    (
        "select=min_energy where accuracy >= 96%",
        lambda rows: lowest_energy(rows[rows["accuracy"] >= 0.96]),
    ),
]


def printed_export(run: Path, rule: str, capsys: pytest.CaptureFixture[str]) -> Path:
    capsys.readouterr()
    assert main(["export", f"run={run}", rule]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [
        "plan.json",
        "weights.safetensors",
        "workload.yaml",
        "metrics.json",
    ]
    return paths[0].parent


def evaluated(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", f"candidate={folder}", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("rule", "truth"), RULES, ids=[rule for rule, _ in RULES])
def test_an_export_evaluates_to_the_very_figures_of_its_trial(
    rule: str,
    truth: Callable[[pd.DataFrame], int],
    exportable: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = table(exportable)
    folder = printed_export(exportable, rule, capsys)
    number = int(folder.name)
    expected = truth(rows)
    if rule == "select=max_accuracy":  # several may reach it
        assert rows.loc[number, "accuracy"] == rows.loc[expected, "accuracy"]
    else:
        assert number == expected
    again = evaluated(folder, capsys)
    kept = json.loads((folder / "metrics.json").read_text())
    assert again["trial"] == kept["trial"] == number
    for name, column in METRIC_COLUMNS.items():
        assert again["metrics"][name] == kept["metrics"][name] == rows.loc[number, column]
    assert set(again["metrics"]) == set(METRIC_COLUMNS)
    assert again["breakdown"] == kept["breakdown"]


def test_an_exported_network_runs_on_integers(exportable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(exportable)
    folder = printed_export(exportable, f"select=trial={rows.index[rows.label == 'ternary'][0]}", capsys)
    found = evaluated(folder, capsys, "lowered=thresholds")
    lowered = found["lowered"]
    assert lowered["accuracy"] == found["metrics"]["accuracy"]
    assert found["arithmetic"] == "integers"
    assert lowered["latency.measured"] > 0 and lowered["latency.measured_float"] > 0
    first = lowered["operations"]["layer1.0.conv1"]
    assert first["popcounts"] + first["byte_products"] > 0
    assert first["multiplications"] == 0
    assert main(["evaluate", f"candidate={folder}", "lowered=divide"]) != 0
    assert "lowering.rescale=divide" in capsys.readouterr().err


def test_the_knee_lies_on_the_front_and_scores_on_the_test_images_as_the_table_says(
    exportable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = printed_export(exportable, "select=knee", capsys)
    pareto = table(exportable, "pareto.csv").set_index("number")
    told = pareto["test_accuracy"][int(folder.name)]
    assert evaluated(folder, capsys, "split=test")["metrics"]["accuracy"] == told
    assert json.loads((folder / "metrics.json").read_text())["test_accuracy"] == told


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def first_layer_bits(plan: dict[str, Any]) -> None:
    next(layer for layer in plan["plan"]["layers"].values())["activation"]["bits"] = 3


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "another trial": (
        lambda folder: edited(folder / "plan.json", lambda plan: plan.update(trial=5)),
        "altered since the export",
    ),
    "fewer images": (
        lambda folder: edited(folder / "plan.json", lambda plan: plan["setup"]["data"].update(search=50)),
        "altered since the export",
    ),
    "other bits": (
        lambda folder: edited(folder / "plan.json", first_layer_bits),
        "altered since the export",
    ),
    "impossible bits": (
        lambda folder: edited(
            folder / "plan.json",
            lambda plan: next(iter(plan["plan"]["layers"].values()))["activation"].update(bits=99),
        ),
        "an integer from 1 to 8",
    ),
    "code to run": (
        lambda folder: edited(
            folder / "plan.json", lambda plan: plan["setup"]["model"].update(target="os:abort")
        ),
        "altered since the export",
    ),
    "no JSON": (lambda folder: (folder / "plan.json").write_text('{"format": '), "not JSON"),
    "truncated weights": (
        lambda folder: os.truncate(folder / "weights.safetensors", 4000),
        "truncated or was altered",
    ),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "cannot be read"),
}


@pytest.mark.parametrize("harm", HARM)
def test_an_altered_export_is_refused(
    harm: str, exportable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = exportable / "exports" / "4"
    if not source.exists():
        printed_export(exportable, "trial=4", capsys)
    folder = copied(source, tmp_path / "candidate")
    alter, message = HARM[harm]
    alter(folder)
    assert main(["evaluate", f"candidate={folder}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"dse: {folder}/") and message in captured.err


# --- interrupted, killed, side by side


def check_same_as_undisturbed(run: Path, finished_run: Path) -> None:
    records = load_records(run)
    found = audit(records)
    assert (found.finished, found.lost_or_doubled, found.badly_retried) == (N_TRIALS, 0, 0)
    assert (found.repeated_seeds, found.repeated_params) == (0, 0)
    assert differing(records, load_records(finished_run)) == 0
    assert len(table(run)[lambda rows: rows["state"] == "COMPLETE"]) == N_TRIALS


@pytest.mark.slow
def test_ctrl_c_finishes_the_trial_in_hand_and_writes_the_reports(finished_run: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    process = start(run, log=log)
    wait_until(run, in_hand_after(2), process)
    process.send_signal(signal.SIGINT)
    assert finish(process) == 130
    assert "stopping after the trial in hand" in log.read_text()
    records = load_records(run)
    assert 3 <= len(complete(records)) == len(records) < N_TRIALS
    assert len(table(run)) == len(records)
    assert (run / "report.html").exists() and list((run / "figures").glob("*.png"))
    assert not (run / "test_accuracy.json").exists()  # scored once, when the search is over
    assert sweep(run) == 0
    check_same_as_undisturbed(run, finished_run)


@pytest.mark.slow
def test_killed_twice_and_completed_finds_what_an_undisturbed_sweep_finds(
    finished_run: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    for n in (N_TRIALS - 2, N_TRIALS - 1):  # both while a trial of the search itself is in hand
        process = start(run, log=log)
        wait_until(run, in_hand_after(n), process)
        process.kill()
        assert finish(process) == -signal.SIGKILL
    assert sweep(run) == 0
    assert audit(load_records(run)).orphans == 2
    check_same_as_undisturbed(run, finished_run)


@pytest.mark.slow
def test_two_sweeps_at_once_share_one_folder(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = [start(run, log=tmp_path / f"log{i}") for i in range(2)]
    assert [finish(process) for process in both] == [0, 0]
    records = load_records(run)
    found = audit(records)
    assert (found.finished, len(records), found.lost_or_doubled) == (N_TRIALS, N_TRIALS, 0)
    assert (found.orphans, found.repeated_seeds, found.repeated_params) == (0, 0, 0)
    # The order may differ, what the baselines reach does not.
    known = [record for record in load_records(finished_run) if record.label]
    assert differing([record for record in records if record.label], known) == 0
    assert len(table(run)) == N_TRIALS and table(run, "pareto.csv")["test_accuracy"].notna().all()
    assert len(json.loads((run / "provenance.json").read_text())) == 2


# --- measured energy, and a network of the user's own

NETWORK = """
from collections import OrderedDict
from torch import nn

def conv(inputs, outputs, stride):
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)

def build(smooth=False):
    features = OrderedDict(
        conv1=conv(3, 8, 2), bn1=nn.BatchNorm2d(8), relu1=nn.ReLU(),
        conv2=conv(8, 8, 2), bn2=nn.BatchNorm2d(8), act=nn.SiLU() if smooth else nn.ReLU(),
        conv3=conv(8, 8, 2), bn3=nn.BatchNorm2d(8), relu3=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(),
    )
    return nn.Sequential(OrderedDict(features=nn.Sequential(features), head=nn.Linear(8, 10)))
"""


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The overrides for a network of a module in the working directory, with random weights in a file."""
    (tmp_path / "users_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # puts back sys.path, and forgets the module below
    monkeypatch.delitem(sys.modules, "users_network", raising=False)
    import users_network

    monkeypatch.delitem(sys.modules, "users_network")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network: nn.Module = users_network.build()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    return ["model.name=null", "model.target=users_network:build", "model.checkpoint=weights.safetensors"]


def test_a_network_of_the_users_own_is_searched_exported_and_evaluated(
    own_network: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert sweep(run, *own_network, f"study.n_trials={len(BASELINES) + 1}") == 0
    rows = table(run)
    assert len(rows) == len(BASELINES) + 1
    assert {name for name in rows if name.startswith("params.")} == {
        f"params.features.{choice}" for choice in ("weights", "activation_bits", "sparsity", "granularity")
    }
    folder = printed_export(run, "trial=4", capsys)
    assert main(["evaluate", f"candidate={folder}"]) == 2
    assert "add target=users_network:build if you trust that code" in capsys.readouterr().err
    again = evaluated(folder, capsys, "target=users_network:build")
    for name, column in METRIC_COLUMNS.items():
        assert again["metrics"][name] == rows.loc[4, column]


def test_additions_left_by_sharing_are_an_objective(
    own_network: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [*own_network, "objectives=reuse", f"study.n_trials={len(BASELINES)}"]
    assert sweep(run, *words) == 2
    assert "evaluation.reuse_block" in capsys.readouterr().err
    assert sweep(run, *words, "evaluation.reuse_block=[8,72]") == 0
    rows = table(run).set_index("label")
    assert rows.loc["float", "additions"] == rows.loc["float", "multiplications"]  # a product, a sum
    # a product by 8 bits takes several additions, so these are no fewer than the float network's
    by_bits = ["ternary", "uniform 2", "uniform 4", "uniform 8"]
    assert rows.loc[by_bits, "additions"].is_monotonic_increasing
    assert rows.loc[[*by_bits, "float"], "multiplications"].is_monotonic_increasing
    assert "Additions per inference" in (run / "report.html").read_text()


def test_what_a_candidate_was_scored_in_is_recorded(own_network: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert sweep(run, *own_network, f"study.n_trials={len(BASELINES)}") == 0
    rows = table(run).set_index("label")
    assert rows.loc["ternary", "arithmetic"] == "integers"
    assert rows.loc["float", "arithmetic"].startswith(
        "float, as it cannot be lowered: layer features.conv1: its"
    )
    spent = [name for name in rows if name.startswith("seconds.")]
    assert {"seconds.convert", "seconds.accuracy", "seconds.price"} <= set(spent)
    stages = [name for name in spent if ": " not in name]  # "convert: batch norm" is part of "convert"
    assert (rows[stages].sum(axis=1) <= rows.duration_s).all()


def test_an_unsupported_layer_is_named_and_left_float_only_if_the_user_says_so(
    own_network: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, words = tmp_path / "run", [*own_network, "model.args.smooth=true", "study.n_trials=2"]
    assert sweep(run, *words) == 2
    err = capsys.readouterr().err
    assert "features.act: SiLU is not supported" in err and "model.float_layers=[features.act]" in err
    assert not (run / "journal.log").exists()
    assert sweep(run, *words, "model.float_layers=[features.axt]") == 2
    assert "unknown layer 'features.axt'; did you mean 'features.act'" in capsys.readouterr().err
    assert sweep(run, *words, "model.float_layers=[features.act]") == 0
    assert len(table(run)) == 2
    page = (run / "report.html").read_text()
    assert "features.act" in page


def test_without_a_gpu_measured_energy_is_absent_with_the_reason(
    own_network: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if open_meter("auto", 0).available() is None:
        pytest.skip("this machine can measure")
    run = tmp_path / "run"
    assert sweep(run, *own_network, "meter=auto", "study.n_trials=2") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "energy.measured is absent: " in line]
    assert len(told) == 1  # once, not for every trial
    reason = told[0].partition("energy.measured is absent: ")[2]
    assert "energy.measured_j" not in table(run)
    assert json.loads((run / "columns.json").read_text())["energy.measured_j"]["absent_reason"] == reason
    assert all(
        record.evaluation and record.evaluation.absent == {"energy.measured": reason}
        for record in load_records(run)
    )
    # It cannot be optimised then, and nothing is put in its place.
    words = [*own_network, "meter=auto", "objectives=measured"]
    capsys.readouterr()
    assert sweep(tmp_path / "other", *words) == 2
    refusal = capsys.readouterr().err
    assert "objectives.names=energy.measured" in refusal and reason in refusal
    assert not (tmp_path / "other" / "journal.log").exists()
