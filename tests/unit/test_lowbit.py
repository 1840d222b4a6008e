"""Elements for digits of -1, 0 and 1 and for single bits: the contract, layers worked by hand, and how time follows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from compressors.tensor import SlicedTensor
from dse.errors import ConfigError, UnknownName
from energy.accelerators import Accelerator, make_accelerator
from energy.accelerators.lowbit import Binary, Ternary
from energy.activity import InputActivity, WeightActivity
from energy.technology import load_technology
from energy.workload import LayerWork, Workload
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

PJ, UW, UM2 = 1e-12, 1e-6, 1e-6
TECHNOLOGY = load_technology("cmos45")
SMALL = {"filters": 2, "lanes": 4, "pixels": 4}


def ternary(**settings: Any) -> Ternary:
    return make_accelerator("ternary", settings, TECHNOLOGY)  # type: ignore[return-value]


def binary(**settings: Any) -> Binary:
    return make_accelerator("binary", settings, TECHNOLOGY)  # type: ignore[return-value]


class LowBitContract(AcceleratorContract):
    skips_zeros = False
    counts_alone = False  # accumulators below half-filled columns cost as much as below full ones
    kind = ""
    defaults: dict[str, Any] = {}

    def make(self, **settings: Any) -> Accelerator:
        return make_accelerator(self.kind, {**self.defaults, **settings}, TECHNOLOGY)


class CanonicalDigits(LowBitContract):
    """Weights have as many planes as the largest of them needs."""

    def test_a_layer_of_zeros_only_moves_its_operands_and_leaks(self) -> None:
        """Zeros take the time of one digit, those of 4 bits beside them that of four: 7 is 8 - 1."""
        zero = integer_weights(32, 72, bits=4, density=0.0, seed=1)
        cost = self.price(self.layer("idle", zero), self.layer("busy"))
        assert cost.latency_s["busy"] == pytest.approx(4 * cost.latency_s["idle"])
        arrays = [cost.energy_j[name]["pe array"].nominal for name in ("idle", "busy")]
        assert 4 * arrays[0] < arrays[1]


class TestTernary(CanonicalDigits):
    kind, defaults = "ternary", {"lanes": 64, "pixels": 2}


class TestTernarySignMagnitude(LowBitContract):
    kind, defaults = "ternary", {"encoding": "sign_magnitude", "input_bits": 4}


class TestBinary(LowBitContract):
    kind, defaults = "binary", {"lanes": 256, "pixels": 4}


class TestBinaryCanonicalDigits(CanonicalDigits):
    kind, defaults = "binary", {"encoding": "csd"}


def tiny(weights: WeightActivity, given: InputActivity) -> LayerWork:
    """Three filters of six weights over five pixels."""
    return layer(
        "tiny",
        outputs=3,
        inputs=2,
        kernel=(1, 3),
        output_size=(1, 5),
        weights={weights.encoding: weights},
        input=given,
        output_bits=4,
        added=True,
    )


def memory_pj(kilobytes: float, first: float, second: float) -> float:
    """Of a bit: the table's first segment, from 0.25 to 0.5 KB, continued below."""
    return first * (kilobytes / 0.25) ** math.log2(second / first) / 64


def test_ternary_worked_by_hand() -> None:
    """2 filters x 4 lanes x 4 pixels; two terms of -1, 0 and 1, and inputs of 6 bits on adders of 8."""
    planes = np.array([[4, 2, 0], [3, 1, 2]])  # 12 of 36 digits
    weights = WeightActivity("csd", 2, 1, dense_bits=18 * 2 * 2, nonzero={1: planes}, signs={1: 12})
    given = InputActivity(6, False, {8: np.array([0.75])})
    cost = ternary(**SMALL).cost(Workload((tiny(weights, given),), image_bits=100), {})
    energy = cost.energy_j["tiny"]

    # Two passes of filters, ceil(6 / 4) steps of two planes, two tiles of pixels.
    cycles = 2 * 2 * 2 * 2
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    busy = 3 * 6 * 5 * 2
    assert cost.utilisation["tiny"] == pytest.approx(busy / (cycles * 32))

    # A row of 8 selections, 6 of them in use, switches for a third of the digits and three quarters of the inputs;
    # registers hold 2 bits of a digit and 6 of an input, an operand half of both; four lanes share the rest.
    element = 8 * 6 / 8 * 12 / 36 * 0.75 * 0.0020502 + (2 + 6) / 2 * 0.0047086 + 0.01761 / 4
    # Below: an accumulator and a shifter of (1 + 8) / 2 bits, for 15 outputs in 2 steps of two planes.
    below = 3 * 5 * 4 * (1 + 8) / 2 * (0.011323 + 0.0068538)
    assert energy["pe array"].nominal == pytest.approx((busy * element + below) * PJ)

    # 72 bits of weights for both tiles; inputs once per pass and plane.
    local = cost.operand_j["tiny"]["local buffers"]
    assert local["weights"].nominal == pytest.approx(72 * 2 * 1.414 / 64 * PJ)
    assert local["inputs"].nominal == pytest.approx(2 * 2 * 5 * 6 * 6 * 1.414 / 64 * PJ)
    weight_kb, activation_kb = 72 / 8192, (10 * 6 + 15 * 4 + 15 * 16) / 8192
    assert energy["weight buffer"].nominal == pytest.approx(72 * memory_pj(weight_kb, 0.823, 1.414) * PJ)
    read, write = memory_pj(activation_kb, 0.823, 1.414), memory_pj(activation_kb, 1.328, 2.281)
    expected = (2 * 6 * 2 * 2 * 6 + 15 * 16) * read + 15 * 4 * write
    assert energy["activation buffer"].nominal == pytest.approx(expected * PJ)

    # Two terms to scale and a residual addition for each output; the image.
    assert energy["post-processing"].nominal == pytest.approx(3 * 15 * 0.6583 * PJ)
    assert energy["dram"].nominal == pytest.approx(100 * 8 * PJ)

    # Area and leakage are of all 8 bits: operands of (2 + 8) / 2 bits.
    leakage_uw = 32 * (8 * 0.18002 + 5 * 0.43289)
    leakage_uw += 8 * (4.5 * 0.39512 + 8 * 0.030563 + 4.5 * 1.3514)
    leakage_uw += 2 * 55.35 + 2 * 0.012 + (weight_kb + activation_kb) * 0.024
    assert energy["leakage"].nominal == pytest.approx(leakage_uw * UW * cycles / 500e6)
    area = 32 * (8 * 4.4267 + 5 * 11.952 + 26.831 / 4)
    area += 8 * (4.5 * 16.026 + 8 * 2.6663 + 4.5 * 34.706)
    assert {name: band.nominal for name, band in cost.area_mm2.items()} == pytest.approx(
        {
            "pe array": area * UM2,
            "post-processing": 2 * 1362.78 * UM2,
            "local buffers": 2 * 0.00214,
            "weight buffer": weight_kb * 0.00428,
            "activation buffer": activation_kb * 0.00428,
        }
    )
    assert cost.extrapolated and any("a digit and 8 bits" in note for note in cost.notes)


def test_binary_worked_by_hand() -> None:
    """2 filters x 4 lanes x 4 pixels of single bits; weights of 3 bits by inputs of 2."""
    planes = np.array([[6, 3, 0], [2, 1, 3], [3, 2, 1]])  # 21 of 54 bits are ones
    weights = WeightActivity("twos_complement", 1, 3, dense_bits=18 * 3, nonzero={1: planes}, signs={1: 0})
    given = InputActivity(2, False, {1: np.array([0.5, 0.25])})
    cost = binary(**SMALL).cost(Workload((tiny(weights, given),), image_bits=0), {})
    energy = cost.energy_j["tiny"]
    cycles = 2 * 2 * (3 * 2) * 2  # passes, steps, pairs of planes, tiles
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    busy = 3 * 6 * 5 * 6
    assert cost.utilisation["tiny"] == pytest.approx(busy / (cycles * 32))
    # One-bit products switch where both bits are ones; one bit of an operand, a quarter of an element.
    element = 21 / 54 * 0.375 * 0.0020502 + 0.0047086 + 0.01761 / 4
    below = 3 * 5 * 12 * (0.011323 + 0.0068538)
    assert energy["pe array"].nominal == pytest.approx((busy * element + below) * PJ)
    local = cost.operand_j["tiny"]["local buffers"]
    assert local["weights"].nominal == pytest.approx(54 * 2 * 1.414 / 64 * PJ)
    assert local["inputs"].nominal == pytest.approx(2 * 5 * 6 * 2 * 3 * 1.414 / 64 * PJ)
    assert energy["post-processing"].nominal == pytest.approx(2 * 15 * 0.6583 * PJ)
    area = 32 * (4.4267 + 11.952 + 26.831 / 4) + 8 * (16.026 + 2.6663 + 34.706)
    assert cost.area_mm2["pe array"].nominal == pytest.approx(area * UM2)
    memories_kb = (54 + 10 * 2 + 15 * 4 + 15 * 16) / 8192
    leakage_uw = 32 * (0.18002 + 0.43289) + 8 * (0.39512 + 0.030563 + 1.3514)
    leakage_uw += 2 * 55.35 + 2 * 0.012 + memories_kb * 0.024
    assert cost.leakage_w.nominal == pytest.approx(leakage_uw * UW)
    assert cost.extrapolated and any("1 x 1 bits" in note for note in cost.notes)


def signs(outputs: int, reduction: int, terms: int = 1) -> SlicedTensor:
    codes = np.random.default_rng(0).choice([-1, 1], (terms, outputs, reduction))
    return SlicedTensor.from_terms(codes, np.ones((terms, outputs, 1)), (outputs, reduction), "binary")


def one_pixel(tensor: SlicedTensor, given: InputActivity) -> LayerWork:
    """16 filters of 16 inputs, as many as the array has filters."""
    shape: dict[str, Any] = {"outputs": 16, "inputs": 16, "kernel": (1, 1), "output_size": (1, 1)}
    return layer(**shape, weights=activities(tensor), input=given)


def test_signs_times_bits_take_one_pass_and_one_bit_of_memory() -> None:
    """XNOR and popcount: 16 weights and inputs of one bit each in one cycle."""
    cost = binary().cost(workload(one_pixel(signs(16, 16), inputs(bits=1))), {})
    assert cost.total_latency_s == pytest.approx(1 / 500e6)
    assert cost.utilisation["conv"] == 1
    stored_kb = 16 * 16 / 8192
    assert cost.area_mm2["weight buffer"].nominal == pytest.approx(stored_kb * 0.00428)
    two = binary().cost(workload(one_pixel(signs(16, 16, terms=2), inputs(bits=1))), {})
    assert two.total_latency_s == pytest.approx(2 / 500e6)


@pytest.mark.parametrize(
    ("encoding", "bits", "given", "cycles"),
    [
        ("csd", 8, 8, 8),  # digits go one place beyond the magnitude
        ("sign_magnitude", 8, 8, 7),
        ("sign_magnitude", 4, 8, 3),
        ("csd", 2, 8, 1),
        ("csd", 4, 9, 8),  # an input beyond the adder's bits comes in two digits
    ],
)
def test_ternary_elements_take_integers_digit_by_digit(
    encoding: str, bits: int, given: int, cycles: int
) -> None:
    tensor = integer_weights(16, 16, bits=bits, density=1.0, seed=1)
    machine = ternary(encoding=encoding)
    cost = machine.cost(workload(one_pixel(tensor, inputs(bits=given, density=1.0))), {})
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    assert machine.peak(bits, given).ops_per_s == pytest.approx(2 * 256 / cost.total_latency_s)


@pytest.mark.parametrize(
    ("encoding", "bits", "given", "cycles"),
    [
        ("twos_complement", 8, 8, 64),
        ("twos_complement", 2, 3, 6),
        ("sign_magnitude", 8, 2, 14),
        ("sign_magnitude", 2, 1, 1),
        ("csd", 8, 1, 8),
        ("csd", 2, 4, 4),
    ],
)
def test_binary_elements_take_every_pair_of_planes(encoding: str, bits: int, given: int, cycles: int) -> None:
    tensor = integer_weights(16, 16, bits=bits, density=1.0, seed=1)
    machine = binary(encoding=encoding)
    cost = machine.cost(workload(one_pixel(tensor, inputs(bits=given, density=1.0))), {})
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    assert machine.peak(bits, given).ops_per_s == pytest.approx(2 * 256 / cost.total_latency_s)


@pytest.mark.parametrize("kind", ["ternary", "binary"])
def test_the_peak_is_what_a_layer_takes_that_fills_the_array(kind: str) -> None:
    machine = make_accelerator(kind, {}, TECHNOLOGY)
    if kind == "ternary":
        bits, tensor = (2, 8), ternary_weights(16, 16, terms=1, density=1.0, seed=1)
    else:
        bits, tensor = (1, 1), signs(16, 16)
    cost = machine.cost(workload(one_pixel(tensor, inputs(bits=bits[1], density=1.0))), {})
    peak = machine.peak(*bits)
    array_w = cost.energy_j["conv"]["pe array"].nominal / cost.total_latency_s
    at_rest_w = cost.leakage_w.nominal - 16 * 55.35 * UW  # rescalers are no part of the peak
    assert peak.power_w.nominal == pytest.approx(array_w + at_rest_w, rel=1e-3)  # memories leak a little
    assert peak.ops_per_s == 2 * 256 * 500e6
    assert peak.area_mm2.nominal == pytest.approx(cost.area_mm2["pe array"].nominal)


def test_zeros_rest_but_take_their_time() -> None:
    costs = [
        ternary().cost(
            workload(layer(weights=activities(ternary_weights(32, 72, terms=1, density=d, seed=1)))), {}
        )
        for d in (0.1, 0.9)
    ]
    sparse, dense = costs
    assert sparse.total_latency_s == dense.total_latency_s
    assert sparse.energy_j["conv"]["pe array"].nominal < dense.energy_j["conv"]["pe array"].nominal


def test_ternary_elements_are_smaller_than_multipliers_and_binary_ones_smallest() -> None:
    machines = [
        make_accelerator(kind, {"pixels": 1}, TECHNOLOGY) for kind in ("binary", "ternary", "parallel")
    ]
    areas = [machine.peak(2, 8).area_mm2.nominal for machine in machines]
    assert areas[0] < areas[1] / 3 and areas[1] < areas[2] / 3


@pytest.mark.parametrize(
    ("kind", "settings", "error", "message"),
    [
        (
            "ternary",
            {"input_bits": 0},
            ConfigError,
            "accelerator.input_bits=0: expected an integer from 1 to 32",
        ),
        ("ternary", {"input_bits": 33}, ConfigError, "accelerator.input_bits=33"),
        ("ternary", {"encoding": "cds"}, UnknownName, "accelerator.encoding: unknown encoding 'cds'.*'csd'"),
        ("ternary", {"encoding": "twos_complement"}, UnknownName, "unknown encoding 'twos_complement'"),
        ("ternary", {"pixels": 0}, ConfigError, "accelerator.pixels=0"),
        ("binary", {"encoding": "twos_compliment"}, UnknownName, "did you mean 'twos_complement'"),
        ("binary", {"lanes": 5000}, ConfigError, "accelerator.lanes=5000"),
        ("binary", {"input_bits": 1}, UnknownName, "unknown setting of 'binary' 'input_bits'"),
    ],
)
def test_settings_out_of_range_are_refused(
    kind: str, settings: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        make_accelerator(kind, settings, TECHNOLOGY)
