"""Arrays of adders for shared sums: the contract, a layer worked by hand, and what sharing, width and blocks do."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.slicing import from_codes
from dse.errors import ConfigError, UnknownName
from energy.accelerators import make_accelerator, requests
from energy.accelerators.addergraph import AdderGraphArray
from energy.activity import InputActivity, ReuseActivity, WeightActivity, reuse_activity
from energy.technology import load_technology
from energy.workload import LayerWork, Workload
from tests.contracts_energy import AcceleratorContract, dynamic_j
from tests.energy_workloads import integer_weights, layer, workload

PJ, UW, UM2 = 1e-12, 1e-6, 1e-6
TECHNOLOGY = load_technology("cmos45")
SMALL = {"filters": 2, "lanes": 2, "pixels": 4}


def addergraph(**settings: Any) -> AdderGraphArray:
    return make_accelerator("addergraph", settings, TECHNOLOGY)  # type: ignore[return-value]


class TestAdderGraph(AcceleratorContract):
    counts_alone = False  # rows of other channel groups share no sums

    def make(self, **settings: Any) -> AdderGraphArray:
        return addergraph(**{"pixels": 8, **settings})

    @pytest.mark.parametrize("seed", range(3))
    def test_fewer_zero_weights_never_cost_less(self, seed: int) -> None:
        """In energy, and by much; what is shared is searched for greedily, and a chain of additions may get shorter."""
        works = [
            self.layer(tensor=integer_weights(32, 72, bits=4, density=d, seed=seed)) for d in (0, 0.1, 0.4, 1)
        ]
        for sparse, dense in pairwise(works):
            assert dynamic_j(self.price(dense)) > dynamic_j(self.price(sparse))

    @pytest.mark.parametrize("seed", range(3))
    def test_more_weight_bits_never_cost_less(self, seed: int) -> None:
        """In energy; a finer layer's chain of additions, which may bind, can be the shorter one."""
        works = [
            self.layer(tensor=integer_weights(32, 72, bits=b, density=1.0, seed=seed)) for b in (2, 3, 5, 8)
        ]
        for few, many in pairwise(works):
            assert dynamic_j(self.price(many)) > dynamic_j(self.price(few))

    @pytest.mark.parametrize("groups", [2, 4, 8])
    def test_grouping_channels_never_saves_more_than_its_products(self, groups: int) -> None:
        """It may save more, since blocks and sums get smaller too; what holds is that groups share nothing."""
        whole = self.dense_layer(groups)
        codes = np.full((1, 32 // groups, whole.reduction), -5)
        tensor = from_codes(codes, np.ones((1, len(codes[0]), 1)), shape=codes.shape[1:], bits=4)
        part = self.layer(tensor=tensor, inputs=32 // groups, outputs=32 // groups)
        assert whole.reuse.adders == groups * part.reuse.adders
        arrays = [self.price(work).energy_j["conv"]["pe array"].nominal for work in (whole, part)]
        assert arrays[0] == pytest.approx(groups * arrays[1])


def shared(**changes: Any) -> ReuseActivity:
    """Seven additions, 11 bits wide on average, three one after another; a scaling for each of three outputs."""
    plain = ReuseActivity(
        adders_before=12,
        adders=7,
        adder_bits=77,
        depth=3,
        scalings=3,
        combining=0,
        multiplications_before=9,
        multiplications=6,
    )
    return replace(plain, **changes)


def tiny(reuse: ReuseActivity | None, terms: int = 1, **changes: Any) -> LayerWork:
    """Three filters of six weights over five pixels."""
    weights = WeightActivity(
        "csd", terms, 3, dense_bits=18 * 4, nonzero={1: np.array([[4, 3, 2]])}, signs={1: 9}
    )
    shape: dict[str, Any] = {"outputs": 3, "inputs": 2, "kernel": (1, 3), "output_size": (1, 5)}
    read = InputActivity(8, False, {8: np.array([0.75])})
    work = layer("tiny", **shape, weights={"csd": weights}, input=read, output_bits=4, added=True)
    return replace(work, reuse=reuse, **changes)


def price(work: LayerWork, **settings: Any) -> Any:
    return addergraph(**{**SMALL, **settings}).cost(Workload((work,), image_bits=100), {})


def memory_pj(kilobytes: float, first: float, second: float) -> float:
    """Of a bit: the table's first segment, from 0.25 to 0.5 KB, continued below."""
    return first * (kilobytes / 0.25) ** math.log2(second / first) / 64


def test_worked_by_hand() -> None:
    """Four adders of 16 bits for each of 4 positions."""
    cost = price(tiny(shared()))
    energy = cost.energy_j["tiny"]

    # Seven additions on four adders take two cycles, but three follow each other; two tiles of positions.
    cycles = 3 * 2
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    assert cost.bound == {"tiny": "compute"}
    busy = 7 * 5
    assert cost.utilisation["tiny"] == pytest.approx(busy / (cycles * 4 * 4))

    # 77 bits of adders and of registers for every position, and the rest of an element for each addition.
    array_pj = 77 * 5 * (0.0020502 + 0.0047086) + busy * 0.01761
    assert energy["pe array"].nominal == pytest.approx(array_pj * PJ)

    # A program of two operands out of 6 inputs and 7 sums, or none: 4 bits and a sign each, and a shift of 4 bits.
    program = 7 * (2 * (4 + 1) + 4)
    local = cost.operand_j["tiny"]["local buffers"]
    assert local["weights"].nominal == pytest.approx(program * 2 * 1.414 / 64 * PJ)
    assert local["inputs"].nominal == pytest.approx(6 * 5 * 8 * 1.414 / 64 * PJ)
    weight_kb, activation_kb = program / 8192, (10 * 8 + 15 * 4 + 15 * 16) / 8192
    assert energy["weight buffer"].nominal == pytest.approx(program * memory_pj(weight_kb, 0.823, 1.414) * PJ)
    read, write = memory_pj(activation_kb, 0.823, 1.414), memory_pj(activation_kb, 1.328, 2.281)
    expected = (2 * 6 * 2 * 2 * 8 + 15 * 16) * read + 15 * 4 * write
    assert energy["activation buffer"].nominal == pytest.approx(expected * PJ)
    assert energy["post-processing"].nominal == pytest.approx(2 * 15 * 0.6583 * PJ)
    assert energy["dram"].nominal == pytest.approx(100 * 8 * PJ)

    leakage_uw = 16 * 16 * (0.18002 + 0.43289)
    leakage_uw += 2 * 55.35 + 2 * 0.012 + (weight_kb + activation_kb) * 0.024
    assert energy["leakage"].nominal == pytest.approx(leakage_uw * UW * cycles / 500e6)
    assert {name: band.nominal for name, band in cost.area_mm2.items()} == pytest.approx(
        {
            "pe array": 16 * (16 * 4.4267 + 16 * 11.952 + 26.831) * UM2,
            "post-processing": 2 * 1362.78 * UM2,
            "local buffers": 2 * 0.00214,
            "weight buffer": weight_kb * 0.00428,
            "activation buffer": activation_kb * 0.00428,
        }
    )
    assert cost.extrapolated and any("wires between them are left out" in note for note in cost.notes)


def test_adders_bind_where_the_chain_is_short() -> None:
    wide, narrow = (price(tiny(shared(adders=40, adder_bits=440, depth=3)), width=w) for w in (16, 8))
    assert wide.total_latency_s == pytest.approx(math.ceil(40 / 4) * 2 / 500e6)
    # Sums of 11 bits on adders of 8 take two cycles each; the bits that switch are the same.
    assert narrow.total_latency_s == pytest.approx(2 * wide.total_latency_s)
    again = 40 * 5 * 0.01761
    arrays = [cost.energy_j["tiny"]["pe array"].nominal for cost in (wide, narrow)]
    assert arrays[1] - arrays[0] == pytest.approx(again * PJ)


def test_a_chain_on_narrow_adders_takes_the_cycles_of_its_sums() -> None:
    wide, narrow = (price(tiny(shared(depth=7)), width=w) for w in (16, 8))
    assert wide.total_latency_s == pytest.approx(7 * 2 / 500e6)  # no two of the seven at a time; two tiles
    assert narrow.total_latency_s == pytest.approx(2 * wide.total_latency_s)


counts = st.integers(0, 5000)


@settings(max_examples=60, deadline=None)
@given(counts, counts, st.integers(1, 64), st.integers(0, 8), st.integers(1, 40), st.integers(0, 20))
def test_more_additions_wider_sums_and_longer_chains_never_cost_less(
    adders: int, more: int, width: int, wider: int, depth: int, deeper: int
) -> None:
    few = shared(adders=adders, adder_bits=adders * width, depth=depth)
    many = adders + more
    larger = shared(adders=many, adder_bits=many * (width + wider), depth=depth + deeper)
    TestAdderGraph().assert_no_cheaper(price(tiny(larger)), price(tiny(few)))


def test_terms_are_scaled_and_added_behind_the_array() -> None:
    one = price(tiny(shared()))
    three = price(tiny(shared(scalings=9, combining=6), terms=3))
    behind = [cost.energy_j["tiny"]["post-processing"].nominal for cost in (one, three)]
    assert behind == pytest.approx([(3 + 3) * 5 * 0.6583 * PJ, (9 + 6 + 3) * 5 * 0.6583 * PJ])


def test_a_program_names_what_its_block_knows() -> None:
    """Blocks lie inside a channel group and a term; an operand is one of a block's inputs and sums."""
    for terms, groups, outputs, reduction in (
        (1, 1, 32, 72),
        (2, 1, 20, 300),
        (1, 4, 32, 18),
        (1, 32, 32, 9),
    ):
        tensor = integer_weights(outputs, reduction, bits=4, density=0.7, seed=2)
        machine = addergraph(block_rows=16, block_columns=144)
        counted = reuse_activity(tensor, groups, machine.reuse_block, 8, False)
        work = tiny(counted, terms, outputs=outputs, inputs=groups * reduction, groups=groups, kernel=(1, 1))
        blocks = 0
        for _ in range(terms * groups):
            for _ in range(0, outputs // groups, 16):
                blocks += sum(1 for _ in range(0, reduction, 144))
        known = min(reduction, 144) + math.ceil(counted.adders / blocks)
        bits = 2 * (known.bit_length() + 1) + 4
        assert machine.work(work).weight_bits == counted.adders * bits


def test_equal_filters_are_made_once() -> None:
    """16 filters alike take about as many additions as one, which may share sums within itself; each is scaled."""
    row = np.random.default_rng(0).integers(-7, 8, 72)
    machine = addergraph()
    costs = []
    for outputs in (1, 16):
        tensor = from_codes(
            np.tile(row, (1, outputs, 1)), np.ones((1, outputs, 1)), shape=(outputs, 72), bits=4
        )
        counted = reuse_activity(tensor, 1, machine.reuse_block, 8, False)
        work = layer(outputs=outputs)
        costs.append(machine.cost(workload(replace(work, reuse=counted)), {}))
    arrays = [cost.energy_j["conv"]["pe array"].nominal for cost in costs]
    assert arrays[1] == pytest.approx(arrays[0], rel=0.02)
    scaled = [cost.energy_j["conv"]["post-processing"].nominal for cost in costs]
    assert scaled[1] == pytest.approx(16 * scaled[0])


def test_the_peak_is_an_addition_in_every_adder() -> None:
    peak = addergraph(**SMALL).peak(2, 8)
    assert peak.ops_per_s == 2 * 16 * 500e6
    cycle_pj = 16 * (16 * (0.0020502 + 0.0047086) + 0.01761)
    leakage_uw = 16 * 16 * (0.18002 + 0.43289)
    assert peak.power_w.nominal == pytest.approx(cycle_pj * PJ * 500e6 + leakage_uw * UW)
    # six bits have two digits on average that are not zero
    assert addergraph(**SMALL).peak(6, 8).ops_per_s == pytest.approx(peak.ops_per_s / 2)


def test_sharing_is_asked_for_and_its_absence_is_said() -> None:
    assert requests({"a": addergraph(block_rows=8, block_columns=64)}).reuse_block == (8, 64)
    with pytest.raises(ConfigError, match=r"reuse of tiny.*evaluation.reuse_block=\[16, 144\]"):
        price(tiny(None))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"width": 0}, ConfigError, "accelerator.width=0: expected an integer from 1 to 64"),
        ({"width": 65}, ConfigError, "accelerator.width=65"),
        ({"block_rows": 0}, ConfigError, "accelerator.block_rows=0"),
        ({"block_columns": 1.5}, ConfigError, "accelerator.block_columns=1.5"),
        ({"filters": 0}, ConfigError, "accelerator.filters=0"),
        ({"encoding": "csd"}, UnknownName, "unknown setting of 'addergraph' 'encoding'"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        addergraph(**changes)
