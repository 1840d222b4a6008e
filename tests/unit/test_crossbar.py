"""Analog compute-in-memory: every formula by hand once, the contract, and what values do to energy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compressors.slicing import from_codes
from dse.errors import ConfigError, UnknownName
from energy.accelerators import Accelerator, make_accelerator
from energy.accelerators.crossbar import Crossbar
from energy.activity import input_activity
from energy.cim.converters import required_bits
from energy.cim.digits import in_digits, input_driven, levels
from energy.cim.placement import Shape, place, used_units
from energy.cim.process import Process
from energy.cim.settings import CrossbarConfig
from energy.technology import load_technology
from tests.cam_contract import CamContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

TECHNOLOGY = load_technology("cmos45")
ROOT = Path(__file__).parents[2]


def machine(**settings: Any) -> Crossbar:
    return make_accelerator("crossbar", settings, TECHNOLOGY)  # type: ignore[return-value]


class TestStaticRam(CamContract):
    """Charges on columns of static RAM."""

    work = "cells"

    def make(self, **settings: Any) -> Accelerator:
        return machine(**{"arrays": 4096, "columns_per_adc": 8, **settings})


class TestResistive(TestStaticRam):
    """Currents of resistive cells, a bit in each, weights that take turns on few arrays."""

    def make(self, **settings: Any) -> Accelerator:
        return super().make(
            **{"cell": "rram", "node_nm": 32, "vdd_v": 1.0, "depth": 4, "arrays": 64, **settings}
        )


def value(name: str) -> float:
    return TECHNOLOGY[name].value


def test_a_layer_by_hand() -> None:
    """28 nm and 1 V, so that nothing is scaled but what comes from other nodes."""
    made = machine(node_nm=28, vdd_v=1.0, rows=32, columns=16, adc_bits=5, arrays=64, activation_mhz=100)
    weights = activities(integer_weights(10, 72, bits=3, density=0.5, seed=1))
    work = layer(outputs=10, weights=weights, input=inputs(bits=4), output_size=(3, 2))
    cost = made.cost(workload(work, image_bits=10), {})
    energy = {name: band.nominal for name, band in cost.energy_j["conv"].items()}
    pixels, digits = 6, 4
    ones_in = float(work.input.nonzero[1].sum())
    ones = float(weights["sign_magnitude"].nonzero[1].sum())
    # 10 outputs of 2 bits are 20 pairs of columns; 8 fit an array: 3 beside each other, 72 rows are 3 above each other
    assert energy["cells"] == pytest.approx(ones * ones_in * pixels * value("nvm.cell_capacitance") * 1e-15)
    lines = 3 * 72 * 16 * ones_in * pixels
    assert energy["row drivers"] == pytest.approx(lines * value("nvm.line_capacitance") * 1e-15)
    conversions = 20 * 3 * digits * pixels
    per_conversion = 5 * value("adc.bit_capacitance") + 4**5 * value("adc.noise_capacitance")
    assert energy["adc"] == pytest.approx(conversions * per_conversion * 1e-15)
    assert cost.latency_s["conv"] == pytest.approx(pixels * digits / 100e6)
    assert cost.utilisation["conv"] == pytest.approx(20 * 72 / (64 * 8 * 32))
    assert cost.bound["conv"] == "compute"
    at_45_nm = TECHNOLOGY.sram.read_j_per_bit((8 * 6 * 4 + 10 * 6 * 8) / 8192)
    scaled = made.process.own_j(at_45_nm).nominal
    assert scaled < at_45_nm.nominal
    buffer = cost.operand_j["conv"]["activation buffer"]
    assert buffer["inputs"].nominal == pytest.approx(scaled * 72 * pixels * 4)
    assert cost.energy_j["conv"]["leakage"].nominal == pytest.approx(
        cost.leakage_w.nominal * cost.latency_s["conv"]
    )


def test_resistive_cells_by_hand() -> None:
    """``V**2 G t`` of what is stored, and of what is not."""
    made = machine(
        cell="rram",
        cell_bits=2,
        rows=64,
        columns=64,
        read_voltage_v=0.2,
        read_ns=5,
        on_kohm=10,
        off_kohm=1000,
    )
    codes = np.array([[[3, -2, 0, 1]]])  # one output, digits 3, 2, 0 and 1 of at most 3
    weights = activities(from_codes(codes, np.ones((1, 1, 1)), shape=(1, 4), bits=3))
    always = input_activity(np.ones((1, 8), np.int64), 1, False)
    work = layer(outputs=1, inputs=4, kernel=(1, 1), output_size=(1, 1), weights=weights, input=always)
    energy = made.cost(workload(work), {}).energy_j["conv"]["cells"].nominal
    on, off = 0.2**2 * 5e-9 / 10e3, 0.2**2 * 5e-9 / 1000e3
    stored = (3 + 2 + 0 + 1) / 3
    assert energy == pytest.approx(stored * on + (2 * 4 - stored) * off)  # two columns of four cells
    pulses = machine(
        cell="rram", cell_bits=2, rows=64, columns=64, read_voltage_v=0.2, read_ns=5, on_kohm=10, off_kohm=1000,
        dac_bits=4, input_coding="pulses",
    )  # fmt: skip
    full = input_activity(np.full((1, 8), 15), 4, False)
    many = layer(outputs=1, inputs=4, kernel=(1, 1), output_size=(1, 1), weights=weights, input=full)
    found = pulses.cost(workload(many), {}).energy_j["conv"]["cells"].nominal
    assert found == pytest.approx(15 * energy)


def test_peak_by_hand() -> None:
    made = machine(node_nm=28, vdd_v=1.0, rows=64, columns=32, encoding="twos_complement", adc_bits=6, arrays=2,
                   activation_mhz=50, dac_bits=2)  # fmt: skip
    peak = made.peak(4, 8)
    # 32 columns hold 8 weights of 4 bits; 8 bits of input take 4 applications
    assert peak.ops_per_s == pytest.approx(2 * 2 * 64 * 8 * 50e6 / 4)
    cells = 64 * 32 * 0.25 * value("nvm.cell_capacitance")
    lines = 64 * 32 * 0.75 * value("nvm.line_capacitance") + 64 * 2 * value("adc.dac_capacitance")
    adc = 32 * (6 * value("adc.bit_capacitance") + 4**6 * value("adc.noise_capacitance"))
    parts = {name: band.nominal * 1e15 for name, band in made.peak_energy_j(4, 8).items()}
    assert parts["cells"] == pytest.approx(cells)
    assert parts["row drivers"] == pytest.approx(lines)
    assert parts["adc"] == pytest.approx(adc)
    power = 2 * sum(parts.values()) * 1e-15 * 50e6 + made.leakage_w.nominal
    assert peak.power_w.nominal == pytest.approx(power)
    assert peak.tops_per_w == pytest.approx(peak.ops_per_s / power * 1e-12)
    parts_mm2 = {name: band.nominal * 1e6 / 2 for name, band in made.area_mm2.items()}
    assert parts_mm2["cells"] == pytest.approx(64 * 32 * value("nvm.compute_area.sram") * 28e-3**2)
    assert parts_mm2["adc"] == pytest.approx(32 * value("adc.area_8b") / value("adc.area_growth.bit") ** 2)
    assert parts_mm2["row drivers"] == pytest.approx(64 * 2 * value("adc.dac_area"))
    share = value("cim.control.area")
    assert parts_mm2["control"] == pytest.approx(sum(parts_mm2.values()) * share)


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"rows": 128, "encoding": "offset"}, 8),  # 129 sums of 128 ones
        ({"rows": 127, "encoding": "offset"}, 7),
        ({"rows": 128}, 9),  # 257 sums with a sign
        ({"rows": 128, "encoding": "offset", "cell_bits": 2}, 9),  # ISAAC without its flipped columns
        ({"rows": 16, "encoding": "offset", "cell_bits": 2, "dac_bits": 2}, 8),  # 16 * 3 * 3 + 1 = 145
        ({"rows": 64, "encoding": "twos_complement", "joined_columns": 4, "dac_bits": 4}, 14),
    ],
)
def test_converters_tell_all_sums_apart(settings: dict, bits: int) -> None:
    assert required_bits(CrossbarConfig(**settings)) == bits


@given(st.integers(1, 300), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["offset", "differential"]))
def test_required_bits_hold_the_largest_sum(rows: int, cell: int, dac: int, encoding: str) -> None:
    config = CrossbarConfig(rows=rows, cell_bits=cell, dac_bits=dac, encoding=encoding)
    largest = rows * (2**cell - 1) * (2**dac - 1)
    sums = largest + 1 + (largest if encoding == "differential" else 0)
    bits = required_bits(config)
    assert 2 ** (bits - 1) < sums <= 2**bits


def test_converters_set_the_time() -> None:
    made = machine(rows=100, columns=64, adc_bits=6, columns_per_adc=5, vdd_v=0.9)
    step = value("adc.conversion_time.base") + 100 * value("adc.conversion_time.row")
    work = layer(input=inputs(bits=3), output_size=(2, 2))
    latency = made.cost(workload(work), {}).latency_s["conv"]
    assert latency == pytest.approx(4 * 3 * 5 * 6 * step * 1e-9)


def test_digits_of_bits() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 64, (50, 4))
    bits = np.stack([(codes >> i & 1).sum(0) for i in range(6)])
    for width in (1, 2, 3, 4, 5):
        digits = [codes >> (width * d) & (2**width - 1) for d in range(-(-6 // width))]
        expected = np.stack([d.sum(0) / (2**width - 1) for d in digits])
        assert levels(bits, 1, width)[0] == pytest.approx(expected)
        assert in_digits(bits, 1, width).shape == (1, len(digits), width, 4)
    activity = input_activity(codes, 6, False)
    assert input_driven(activity, 2) == pytest.approx(float(activity.nonzero[2].sum()))
    assert 0 < input_driven(activity, 3) <= 2  # not counted: bits taken as independent


def test_what_is_placed() -> None:
    counts = np.array([[3, 0, 1], [0, 0, 2], [4, 0, 0]])  # three planes of three outputs
    assert used_units(counts, 1, 1, whole=False).tolist() == [[1, 0, 1], [0, 0, 1], [1, 0, 0]]
    assert used_units(counts, 1, 2, whole=False).tolist() == [[1, 0, 1], [1, 0, 0]]
    assert used_units(counts, 1, 1, whole=True).tolist() == [[1, 0, 1]] * 3
    assert used_units(counts, 3, 2, whole=False).shape == (3, 3)  # terms are not joined
    work = layer(outputs=3, inputs=8, weights={})  # 72 rows
    found = place(work, used_units(counts, 1, 1, whole=False), Shape(32, 2))
    assert (found.tiles, found.units, found.results, found.driven) == (6, 4, 12, 144)
    grouped = layer(outputs=4, inputs=8, groups=2, weights={})
    found = place(grouped, np.ones((2, 4), bool), Shape(32, 16))
    assert (found.tiles, found.units) == (2 * 2, 8)  # 36 rows of each group, two arrays above each other


@given(st.integers(0, 100), st.floats(0.4, 0.95), st.sampled_from(["sram", "rram"]))
def test_values_set_the_energy_of_cells(seed: int, density: float, cell: str) -> None:
    """The ablation of CiMLoop as a property: without the tensors' values, energies are of other networks."""
    made = machine(cell=cell)
    dense = layer(weights=activities(integer_weights(32, 72, bits=4, density=1.0, seed=seed)))
    sparse = layer(weights=activities(integer_weights(32, 72, bits=4, density=density, seed=seed)))
    known, other = (made.cost(workload(w), {}).energy_j["conv"] for w in (sparse, dense))
    assert known["cells"].nominal < other["cells"].nominal
    assert known["adc"] == other["adc"] and known["row drivers"] == other["row drivers"]
    ones = [w.weights["sign_magnitude"].nonzero[1].sum() for w in (sparse, dense)]
    if cell == "sram":
        assert known["cells"].nominal / other["cells"].nominal == pytest.approx(ones[0] / ones[1])


def test_assuming_half_of_the_bits_misses_measured_ones() -> None:
    """What an average of one half would say of small weights and inputs, as of a trained layer after a ReLU."""
    rng = np.random.default_rng(0)
    codes = np.clip(np.round(rng.laplace(0, 12, (32, 72))), -127, 127).astype(np.int64)
    weights = activities(from_codes(codes[None], np.ones((1, 32, 1)), shape=(32, 72), bits=8))
    after_relu = input_activity(np.maximum(rng.normal(0, 40, (2, 500)), 0).astype(np.int64), 8, False)
    made = machine(adc_bits=8)
    measured = made.cost(workload(layer(weights=weights, input=after_relu)), {}).energy_j["conv"]["cells"]
    bits = 7 * 72 * 32 * 0.5 * 8 * 0.5 * 64  # all bits one half of the time
    assumed = bits * made._cells.full_j.nominal
    assert assumed > 1.25 * measured.nominal


def test_encodings_differ_in_columns_and_values() -> None:
    work = layer(weights=activities(integer_weights(32, 72, bits=4, density=0.3, seed=1)))
    found = {
        e: machine(encoding=e, adc_bits=8).cost(workload(work), {})
        for e in ("differential", "offset", "twos_complement")
    }
    adc = {e: c.energy_j["conv"]["adc"].nominal for e, c in found.items()}
    assert adc["offset"] == adc["twos_complement"] == pytest.approx(4 / 3 * adc["differential"])
    weights = work.weights["twos_complement"]
    cells = {e: c.energy_j["conv"]["cells"].nominal for e, c in found.items()}
    ones = float(weights.nonzero[1].sum())
    inverted = ones + 72 * 32 - 2 * float(weights.nonzero[1][-1].sum())
    assert cells["offset"] / cells["twos_complement"] == pytest.approx(inverted / ones)


def test_ternary_weights_take_two_columns_in_any_encoding() -> None:
    work = layer(weights=activities(ternary_weights(32, 72, terms=1, density=0.5, seed=1)))
    adc = [
        machine(encoding=e, adc_bits=8).cost(workload(work), {}).energy_j["conv"]["adc"].nominal
        for e in ("differential", "offset")
    ]
    assert adc[1] == pytest.approx(2 * adc[0])


def test_weights_that_do_not_fit_are_written_for_every_image() -> None:
    work = layer()
    fits, tight = (machine(arrays=a, adc_bits=8) for a in (64, 1))
    roomy, again = (m.cost(workload(work, image_bits=0), {}) for m in (fits, tight))
    assert "cell writes" not in roomy.energy_j["conv"]
    cells = work.weights["sign_magnitude"].nonzero[1].shape[0] * 32 * 72 * 2
    assert again.energy_j["conv"]["cell writes"].nominal == pytest.approx(cells * 1.6e-15)
    dense_bits = work.weights["sign_magnitude"].dense_bits
    assert again.operand_j["conv"]["dram"]["weights"].nominal == pytest.approx(dense_bits * 8e-12)
    assert again.latency_s["conv"] > roomy.latency_s["conv"]
    assert any("do not fit" in note for note in again.notes)
    slow = machine(arrays=1, dram_gb_s=1e-3).cost(workload(work), {})
    assert slow.bound["conv"] == "dram"


def test_duplicates_divide_the_time() -> None:
    work = layer()
    once, twice = (machine(arrays=64, duplicates=d).cost(workload(work), {}) for d in (1, 2))
    assert twice.latency_s["conv"] == pytest.approx(once.latency_s["conv"] / 2)
    assert twice.energy_j["conv"]["adc"] == once.energy_j["conv"]["adc"]


def test_signed_inputs_take_two_passes_or_bipolar_drivers() -> None:
    work = layer(input=inputs(bits=5, signed=True))
    passes, bipolar = (machine(bipolar_inputs=b).cost(workload(work), {}) for b in (False, True))
    assert passes.latency_s["conv"] == pytest.approx(2 * bipolar.latency_s["conv"])
    assert passes.energy_j["conv"]["cells"] == bipolar.energy_j["conv"]["cells"]


@given(st.sampled_from([4, 7, 16, 22, 28, 65, 130]), st.floats(0.5, 1.2))
def test_node_and_supply_leave_a_band(node: float, vdd: float) -> None:
    process = Process(TECHNOLOGY, node, vdd)
    for name in ("adc.bit_capacitance", "nvm.cell_capacitance"):
        at, above = process.switched_j(name), Process(TECHNOLOGY, node, vdd * 1.1).switched_j(name)
        assert at.low < at.nominal < at.high and above.nominal > at.nominal
        larger = Process(TECHNOLOGY, node * 1.2, vdd).switched_j(name)
        assert larger.nominal > at.nominal
    assert process.switched_j("nvm.cell_capacitance").nominal == pytest.approx(
        value("nvm.cell_capacitance") * 1e-15 * vdd**2 * (node / 28) ** (1.0 if node >= 28 else 0.5)
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"cell": "reram"}, UnknownName, "accelerator.cell: unknown cell 'reram'; did you mean 'rram'"),
        ({"rows": 0}, ConfigError, "accelerator.rows=0"),
        ({"vdd_v": "1 V"}, ConfigError, "accelerator.vdd_v=1 V: expected a number"),
        ({"cell_bits": 2, "encoding": "twos_complement"}, ConfigError, "accelerator.cell_bits=2"),
        ({"columns": 7, "joined_columns": 4}, ConfigError, "accelerator.columns=7: expected at least the 8"),
        (
            {"cell": "stt"},
            ConfigError,
            "accelerator.read_voltage_v=0: expected a voltage: none is known of stt",
        ),
        ({"cell": "stt", "read_voltage_v": 0.1}, ConfigError, "accelerator.read_ns=0"),
        ({"encoding": []}, ConfigError, "accelerator.encoding=list: expected a name"),
        ({"encoding": "grey"}, UnknownName, "unknown encoding"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("[", r"\[")):
        machine(**settings)


@pytest.mark.parametrize("cell", ["pcm", "rram", "sram"])
def test_known_cells_need_no_more_settings(cell: str) -> None:
    cost = machine(cell=cell, arrays=1).cost(workload(layer()), {})
    assert cost.total_energy_j.nominal > 0
    assert ("cell writes" in cost.energy_j["conv"]) == (cell != "pcm")  # its energy is not known
    assert any("not known" in note for note in cost.notes) == (cell == "pcm")


def test_outside_the_published_nodes_says_so() -> None:
    near, far = (machine(node_nm=n).cost(workload(layer()), {}) for n in (28, 3))
    assert not near.extrapolated and far.extrapolated
    assert any("3 nm lies outside" in note for note in far.notes)


@pytest.mark.parametrize("name", ["crossbar_sram", "crossbar_rram"])
def test_shipped_machines_price_a_network(name: str) -> None:
    shipped = yaml.safe_load((ROOT / "configs" / "accelerator" / f"{name}.yaml").read_text(encoding="utf-8"))
    made = make_accelerator(shipped["kind"], shipped["settings"], TECHNOLOGY)
    cost = made.cost(workload(layer("a"), layer("b", weights={}, input=None)), {})
    assert 0 < cost.total_energy_j.low < cost.total_energy_j.nominal < cost.total_energy_j.high
    assert math.isfinite(cost.total_latency_s)
    peak = made.peak(8, 8)
    assert 0.1 < peak.tops_per_w < 1000 and 0.001 < peak.tops_per_mm2 < 100
