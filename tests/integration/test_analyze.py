"""``dse analyze`` on the shipped network: what it leaves behind, that it resumes, and what it refuses."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dse.analysis.branches import Branches
from dse.analysis.tables import COLUMNS
from dse.cli import main
from dse.evaluate import Evaluator
from dse.settings import SweepSettings
from dse.study import JOURNAL
from tests.integration.sweeping import SMALL, content, copied, into, sweep

pytestmark = pytest.mark.usefixtures("own_threads")

LAYERS = ("conv1", "layer1.0.conv2", "linear")
SPACE = {
    "weights": {"ternary": {"terms": [1]}, "uniform": {"bits": [2, 8]}},
    "baselines": {
        "float": {"weights": "float"},
        "two": {"weights": "uniform-2", "activation_bits": 8, "sparsity": 0.0, "granularity": 1},
    },
}
WORDS = (
    "analyze",
    *(word for word in SMALL[1:] if not word.startswith("study.n_trials")),
    f"analyze.layers=[{','.join(LAYERS)}]",
    "analyze.activation_bits=[8,2]",
    "analyze.repairs=[second_order]",
    "space=tiny",
)


def analyze(folder: Path, *words: str) -> int:
    """A small analysis, of a space of the user's own, into ``folder``, whose name ends in -analysis."""
    study = folder.with_name(folder.name.removesuffix("-analysis"))
    with tempfile.TemporaryDirectory() as configs:
        space = Path(configs) / "space" / "tiny.yaml"
        space.parent.mkdir()
        space.write_text(yaml.safe_dump(SPACE))
        return main([*WORDS, *into(study), "--config-dir", configs, *words])


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a small analysis."""
    folder, threads = tmp_path_factory.mktemp("made") / "small-analysis", torch.get_num_threads()
    assert analyze(folder) == 0
    yield folder
    torch.set_num_threads(threads)


def test_it_leaves_tables_figures_and_a_page(done: Path) -> None:
    assert {f"{name}.csv" for name in COLUMNS} == {path.name for path in done.glob("*.csv")}
    figures = {path.stem for path in (done / "figures").glob("*.png")}
    assert figures == {path.stem for path in (done / "figures").glob("*.svg")}
    assert {
        "sensitivity_kl",
        "sensitivity_output_error",
        "oracle",
        "weights",
        "proxies",
        "choices",
    } <= figures
    assert {"slices", "repairs"} <= figures
    page = (done / "report.html").read_text(encoding="utf-8")
    assert all(layer in page for layer in LAYERS)
    assert json.loads((done / "provenance.json").read_text())[-1]["versions"]["torch"]
    assert yaml.safe_load((done / "config.yaml").read_text())["analyze"]["layers"] == list(LAYERS)


def test_every_layer_meets_every_choice(done: Path) -> None:
    rows = table(done, "sensitivity")
    found = [(r["layer"], r["choice"], r["rounding"]) for r in rows]
    choices = ("ternary-1", "uniform-2", "uniform-8")
    weights = {(n, c, r) for n in LAYERS for c in choices for r in ("nearest", "second_order")}
    assert len(found) == len(set(found))
    assert set(found) == weights | {(n, f"input-{b}", "") for n in LAYERS for b in (8, 2)}
    by_key = {key: row for key, row in zip(found, rows, strict=True)}
    for layer in LAYERS:
        for rounding in ("nearest", "second_order"):
            errors = [float(by_key[layer, c, rounding]["kl_nats"]) for c in ("uniform-2", "uniform-8")]
            assert errors[1] < errors[0]
        eight = by_key[layer, "uniform-8", "nearest"]
        assert float(eight["own_error"]) < 1e-3 and float(eight["output_error"]) < 1e-3
        assert 8 < float(eight["storage_bits_per_weight"]) < 11
        assert float(by_key[layer, "input-8", ""]["kl_nats"]) < float(by_key[layer, "input-2", ""]["kl_nats"])
    assert {(r["layer"], r["choice"]) for r in table(done, "oracles")} == {
        (n, c) for n in LAYERS for c in choices
    }
    assert {r["layer"] for r in table(done, "choices")} == set(LAYERS)
    assert [r["layer"] for r in table(done, "layers")] == list(LAYERS)


def test_second_order_rounding_lessens_the_error_of_the_output(done: Path) -> None:
    rows = {(r["layer"], r["choice"], r["rounding"]): r for r in table(done, "sensitivity")}
    for layer in LAYERS:
        for choice in ("ternary-1", "uniform-2"):
            nearest, second = (rows[layer, choice, r] for r in ("nearest", "second_order"))
            assert float(second["output_error"]) < float(nearest["output_error"])


def test_a_layer_alone_scores_as_a_sweep_would_score_it(done: Path) -> None:
    from compressors.convert import convert
    from compressors.methods.uniform import UniformConfig
    from compressors.plan import CompressionPlan, LayerPlan

    config: dict[str, Any] = yaml.safe_load((done / "config.yaml").read_text())
    evaluator = Evaluator(SweepSettings.from_dict(config).setup)
    rows = {(r["layer"], r["choice"], r["rounding"]): r for r in table(done, "sensitivity")}
    for layer in LAYERS:
        plan = CompressionPlan(((layer, LayerPlan(UniformConfig(2))),))
        model = convert(evaluator.model, plan, evaluator.calibration)
        lost = 100 * (evaluator.float_accuracy - evaluator.bench.accuracy(model, "search"))
        found = rows[layer, "uniform-2", "nearest"]
        assert float(found["accuracy_drop_points"]) == pytest.approx(lost, abs=1e-6)


def test_baselines_are_converted_with_their_repairs(done: Path) -> None:
    rows = {(r["baseline"], r["recipe"]): r for r in table(done, "repairs")}
    assert set(rows) == {("two", "nearest"), ("two", "second_order")}
    repaired = rows["two", "second_order"]
    better = float(repaired["planned_kl_nats"]) <= float(repaired["plain_kl_nats"])
    assert repaired["kept"] == ("as planned" if better else "without repairs")
    assert float(repaired["seconds_s"]) > 0


def test_the_same_again_computes_nothing_anew(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(done)

    def refuse(*_: object) -> None:
        raise AssertionError("was known already")

    monkeypatch.setattr(Branches, "layer", refuse)
    assert analyze(done) == 0
    after = content(done)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"provenance.json", "report.html"}
    assert set(before) == set(after)
    out, err = capsys.readouterr()
    assert "rank correlation with the accuracy lost" in out and "uniform-2" in out
    assert f"3 layers, 3 choices: {done / 'report.html'}" in err


OTHERS = {
    "analyze.choices=[ternary-1]": 'analyze.choices: was null, now ["ternary-1"]',
    "analyze.activation_bits=[8]": "analyze.activation_bits: was [8, 2], now [8]",
    "space.bias=match": 'space.bias: was "keep", now "match"',
    "data.calibration=40": "data.calibration: was 32, now 40",
}


@pytest.mark.parametrize("word", OTHERS)
def test_an_analysis_is_not_replaced_by_another(
    word: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(done)
    assert analyze(done, word) == 2
    told = capsys.readouterr().err
    assert f"dse: {done} holds an analysis of something else:\n  {OTHERS[word]}" in told
    assert "study.name=ANOTHER_NAME" in told
    assert content(done) == before


def test_a_sweep_does_not_write_over_an_analysis(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(done)
    assert sweep(done) == 2
    told = capsys.readouterr().err
    assert f"dse: {done} holds an analysis; choose another study.name for a sweep" in told
    assert "loading" not in told  # of torch and the data, which such a refusal need not wait for
    assert content(done) == before and not (done / "workers").exists()


@pytest.mark.slow
def test_an_interrupted_analysis_goes_on(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, real, runs = tmp_path / "cut-analysis", Branches.run, []

    def interrupted(self: Branches, node: Any) -> Any:
        runs.append(node)
        if len(runs) == 5:
            raise KeyboardInterrupt
        return real(self, node)

    with monkeypatch.context() as patch:
        patch.setattr(Branches, "run", interrupted)
        assert analyze(folder, "analyze.repairs=[]") == 130
    assert "interrupted; the same command again goes on" in capsys.readouterr().err
    assert not (folder / "report.html").exists()
    counted: list[Any] = []
    monkeypatch.setattr(Branches, "run", lambda self, node: counted.append(node) or real(self, node))
    assert analyze(folder, "analyze.repairs=[]") == 0
    assert len(counted) == len(table(folder, "sensitivity")) - 4
    for name in ("layers", "oracles", "slices"):
        assert (folder / f"{name}.csv").read_bytes() == (done / f"{name}.csv").read_bytes()
    one, other = (
        [{k: v for k, v in r.items() if k != "seconds_s"} for r in table(f, "sensitivity")]
        for f in (folder, done)
    )
    assert one == other


REFUSED = [
    (
        ["analyze.layers=[conv1,layer9.conv1]"],
        "analyze.layers: unknown layer 'layer9.conv1'; did you mean 'layer",
    ),
    (["analyze.layers=[]"], "analyze.layers=[]: expected paths of layers, or null for all of them"),
    (
        ["analyze.roundings=[neerest]"],
        "analyze.roundings: unknown rounding 'neerest'; did you mean 'nearest'",
    ),
    (["analyze.repairs=[second]"], "analyze.repairs: unknown repair 'second'"),
    (["analyze.activation_bits=[0]"], "analyze.activation_bits=0: expected an integer from 1 to 8"),
    (["analyze.layer=[conv1]"], "analyze: unknown key 'layer'; did you mean 'layers'"),
    (["space.weights.ternry.terms=[1]"], "space.weights: unknown compressor 'ternry'"),
    (["study.name=a/b"], "study.name='a/b': expected the name of a folder"),
    (["analyze.roundings=[]"], "analyze.roundings=[]: expected at least one of nearest, second_order\n"),
    (
        ["analyze.choices=ternary-1"],
        "analyze.choices=ternary-1: expected null, or a list, each item text, as in 'analyze.choices=[ternary-1]'",
    ),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_wrong_words_are_named_and_leave_nothing_behind(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(tmp_path / "new-analysis", *words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_some_choices_of_some_layers(tmp_path: Path) -> None:
    folder = tmp_path / "few-analysis"
    words = ("analyze.choices=[uniform-8]", "analyze.roundings=[nearest]", "analyze.activation_bits=[]")
    assert analyze(folder, *words, "analyze.layers=[linear]", "analyze.repairs=[]") == 0
    assert [(r["layer"], r["choice"]) for r in table(folder, "sensitivity")] == [("linear", "uniform-8")]
    assert {r["recipe"] for r in table(folder, "repairs")} == {"nearest"}


def test_what_a_sweep_left_is_left_alone(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(finished_run, tmp_path / "mine-analysis")
    before = content(folder)
    assert analyze(folder) == 2
    assert "holds the study of a sweep; choose another study.name" in capsys.readouterr().err
    assert content(folder) == before


def test_the_folder_of_a_sweep_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine-analysis"
    folder.mkdir()
    (folder / JOURNAL).write_text("")
    assert analyze(folder) == 2
    assert "holds the study of a sweep; choose another study.name" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [JOURNAL]


def test_the_help_says_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dse analyze: ")
    assert "results/NAME-analysis" in out and "activation_bits" in out and "roundings" in out
