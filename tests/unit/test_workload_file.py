"""Workload files: exact round trips, layers written by hand against counted ones, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from compressors.errors import DseError
from compressors.slicing import ENCODINGS, from_codes
from dse.cli import main
from energy.activity import ReuseActivity, input_activity, weight_activity
from energy.workload import Workload
from energy.workload_file import WorkloadError, parse_workload, read_workload, workload_yaml
from tests.energy_workloads import activities, inputs, layer, ternary_weights

BY_HAND = """
image_bits: 24576
layers:
  - {name: conv1, outputs: 16, inputs: 3, kernel: [3, 3], output_size: [32, 32], output_bits: 4,
     weights: {bits: 8}, input: {bits: 8, signed: true}}
  - {name: conv2, outputs: 16, inputs: 16, kernel: [3, 3], output_size: [32, 32], output_bits: 4,
     weights: {ternary: 1, density: 0.5}, input: {bits: 4}}
  - {name: head, outputs: 10, inputs: 16, output_bits: 32, weights: null, input: null}
"""


def test_a_traced_workload_reads_back_exactly() -> None:
    layers = (
        layer("a", added=True, stride=(2, 1), reuse=ReuseActivity(9, 7, 31, 3, 2, 1, 11, 4)),
        layer("b", weights=activities(ternary_weights(32, 72, terms=2, density=0.3, seed=1)), kept=True),
        layer("c", weights={}, input=inputs(bits=5, signed=True)),
        layer("d", input=None),
    )
    told = Workload(layers, 12345, ("head",))
    assert parse_workload(workload_yaml(told)).to_dict() == told.to_dict()


def test_shapes_written_by_hand() -> None:
    found = parse_workload(BY_HAND)
    assert [work.macs for work in found.layers] == [16 * 27 * 1024, 16 * 144 * 1024, 160]
    assert [work.is_float for work in found.layers] == [False, False, True]
    assert found.image_bits == 24576


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_assumed_digits_fill_the_planes_of_counted_ones(bits: int, encoding: str) -> None:
    """Whatever the codes, there are as many planes, and none holds more digits than are assumed."""
    codes = np.random.default_rng(0).integers(-(1 << (bits - 1)) + 1, 1 << (bits - 1), (1, 6, 50))
    counted = weight_activity(from_codes(codes, np.ones((1, 6, 1)), shape=(6, 50), bits=bits), encoding)
    text = f"{{name: a, outputs: 6, inputs: 50, weights: {{bits: {bits}}}, input: {{bits: 4}}}}"
    assumed = parse_workload(f"image_bits: 8\nlayers:\n- {text}").layers[0].weights[encoding]
    assert assumed.dense_bits == counted.dense_bits and assumed.terms == counted.terms
    for g, nonzero in counted.nonzero.items():
        assert assumed.nonzero[g].shape == nonzero.shape
        assert (assumed.nonzero[g] >= nonzero).all() and (assumed.nonzero[g] == 50).all()


def test_ternary_weights_without_zeros_are_counted_as_assumed() -> None:
    counted = weight_activity(ternary_weights(5, 40, terms=2, density=1.0, seed=0), "csd")
    text = (
        "image_bits: 8\nlayers:\n- {name: a, outputs: 5, inputs: 40, weights: {ternary: 2}, input: {bits: 3}}"
    )
    assert parse_workload(text).layers[0].weights["csd"].to_dict() == counted.to_dict()


@pytest.mark.parametrize(("bits", "signed"), [(1, False), (4, False), (8, True), (5, True)])
def test_inputs_of_ones_are_counted_as_assumed(bits: int, signed: bool) -> None:
    top = (1 << (bits - signed)) - 1
    counted = input_activity(np.full((1, 30), top), bits, signed)
    told = f"{{bits: {bits}, signed: {str(signed).lower()}}}"
    text = (
        f"image_bits: 8\nlayers:\n- {{name: a, outputs: 1, inputs: 1, weights: {{bits: 2}}, input: {told}}}"
    )
    found = parse_workload(text).layers[0].input
    assert found is not None
    assert found.to_dict() == counted.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("image_bits: 24576|image_bits: -1", "image_bits=-1: expected a whole number"),
        ("outputs: 16|outputs: 1.5", "layer conv1: outputs=1.5"),
        ("kernel: [3, 3]|kernel: [3]", "layer conv1: kernel: expected height and width"),
        (
            "bits: 8}, input|bits: 9}, input",
            "layer conv1: weights.bits=9: expected a whole number from 2 to 8",
        ),
        ("density: 0.5|density: 2", "layer conv2: density=2: expected a share"),
        ("name: conv2|name: conv1", "two layers are called 'conv1'"),
        (
            "signed: true|sined: true",
            "unknown key of the input of layer conv1 'sined'; did you mean 'signed'",
        ),
        ("outputs: 10|outputz: 10", "unknown key of layer head 'outputz'; did you mean 'outputs'"),
        ("weights: null, |", "layer head: 'weights' is missing"),
        ("ternary: 1|ternary: 1, bits: 2", "unknown key of the weights of layer conv2 'ternary'"),
        ("layers:|layer:", "expected a mapping with 'image_bits' and a list of 'layers'"),
        ("image_bits: 24576|image_bits: [", "not YAML"),
        ("bits: 8}, input|bits: 1}, input", "weights.bits=1: expected a whole number from 2 to 8"),
        ("{ternary: 1, density: 0.5}|{density: 0.5}", "density needs bits, ternary or binary beside it"),
        ("{ternary: 1, density: 0.5}|0", "layer conv2: weights=0: expected bits, ternary or binary"),
        ("signed: true|signed: 1", "layer conv1: input.signed=1: expected true or false"),
        ("{bits: 4}|{signed: true}", "layer conv2: input.bits=None: expected a whole number from 1 to 32"),
        ("{bits: 4}|[4]", "layer conv2: input=[4]: expected its bits"),
        ("kernel: [3, 3]|kernel: {3: 1, 5: 1}", "layer conv1: kernel: expected height and width"),
        ("outputs: 16|outputs: 1000000000", "layer conv1: outputs=1000000000: expected a whole number"),
        ("output_bits: 4|output_bits: 4000", "layer conv1: output_bits=4000"),
        ("name: conv1|name: null", "name: expected a text"),
        ("name: conv1|name: conv1, reuse: {adders: 3}", "layer conv1: reuse: 'adders_before' is missing"),
    ],
)
def test_what_is_wrong_is_named(change: str, message: str, tmp_path: Path) -> None:
    old, _, new = change.partition("|")
    assert old in BY_HAND
    path = tmp_path / "work.yaml"
    path.write_text(BY_HAND.replace(old, new, 1))
    with pytest.raises(WorkloadError) as caught:
        read_workload(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def counted() -> dict[str, Any]:
    work = layer(
        "a", weights=activities(ternary_weights(4, 9, terms=2, density=0.5, seed=1)), outputs=4, inputs=1
    )
    reuse = ReuseActivity(9, 7, 31, 3, 2, 1, 11, 4)
    return Workload((replace(work, reuse=reuse),), 80).to_dict()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("weights.csd.encoding", "binary", "weights.csd.encoding='binary': expected csd"),
        ("weights.csd.terms", 0, "weights.csd.terms=0"),
        ("weights.csd.terms", 3, "2 planes are not those of 3 terms"),
        ("weights.csd.dense_bits", -1, "weights.csd.dense_bits=-1"),
        ("weights.csd.dense_bits", float("nan"), "weights.csd.dense_bits=nan"),
        ("weights.csd.nonzero", {"1": []}, "weights.csd.nonzero: '2' is missing"),
        ("weights.csd.nonzero.2", [[1, 1], [1, 1]], "expected 4 counts, one per output, got 2"),
        ("weights.csd.nonzero.2", [[1, 1, 1, 10], [1, 1, 1, 1]], "=10: expected a whole number from 0 to 9"),
        ("weights.csd.signs.4", "3", "weights.csd.signs.4='3'"),
        ("weights.csd.columns", [[8, 16]], "expected weights of a run, filters"),
        ("weights.csd.columns", [[8, 16, {"runs": 2}]], "'planes' is missing"),
        ("weights.gray", {}, "unknown key of the weights of layer a 'gray'"),
        ("input.bits", 0, "input.bits=0"),
        ("input.nonzero.1", [0.5], "expected 8 digits, got 1"),
        ("input.nonzero.4", [1.5, 0.5], "input.nonzero.4=1.5: expected a share"),
        ("reuse.adders", -1, "reuse.adders=-1"),
        ("reuse.passes", {"additions": 1}, "reuse.passes: 'in_place' is missing"),
    ],
)
def test_counts_that_cannot_be_are_refused(path: str, value: Any, message: str) -> None:
    data = counted()
    parse_workload(yaml.safe_dump(data))
    *nodes, last = path.split(".")
    node = data["layers"][0]
    for key in nodes:
        node = node[key]
    node[last] = value
    with pytest.raises(DseError) as caught:
        parse_workload(yaml.safe_dump(data))
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["name: conv1", "outputs: 16", "kernel: [3, 3]", "image_bits: 24576"])
def test_references_to_references_are_not_printed_in_full(key: str) -> None:
    """Nine to the eighth ones, in a few lines."""
    nest = "&a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"
    for i in range(7):
        nest = f"&a{i + 1} [{nest}, {', '.join([f'*a{i}'] * 8)}]"
    with pytest.raises(DseError) as caught:
        parse_workload(BY_HAND.replace(key, f"{key.partition(':')[0]}: {nest}", 1))
    assert len(str(caught.value)) < 1000


def test_a_machine_whose_weights_were_not_counted_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = layer("a")
    one = replace(work, weights={"sign_magnitude": work.weights["sign_magnitude"]})
    path = tmp_path / "work.yaml"
    path.write_text(workload_yaml(Workload((one,), 80)))
    for machine, message in (
        ("associative_rtm", "accelerators.other: its weights are written in csd, which layer a"),
        ("digital_cim", "accelerators.other: its weights are written in twos_complement"),
    ):
        assert main(["price", f"workload={path}", f"+accelerator@accelerators.other={machine}"]) == 2
        assert message in capsys.readouterr().err
    path.write_text(workload_yaml(Workload((work,), 80)))
    assert main(["price", f"workload={path}", "+accelerator@accelerators.other=addergraph"]) == 2
    assert "accelerators.other: it runs shared sums, which were not counted" in capsys.readouterr().err


def test_a_file_cannot_build_objects(tmp_path: Path) -> None:
    path = tmp_path / "work.yaml"
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(DseError, match="not YAML"):
        read_workload(path)


def test_pricing_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "work.yaml"
    path.write_text(BY_HAND)
    assert main(["price", f"workload={path}", "+accelerator@accelerators.gpu=gpu_roofline"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"bitserial", "gpu"}
    for cost in found.values():
        layers = cost["breakdown"]["energy_j"]
        assert list(layers) == ["conv1", "conv2", "head"]
        assert sum(sum(parts.values()) for parts in layers.values()) == pytest.approx(cost["energy_j"])
    assert main(["price", f"workload={path}", "granularity=3"]) == 2
    assert "granularity=3" in capsys.readouterr().err
