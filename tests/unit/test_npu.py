"""Arrays with described memories: the contract, a layer by hand, and what a description may say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressors.errors import ConfigError, UnknownName
from energy.accelerators import make_accelerator
from energy.accelerators.npu import Npu
from energy.accelerators.systolic import mac_energy, multiplier_energy
from energy.cost import Cost
from energy.technology import load_technology
from energy.workload import LayerWork
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

TECHNOLOGY = load_technology("cmos45")
ACCUMULATOR = {
    "name": "accumulator",
    "operands": ["outputs"],
    "kb": 1 / 256,
    "per": "element",
    "buffering": "stream",
}
REGISTERS = {"name": "weight registers", "operands": ["weights"], "kb": 0.125, "per": "element"}
SRAM = {"name": "sram", "operands": ["inputs", "outputs"], "kb": 2048, "banks": 32}
MEMORIES = [ACCUMULATOR, REGISTERS, SRAM]


def make(**settings: Any) -> Npu:
    return make_accelerator("npu", {"memories": MEMORIES, **settings}, TECHNOLOGY)  # type: ignore[return-value]


class TestContract(AcceleratorContract):
    """Layers that hand over in DRAM; what they keep on the chip makes neighbours matter, see below."""

    skips_zeros = False

    def make(self, **settings: Any) -> Npu:
        return make(**{"rows": 8, "columns": 8, "keep_activations": False, **settings})


class TestOutputStationary(AcceleratorContract):
    skips_zeros = False
    counts_alone = False

    def make(self, **settings: Any) -> Npu:
        array = {
            "rows": 8,
            "columns": 8,
            "network": "bus",
            "dataflows": ["output_stationary", "input_stationary"],
        }
        return make(**{**array, "memories": [ACCUMULATOR, SRAM], "keep_activations": False, **settings})


def linear(outputs: int, channels: int, bits: int = 8, **changes: Any) -> LayerWork:
    dense = activities(integer_weights(outputs, channels, bits=bits, density=1.0, seed=0))
    shape = {"kernel": (1, 1), "output_size": (1, 1), "input": inputs(bits=8, density=1.0)}
    return layer("fc", outputs=outputs, inputs=channels, weights=dense, **{**shape, **changes})


def test_a_layer_by_hand() -> None:
    """Four outputs of four inputs on 2 x 2 elements; energies of a bit read and written are given.

    Four turns. Sums stay while inputs turn: each element adds up two outputs from two inputs each.
    """
    memories = [
        {**ACCUMULATOR, "read_pj": 1.0, "write_pj": 2.0},
        {**REGISTERS, "read_pj": 3.0, "write_pj": 4.0},
        {**SRAM, "read_pj": 5.0, "write_pj": 6.0},
    ]
    machine = make(memories=memories, rows=2, columns=2, dram_bits=16, keep_activations=False)
    cost = machine.cost(workload(linear(4, 4), image_bits=4 * 8), {})
    energy = {name: band.nominal * 1e12 for name, band in cost.energy_j["fc"].items()}
    # 16 additions of 32 bits, of which half find a sum; each element hands its two sums on
    assert energy["accumulator"] == pytest.approx((8 + 8) * 32 * 1 + 16 * 32 * 2)
    assert energy["weight registers"] == pytest.approx(16 * 8 * (3 + 4))
    # inputs: two at a time for two columns, each for both pairs of outputs; outputs: written, and read for DRAM
    assert energy["sram"] == pytest.approx(8 * 8 * 5 + 4 * 8 * 6 + 4 * 8 * 6 + 4 * 8 * 5)
    dram_pj = TECHNOLOGY["dram_energy"].value
    assert energy["dram"] == pytest.approx(dram_pj * (16 * 8 + 4 * 8 + 4 * 8))
    # eight inputs go on to the second column, four sums to the second row
    step_pj = TECHNOLOGY["wire.energy"].value * (TECHNOLOGY["pe_area.8/8"].value ** 0.5) * 1e-3
    assert energy["interconnect"] == pytest.approx(step_pj * (8 * 8 + 4 * 32))
    assert energy["pe array"] == pytest.approx(16 * mac_energy(TECHNOLOGY, 8, 8).nominal)
    assert energy["post-processing"] == pytest.approx(4 * TECHNOLOGY["pe_energy.16/16"].value)
    split = {name: band.nominal for name, band in cost.operand_j["fc"]["dram"].items()}
    assert split["weights"] == pytest.approx(dram_pj * 16 * 8 * 1e-12)
    # 192 bits of 16 a cycle
    assert cost.latency_s["fc"] == pytest.approx(12 / TECHNOLOGY["clock_hz"].value)
    assert cost.bound == {"fc": "dram"} and cost.utilisation["fc"] == pytest.approx(4 / 12)


def test_areas_and_leakage_are_those_of_all_instances() -> None:
    machine = make(rows=4, columns=8)
    area = machine.cost(workload(linear(4, 4)), {}).area_mm2
    sram = TECHNOLOGY.sram
    assert area["weight registers"].nominal == pytest.approx(32 * sram.area_mm2(0.125).nominal)
    assert area["sram"].nominal == pytest.approx(32 * sram.area_mm2(64).nominal)
    assert area["pe array"].nominal == pytest.approx(32 * TECHNOLOGY["pe_area.8/8"].value * 1e-6)


def chain(**settings: Any) -> Cost:
    """Two convolutions, the second reading what the first one wrote."""
    first = layer("a", outputs=16, inputs=8, output_size=(8, 8))
    second = layer("b", outputs=8, inputs=16, output_size=(8, 8))
    return make(rows=8, columns=8, **settings).cost(workload(first, second), {})


def dram(cost: Cost, name: str) -> dict[str, float]:
    return {operand: band.nominal for operand, band in cost.operand_j[name]["dram"].items()}


def test_what_one_layer_hands_to_the_next_stays_on_the_chip() -> None:
    kept, moved = chain(), chain(keep_activations=False)
    assert dram(kept, "a")["outputs"] == dram(kept, "b").get("inputs", 0) == 0
    assert dram(moved, "a")["outputs"] > 0 and dram(moved, "b")["inputs"] > 0
    assert dram(kept, "a")["inputs"] == dram(moved, "a")["inputs"] > 0  # the image
    assert dram(kept, "b")["outputs"] == dram(moved, "b")["outputs"] > 0  # the answer
    assert kept.total_energy_j.nominal < moved.total_energy_j.nominal
    assert kept.total_latency_s <= moved.total_latency_s


def test_it_does_not_stay_where_there_is_no_room() -> None:
    """Half of 4 KB for 100 rows of 16 inputs of 8 bits and 64 by 16 sums of 32 bits is too little."""
    small = [ACCUMULATOR, REGISTERS, {**SRAM, "kb": 4, "banks": 1}]
    assert dram(chain(memories=small), "a")["outputs"] > 0


def test_weights_stay_in_a_memory_that_holds_the_network() -> None:
    store = {"name": "weight store", "operands": ["weights"], "kb": 64}
    kept, moved = chain(memories=[*MEMORIES, store]), chain()
    assert (
        dram(kept, "a").get("weights", 0)
        == dram(kept, "b").get("weights", 0)
        == 0
        < dram(moved, "b")["weights"]
    )
    assert kept.energy_j["b"]["weight store"].nominal > 0
    assert any("do not stay" in note for note in moved.notes)
    assert not any("do not stay" in note for note in kept.notes)
    tiny = chain(memories=[*MEMORIES, {**store, "kb": 0.5}])
    assert dram(tiny, "a")["weights"] > 0


def test_the_residual_stream_lies_beside_the_outputs() -> None:
    plain = layer("a")
    elements = plain.outputs * plain.pixels
    base, kept, added = (
        make(rows=8, columns=8, keep_activations=False).cost(workload(work), {}).energy_j["a"]["dram"].nominal
        for work in (plain, replace(plain, kept=True), replace(plain, added=True))
    )
    stream_j = TECHNOLOGY["dram_energy"].value * 1e-12 * elements * 16
    assert kept - base == pytest.approx(stream_j) == added - base


def test_wide_operands_take_a_pass_for_every_pair_of_digits() -> None:
    """Inputs of 16 bits on elements of 8: twice the products, and all sums are added to twice."""
    machine = make(rows=2, columns=2, keep_activations=False)
    wide = replace(linear(4, 4).input, bits=16)  # digits are not looked at without gating
    narrow, broad = (machine.cost(workload(linear(4, 4, input=i)), {}) for i in (linear(4, 4).input, wide))
    arrays = [cost.energy_j["fc"]["pe array"].nominal for cost in (narrow, broad)]
    assert arrays[1] == pytest.approx(2 * arrays[0])
    sums = [cost.energy_j["fc"]["accumulator"].nominal for cost in (narrow, broad)]
    each = (sums[1] - sums[0]) / (32 * 1e-12)
    read, written = (TECHNOLOGY.sram.read_j_per_bit(1 / 256), TECHNOLOGY.sram.write_j_per_bit(1 / 256))
    assert each == pytest.approx((8 * read.nominal + 16 * written.nominal) * 1e12)


def test_terms_are_filters_of_their_own() -> None:
    one, two = (
        make(rows=8, columns=8).cost(
            workload(layer(weights=activities(ternary_weights(32, 72, terms=t, density=1.0, seed=0)))), {}
        )
        for t in (1, 2)
    )
    assert two.energy_j["conv"]["pe array"].nominal == pytest.approx(
        2 * one.energy_j["conv"]["pe array"].nominal
    )
    assert two.energy_j["conv"]["post-processing"].nominal == pytest.approx(
        2 * one.energy_j["conv"]["post-processing"].nominal
    )


def test_gating_rests_on_zeros() -> None:
    """Half of the weights are zero: their products leave the multiplier at rest and take no less time."""
    weights = activities(integer_weights(32, 72, bits=8, density=1.0, seed=0))
    dense = layer(weights=weights, input=inputs(bits=8, density=1.0))
    halved = {e: replace(a, nonzero={g: c // 2 for g, c in a.nonzero.items()}) for e, a in weights.items()}
    sparse = replace(dense, weights=halved)
    free, gated, same = (
        make(zero_gating=on).cost(workload(work), {})
        for on, work in ((False, sparse), (True, sparse), (True, dense))
    )
    product_pj = mac_energy(TECHNOLOGY, 8, 8).nominal
    rest = multiplier_energy(TECHNOLOGY, 8, 8).nominal / product_pj
    arrays = [cost.energy_j["conv"]["pe array"].nominal * 1e12 for cost in (free, gated, same)]
    assert arrays[0] == pytest.approx(dense.macs * product_pj)
    assert arrays[1] == pytest.approx(arrays[0] * (1 - rest / 2))
    assert arrays[2] == pytest.approx(arrays[0])
    assert gated.latency_s == free.latency_s


def test_a_batch_shares_the_weights() -> None:
    alone, many = (make(batch=n, keep_activations=False).cost(workload(linear(64, 64)), {}) for n in (1, 8))
    weights = [cost.operand_j["fc"]["dram"]["weights"].nominal for cost in (alone, many)]
    assert weights[0] == pytest.approx(8 * weights[1])
    assert many.total_energy_j.nominal < alone.total_energy_j.nominal


def test_the_specification_counts_every_element() -> None:
    peak = make(rows=16, columns=16).peak(8, 8)
    assert peak.tops == pytest.approx(2 * 256 * TECHNOLOGY["clock_hz"].value * 1e-12)
    assert make(rows=16, columns=16).peak(16, 8).tops == pytest.approx(peak.tops / 2)
    least = 256 * TECHNOLOGY["clock_hz"].value * mac_energy(TECHNOLOGY, 8, 8).nominal * 1e-12
    assert peak.power_w.low < peak.power_w.nominal < peak.power_w.high
    assert least < peak.power_w.nominal < 20 * least


def test_the_shipped_description() -> None:
    path = Path(__file__).resolve().parents[2] / "configs" / "accelerator" / "tpu_like.yaml"
    data = yaml.safe_load(path.read_text())
    machine = make_accelerator(data["kind"], data["settings"], TECHNOLOGY)
    assert machine.cost(workload(layer()), {}).total_energy_j.nominal > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memories": []}, "at least one memory"),
        ({"memories": [SRAM, REGISTERS]}, "those of elements first"),
        ({"memories": [{**SRAM, "operands": ["input"]}]}, "did you mean 'inputs'"),
        ({"memories": [{**SRAM, "size": 3}]}, "unknown key of a memory 'size'"),
        ({"memories": [{"name": "sram", "kb": 4}]}, "'operands' too"),
        ({"memories": [{**SRAM, "kb": 0}]}, "a capacity up to 1 GB"),
        ({"memories": [{**SRAM, "read_pj": -1}]}, "read_pj=-1: expected a number that is not negative"),
        ({"memories": [{**SRAM, "name": "dram"}]}, "a name other than"),
        ({"memories": [{**SRAM, "per": "row"}]}, "unknown per 'row'"),
        ({"memories": ["sram"]}, "a mapping with name"),
        ({"memories": [{**SRAM, "banks": 0}]}, "banks"),
        ({"dataflows": ["weight_stationery"]}, "did you mean 'weight_stationary'"),
        ({"dataflows": []}, "some of weight_stationary"),
        ({"along_rows": ["Q"]}, "unknown dims 'Q'"),
        ({"network": "mesh"}, "unknown network 'mesh'"),
        ({"precision": 3}, "2, 4, 8 or 16"),
        ({"slack": 0.5}, "at least 1"),
        ({"rows": 0}, "accelerator.rows"),
        ({"accumulator_bits": 48}, "memories that hold a word"),
    ],
)
def test_descriptions_that_cannot_be_used(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=message):
        make(**settings).cost(workload(layer()), {})
