"""The bit-sliced array: the contract, one case worked by hand, and what is its own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.slicing import ENCODINGS, GRANULARITIES
from dse.errors import ConfigError, UnknownName
from energy.accelerators import Accelerator, make_accelerator
from energy.activity import InputActivity, WeightActivity
from energy.cost import Cost
from energy.technology import load_technology
from energy.workload import LayerWork, Workload
from tests.contracts_energy import AcceleratorContract, dynamic_j
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

PJ, UW = 1e-12, 1e-6


def bitserial(**settings: Any) -> Accelerator:
    return make_accelerator("bitserial", settings, load_technology("cmos45"))


class TestSignMagnitude(AcceleratorContract):
    def make(self, **settings: Any) -> Accelerator:
        return bitserial(**settings)


class TestTwosComplement(AcceleratorContract):
    def make(self, **settings: Any) -> Accelerator:
        return bitserial(**{"encoding": "twos_complement", **settings})


class TestCanonicalSignedDigits(AcceleratorContract):
    def make(self, **settings: Any) -> Accelerator:
        return bitserial(**{"encoding": "csd", **settings})


def tiny(**changes: Any) -> LayerWork:
    """Three filters of six inputs over five pixels; 8-bit weights and inputs as two 4-bit digits each."""
    counts = {4: np.array([[6, 2, 1], [3, 0, 0]])}  # nine codes are not zero, three of them in both digits
    weights = WeightActivity("sign_magnitude", 1, 8, dense_bits=18 * 8, nonzero=counts, signs={4: 9})
    work = LayerWork(
        name="tiny",
        outputs=3,
        inputs=2,
        groups=1,
        kernel=(1, 3),
        stride=(1, 1),
        dilation=(1, 1),
        output_size=(1, 5),
        weights={"sign_magnitude": weights},
        input=InputActivity(8, False, {4: np.array([0.5, 0.25])}),
        output_bits=4,
        added=True,
    )
    return replace(work, **changes)


def price_tiny(work: LayerWork, **settings: Any) -> Cost:
    machine = bitserial(bit_products=512, filters=2, lanes=4, **settings)
    return machine.cost(Workload((work,), image_bits=100), {"tiny": 4})


def test_worked_by_hand() -> None:
    """512 one-bit products a cycle are 512 / 4**2 = 32 elements: 2 filters x 4 lanes x 4 pixels."""
    cost = price_tiny(tiny())
    energy = cost.energy_j["tiny"]

    # Skipping. Filters hold 6+3, 2 and 1 non-zero digits. Pass 1 runs filters {9, 2}: ceil(9/4) = 3 steps, pass 2
    # runs {1}: 1 step. Each step is repeated for 2 input digits and ceil(5/4) = 2 tiles of pixels.
    cycles = (3 + 1) * 2 * 2
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)  # 32 ns
    # 12 digits x 2 input digits x 5 pixels, in slots for 4 lanes x 2 filters x 4 pixels a cycle.
    products = 12 * 2 * 5
    assert cost.utilisation["tiny"] == pytest.approx(products / (cycles * 4 * 2 * 4))  # 120 of 512
    # Input digits are non-zero in (0.5 + 0.25) / 2 of the products; in the rest a 4-bit multiplier (0.0521) rests.
    per_product = 0.0794 - 0.0521 * (1 - 0.375)
    assert energy["pe array"].nominal == pytest.approx(products * per_product * PJ)  # 5.62 pJ

    # A bitmap of 2 planes x 3 x 6 digits, 4 bits for each of the 12 non-zero ones, a sign for each of 9 codes.
    weight_bits = 36 + 12 * 4 + 9
    # Local buffers give them once per input digit and tile; inputs pass 4 digits a filter on average x 2 passes.
    local_bits = weight_bits * 2 * 2 + 4 * 2 * (2 * 5 * 4)
    assert energy["local buffers"].nominal == pytest.approx(local_bits * 1.414 / 64 * PJ)  # 692 bits, 0.5 KB

    # The weight buffer holds 93 bits = 0.0114 KB: the table's first segment is continued below 0.25 KB.
    weight_kb = 93 / 8192
    read_weight = 0.823 * (weight_kb / 0.25) ** math.log2(1.414 / 0.823) / 64
    assert energy["weight buffer"].nominal == pytest.approx(weight_bits * read_weight * PJ)

    # Inputs: tiles of 4 pixels read 4 + 3 - 1 = 6 columns of 2 channels, 2 tiles x 2 passes, 8 bits each.
    input_bits = 2 * 6 * 2 * 2 * 8
    residual_bits = 15 * 16  # the stream the 15 outputs are added to
    output_bits = 15 * 4
    # Live at once: 2 x 5 inputs of 8 bits, 15 outputs of 4 bits, and the stream.
    activation_kb = (2 * 5 * 8 + output_bits + residual_bits) / 8192
    read = 0.823 * (activation_kb / 0.25) ** math.log2(1.414 / 0.823) / 64
    write = 1.328 * (activation_kb / 0.25) ** math.log2(2.281 / 1.328) / 64
    expected = (input_bits + residual_bits) * read + output_bits * write
    assert energy["activation buffer"].nominal == pytest.approx(expected * PJ)

    # One rescale and one residual add for each of 15 outputs on 16-bit elements; 100 bits of image from DRAM.
    assert energy["post-processing"].nominal == pytest.approx((1 + 1) * 15 * 0.6583 * PJ)
    assert energy["dram"].nominal == pytest.approx(100 * 8 * PJ)

    # 32 elements, 2 rescalers, 2 local buffers of 0.5 KB; memories below 0.25 KB leak 0.024 uW per KB.
    leakage_w = (32 * 5.286 + 2 * 55.35 + 2 * 0.012 + (weight_kb + activation_kb) * 0.024) * UW
    assert energy["leakage"].nominal == pytest.approx(leakage_w * 32e-9, rel=1e-9)
    area = {name: band.nominal for name, band in cost.area_mm2.items()}
    assert area == pytest.approx(
        {
            "pe array": 32 * 170.95e-6,
            "post-processing": 2 * 1362.78e-6,
            "local buffers": 2 * 0.00214,
            "weight buffer": weight_kb * 0.00428,
            "activation buffer": activation_kb * 0.00428,
        }
    )


def test_worked_by_hand_without_skipping() -> None:
    cost = price_tiny(tiny(), skip="none")
    # Every filter runs 2 planes x 6 digits: ceil(12/4) = 3 steps in each of 2 passes, 2 input digits, 2 tiles.
    assert cost.total_latency_s == pytest.approx(3 * 2 * 2 * 2 / 500e6)
    assert cost.utilisation["tiny"] == pytest.approx(36 * 2 * 5 / (24 * 32))
    per_product = 0.0794 - 0.0521 * (1 - 0.375)
    assert cost.energy_j["tiny"]["pe array"].nominal == pytest.approx(360 * per_product * PJ)
    # 18 codes of 8 bits, four times, and 12 digits x 2 passes x 2 digits x 5 pixels of 4 bits.
    local_bits = 18 * 8 * 4 + 12 * 2 * 2 * 5 * 4
    assert cost.energy_j["tiny"]["local buffers"].nominal == pytest.approx(local_bits * 1.414 / 64 * PJ)


def test_worked_by_hand_in_floating_point() -> None:
    """One fp32 unit per 64 one-bit products: 8 of them, 2 filters x 4 lanes x 1 pixel."""
    cost = price_tiny(tiny(weights={}, input=None, output_bits=32))
    cycles = 2 * 2 * 5  # passes x ceil(6/4) steps x pixels
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    assert cost.utilisation["tiny"] == pytest.approx(90 / (cycles * 8))
    energy = cost.energy_j["tiny"]
    assert energy["pe array"].nominal == pytest.approx(90 * 4.6 * PJ)
    weight_bits, fed_bits = 18 * 32, 2 * 6 * 5 * 32  # weights for every pixel; inputs once per pass
    local = (weight_bits * 5 + fed_bits) * 1.414 / 64
    assert energy["local buffers"].nominal == pytest.approx(local * PJ)
    assert energy["post-processing"].nominal == pytest.approx(2 * 15 * 4.6 * PJ)
    assert cost.area_mm2["pe array"].nominal == pytest.approx(8 * 2628e-6)
    assert any("lower bound" in note for note in cost.notes)


def test_the_slowest_filter_of_a_pass_sets_its_cycles() -> None:
    def latency_s(digits: list[int]) -> float:
        weights = WeightActivity("sign_magnitude", 1, 4, 40 * 4, {4: np.array([digits])}, {4: sum(digits)})
        work = tiny(outputs=4, kernel=(1, 10), weights={"sign_magnitude": weights})
        return price_tiny(work).total_latency_s

    balanced, uneven = latency_s([8, 8, 8, 8]), latency_s([16, 0, 16, 0])
    assert uneven == pytest.approx(2 * balanced)  # the same digits, but filters wait for each other
    assert latency_s([16, 16, 0, 0]) == pytest.approx(balanced)  # sorted by load, passes wait for nobody
    assert latency_s([5, 5, 5, 5]) == latency_s([8, 8, 8, 8])  # lanes work in steps of four digits


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ENCODINGS),
    st.sampled_from(GRANULARITIES),
    st.integers(2, 8),
    st.floats(0, 1),
    st.sampled_from([(1, 1), (2, 3), (8, 8)]),
)
def test_skipping_never_makes_a_layer_dearer(
    encoding: str, g: int, bits: int, density: float, size: tuple[int, int]
) -> None:
    weights = activities(integer_weights(20, 72, bits=bits, density=density, seed=4))
    work = workload(layer(outputs=20, weights=weights, output_size=size))
    skipping, dense = (
        bitserial(encoding=encoding, skip=skip).cost(work, {"conv": g}) for skip in ("weights", "none")
    )
    assert dynamic_j(skipping) <= dynamic_j(dense) * (1 + 1e-9)
    assert skipping.total_latency_s <= dense.total_latency_s


def test_skipping_gains_in_proportion_to_the_zeros() -> None:
    energy = {}
    for density in (0.1, 0.9):
        weights = activities(ternary_weights(64, 576, terms=1, density=density, seed=1))
        cost = bitserial().cost(workload(layer(outputs=64, inputs=64, weights=weights)), {"conv": 1})
        energy[density] = cost.energy_j["conv"]["pe array"].nominal
    assert energy[0.1] / energy[0.9] == pytest.approx(1 / 9, rel=0.05)


def test_depthwise_filters_run_one_at_a_time() -> None:
    weights = activities(integer_weights(32, 9, bits=4, density=1.0, seed=1))
    depthwise = layer(inputs=32, groups=32, weights=weights)
    cost = bitserial().cost(workload(depthwise), {"conv": 4})
    # 32 filters x ceil(9/16) steps x 2 input digits x 1 tile: 64 cycles, although 16 filters would fit.
    assert cost.total_latency_s == pytest.approx(32 * 1 * 2 * math.ceil(64 / 4) / 500e6)
    assert cost.utilisation["conv"] == pytest.approx(9 / 16 / 16)


def test_a_layer_of_one_output_pixel_and_one_filter() -> None:
    weights = activities(integer_weights(1, 8, bits=4, density=1.0, seed=1))
    work = layer(outputs=1, kernel=(1, 1), output_size=(1, 1), weights=weights)
    cost = bitserial().cost(workload(work), {"conv": 1})
    assert cost.total_latency_s == pytest.approx(math.ceil(work_digits(work) / 16) * 8 / 500e6)
    assert 0 < cost.utilisation["conv"] <= 1 / 16


def work_digits(work: LayerWork) -> int:
    return int(work.weights["sign_magnitude"].nonzero[1].sum())


def test_mixed_granularities_need_a_more_flexible_array() -> None:
    layers = (layer("a"), layer("b"))
    price = bitserial().cost
    work = workload(*layers)
    pure, mixed = price(work, {"a": 8, "b": 8}), price(work, {"a": 8, "b": 2})
    assert pure.area_mm2["pe array"].nominal == pytest.approx(16384 / 64 * 443.46e-6)
    assert mixed.area_mm2["pe array"].nominal == pytest.approx(16384 / 64 * 1486.59e-6)
    ratio = mixed.energy_j["a"]["pe array"].nominal / pure.energy_j["a"]["pe array"].nominal
    assert ratio > 2  # 8-bit products on an array that can also split pay for it
    assert not any("not synthesised" in note for note in (*pure.notes, *mixed.notes))
    one_bit = price(work, {"a": 1, "b": 1})
    assert "elements of 1 to 1 bits are extrapolated, not synthesised" in one_bit.notes


def test_every_combination_of_granularities_has_constants() -> None:
    for a in GRANULARITIES:
        for b in GRANULARITIES:
            cost = bitserial().cost(workload(layer("a"), layer("b")), {"a": a, "b": b})
            assert cost.total_energy_j.nominal > 0


def test_only_the_first_layer_pays_for_the_image() -> None:
    cost = bitserial().cost(workload(layer("a"), layer("b"), image_bits=1000), {"a": 4, "b": 4})
    assert cost.energy_j["a"]["dram"].nominal == pytest.approx(1000 * 8 * PJ)
    assert "dram" not in cost.energy_j["b"]


def test_an_input_of_one_sign_bit_and_no_magnitude_is_allowed() -> None:
    cost = bitserial().cost(workload(layer(input=inputs(bits=1))), {"conv": 1})
    assert cost.total_energy_j.nominal > 0


@pytest.mark.parametrize("granularity", [{}, {"conv": 3}, {"conv": 0}, {"other": 4}, {"conv": None}])
def test_a_layer_without_a_valid_granularity_is_named(granularity: dict) -> None:
    with pytest.raises(ConfigError, match=r"granularity of conv=.*one of 1, 2, 4, 8"):
        bitserial().cost(workload(layer()), granularity)


def test_float_layers_need_no_granularity() -> None:
    cost = bitserial().cost(workload(layer(weights={}, input=None)), {})
    assert cost.total_energy_j.nominal > 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"filters": 0}, ConfigError, "accelerator.filters=0: expected an integer from 1 to 4096"),
        ({"lanes": "16"}, ConfigError, "accelerator.lanes=16"),
        ({"lanes": True}, ConfigError, "accelerator.lanes=True"),
        ({"residual_bits": 33}, ConfigError, "accelerator.residual_bits=33"),
        ({"bit_products": 1000}, ConfigError, r"a multiple of filters \* lanes \* 64 = 16384"),
        ({"bit_products": 0}, ConfigError, "accelerator.bit_products=0"),
        ({"bit_products": -16384}, ConfigError, "accelerator.bit_products=-16384"),
        ({"local_buffer_kb": 0}, ConfigError, "accelerator.local_buffer_kb=0"),
        ({"local_buffer_kb": 1e-9}, ConfigError, "expected a capacity of a byte to 64 KB"),
        (
            {"encoding": "cds"},
            UnknownName,
            "accelerator.encoding: unknown encoding 'cds'; did you mean 'csd'",
        ),
        ({"skip": "weight"}, UnknownName, "unknown skipping 'weight'; did you mean 'weights'"),
        ({"lane": 16}, UnknownName, "unknown setting of 'bitserial' 'lane'; did you mean 'lanes'"),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bitserial(**settings)


def test_unknown_kinds_are_answered_with_the_known() -> None:
    with pytest.raises(
        UnknownName, match="accelerators.x.kind: unknown accelerator kind 'bitsreal'.*bitserial"
    ):
        make_accelerator("bitsreal", {}, load_technology("cmos45"), "accelerators.x")


def test_a_local_buffer_outside_the_table_is_noted() -> None:
    work = layer("a")
    notes = [bitserial(local_buffer_kb=kb).cost(workload(work), {"a": 4}).notes for kb in (0.5, 0.01)]
    assert [any("local buffer of" in note for note in told) for told in notes] == [False, True]
