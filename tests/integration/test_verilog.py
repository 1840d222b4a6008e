"""``export format=verilog`` on a real run: the circuits of a layer, simulated, and machines without an area."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from dse.candidate import Candidate
from dse.cli import main
from dse.evaluate import Evaluator
from dse.export import read_export
from dse.run_folder import read_config
from dse.settings import AcceleratorSettings, Setup
from dse.study import load_records
from energy.rtl.simulate import simulate_text
from energy.rtl.tools import missing
from tests.integration.sweeping import copied

pytestmark = pytest.mark.usefixtures("own_threads")

LAYER = "layer1.0.conv1"
FILES = ("layer1_0_conv1.v", "layer1_0_conv1_testbench.v", "layer1_0_conv1_element.v")
_NO_SIMULATOR = missing("iverilog", "vvp")


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(finished_run, tmp_path_factory.mktemp("verilog") / "run")


def labelled(run: Path, label: str) -> int:
    rows = pd.read_csv(run / "trials.csv")
    return int(rows.index[rows["label"] == label][0])


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    number = labelled(run, "ternary")
    threads = torch.get_num_threads()
    try:
        assert main(["export", f"run={run}", f"trial={number}", "format=verilog", f"layer={LAYER}"]) == 0
    finally:
        torch.set_num_threads(threads)
    return run / "exports" / str(number)


def test_the_layer_lies_beside_the_candidate(exported: Path) -> None:
    folder = exported / "verilog"
    names = {path.name for path in folder.iterdir()}
    assert names == {*FILES, "layer1_0_conv1_element_testbench.v", "layer1_0_conv1.json"}
    described = json.loads((folder / "layer1_0_conv1.json").read_text(encoding="utf-8"))
    assert described["layer"] == LAYER
    assert described["element"]["module"] == "ternary_mux_add"
    graph = described["adder graph"]
    fields = graph["outputs in y"]
    assert sum(field["width"] for field in fields) == graph["outputs"]["y"]
    assert [field["low"] for field in fields] == sorted(field["low"] for field in fields)
    assert (exported / "metrics.json").is_file()
    read_export(exported).check_weights(exported / "weights.safetensors")


@pytest.mark.skipif(_NO_SIMULATOR is not None, reason=str(_NO_SIMULATOR))
def test_its_circuits_compute_the_layer(exported: Path) -> None:
    """The testbenches hold sums that were taken from the weights by plain integer products."""
    for name in ("layer1_0_conv1", "layer1_0_conv1_element"):
        texts = [(exported / "verilog" / f"{name}{part}.v").read_text() for part in ("", "_testbench")]
        assert simulate_text(*texts) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["format=vhdl", f"layer={LAYER}"],
            "format: unknown format 'vhdl'.*verilog",
        ),
        (["format=verilog"], "layer=None: expected a layer's name with format=verilog"),
        ([f"layer={LAYER}"], f"layer={LAYER}: expected .* null without it"),
        (["format=verilog", "layer=layer1.0.conv9"], "layer: unknown layer 'layer1.0.conv9'; did you mean"),
        (["format=verilog", f"layer={LAYER}", "trial=0"], "its weights are in floating point"),
    ],
)
def test_what_has_no_circuit_is_refused(
    words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = labelled(run, "ternary")
    if not any(word.startswith("trial=") for word in words):
        words = [*words, f"trial={number}"]
    assert main(["export", f"run={run}", *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_exported_workload_is_priced_on_gate_arrays(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = [
        "+accelerator@accelerators.stream=fpga_streaming",
        "+accelerator@accelerators.array=fpga_overlay",
        "+accelerator@accelerators.macro=digital_cim",
        "+accelerator@accelerators.tracks=associative_rtm",
    ]
    assert (
        main(["price", f"workload={exported / 'workload.yaml'}", *words]) == 0
    )  # none of them was in the study
    found = json.loads(capsys.readouterr().out)
    assert found["bitserial"]["area_mm2"] > 0 and found["stream"]["area_mm2"] is None
    assert found["stream"]["breakdown"]["resources"]["LUT"]["taken"] > 0
    assert any("no area of its own" in note for note in found["stream"]["breakdown"]["notes"])


def test_an_area_that_there_is_not_is_absent_with_its_reason(run: Path) -> None:
    setup = Setup.from_dict(read_config(run))
    machines = {**setup.accelerators, "fpga": AcceleratorSettings("fpga", {"style": "overlay"})}
    evaluator = Evaluator(Setup(**{**vars(setup), "accelerators": machines}))
    assert "no area of its own" in evaluator.bench.absent()["area.fpga"]
    candidate = candidate_of(run, labelled(run, "ternary"))
    evaluation = evaluator.evaluate(candidate)
    assert evaluation.metrics["energy.fpga"] > 0 and evaluation.metrics["area.bitserial"] > 0
    assert "area.fpga" not in evaluation.metrics
    assert "no area of its own" in evaluation.absent["area.fpga"]


def candidate_of(run: Path, number: int) -> Candidate:
    record = next(r for r in load_records(run) if r.number == number)
    return Candidate.from_dict(record.evaluation.candidate)
