"""Multipliers of whole operands, in one piece or splitting: the contract, layers worked by hand, structures, peaks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dse.errors import ConfigError, UnknownName
from energy.accelerators import make_accelerator
from energy.accelerators.parallel import Parallel
from energy.activity import InputActivity, WeightActivity
from energy.datapath.scalable import STRUCTURES, relative_to_fused
from energy.technology import load_technology
from energy.workload import LayerWork, Workload
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

PJ, UW, UM2 = 1e-12, 1e-6, 1e-6
TECHNOLOGY = load_technology("cmos45")
SPLITTING = {"narrowest": 2}


def parallel(**settings: Any) -> Parallel:
    return make_accelerator("parallel", settings, TECHNOLOGY)  # type: ignore[return-value]


class ParallelContract(AcceleratorContract):
    skips_zeros = False
    counts_alone = False  # accumulators below half-filled columns cost as much as below full ones
    defaults: dict[str, Any] = {}

    def make(self, **settings: Any) -> Parallel:
        return parallel(**{**self.defaults, **settings})


class TestBitParallel(ParallelContract):
    pass


class TestBitFusion(ParallelContract):
    defaults = SPLITTING


class TestBitGroups(ParallelContract):
    defaults = {**SPLITTING, "structure": "bit_groups"}


class TestSubWords(ParallelContract):
    defaults = {**SPLITTING, "structure": "sub_word"}


def tiny(weight_bits: int = 8, input_bits: int = 8, **changes: Any) -> LayerWork:
    """Three filters of six weights over five pixels; half of the weights and three quarters of the inputs not zero."""
    weights = WeightActivity(
        "sign_magnitude",
        1,
        weight_bits - 1,
        dense_bits=18 * weight_bits,
        nonzero={8: np.array([[6, 2, 1]])},
        signs={8: 9},
    )
    work = layer(
        "tiny",
        outputs=3,
        inputs=2,
        kernel=(1, 3),
        output_size=(1, 5),
        weights={"sign_magnitude": weights},
        input=InputActivity(input_bits, False, {8: np.array([0.75])}),
        output_bits=4,
        added=True,
    )
    return replace(work, **changes)


def memory_pj(kilobytes: float, first: float, second: float) -> float:
    """Of a bit: the table's first segment, from 0.25 to 0.5 KB, continued below."""
    return first * (kilobytes / 0.25) ** math.log2(second / first) / 64


def test_eight_bits_worked_by_hand() -> None:
    """2 filters x 4 lanes x 4 pixels of 8-bit multipliers that stay whole."""
    machine = parallel(filters=2, lanes=4, pixels=4)
    cost = machine.cost(Workload((tiny(),), image_bits=100), {})
    energy = cost.energy_j["tiny"]

    # Two passes of filters, ceil(6 / 4) steps, ceil(5 / 4) tiles of pixels; zeros are not skipped.
    cycles = 2 * 2 * 2
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    products = 3 * 6 * 5
    assert cost.utilisation["tiny"] == pytest.approx(products / (cycles * 2 * 4 * 4))
    assert cost.bound == {"tiny": "compute"}

    # 64 partial products switch where neither operand is zero; 8 bits of registers and the rest of an element always.
    # 3 filters x 5 pixels accumulate in both steps, 8 bits wide.
    element = 64 * 0.0020502 * 0.5 * 0.75 + 8 * 0.0047086 + 0.01761
    below = 3 * 5 * 2 * 8 * 0.011323
    assert energy["pe array"].nominal == pytest.approx((products * element + below) * PJ)

    # 18 weights of 8 bits for both tiles; each of 6 inputs of 5 pixels in both passes; memories of 0.5 KB.
    local = cost.operand_j["tiny"]["local buffers"]
    assert local["weights"].nominal == pytest.approx(18 * 8 * 2 * 1.414 / 64 * PJ)
    assert local["inputs"].nominal == pytest.approx(2 * 5 * 6 * 8 * 1.414 / 64 * PJ)

    # The weight buffer is as large as the weights, which leave it once.
    weight_kb = 144 / 8192
    assert energy["weight buffer"].nominal == pytest.approx(144 * memory_pj(weight_kb, 0.823, 1.414) * PJ)

    # Tiles of 4 pixels read 4 + 3 - 1 columns of 2 channels, 2 tiles x 2 passes; 15 outputs of 4 bits are written,
    # 15 values of the residual stream read. Live at once: 10 inputs, 15 outputs, and the stream.
    activation_kb = (10 * 8 + 15 * 4 + 15 * 16) / 8192
    read, write = memory_pj(activation_kb, 0.823, 1.414), memory_pj(activation_kb, 1.328, 2.281)
    expected = (2 * 6 * 2 * 2 * 8 + 15 * 16) * read + 15 * 4 * write
    assert energy["activation buffer"].nominal == pytest.approx(expected * PJ)

    # A rescaling and a residual addition for each output; 100 bits of image.
    assert energy["post-processing"].nominal == pytest.approx(2 * 15 * 0.6583 * PJ)
    assert energy["dram"].nominal == pytest.approx(100 * 8 * PJ)

    # 32 elements, 8 accumulators, 2 rescalers, 2 local buffers; memories below 0.25 KB leak 0.024 uW per KB.
    leakage_uw = 32 * (64 * 0.18002 + 8 * 0.43289) + 8 * (8 * 0.39512 + 64 * 0.030563)
    leakage_uw += 2 * 55.35 + 2 * 0.012 + (weight_kb + activation_kb) * 0.024
    assert cost.leakage_w.nominal == pytest.approx(leakage_uw * UW)
    assert energy["leakage"].nominal == pytest.approx(leakage_uw * UW * cycles / 500e6)
    assert set(energy) == {
        "pe array",
        "local buffers",
        "weight buffer",
        "activation buffer",
        "post-processing",
        "dram",
        "leakage",
    }

    array = 32 * (64 * 4.4267 + 8 * 11.952 + 26.831) + 8 * (8 * 16.026 + 64 * 2.6663)
    assert {name: band.nominal for name, band in cost.area_mm2.items()} == pytest.approx(
        {
            "pe array": array * UM2,
            "post-processing": 2 * 1362.78 * UM2,
            "local buffers": 2 * 0.00214,
            "weight buffer": weight_kb * 0.00428,
            "activation buffer": activation_kb * 0.00428,
        }
    )
    assert all("outside the SRAM table" in note for note in cost.notes) and len(cost.notes) == 2


def test_a_splitting_element_worked_by_hand() -> None:
    """Weights of 3 bits on 4-bit halves, inputs of 8: two products at once, so 4 lanes are as good as 8."""
    machine = parallel(filters=2, lanes=4, pixels=4, narrowest=2)
    cost = machine.cost(Workload((tiny(weight_bits=3),), image_bits=0), {})
    cycles = 2 * math.ceil(6 / 8) * 2
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    busy = 3 * 6 * 5 / 2
    assert cost.utilisation["tiny"] == pytest.approx(busy / (cycles * 32))
    # Of 64 partial products three quarters are of bits in use. 16 multipliers of 2 bits hold 16 x 2 bits of either
    # operand, all of the inputs' and three quarters of the weights'. Fusion: four units of 4 bits, one of 8.
    live = 0.5 * 0.75
    element = 64 * 0.75 * live * 0.0020502 + 32 * (0.75 + 1) / 2 * 0.0047086 + 0.01761
    element += (4 * 4 + 8) * live * 0.0068538
    below = 3 * 5 * 1 * 8 * 0.011323
    assert cost.energy_j["tiny"]["pe array"].nominal == pytest.approx((busy * element + below) * PJ)
    array = 32 * (64 * 4.4267 + 32 * 11.952 + 26.831 + 24 * 34.706) + 8 * (8 * 16.026 + 64 * 2.6663)
    assert cost.area_mm2["pe array"].nominal == pytest.approx(array * UM2)
    elements_uw = 32 * (64 * 0.18002 + 32 * 0.43289 + 24 * 1.3514)
    around_uw = 8 * (8 * 0.39512 + 64 * 0.030563) + 2 * 55.35
    assert cost.leakage_w.nominal == pytest.approx(
        (elements_uw + around_uw) * UW, rel=1e-4
    )  # beside memories


def test_floats_run_on_units_of_their_own() -> None:
    machine = parallel(filters=2, lanes=4, pixels=4, float_units=8)
    work = tiny(weights={}, input=None, output_bits=32)
    cost = machine.cost(Workload((work,), image_bits=0), {})
    assert cost.total_latency_s == pytest.approx(math.ceil(90 / 8) / 500e6)
    assert cost.utilisation["tiny"] == pytest.approx(90 / (12 * 8))
    assert cost.energy_j["tiny"]["pe array"].nominal == pytest.approx(90 * 4.6 * PJ)
    integers = machine.cost(Workload((tiny(),), image_bits=0), {})
    beside = cost.area_mm2["pe array"].nominal - integers.area_mm2["pe array"].nominal
    assert beside == pytest.approx(8 * 2628 * UM2)
    assert cost.extrapolated and any("lower bound" in note for note in cost.notes)


@pytest.mark.parametrize(
    ("weights", "given", "splits"),
    [(8, 8, 1), (8, 4, 2), (4, 4, 4), (2, 2, 16), (2, 8, 4), (3, 5, 2), (1, 1, 16), (9, 8, 0.5)],
)
def test_elements_split_to_the_next_width(weights: int, given: int, splits: float) -> None:
    assert parallel(**SPLITTING).full(weights, given)[0] == splits
    assert parallel().full(weights, given)[0] == min(splits, 1)


@pytest.mark.parametrize(
    ("weights", "given", "products"), [(8, 8, 1), (4, 4, 2), (2, 2, 4), (4, 8, 1), (2, 4, 2)]
)
def test_sub_words_work_on_the_diagonal_and_on_equal_widths(weights: int, given: int, products: int) -> None:
    assert parallel(**SPLITTING, structure="sub_word").full(weights, given)[0] == products


def test_operands_wider_than_an_element_take_a_pass_per_pair_of_digits() -> None:
    tensor = integer_weights(16, 16, bits=8, density=1.0, seed=1)
    work = layer(
        outputs=16, inputs=16, kernel=(1, 1), weights=activities(tensor), input=inputs(bits=8, density=1.0)
    )
    wide, narrow = (parallel(widest=w, narrowest=w).cost(workload(work), {}) for w in (8, 4))
    assert narrow.total_latency_s == pytest.approx(4 * wide.total_latency_s)
    # inputs pass once for either half of the weights, which stay for both halves of the inputs
    moved = [cost.operand_j["conv"]["local buffers"] for cost in (wide, narrow)]
    assert moved[1]["inputs"].nominal == pytest.approx(2 * moved[0]["inputs"].nominal)
    assert moved[1]["weights"].nominal == pytest.approx(moved[0]["weights"].nominal)


def test_terms_are_products_and_rescalings_of_their_own() -> None:
    works = [layer(weights=activities(ternary_weights(32, 72, terms=t, density=0.5, seed=1))) for t in (1, 3)]
    one, three = (parallel().cost(workload(work), {}) for work in works)
    assert three.total_latency_s == pytest.approx(3 * one.total_latency_s)
    rescaled = [cost.energy_j["conv"]["post-processing"].nominal for cost in (one, three)]
    assert rescaled[1] == pytest.approx(3 * rescaled[0])


def full_layer(weight_bits: int, input_bits: int, inputs_: int = 1024) -> LayerWork:
    """16 filters of many inputs on one pixel, without a zero."""
    tensor = integer_weights(16, inputs_, bits=weight_bits, density=1.0, seed=1)
    given = inputs(bits=input_bits, density=1.0)
    shape: dict[str, Any] = {"outputs": 16, "inputs": inputs_, "kernel": (1, 1), "output_size": (1, 1)}
    return layer(**shape, weights=activities(tensor), input=given)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (8, 4), (4, 4), (2, 8), (2, 2), (3, 5)])
def test_the_peak_is_what_a_layer_takes_that_fills_the_array(structure: str, bits: tuple[int, int]) -> None:
    machine = parallel(**SPLITTING, structure=structure)
    peak, cost = machine.peak(*bits), machine.cost(workload(full_layer(*bits)), {})
    assert peak.ops_per_s == pytest.approx(2 * 16 * 1024 / cost.total_latency_s)
    array_w = cost.energy_j["conv"]["pe array"].nominal / cost.total_latency_s
    around_w = machine.technology["pe_leakage.16/16"].value * 16 * UW  # rescalers, no part of the peak
    at_rest_w = cost.leakage_w.nominal - around_w
    assert peak.power_w.nominal == pytest.approx(array_w + at_rest_w, rel=1e-3)  # memories leak a little
    assert peak.area_mm2.nominal == pytest.approx(cost.area_mm2["pe array"].nominal)


def test_the_peak_worked_by_hand() -> None:
    peak = parallel(filters=2, lanes=4, pixels=4).peak(8, 8)
    assert peak.ops_per_s == 2 * 32 * 500e6
    cycle_pj = 32 * (64 * 0.0020502 + 8 * 0.0047086 + 0.01761) + 8 * 8 * 0.011323
    leakage_uw = 32 * (64 * 0.18002 + 8 * 0.43289) + 8 * (8 * 0.39512 + 64 * 0.030563)
    assert peak.power_w.nominal == pytest.approx(cycle_pj * PJ * 500e6 + leakage_uw * UW)


@pytest.mark.parametrize("name", sorted(set(STRUCTURES) - {"fused"}))
@pytest.mark.parametrize("bits", [(8, 8), (4, 4), (2, 2), (2, 8)])
def test_other_structures_are_the_fused_one_times_the_benchmarks_ratio(
    name: str, bits: tuple[int, int]
) -> None:
    area, energy = relative_to_fused(name, *bits, TECHNOLOGY)
    this, fused = parallel(**SPLITTING, structure=name), parallel(**SPLITTING)
    work = workload(full_layer(*bits))
    costs = [machine.cost(work, {}) for machine in (this, fused)]
    arrays = [cost.energy_j["conv"]["pe array"].nominal for cost in costs]
    if name != "sub_word" or bits[0] == bits[1]:  # unequal operands leave bits of a sub-word unused
        assert arrays[0] == pytest.approx(energy * arrays[1])
    accumulators = 16 * (8 * 16.026 + 64 * 2.6663) * UM2  # which the ratio is not applied to
    areas = [cost.area_mm2["pe array"].nominal - accumulators for cost in costs]
    assert areas[0] == pytest.approx(area * areas[1]) and abs(area - 1) > 0.01
    assert costs[0].extrapolated and any("28 nm" in note for note in costs[0].notes)
    assert not any("28 nm" in note for note in costs[1].notes)


def test_weights_that_do_not_fit_come_from_dram_and_may_bind() -> None:
    work = workload(layer(outputs=64, weights=activities(integer_weights(64, 72, bits=8, density=1, seed=1))))
    bits = 64 * 72 * 8
    small = parallel(weight_buffer_kb=bits / 8192 / 4, dram_bits=1).cost(work, {})
    assert small.operand_j["conv"]["dram"]["weights"].nominal == pytest.approx(0.75 * bits * 8 * PJ)
    assert small.bound == {"conv": "dram"}
    assert small.total_latency_s == pytest.approx(0.75 * bits / 500e6)
    assert any("75% of the weights do not fit" in note for note in small.notes)
    assert "weights" not in parallel().cost(work, {}).operand_j["conv"]["dram"]
    wide = parallel(weight_buffer_kb=bits / 8192 / 4, dram_bits=1 << 20).cost(work, {})
    assert wide.bound == {"conv": "compute"}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"widest": 3}, ConfigError, "accelerator.widest=3: expected 2, 4, 8 or 16 bits"),
        ({"narrowest": 1}, ConfigError, "accelerator.narrowest=1: expected 2, 4, 8 or 16 bits"),
        ({"narrowest": 16}, ConfigError, "accelerator.narrowest=16: expected at most widest = 8"),
        ({"structure": "fusd"}, UnknownName, "unknown structure 'fusd'; did you mean 'fused'"),
        ({"structure": "sub_word"}, ConfigError, "fused, unless elements go from 8 to 2 bits"),
        ({"lanes": 0}, ConfigError, "accelerator.lanes=0: expected an integer from 1 to 4096"),
        ({"filters": "16"}, ConfigError, "accelerator.filters=16"),
        ({"dram_bits": 0}, ConfigError, "accelerator.dram_bits=0"),
        ({"float_units": 0}, ConfigError, "accelerator.float_units=0"),
        ({"residual_bits": 33}, ConfigError, "accelerator.residual_bits=33"),
        ({"weight_buffer_kb": -1}, ConfigError, "accelerator.weight_buffer_kb=-1"),
        ({"weight_buffer_kb": float("nan")}, ConfigError, "accelerator.weight_buffer_kb=nan"),
        ({"local_buffer_kb": 0}, ConfigError, "accelerator.local_buffer_kb=0"),
        ({"local_buffer_kb": 1e-9}, ConfigError, "expected a capacity of a byte to 64 KB"),
        ({"lane": 16}, UnknownName, "unknown setting of 'parallel' 'lane'; did you mean 'lanes'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        parallel(**settings)
