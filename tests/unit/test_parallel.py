"""Bit-parallel and fused multipliers: the contract, cases worked by hand, and what is their own."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dse.errors import ConfigError, UnknownName
from energy.accelerators import make_accelerator
from energy.accelerators.parallel import Parallel
from energy.datapath.scalable import STRUCTURES, relative_to_fused
from energy.technology import load_technology
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

PJ = 1e-12
TECHNOLOGY = load_technology("cmos45")
AREA, ENERGY, LEAKAGE = (
    {n.rsplit(".", 1)[1]: c.value for n, c in TECHNOLOGY.constants.items() if n.startswith(f"pe_parts.{f}.")}
    for f in ("area", "energy", "leakage")
)


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


class TestFused(ParallelContract):
    defaults = {"narrowest": 2}


class TestSubWord(ParallelContract):
    defaults = {"narrowest": 2, "structure": "sub_word"}


def small_layer(bits: int = 8) -> Any:
    """Three filters of six weights over five pixels, none of them zero, inputs without a zero."""
    tensor = integer_weights(3, 6, bits=bits, density=1.0, seed=1)
    given = inputs(bits=bits, density=1.0)
    return layer(
        outputs=3, inputs=2, kernel=(1, 3), output_size=(1, 5), weights=activities(tensor), input=given
    )


def test_eight_bits_worked_by_hand() -> None:
    """2 filters x 4 lanes x 4 pixels of 8-bit multipliers."""
    machine = parallel(filters=2, lanes=4, pixels=4)
    cost = machine.cost(workload(small_layer(), image_bits=100), {})
    # Two passes of filters, ceil(6 / 4) steps, ceil(5 / 4) tiles of pixels.
    cycles = 2 * 2 * 2
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    products = 3 * 6 * 5
    assert cost.utilisation["conv"] == pytest.approx(products / (cycles * 2 * 4 * 4))
    assert cost.bound == {"conv": "compute"}
    # 64 partial products, 8 bits of operands and the rest of an element for each product; 3 filters x 5 pixels
    # accumulate twice, 8 bits wide.
    element = 64 * ENERGY["products"] + 8 * ENERGY["operand_bits"] + ENERGY["elements"]
    accumulators = 3 * 5 * 2 * 8 * ENERGY["accumulator_bits"]
    energy = cost.energy_j["conv"]
    assert energy["pe array"].nominal == pytest.approx((products * element + accumulators) * PJ)
    # 18 weights of 8 bits for both tiles; each of 6 inputs of 5 pixels in both passes.
    local_bits = 18 * 8 * 2 + 2 * 5 * 6 * 8
    assert energy["local buffers"].nominal == pytest.approx(local_bits * 1.414 / 64 * PJ)
    assert cost.operand_j["conv"]["local buffers"]["weights"].nominal == pytest.approx(288 * 1.414 / 64 * PJ)
    assert energy["post-processing"].nominal == pytest.approx(15 * 0.6583 * PJ)
    assert energy["dram"].nominal == pytest.approx(100 * 8 * PJ)
    area = 32 * (64 * AREA["products"] + 8 * AREA["operand_bits"] + AREA["elements"])
    area += 2 * 4 * (8 * AREA["accumulator_bits"] + 64 * AREA["accumulator_carry"])
    assert cost.area_mm2["pe array"].nominal == pytest.approx(area * 1e-6)
    elements_uw = 32 * (64 * LEAKAGE["products"] + 8 * LEAKAGE["operand_bits"])
    assert cost.leakage_w.nominal > elements_uw * 1e-6
    assert not cost.extrapolated or all("buffer" in note for note in cost.notes)


def test_four_bits_on_a_fused_element_worked_by_hand() -> None:
    """An element of 8 to 2 bits makes four products of 4 x 4 bits: 4 lanes are as good as 16."""
    machine = parallel(filters=2, lanes=4, pixels=4, narrowest=2)
    cost = machine.cost(workload(small_layer(bits=4)), {})
    assert cost.total_latency_s == pytest.approx(2 * math.ceil(6 / 16) * 2 / 500e6)
    busy = 3 * 6 * 5 / 4
    # 8-bit operands of 16 multipliers of 2 bits: 8 * 4 bits; fusion of 4 units of 4 bits and one of 8.
    element = 64 * ENERGY["products"] + 32 * ENERGY["operand_bits"] + ENERGY["elements"]
    element += (4 * 4 + 8) * ENERGY["fusion_bits"]
    accumulators = 3 * 5 * 1 * 8 * ENERGY["accumulator_bits"]
    assert cost.energy_j["conv"]["pe array"].nominal == pytest.approx((busy * element + accumulators) * PJ)


@pytest.mark.parametrize(
    ("weights", "given", "splits"), [(8, 8, 1), (8, 4, 2), (4, 4, 4), (2, 2, 16), (2, 8, 4), (3, 5, 2)]
)
def test_elements_split_to_the_next_width(weights: int, given: int, splits: int) -> None:
    one, _ = parallel(narrowest=2).full(weights, given)
    assert one == splits
    assert parallel().full(weights, given)[0] == 1


@pytest.mark.parametrize(("bits", "products"), [(8, 1), (4, 2), (2, 4)])
def test_sub_words_work_on_the_diagonal_alone(bits: int, products: int) -> None:
    assert parallel(narrowest=2, structure="sub_word").full(bits, bits)[0] == products


def test_operands_wider_than_an_element_take_a_pass_per_pair_of_digits() -> None:
    tensor = integer_weights(16, 16, bits=8, density=1.0, seed=1)
    work = layer(
        outputs=16, inputs=16, kernel=(1, 1), weights=activities(tensor), input=inputs(bits=8, density=1.0)
    )
    wide, narrow = (parallel(widest=w, narrowest=w).cost(workload(work), {}).total_latency_s for w in (8, 4))
    assert narrow == pytest.approx(4 * wide)


def test_terms_are_products_of_their_own() -> None:
    works = [layer(weights=activities(ternary_weights(32, 72, terms=t, density=0.5, seed=1))) for t in (1, 3)]
    one, three = (parallel().cost(workload(work), {}).total_latency_s for work in works)
    assert three == pytest.approx(3 * one)


def test_other_structures_are_the_fused_one_times_the_benchmarks_ratio() -> None:
    work = workload(small_layer(bits=2))
    fused = parallel(narrowest=2).cost(work, {})
    for name in set(STRUCTURES) - {"fused"}:
        area, energy = relative_to_fused(name, 2, 2, TECHNOLOGY)
        machine = parallel(narrowest=2, structure=name)
        assert machine.area_factor == pytest.approx(area) and area != 1
        cost = machine.cost(work, {})
        assert cost.extrapolated and any("28 nm" in note for note in cost.notes)
        _, parts = machine.full(2, 2)
        rate, reference = machine.full(2, 2)[0], parallel(narrowest=2).full(2, 2)
        per_product = machine.law.energy_j(parts).nominal / rate
        assert per_product == pytest.approx(
            energy * machine.law.energy_j(reference[1]).nominal / reference[0]
        )
    assert not any("28 nm" in note for note in fused.notes)


def test_weights_that_do_not_fit_come_from_dram_and_may_bind() -> None:
    work = workload(layer(outputs=64, weights=activities(integer_weights(64, 72, bits=8, density=1, seed=1))))
    bits = 64 * 72 * 8
    small = parallel(weight_buffer_kb=bits / 8192 / 4, dram_bits=1).cost(work, {})
    assert small.operand_j["conv"]["dram"]["weights"].nominal == pytest.approx(0.75 * bits * 8 * PJ)
    assert small.bound == {"conv": "dram"}
    assert small.total_latency_s == pytest.approx(0.75 * bits / 500e6)
    assert any("75% of the weights do not fit" in note for note in small.notes)
    assert "weights" not in parallel().cost(work, {}).operand_j["conv"]["dram"]


def test_the_peak_is_a_full_array() -> None:
    machine = parallel(filters=2, lanes=4, pixels=4)
    peak = machine.peak(8, 8)
    assert peak.ops_per_s == 2 * 32 * 500e6
    assert peak.energy_per_mac_j > (64 * ENERGY["products"] + 8 * ENERGY["operand_bits"]) * PJ
    assert parallel(narrowest=2).peak(4, 4).ops_per_s == 4 * parallel(narrowest=2).peak(8, 8).ops_per_s
    assert parallel(narrowest=2).peak(8, 16).ops_per_s == parallel().peak(8, 8).ops_per_s / 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"widest": 3}, ConfigError, "accelerator.widest=3: expected 2, 4, 8 or 16 bits"),
        ({"narrowest": 16}, ConfigError, "accelerator.narrowest=16: expected at most widest = 8"),
        ({"structure": "fusd"}, UnknownName, "unknown structure 'fusd'; did you mean 'fused'"),
        ({"structure": "sub_word"}, ConfigError, "fused, unless elements go from 8 to 2 bits"),
        ({"lanes": 0}, ConfigError, "accelerator.lanes=0"),
        ({"weight_buffer_kb": -1}, ConfigError, "accelerator.weight_buffer_kb=-1"),
        ({"local_buffer_kb": 0}, ConfigError, "accelerator.local_buffer_kb=0"),
        ({"lane": 16}, UnknownName, "unknown setting of 'parallel' 'lane'; did you mean 'lanes'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        parallel(**settings)
