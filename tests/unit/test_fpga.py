"""Machines on programmable gate arrays: FINN's estimates by hand, folding, the overlay, and what both book."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError, UnknownName
from compressors.slicing import from_codes
from dse.objectives import metrics_for
from energy.accelerators import make_accelerator
from energy.accelerators.fpga import Fpga
from energy.cost import OPERANDS, Cost
from energy.fpga import streaming
from energy.fpga.device import FABRICS, Device, Resources
from energy.fpga.fabric import law, serial_element
from energy.fpga.finn import Unit, bram18, dsp58
from energy.fpga.overlay import Overlay
from energy.technology import load_technology
from energy.workload import LayerWork
from energy.workload_file import parse_workload
from tests.contracts_energy import dynamic_j
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

TECHNOLOGY = load_technology("cmos45")
STYLES = ("streaming", "overlay")
PJ = 1e-12


def fpga(**settings_: Any) -> Fpga:
    return make_accelerator("fpga", settings_, TECHNOLOGY)  # type: ignore[return-value]


def price(*layers: LayerWork, g: int = 1, **settings_: Any) -> Cost:
    return fpga(**settings_).cost(workload(*layers), {one.name: g for one in layers})


def conv(name: str = "conv", *, seed: int = 1, density: float = 0.5, **changes: Any) -> LayerWork:
    """64 ternary filters over 64 channels, 3 x 3, on 16 x 16 positions; inputs and outputs of 4 bits."""
    plain = {"outputs": 64, "inputs": 64, "output_size": (16, 16), "input": inputs(bits=4), "output_bits": 4}
    work = {**plain, **changes}
    groups, kernel = work.get("groups", 1), work.get("kernel", (3, 3))
    reduction = work["inputs"] // groups * kernel[0] * kernel[1]
    tensor = ternary_weights(work["outputs"], reduction, terms=1, density=density, seed=seed)
    return layer(name, **{"weights": activities(tensor), **work})


# --- FINN's formulas


def test_a_unit_by_hand() -> None:
    """64 x 576 ternary weights (2 bits), inputs and outputs of 4 bits, 4 rows by 32 columns at once."""
    unit = Unit(64, 576, weight_bits=2, input_bits=4, output_bits=4)
    # alpha = log2(576) + 2 + 4 - 1 = 14.17; ceil(14.17 + log2(1 + 2**-14.17) + 1) = 16 bits.
    assert unit.accumulator_bits == 16
    assert unit.cycles(4, 32, vectors=1024) == 16 * 18 * 1024
    # Multipliers 32 * (2 * ceil(6/6) - 1) * 6 = 192, tree 6 * 63 = 378, accumulator 16, and 15 thresholds of 16 bits,
    # kept and compared: 240 each. 300 + 1.1 * 4 * (192 + 378 + 16 + 240 + 240) = 4990.4
    assert unit.luts(4, 32) == 4990
    # 288 words of 4 * 32 * 2 = 256 bits: 36 bits wide, 512 deep: ceil(256 / 36)
    assert unit.bram18(4, 32) == 8
    assert unit.dsps(4, 32) == 0


def test_a_unit_with_products_in_dsp_slices_by_hand() -> None:
    unit = Unit(10, 64, weight_bits=8, input_bits=8, signed=True, dsp=True)
    # alpha = 6 + 16 - 1 - 1 = 20; ceil(20 + 1 + a little) = 22
    assert unit.accumulator_bits == 22
    # No multipliers: 300 + 1.1 * 2 * (16 * 7 + 22) = 594.8; 5 * 16 = 80 words lie in LUTs: 2 * 4 * 8 * ceil(80 / 64)
    assert unit.luts(2, 4) == int(594.8 + 128)
    assert unit.bram18(2, 4) == 0
    assert unit.dsps(2, 4) == 4  # two 8-bit rows share a slice
    assert Unit(8, 8, 4, 4, dsp=True).dsps(8, 4) == 2 * 4  # four 4-bit rows do
    assert Unit(8, 8, 16, 16, dsp=True).dsps(3, 4) == 12
    chains, delay_ns = dsp58(4, 8)
    assert chains == 4 * 3 and delay_ns == pytest.approx(0.741 + 3 * 0.605)


def test_wide_products_take_more_luts() -> None:
    """8 by 8 bits: 2 * ceil(16 / 6) - 1 = 5 LUTs per bit and lane."""
    unit = Unit(16, 16, 8, 8)
    with_products, without = unit.luts(1, 16), Unit(16, 16, 8, 8, dsp=True).luts(1, 16)
    assert with_products - without == pytest.approx(1.1 * 16 * 5 * 16, abs=1)


def test_thresholds_in_block_ram_are_not_luts() -> None:
    unit = Unit(64, 64, 2, 4, output_bits=4, threshold_memory="block")
    assert unit.luts(1, 8) == Unit(64, 64, 2, 4).luts(1, 8)


@pytest.mark.parametrize(
    ("words", "width", "blocks"),
    [
        (16384, 1, 1),
        (8193, 2, 2),
        (4096, 3, 1),
        (2049, 9, 2),
        (1024, 18, 1),
        (513, 36, 2),  # deep: 18 bits wide
        (512, 36, 1),
        (512, 37, 2),
    ],
)
def test_the_ladder_of_block_rams(words: int, width: int, blocks: int) -> None:
    assert bram18(words, width) == blocks
    assert bram18(np.array([words]), np.array([width])).tolist() == [blocks]


def test_formulas_take_arrays() -> None:
    unit = Unit(64, 576, 2, 4, output_bits=4)
    pe, simd = np.array([1, 4, 64]), np.array([1, 32, 64])
    for method in (unit.luts, unit.bram18, unit.dsps):
        assert method(pe, simd).tolist() == [
            int(method(int(p), int(s))) for p, s in zip(pe, simd, strict=True)
        ]


# --- devices


def test_devices_hold_what_their_data_sheets_say() -> None:
    device = Device.of(TECHNOLOGY, "xc7z020")
    assert device.holds == Resources(53_200, 280, 220)
    small = Device.of(TECHNOLOGY, "ice40hx8k")
    assert small.holds == Resources(7_680, 32, 0)
    assert device.share(Resources(26_600, 70, 0)) == 0.5
    assert small.share(Resources(dsps=1)) == float("inf")
    # 300 words of 20 bits: 256 x 16 would be 2 x 2 blocks, 512 x 8 three.
    assert small.memory(300, 20) == Resources(blocks=3)
    assert device.memory(300, 20) == Resources(blocks=1)
    assert device.memory(64, 20) == Resources(luts=20)
    assert small.memory(64, 20) == Resources(blocks=2)  # its LUTs hold no memory
    assert device.taken(Resources(10, 2, 1)) == {"LUT": (10, 53_200), "block RAM": (2, 280), "DSP": (1, 220)}
    for name in FABRICS:
        assert Device.of(TECHNOLOGY, name).holds.luts > 0


# --- streaming


def test_a_stage_and_its_foldings_by_hand() -> None:
    stage = streaming.stage(conv(), "sign_magnitude", threshold_bits=4, dsp=False)
    assert stage.unit == Unit(64, 576, 2, 4, False, output_bits=4)
    assert (stage.vectors, stage.channels, stage.width, stage.spans, stage.rescale) == (256, 64, 16, 3, False)
    device = Device.of(TECHNOLOGY, "zu3eg")
    found = streaming.foldings(stage, device)
    assert found[0].cycles == 64 * 576 * 256 and (found[0].pe, found[0].simd) == (1, 1)
    assert found[-1].cycles == 256 and (found[-1].pe, found[-1].simd) == (64, 576)
    assert all(a.cycles > b.cycles for a, b in zip(found, found[1:], strict=False))
    one = next(f for f in found if f.simd <= 64)
    # the window: 16 values in each of 3 + 1 rows, 64 / simd words each
    line = device.memory(16 * 4 * (64 // one.simd), one.simd * 4)
    assert one.taken.luts == stage.unit.luts(one.pe, one.simd) + line.luts
    assert one.taken.blocks == stage.unit.bram18(one.pe, one.simd) + line.blocks


def test_wide_outputs_and_several_scales_are_multiplied() -> None:
    two_terms = activities(ternary_weights(64, 576, terms=2, density=0.5, seed=0))
    for work in (conv(output_bits=8), conv(added=True), conv(weights=two_terms)):
        stage = streaming.stage(work, "sign_magnitude", threshold_bits=4, dsp=False)
        assert stage.rescale and stage.unit.output_bits is None
    assert streaming.stage(conv(weights=two_terms), "sign_magnitude", 4, False).unit.rows == 128


def test_units_are_folded_to_the_rate_of_the_slowest_or_the_one_asked_for() -> None:
    layers = [
        conv("a"),
        conv("b", output_size=(8, 8)),
        conv("c", outputs=8, kernel=(1, 1), output_size=(1, 1)),
    ]
    stages = [streaming.stage(one, "sign_magnitude", 4, False) for one in layers]
    device = Device.of(TECHNOLOGY, "zu3eg")
    fastest = streaming.fold(stages, device, 0.7, None)
    assert device.share(streaming.total(fastest)) <= 0.7
    slowest = max(f.cycles for f in fastest)
    for stage, chosen in zip(
        stages, fastest, strict=True
    ):  # none could be smaller without being slower than that
        smaller = [f for f in streaming.foldings(stage, device) if f.cycles > chosen.cycles]
        assert all(f.cycles > slowest for f in smaller)
    # one step faster would not fit
    faster = max(f.cycles for s in stages for f in streaming.foldings(s, device) if f.cycles < slowest)
    assert device.share(streaming.total(streaming.fold(stages, device, 0.7, faster))) > 0.7
    asked = streaming.fold(stages, device, 0.7, 1e6)
    assert max(f.cycles for f in asked) <= 1e6
    assert streaming.total(asked).luts < streaming.total(fastest).luts


def test_a_network_that_fits_nowhere_is_folded_as_far_as_it_goes_and_says_so() -> None:
    text = """
        image_bits: 8
        layers:
          - {name: fc, outputs: 8192, inputs: 8192, weights: {bits: 8}, input: {bits: 8}}
    """
    cost = fpga(device="xc7z020").cost(parse_workload(text), {})
    assert any(note.startswith("does not fit xc7z020: it takes") for note in cost.notes)
    assert cost.resources["block RAM"][0] > cost.resources["block RAM"][1]


def test_the_end_of_an_image_by_hand() -> None:
    """Two 3 x 3 layers of 16 rows: the second starts with 3 of them and ends a row after the first, at least."""
    stages = [streaming.stage(conv(name), "sign_magnitude", 4, False) for name in "ab"]
    device = Device.of(TECHNOLOGY, "u250")
    slow, fast = streaming.foldings(stages[0], device)[0], streaming.foldings(stages[0], device)[-1]
    assert streaming.end_cycles(stages, [slow, fast]) == [slow.cycles, slow.cycles + fast.cycles / 16]
    start = fast.cycles * 3 / 16
    assert streaming.end_cycles(stages, [fast, slow]) == [fast.cycles, start + slow.cycles]
    whole = streaming.stage(conv("c", kernel=(1, 1), output_size=(1, 1)), "sign_magnitude", 4, False)
    last = streaming.foldings(whole, device)[-1]
    assert streaming.end_cycles([stages[0], whole], [fast, last])[1] == fast.cycles + last.cycles


def test_streaming_energy_by_hand() -> None:
    work = conv(
        outputs=4,
        inputs=2,
        kernel=(1, 1),
        output_size=(2, 3),
        output_bits=8,
        input=inputs(bits=4, density=1.0),
    )
    cost = price(work, clock_mhz=100, images_per_s=100e6 / 48, static_w=0.25)
    energy = cost.energy_j["conv"]
    # 4 x 2 weights on 6 positions: one product a cycle is 48 cycles, as asked for.
    assert cost.total_latency_s == pytest.approx(48 / 100e6)
    unit = Unit(4, 2, 2, 4)
    assert cost.resources["LUT"][0] == unit.luts(1, 1) and cost.resources["DSP"][0] == 1
    ones = float(np.mean(work.input.nonzero[1]))
    changes = 48 * (300 + (unit.luts(1, 1) - 300) * ones)
    assert energy["luts"].nominal == pytest.approx(changes * 0.044 * PJ)
    # 48 weights of 2 bits, out of 18 kbit; no window.
    bits = 48 * 2
    assert energy["block ram"].nominal == pytest.approx(TECHNOLOGY.sram.read_j_per_bit(2.25).nominal * bits)
    assert energy["rescaling"].nominal == pytest.approx(4 * 6 * 0.6583 * PJ)
    assert energy["dram"].nominal == pytest.approx(32 * 32 * 3 * 8 * 8 * PJ)
    assert energy["leakage"].nominal == pytest.approx(0.25 * 48 / 100e6)


def test_products_in_dsp_slices_leave_luts() -> None:
    luts, slices = (price(conv(), device="zu9eg", dsp=dsp, images_per_s=1000) for dsp in (False, True))
    assert slices.resources["DSP"][0] > luts.resources["DSP"][0] == 0
    density = float(np.mean(conv().input.nonzero[1]))
    products = conv().macs * density * TECHNOLOGY["pe_energy.4/4"].value * PJ
    assert slices.energy_j["conv"]["dsp slices"].nominal == pytest.approx(products)


def test_a_rate_out_of_reach_is_said() -> None:
    cost = price(conv(), images_per_s=1e9)
    assert any("1e+09 images/s are out of reach" in note for note in cost.notes)


# --- overlay


def array(**changes: Any) -> Overlay:
    plain = {
        "rows": 4,
        "columns": 8,
        "word_bits": 16,
        "buffer_words": 64,
        "accumulator": 32,
        "digit": 1,
        "signed": True,
    }
    return Overlay(**{**plain, **changes})


def test_the_overlay_by_hand() -> None:
    """10 filters of 4-bit weights (3 planes of magnitude) over 72 inputs of 8 bits, on 64 positions."""
    work = layer(outputs=10, weights=activities(integer_weights(10, 72, bits=4, density=1.0, seed=1)))
    worked = array().worked(work, 1, skip=True)
    assert worked.shape == (3, 1, 3)  # planes, groups, ceil(10 / 4) passes
    # every pass has digits in every plane: 3 * 3 * 8 pairs, ceil(72 / 16) steps, ceil(64 / 8) positions
    assert array().cycles(work, worked, 1) == 9 * 8 * 5 * 8
    assert array().products(work, worked, 1) == 3 * 10 * 72 * 8 * 64
    wide = array(digit=4)
    assert wide.lanes == 4
    assert wide.cycles(work, wide.worked(work, 4, True), 4) == 1 * 3 * 2 * 18 * 8


def test_planes_without_digits_are_left_out() -> None:
    codes = integer_weights(8, 72, bits=4, density=1.0, seed=1)
    sparse = np.array(codes.codes()[0])
    sparse[:4] = np.sign(sparse[:4])  # the first pass holds -1 and 1 alone
    tensor = from_codes(sparse[None], np.ones((1, 8, 1)), shape=(8, 72), bits=4)
    work = layer(outputs=8, weights=activities(tensor))
    assert array().worked(work, 1, skip=True).sum() == 1 + 3
    assert array().worked(work, 1, skip=False).sum() == 6
    skipping, dense = (
        price(work, style="overlay", rows=4, lanes="signed", skip=s, dram_bits_per_cycle=1 << 16)
        for s in ("planes", "none")
    )
    assert skipping.total_latency_s < dense.total_latency_s
    assert dynamic_j(skipping) < dynamic_j(dense)


def test_lanes_without_signs_take_planes_apart() -> None:
    ternary = conv()
    signed, unsigned = array(), array(signed=False)
    assert unsigned.worked(ternary, 1, True).sum() == 2 * signed.worked(ternary, 1, True).sum()
    four_bits = layer(
        weights=activities(integer_weights(32, 72, bits=4, density=1.0, seed=1)),
        input=inputs(bits=5, signed=True),
    )
    assert unsigned.worked(four_bits, 1, True).shape[0] == 4  # two's complement has a plane of signs
    assert fpga(style="overlay").encodings == ("sign_magnitude", "twos_complement")
    assert fpga(style="overlay", lanes="signed").encodings == fpga().encodings == ("sign_magnitude",)


def test_bismo_reaches_its_printed_rate_and_fits_its_device() -> None:
    """8x256x8 at 200 MHz on a XC7Z020: 6.5 binary TOPS; 10x256x10 at 300 MHz on a ZU3EG: 15.4."""
    for device, size, clock, tops in (("xc7z020", 8, 200e6, 6.5), ("zu3eg", 10, 300e6, 15.4)):
        bismo = array(rows=size, columns=size, word_bits=256, buffer_words=1024, signed=False)
        assert 2 * bismo.products_per_s(clock) == pytest.approx(tops * 1e12, rel=0.01)
        taken = bismo.resources(Device.of(TECHNOLOGY, device), law(TECHNOLOGY, "xc7"))
        assert 0.7 < taken.luts / Device.of(TECHNOLOGY, device).holds.luts < 1.1


def test_overlay_resources_follow_the_law() -> None:
    found = array(digit=2).resources(Device.of(TECHNOLOGY, "zu3eg"), law(TECHNOLOGY, "xc7"))
    element = law(TECHNOLOGY, "xc7")(serial_element(8, 2, 32))
    assert found.luts == pytest.approx(32 * element + 12 * 16)  # buffers of 64 words lie in LUTs
    assert found.dsps == 4


def test_weights_that_do_not_fit_are_fetched_in_the_cheaper_order() -> None:
    shape = array()  # buffers of 4 * 64 * 16 = 4096 and 8192 bits
    assert shape.fetched_bits(1e6, 5e3, resident=True) == (0.0, 5e3)
    # weights once and inputs for each of 3 parts of them, or inputs once and weights for the single part of those
    assert shape.fetched_bits(10_000, 5_000, resident=False) == (10_000, 5_000)
    assert shape.fetched_bits(10_000, 100_000, resident=False) == (10_000 * 13, 100_000)
    work = conv(outputs=512, inputs=512, output_size=(4, 4))
    small = price(work, style="overlay", buffer_words=64)
    large = price(work, style="overlay", buffer_words=4096)
    assert any("do not fit the buffers" in note for note in small.notes)
    assert (
        small.operand_j["conv"]["dram"]["weights"].nominal
        > 0
        == large.operand_j["conv"]["dram"]["weights"].nominal
    )
    assert small.bound["conv"] == "dram" or small.total_latency_s == large.total_latency_s


def test_overlay_energy_by_hand() -> None:
    work = conv(
        outputs=4, inputs=8, kernel=(1, 1), output_size=(2, 4), input=inputs(bits=4, density=1.0), density=1.0
    )
    cost = price(
        work, style="overlay", rows=4, columns=8, word_bits=16, buffer_words=64, lanes="signed", clock_mhz=100
    )
    energy = cost.energy_j["conv"]
    cycles = 1 * 4  # a ternary plane times 4 planes of the input; one pass, one step
    ones = float(np.mean(work.input.nonzero[1]))
    assert energy["luts"].nominal == pytest.approx(cycles * cost.resources["LUT"][0] * ones * 0.044 * PJ)
    read_j = TECHNOLOGY.sram.read_j_per_bit(2.25).nominal
    assert cost.operand_j["conv"]["block ram"]["weights"].nominal == pytest.approx(cycles * 16 * 4 * read_j)
    assert cost.operand_j["conv"]["block ram"]["inputs"].nominal == pytest.approx(cycles * 16 * 8 * read_j)
    image, outputs = 32 * 32 * 3 * 8, 32 * 4
    assert energy["dram"].nominal == pytest.approx(
        (image + outputs) * 8 * PJ
    )  # weights fit, the input is the image
    waiting = (image + outputs) / 64
    assert cost.bound["conv"] == "dram" and cost.total_latency_s == pytest.approx(waiting / 100e6)
    assert cost.utilisation["conv"] == pytest.approx(4 * 8 * 8 * 4 / (cycles * 4 * 8 * 16))


def test_a_layer_of_zeros_takes_no_cycle_on_the_overlay() -> None:
    zero = conv(density=0.0)
    cost = price(conv("busy"), conv("idle", density=0.0), style="overlay")
    assert cost.energy_j["idle"]["luts"].nominal == 0 and cost.utilisation["idle"] == 1.0
    assert cost.energy_j["idle"]["block ram"].nominal == 0
    assert cost.bound["idle"] == "dram"  # its operands are moved
    assert zero.weights["sign_magnitude"].nonzero[1].sum() == 0


def test_narrow_digits_on_wide_elements_are_said() -> None:
    layers = (layer("a"), layer("b"))
    cost = fpga(style="overlay", lanes="signed").cost(workload(*layers), {"a": 2, "b": 8})
    assert any("digits of 2 bits run on elements built for 8" in note for note in cost.notes)


@pytest.mark.parametrize("granularity", [{}, {"conv": 3}, {"conv": None}])
def test_the_overlay_needs_a_granularity(granularity: dict) -> None:
    with pytest.raises(ConfigError, match=r"granularity of conv=.*one of 1, 2, 4, 8"):
        fpga(style="overlay").cost(workload(conv()), granularity)
    fpga().cost(workload(conv()), granularity)  # streaming does not look at it


# --- what both keep


@pytest.mark.parametrize("style", STYLES)
def test_parts_add_up_and_every_figure_is_possible(style: str) -> None:
    layers = (
        conv("a", kept=True),
        layer("b", output_size=(3, 3), added=True),
        layer("c", weights={}, input=None),
    )
    cost = price(*layers, style=style, static_w=0.1)
    names = [one.name for one in layers]
    assert list(cost.energy_j) == list(cost.latency_s) == list(cost.utilisation) == list(cost.bound) == names
    for components in cost.energy_j.values():
        for band in components.values():
            assert 0 <= band.low <= band.nominal <= band.high < float("inf")
    luts = cost.energy_j["a"]["luts"]
    assert luts.high == pytest.approx(8.5 * luts.nominal)  # an estimate
    assert all(0 < share <= 1 for share in cost.utilisation.values())
    for name, components in cost.operand_j.items():
        for component, parts in components.items():
            assert set(parts) <= set(OPERANDS)
            whole = cost.energy_j[name][component].nominal
            assert sum(band.nominal for band in parts.values()) == pytest.approx(whole), component
    for name in names:
        assert cost.energy_j[name]["leakage"].nominal == pytest.approx(0.1 * cost.latency_s[name])
    assert cost.extrapolated and cost.area_mm2 == {}
    assert any("lower bound" in note for note in cost.notes)


@pytest.mark.parametrize("style", STYLES)
def test_area_is_absent_with_its_reason(style: str) -> None:
    machine = fpga(style=style)
    assert machine.without_area and "area.fpga" in metrics_for(["fpga"])
    cost = machine.cost(workload(conv()), {"conv": 1})
    assert machine.without_area in cost.notes
    assert any("power at rest is not priced" in note for note in cost.notes)
    assert "leakage" not in cost.energy_j["conv"]
    resources = cost.breakdown()["resources"]
    assert set(resources) == {"LUT", "block RAM", "DSP"}
    assert resources["LUT"]["taken"] > 0 and resources["LUT"]["there"] == 71_000


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sampled_from(STYLES), st.floats(0, 1), st.floats(0, 1), st.integers(2, 7), st.booleans())
def test_more_never_costs_less(style: str, one: float, other: float, bits: int, signed_lanes: bool) -> None:
    """Of bits, of digits and of inputs that are not zero, of outputs and of positions; in dynamic energy."""
    lanes = "signed" if signed_lanes else "unsigned"
    few_zeros, many_zeros = max(one, other), min(one, other)

    def energy(weight_bits: int = 3, density: float = 1.0, given: float = 1.0, **changes: Any) -> float:
        outputs = changes.get("outputs", 32)
        tensor = integer_weights(outputs, 72, bits=weight_bits, density=density, seed=5)
        work = layer(
            weights=activities(tensor), input=inputs(bits=bits, density=given), output_bits=8, **changes
        )
        # at the same folding and with room for all weights
        return dynamic_j(price(work, style=style, lanes=lanes, device="u250", images_per_s=1e5))

    plain = energy()
    assert energy(weight_bits=5) >= plain * (1 - 1e-9)
    assert energy(density=few_zeros) >= energy(density=many_zeros) * (1 - 1e-9)
    assert energy(given=few_zeros) >= energy(given=many_zeros) * (1 - 1e-9)
    assert energy(outputs=64) >= plain * (1 - 1e-9)
    assert energy(output_size=(16, 8)) >= plain * (1 - 1e-9)


@pytest.mark.parametrize("style", STYLES)
def test_float_layers_run_on_units_of_their_own(style: str) -> None:
    work = layer("conv", weights={}, input=None, output_bits=32)
    cost = price(work, style=style, clock_mhz=100, float_units=16)
    assert cost.total_latency_s == pytest.approx(work.macs / 16 / 100e6)
    assert cost.energy_j["conv"]["float units"].nominal == pytest.approx(work.macs * 4.6 * 14 * PJ)
    assert cost.resources["LUT"][0] == 0


@pytest.mark.parametrize("style", STYLES)
def test_unpriced_parts_and_estimates_are_named(style: str) -> None:
    work = replace(workload(conv()), unpriced=("head.softmax",))
    notes = fpga(style=style).cost(work, {"conv": 1}).notes
    assert any("not priced: head.softmax" in note for note in notes)
    assert any(note.startswith("estimate: clock of") for note in notes)
    assert any(note.startswith("estimate: energy") for note in notes)
    assert not any(
        "clock of" in note for note in fpga(style=style, clock_mhz=50).cost(work, {"conv": 1}).notes
    )


def test_grouped_layers_are_priced_as_units_and_said() -> None:
    cost = price(conv(groups=64))
    assert any("channel groups priced as matrix-vector units: conv" in note for note in cost.notes)


@pytest.mark.parametrize(
    ("settings_", "error", "message"),
    [
        (
            {"style": "stream"},
            UnknownName,
            "accelerator.style: unknown style 'stream'; did you mean 'streaming'",
        ),
        ({"device": "zu3"}, UnknownName, "unknown device 'zu3'; did you mean 'zu3eg'"),
        ({"device": "ice40hx8k"}, ConfigError, "accelerator.device=ice40hx8k.*or style=overlay"),
        ({"clock_mhz": 0}, ConfigError, "accelerator.clock_mhz=0"),
        ({"static_w": True}, ConfigError, "accelerator.static_w=True"),
        ({"images_per_s": float("inf")}, ConfigError, "accelerator.images_per_s=inf"),
        ({"share": 1.5}, ConfigError, "accelerator.share=1.5"),
        ({"dsp": "yes"}, ConfigError, "accelerator.dsp=yes"),
        ({"word_bits": 48}, ConfigError, "accelerator.word_bits=48: expected a power of two"),
        ({"rows": 0}, ConfigError, "accelerator.rows=0"),
        ({"skip": "plane"}, UnknownName, "unknown skipping 'plane'; did you mean 'planes'"),
        ({"lanes": "sign"}, UnknownName, "unknown lanes 'sign'"),
        ({"threshold_bits": 9}, ConfigError, "accelerator.threshold_bits=9"),
    ],
)
def test_settings_out_of_range_are_refused(settings_: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fpga(**settings_)


def test_the_overlay_runs_on_lattice_parts() -> None:
    cost = price(conv(), style="overlay", device="ice40hx8k", rows=2, columns=2, word_bits=64)
    element = law(TECHNOLOGY, "ice40")(serial_element(64, 1, 32, False))
    assert cost.resources["LUT"][0] == pytest.approx(4 * element)
    assert cost.resources["DSP"] == (0, 0)
