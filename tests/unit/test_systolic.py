"""The systolic array: counts against an array walked cycle by cycle, figures by hand, the contract of all machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError, UnknownName
from energy.accelerators import make_accelerator
from energy.accelerators.systolic import Systolic, mac_energy, multiplier_energy
from energy.accelerators.systolic_counts import DATAFLOWS, Folds, Product
from energy.accelerators.systolic_traffic import Formats, Memories
from energy.published import target
from energy.technology import load_technology
from tests.contracts_energy import AcceleratorContract, each_subclass, granularities
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload
from tests.systolic_walk import Walk, walk_stationary, walk_sums

TECHNOLOGY = load_technology("cmos45")


def make(**settings: Any) -> Systolic:
    return make_accelerator("systolic", settings, TECHNOLOGY)  # type: ignore[return-value]


def walk(dataflow: str, inputs: np.ndarray, weights: np.ndarray, folds: Folds) -> Walk:
    """``inputs [pixels, reduction] @ weights [reduction, filters]`` on the array, chunk after chunk of the stream."""
    if dataflow == "output_stationary":
        return walk_sums(inputs, weights, folds.rows, folds.columns)
    swapped = dataflow == "input_stationary"
    left, top = (weights.T, inputs.T) if swapped else (inputs, weights)
    parts = [
        walk_stationary(chunk, top, folds.rows, folds.columns) for chunk in np.array_split(left, folds.chunks)
    ]
    sums = np.concatenate([part.sums for part in parts])
    moved = (
        {role: sum(getattr(part, what)[role] for part in parts) for role in ("stays", "crosses", "falls")}
        for what in ("reads", "writes", "steps")
    )
    return Walk(sums.T if swapped else sums, sum(part.cycles for part in parts), *moved)


sizes = st.integers(1, 7)


@settings(max_examples=60, deadline=None)
@given(
    dataflow=st.sampled_from(DATAFLOWS),
    product=st.builds(Product, pixels=sizes, reduction=sizes, filters=sizes),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    chunks=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_counts_are_those_of_a_walked_array(
    dataflow: str, product: Product, rows: int, columns: int, chunks: int, seed: int
) -> None:
    """Sums, cycles, words read and written, and steps between elements, with every operand's number checked."""
    rng = np.random.default_rng(seed)
    left = rng.integers(-9, 10, (product.pixels, product.reduction))
    top = rng.integers(-9, 10, (product.reduction, product.filters))
    folds = Folds(dataflow, product, rows, columns)
    if dataflow != "output_stationary":
        folds = replace(folds, chunks=min(chunks, folds.lengths[2]))
    walked = walk(dataflow, left, top, folds)
    np.testing.assert_array_equal(walked.sums, left @ top)
    assert folds.cycles() == walked.cycles
    moves = folds.moves()
    for role, operand in zip(("stays", "crosses", "falls"), folds.roles, strict=True):
        counted = moves[operand]
        seen = (walked.reads[role], walked.writes[role], walked.steps[role])
        assert (counted.reads, counted.writes, counted.steps) == seen, operand


def test_counts_by_hand() -> None:
    """5 pixels, 3 products, 4 filters on 2 x 2: weights in 2 x 2 folds of 2 + (5 + 2 + 2 - 2) cycles."""
    folds = Folds("weight_stationary", Product(5, 3, 4), 2, 2)
    assert folds.cycles() == 4 * 9 and folds.cycles(preload=False) == 2 + 4 * 7
    moves = folds.moves()
    assert (moves["weights"].reads, moves["weights"].steps) == (
        12,
        4,
    )  # each column: rows 0 and 1, then row 0
    assert (moves["inputs"].reads, moves["inputs"].steps) == (5 * 3 * 2, 5 * 3 * 2)
    assert (moves["outputs"].reads, moves["outputs"].writes) == (5 * 4, 5 * 4 * 2)
    assert moves["outputs"].steps == 5 * 4 * 2  # one step down in each of the two folds
    assert Folds("output_stationary", Product(5, 3, 4), 2, 2).cycles() == 6 * 5
    assert Folds("input_stationary", Product(5, 3, 4), 2, 2).cycles() == 2 * 3 * (2 + 4 + 2)


def test_scalesim_counts_the_same_cycles() -> None:
    """Its reports give the number of the last cycle, counted from zero."""
    checks = target("scalesim").run()
    assert len(checks) >= 20 and all(check.model == check.published + 1 for check in checks)


def test_element_energy_follows_the_synthesised_widths() -> None:
    assert mac_energy(TECHNOLOGY, 8, 8).nominal == pytest.approx(0.2034)
    assert mac_energy(TECHNOLOGY, 16, 16).nominal == pytest.approx(0.6583)
    assert mac_energy(TECHNOLOGY, 2, 8).nominal == pytest.approx(0.0794)  # as 4 by 4
    assert mac_energy(TECHNOLOGY, 4, 8).nominal == pytest.approx((0.0794 * 0.2034) ** 0.5)
    assert mac_energy(TECHNOLOGY, 1, 1).low == pytest.approx(0.0216 * 0.7)
    assert multiplier_energy(TECHNOLOGY, 8, 8).nominal == pytest.approx(0.2)
    widths = [mac_energy(TECHNOLOGY, w, 8).nominal for w in range(1, 17)]
    assert widths == sorted(widths)


def one_layer(**changes: Any) -> Any:
    """4-bit weights of 32 filters and 72 products, 8-bit inputs, 64 pixels."""
    dense = activities(integer_weights(32, 72, bits=4, density=1.0, seed=0))
    return layer(weights=dense, **changes)


def test_a_layer_by_hand() -> None:
    """72 products on 16 rows are 5 folds, 32 filters on 16 columns 2; 64 pixels stream through each."""
    machine = make(rows=16, columns=16, weight_kb=2, input_kb=8, output_kb=32, banks=4)
    cost = machine.cost(workload(one_layer(), image_bits=4096), {})
    assert cost.latency_s["conv"] == pytest.approx(10 * (16 + 64 + 16 + 16 - 2) / 500e6)
    assert cost.bound == {"conv": "compute"}
    assert cost.utilisation["conv"] == pytest.approx(32 * 72 * 64 / (10 * 110 * 256))
    energy, operands = cost.energy_j["conv"], cost.operand_j["conv"]
    macs = 32 * 72 * 64
    assert energy["pe array"].nominal == pytest.approx(macs * (0.0794 * 0.2034) ** 0.5 * 1e-12)
    step = 0.0405e-12 * 443.46**0.5 * 1e-3
    assert operands["interconnect"]["inputs"].nominal == pytest.approx(step * 8 * 72 * 64 * 30)
    assert operands["interconnect"]["outputs"].nominal == pytest.approx(step * 32 * 32 * 64 * 5 * 15)
    rows_down = 4 * 16 * 15 // 2 + 8 * 7 // 2
    assert operands["interconnect"]["weights"].nominal == pytest.approx(step * 4 * 32 * rows_down)
    sram = TECHNOLOGY.sram
    read_weights = sram.read_j_per_bit(0.5).nominal * 32 * 72 * 4
    assert operands["weight buffer"]["weights"].nominal == pytest.approx(read_weights)
    sums = 32 * 64 * 32
    read, write = (f(8.0).nominal for f in (sram.read_j_per_bit, sram.write_j_per_bit))
    # the first fold starts from zero, four add to it, and the result is read to be scaled
    assert operands["output buffer"]["outputs"].nominal == pytest.approx(sums * (5 * read + 5 * write))
    read, write = (f(2.0).nominal for f in (sram.read_j_per_bit, sram.write_j_per_bit))
    written = 4096 + 32 * 64 * 8
    assert energy["input buffer"].nominal == pytest.approx(72 * 64 * 2 * 8 * read + written * write)
    assert energy["dram"].nominal == pytest.approx(4096 * 8e-12)
    assert energy["post-processing"].nominal == pytest.approx(32 * 64 * 0.6583e-12)
    elements = 256 * 15.60e-6 + 16 * 55.35e-6
    memories = 4 * sum(sram.leakage_w(kb).nominal for kb in (0.5, 2.0, 8.0))
    assert cost.leakage_w.nominal == pytest.approx(elements + memories)
    assert cost.area_mm2["pe array"].nominal == pytest.approx(256 * 443.46e-6)


def test_wide_operands_take_a_pass_per_pair_of_digits() -> None:
    """10-bit inputs in 4-bit elements are three digits, 4-bit weights one."""
    narrow, wide = (one_layer(input=inputs(bits=b)) for b in (4, 10))
    machine = make(precision=4, dram_bits=1 << 20)
    one, three = (machine.cost(workload(work), {}) for work in (narrow, wide))
    assert three.total_latency_s == pytest.approx(3 * one.total_latency_s)
    assert three.energy_j["conv"]["pe array"].nominal == pytest.approx(
        3 * one.energy_j["conv"]["pe array"].nominal
    )


def test_a_narrow_port_or_dram_sets_the_time() -> None:
    work = one_layer()
    slow = make(output_port_bits=64).cost(workload(work), {})
    assert slow.bound == {"conv": "output buffer"}
    # 3 folds of 32 rows: 2 read sums, 3 written, and the results read
    assert slow.latency_s["conv"] == pytest.approx((2 + 3 + 1) * 32 * 64 * 32 / 64 / 500e6)
    starved = make(dram_bits=1).cost(workload(work, image_bits=24576), {})
    assert starved.bound == {"conv": "dram"}
    assert starved.latency_s["conv"] == pytest.approx(24576 / 500e6)
    assert 0 < starved.utilisation["conv"] < slow.utilisation["conv"]


def test_hidden_loading_saves_the_rows_of_all_folds_but_one() -> None:
    work = one_layer()
    exposed, hidden = (make(preload=p).cost(workload(work), {}) for p in ("exposed", "hidden"))
    saved = exposed.total_latency_s - hidden.total_latency_s
    assert saved == pytest.approx((3 - 1) * 32 / 500e6)


class TestDram:
    """Traffic by hand: 32 filters, 72 products, 64 pixels on 16 x 16, so 5 folds down and 2 across."""

    folds = Folds("weight_stationary", Product(64, 72, 32), 16, 16)
    formats = Formats(weight_bits=4, input_bits=8, sum_bits=32)
    weights, inputs, sums = 32 * 72 * 4, 8 * 64 * 8, 32 * 64 * 32

    def bits(
        self, *, inputs: float, outputs: float, resident: bool = True, image: int = 0
    ) -> dict[str, float]:
        """With room for these bits in the working halves."""
        memories = Memories(1.0, inputs * 2 / 8192, outputs * 2 / 8192, residual_bits=16)
        orders = [
            memories.dram_bits(one_layer(), self.formats, self.folds, columns_first, resident, image)
            for columns_first in (True, False)
        ]
        return min(orders, key=lambda moved: sum(moved.values()))

    def test_nothing_moves_where_all_fits(self) -> None:
        moved = self.bits(inputs=self.inputs, outputs=self.sums)
        assert moved == {"weights": 0, "inputs": 0, "outputs": 0}
        assert self.bits(inputs=self.inputs, outputs=self.sums, image=999)["inputs"] == 999

    def test_weights_that_stay_come_once(self) -> None:
        moved = self.bits(inputs=self.inputs, outputs=self.sums, resident=False)
        assert moved == {"weights": self.weights, "inputs": 0, "outputs": 0}

    def test_a_slab_of_inputs_that_fits_comes_once(self) -> None:
        """A fold's rows of the inputs are kept over the columns; all sums fit."""
        moved = self.bits(inputs=self.inputs / 5, outputs=self.sums)
        assert moved["inputs"] == self.inputs and moved["outputs"] == 0

    def test_inputs_come_for_every_column_where_their_slab_does_not_fit(self) -> None:
        moved = self.bits(inputs=self.inputs / 6, outputs=self.sums)
        assert moved["inputs"] == 2 * self.inputs

    def test_sums_go_out_and_come_back_between_folds(self) -> None:
        """Four times out, four times in; keeping a column's sums instead costs the inputs once more."""
        assert self.bits(inputs=self.inputs, outputs=self.sums / 2)["outputs"] == 0
        moved = self.bits(inputs=self.inputs, outputs=self.sums / 3)
        assert moved == {"weights": 0, "inputs": 0, "outputs": 8 * self.sums}

    def test_chunks_of_the_stream_bring_the_weights_again(self) -> None:
        """In four chunks the sums fit, and the inputs' slabs; weights that are not on the chip come each time."""
        memories = Memories(1.0, self.inputs / 20 * 2 / 8192, self.sums / 4 * 2 / 8192, residual_bits=16)
        assert memories.chunkings(one_layer(), self.formats, self.folds) == [1, 2, 4, 20]
        folds = replace(self.folds, chunks=4)
        moved = memories.dram_bits(one_layer(), self.formats, folds, True, False, 0)
        assert moved == {"weights": 4 * self.weights, "inputs": self.inputs, "outputs": 0}

    def test_the_better_order_is_taken(self) -> None:
        """Sums of one column fit, inputs never: reading those twice is less than moving sums eight times."""
        moved = self.bits(inputs=self.inputs / 5, outputs=self.sums / 2)
        assert moved == {"weights": 0, "inputs": 2 * self.inputs, "outputs": 0}


def test_a_result_that_does_not_fit_goes_to_dram() -> None:
    work = one_layer(kept=True, added=True)
    result, stream = 32 * 64 * (8 + 16), 32 * 64 * 16
    room = make(input_kb=2 * result / 8192).cost(workload(work, image_bits=1), {})
    assert room.energy_j["conv"]["dram"].nominal == pytest.approx(8e-12)
    tight = make(input_kb=2 * (result - 1) / 8192).cost(workload(work, image_bits=1), {})
    assert tight.operand_j["conv"]["dram"]["outputs"].nominal == pytest.approx(result * 8e-12)
    assert tight.operand_j["conv"]["dram"]["inputs"].nominal == pytest.approx(8e-12)
    tighter = make(input_kb=2 * (stream - 1) / 8192).cost(workload(work, image_bits=1), {})
    assert tighter.operand_j["conv"]["dram"]["inputs"].nominal == pytest.approx((1 + stream) * 8e-12)


def test_zeros_rest_the_multiplier_where_it_is_gated() -> None:
    half = activities(integer_weights(32, 72, bits=8, density=0.5, seed=0))
    work = layer(weights=half, input=inputs(bits=8, density=0.6))
    density = float(work.weights["sign_magnitude"].nonzero[8].sum()) / (32 * 72)
    density *= float(work.input.nonzero[8][0])
    plain, gated = (make(zero_gating=g).cost(workload(work), {}) for g in (False, True))
    multiplier = 0.2 / 0.2034
    ratio = gated.energy_j["conv"]["pe array"].nominal / plain.energy_j["conv"]["pe array"].nominal
    assert ratio == pytest.approx(1 - multiplier * (1 - density))
    assert gated.latency_s == plain.latency_s


def test_each_term_is_a_set_of_filters() -> None:
    one, two = (
        layer(weights=activities(ternary_weights(32, 72, terms=t, density=0.5, seed=1))) for t in (1, 2)
    )
    priced = [make().cost(workload(work), {}) for work in (one, two)]
    plain, double = (cost.energy_j["conv"] for cost in priced)
    assert double["pe array"].nominal == pytest.approx(2 * plain["pe array"].nominal)
    assert double["post-processing"].nominal == pytest.approx(2 * plain["post-processing"].nominal)
    assert priced[1].total_latency_s == pytest.approx(2 * priced[0].total_latency_s)


def test_the_peak_is_a_full_array() -> None:
    machine = make(rows=256, columns=256, weight_kb=1024, input_kb=1024, output_kb=1024, banks=16)
    peak = machine.peak(8, 8)
    assert peak.ops_per_s == pytest.approx(2 * 65536 * 500e6)
    assert machine.peak(16, 8).ops_per_s == pytest.approx(65536 * 500e6)
    step = 0.0405e-12 * 443.46**0.5 * 1e-3
    sram = TECHNOLOGY.sram
    cycle = 65536 * (0.2034e-12 + step * (8 + 32))
    cycle += 256 * (8 * sram.read_j_per_bit(64).nominal + 32 * sram.write_j_per_bit(64).nominal)
    busy = machine.cost(workload(one_layer()), {})
    assert peak.power_w.nominal == pytest.approx(cycle * 500e6 + busy.leakage_w.nominal)
    assert peak.area_mm2 == busy.total_area_mm2
    others = [make(dataflow=d).peak(8, 8) for d in DATAFLOWS]
    assert all(p.tops_per_w > 0 and p.tops_per_mm2 == others[0].tops_per_mm2 for p in others)


def test_settings_out_of_range() -> None:
    with pytest.raises(UnknownName, match="unknown dataflow 'weight'"):
        make(dataflow="weight")
    with pytest.raises(UnknownName, match="accelerator.precision"):
        make(precision=6)
    with pytest.raises(ConfigError, match="accelerator.input_kb"):
        make(input_kb=0)
    with pytest.raises(ConfigError, match="accelerator.rows"):
        make(rows=0)


class SystolicContract(AcceleratorContract):
    """What the contract asks, with zeros that save energy alone, and only where they are gated."""

    dataflow = "weight_stationary"

    def make(self, **settings: Any) -> Systolic:
        return make(**{"dataflow": self.dataflow, **settings})

    def test_a_layer_of_zeros_only_moves_its_operands_and_leaks(self) -> None:
        """Zeros are multiplied in the same time; gated, only what is not the multiplier is left of the array."""
        zero = layer(weights=activities(integer_weights(32, 72, bits=4, density=0.0, seed=1)))
        dense = layer(weights=activities(integer_weights(32, 72, bits=4, density=1.0, seed=1)))
        plain = [self.make().cost(workload(work), {}) for work in (zero, dense)]
        assert plain[0].breakdown() == plain[1].breakdown()
        gated = [self.make(zero_gating=True).cost(workload(work), {}) for work in (zero, dense)]
        assert gated[0].latency_s == gated[1].latency_s
        arrays = [cost.energy_j["conv"]["pe array"].nominal for cost in gated]
        assert arrays[0] < 0.5 * arrays[1]

    @each_subclass
    @given(granularities, st.floats(0, 1), st.floats(0, 1))
    def test_gated_zeros_never_cost_more(self, g: int, one: float, other: float) -> None:
        machine = self.make(zero_gating=True)
        sparse, dense = (
            layer(
                weights=activities(integer_weights(32, 72, bits=4, density=d, seed=5)),
                input=inputs(density=d),
            )
            for d in sorted((one, other))
        )
        costs = [self.price(work, g=g, accelerator=machine) for work in (dense, sparse)]
        self.assert_no_cheaper(*costs)

    def test_operands_are_told_apart(self) -> None:
        cost = self.price(layer("a"), layer("b", added=True))
        for name, components in cost.operand_j.items():
            for component, parts in components.items():
                whole = cost.energy_j[name][component].nominal
                assert sum(band.nominal for band in parts.values()) == pytest.approx(whole)

    def test_a_smaller_memory_never_saves_dram(self) -> None:
        work = workload(layer(), replace(layer(), name="again"))
        few, many = (self.make(weight_kb=kb, input_kb=kb, output_kb=kb).cost(work, {}) for kb in (0.25, 64.0))
        for name in ("conv", "again"):
            assert few.energy_j[name]["dram"].nominal >= many.energy_j[name]["dram"].nominal
        assert any("do not fit on the chip" in note for note in few.notes)


class TestWeightStationary(SystolicContract):
    dataflow = "weight_stationary"


class TestOutputStationary(SystolicContract):
    dataflow = "output_stationary"


class TestInputStationary(SystolicContract):
    dataflow = "input_stationary"
