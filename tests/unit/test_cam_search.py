"""Search in content-addressable memory: the contract, searches and merges by hand, layers as searches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError, UnknownName
from energy.accelerators import Accelerator, make_accelerator
from energy.accelerators.search import CamSearch
from energy.associative.searching import Searcher, SearchWork, load_j, make_array, search_cost
from energy.cost import Cost
from energy.technology import load_technology
from tests.benchmarks.processes import ROOT
from tests.cam_contract import CamContract
from tests.contracts_energy import dynamic_j
from tests.energy_workloads import activities, inputs, layer, ternary_weights, workload

TECHNOLOGY = load_technology("cmos45")
matches = st.sampled_from(["exact", "best", "threshold"])


def machine(**settings: Any) -> Accelerator:
    return make_accelerator("cam_search", settings, TECHNOLOGY)


def searcher(rows: int = 64, columns: int = 64, cell: str = "fefet", levels: int = 16) -> Searcher:
    return Searcher(make_array(rows, columns, cell, TECHNOLOGY), levels)


def search(work: SearchWork, **shape: Any) -> Cost:
    return search_cost([work], searcher(**shape))


class TestFefet(CamContract):
    def make(self, **settings: Any) -> Accelerator:
        return machine(**settings)


class TestCmos(CamContract):
    def make(self, **settings: Any) -> Accelerator:
        return machine(**{"cell": "cmos", "rows": 16, "columns": 32, **settings})


def test_words_lie_over_arrays_side_by_side_and_one_below_the_other() -> None:
    found = searcher(rows=64, columns=100).layout(130, 250, planes=2)
    assert (found.horizontal, found.vertical, found.arrays) == (3 * 2, 3, 18)
    assert found.cells == 130 * 250 * 2
    assert searcher(cell="mcam2").layout(10, 64, planes=5).horizontal == 3  # two bits to a cell
    assert searcher(cell="mcam3").layout(10, 64, planes=5).cells == 10 * 64 * 2


def test_an_exact_search_by_hand() -> None:
    """100 words of 100 bits in arrays of 64 x 64: 2 x 2 arrays; flags of both halves of a word meet in a register."""
    cost = search(SearchWork("table", 100, 100, queries=3, match="exact"))
    energy = {name: band.nominal for name, band in cost.energy_j["table"].items()}
    assert energy["search"] == pytest.approx(3 * 4 * 4096 * (0.360 + 0.231) * 1e-15)
    assert energy["merge"] == pytest.approx(3 * (100 * 2 * 4.5 + 2 * 28.98) * 1e-15)
    # a query goes to both rows of arrays; an answer is the number of one of 100 words
    assert energy["interconnect"] == pytest.approx(3 * (100 * 2 + 7) * (0.054 + 0.081) * 1e-12)
    search_s = make_array(64, 64, "fefet", TECHNOLOGY).search_s
    assert cost.latency_s["table"] == pytest.approx(3 * (search_s + (0.488 + 0.244) * 1e-9))
    assert cost.utilisation["table"] == pytest.approx(10_000 / (4 * 4096))
    assert cost.area_mm2["cam arrays"].nominal == pytest.approx(
        4 * (4096 * 0.6075 * 1.152 + 128 * 2.646) * 1e-6
    )
    assert energy["leakage"] == pytest.approx(4 * 25.7e-6 * cost.latency_s["table"])


def test_a_best_search_by_hand() -> None:
    """The nearest two of 10 words of 128 bits: partial distances of two arrays are added, then compared."""
    cost = search(SearchWork("classes", 10, 128, match="best", top_k=2))
    width = 6  # up to 2 x 16 = 32
    merge = 10 * 2 * 16 * 4.5 + 1 * 2 * 28.98 + 1 * 10 * width * 1.33 + 9 * 2 * width * 0.452
    assert cost.energy_j["classes"]["merge"].nominal == pytest.approx(merge * 1e-15)
    search_s = make_array(64, 64, "fefet", TECHNOLOGY).search_s
    tree = 0.488 + 0.244 + 0.244 * 1 + 0.244 * 4 * 2
    assert cost.latency_s["classes"] == pytest.approx(search_s + tree * 1e-9)
    assert any("beyond 16 per array are not told apart: classes" in note for note in cost.notes)


def test_tabulated_subarrays_cost_what_is_tabulated() -> None:
    for cell, columns, energy, time, write in (
        ("tcam", 64, 1.28, 2.6, 23.5),
        ("tcam", 128, 2.56, 4.2, 47.0),
        ("mcam2", 128, 3.45, 5.8, 46.3),
        ("mcam3", 128, 3.68, 5.8, 57.9),
    ):
        array = make_array(columns, columns, cell, TECHNOLOGY)
        assert array.search_j(1, 0.5).nominal == pytest.approx(energy * 1e-12, rel=0.01)
        assert array.search_s == pytest.approx(time * 1e-9, rel=0.02)
        assert array.write_j(columns).nominal == pytest.approx(write * 1e-12, rel=0.01)
    assert make_array(32, 64, "tcam", TECHNOLOGY).search_j(64, 0).nominal == pytest.approx(0.64e-12)


def test_loading_a_memory_writes_every_cell_once() -> None:
    works = [SearchWork("a", 10, 100), SearchWork("b", 5, 64, planes=2)]
    assert load_j(works, searcher()).nominal == pytest.approx((1000 + 640) * 0.367e-12)


@settings(max_examples=50, deadline=None)
@given(
    matches,
    st.integers(1, 300),
    st.integers(1, 3000),
    st.sampled_from(["entries", "bits", "queries", "planes", "query_planes", "top_k"]),
    st.sampled_from(["fefet", "rram", "tcam"]),
)
def test_more_to_search_never_costs_less(match: Any, entries: int, bits: int, grown: str, cell: str) -> None:
    plain = {"entries": entries, "bits": bits, "queries": 2, "planes": 1, "query_planes": 1, "top_k": 1}
    less, more = (
        search(SearchWork("m", match=match, **sizes), cell=cell)
        for sizes in (plain, {**plain, grown: plain[grown] + 1})
    )
    assert dynamic_j(more) >= dynamic_j(less) > 0
    assert more.total_latency_s >= less.total_latency_s > 0
    assert more.total_area_mm2.nominal >= less.total_area_mm2.nominal > 0
    for component in less.energy_j["m"].values():
        assert 0 <= component.low <= component.nominal <= component.high


def test_nearest_costs_more_than_near_enough_and_that_more_than_equal() -> None:
    exact, threshold, best = (
        search(SearchWork("m", 100, 1000, match=m, top_k=3)) for m in ("exact", "threshold", "best")
    )
    assert dynamic_j(exact) < dynamic_j(threshold) < dynamic_j(best)
    assert exact.total_latency_s < threshold.total_latency_s < best.total_latency_s


def test_memories_share_leakage_and_add_up() -> None:
    works = [SearchWork("a", 10, 1000), SearchWork("b", 50, 200, queries=4)]
    together = search_cost(works, searcher())
    alone = [search_cost([w], searcher()) for w in works]
    assert together.total_latency_s == pytest.approx(sum(c.total_latency_s for c in alone))
    assert dynamic_j(together) == pytest.approx(sum(map(dynamic_j, alone)))
    assert together.leakage_w.nominal == pytest.approx(sum(c.leakage_w.nominal for c in alone))
    by_machine = machine()
    assert isinstance(by_machine, CamSearch)
    assert by_machine.searches(works).breakdown() == together.breakdown()


def test_two_searches_of_ternary_words_are_a_product() -> None:
    """What the model of layers rests on: columns with an input bit of one are compared with 0, then with 1."""
    rng = np.random.default_rng(0)
    words, x = rng.integers(-1, 2, (20, 90)), rng.integers(0, 16, 90)
    total = np.zeros(20, np.int64)
    for bit in range(4):
        asked = (x >> bit & 1) == 1
        stored = words[:, asked]
        care = stored != 0
        distance = {value: (care & ((stored > 0) != value)).sum(1) for value in (False, True)}
        total += (distance[False] - distance[True]) << bit
    assert (total == words @ x).all()


def test_a_layer_by_hand() -> None:
    weights = activities(ternary_weights(5, 72, terms=1, density=0.5, seed=1))
    work = layer(outputs=5, weights=weights, input=inputs(bits=2), output_size=(3, 2), output_bits=4)
    cost = machine(rows=8, columns=32).cost(workload(work, image_bits=10), {})
    energy = {name: band.nominal for name, band in cost.energy_j["conv"].items()}
    ones = work.input.nonzero[1]
    # 72 columns are 3 arrays of 8 x 32; every one of 6 pixels, and bit of the inputs, searches twice
    per_search = [3 * (8 * 32 * 0.360 + 8 * 32 * share * 0.231) for share in ones]
    assert energy["search"] == pytest.approx(2 * 6 * sum(per_search) * 1e-15)
    width = 7  # 3 x 32 = 96 distances
    merge = 5 * 3 * 32 * 4.5 + 28.98 + 2 * 5 * width * 1.33 + 5 * width * 0.452
    accumulate = (1.33 + 4.5) * 5 * (width + 2 + 1)
    assert energy["merge"] == pytest.approx(2 * 6 * 2 * (merge + accumulate) * 1e-15)
    queries, outputs = 72 * 2 * 6, 5 * 6 * 4
    assert energy["interconnect"] == pytest.approx(
        ((queries + outputs) * 0.081 + queries * 2 * 0.054) * 1e-12
    )
    assert energy["post-processing"] == pytest.approx(30 * 0.6583e-12)
    search_s = make_array(8, 32, "fefet", TECHNOLOGY).search_s
    tree = (0.488 + 0.244 + 2 * 0.244 + 0.244) * 1e-9
    assert cost.latency_s["conv"] == pytest.approx(24 * search_s + tree)
    assert cost.utilisation["conv"] == pytest.approx(5 * 72 / (3 * 8 * 32))
    assert cost.extrapolated


def test_groups_and_planes_take_arrays_of_their_own() -> None:
    one = layer(inputs=8, weights=activities(ternary_weights(32, 72, terms=1, density=0.5, seed=1)))
    two = layer(inputs=8, weights=activities(ternary_weights(32, 72, terms=2, density=0.5, seed=1)))
    areas = [machine().cost(workload(w), {}).area_mm2["cam arrays"].nominal for w in (one, two)]
    assert areas[1] == pytest.approx(2 * areas[0])
    depthwise = layer(
        inputs=32, groups=32, weights=activities(ternary_weights(32, 9, terms=1, density=1.0, seed=1))
    )
    cost = machine(rows=8, columns=16).cost(workload(depthwise), {})
    assert cost.utilisation["conv"] == pytest.approx(9 / (8 * 16))


def test_cells_of_several_bits_hold_no_layers() -> None:
    with pytest.raises(ConfigError, match="accelerator.cell=mcam2: expected a cell of one bit"):
        machine(cell="mcam2").cost(workload(layer()), {})
    assert machine(cell="mcam2").cost(workload(layer(weights={}, input=None)), {}).total_energy_j.nominal > 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"cell": "fefat"}, UnknownName, "accelerator.cell: unknown cell 'fefat'; did you mean 'fefet'"),
        ({"levels": 0}, ConfigError, "accelerator.levels=0"),
        ({"rows": 2.5}, ConfigError, "accelerator.rows=2.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        machine(**settings)


def test_work_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="classes.entries=0"):
        SearchWork("classes", 0, 10)
    with pytest.raises(UnknownName, match="classes.match: unknown match 'bset'; did you mean 'best'"):
        SearchWork("classes", 1, 10, match="bset")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="unknown cell 'x'"):
        make_array(8, 8, "x", TECHNOLOGY)


def test_the_shipped_machine_prices_a_network() -> None:
    path = ROOT / "configs" / "accelerator" / "cam_search.yaml"
    shipped = yaml.safe_load(path.read_text(encoding="utf-8"))
    cost = make_accelerator(shipped["kind"], shipped["settings"], TECHNOLOGY).cost(
        workload(layer("a"), layer("b", weights={}, input=None)), {}
    )
    assert 0 < cost.total_energy_j.low < cost.total_energy_j.nominal < cost.total_energy_j.high
    assert "weight buffer" in cost.area_mm2
