"""The associative processor: the contract, arrays and racetracks by hand, one layer by hand, what sharing is worth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError, UnknownName
from compressors.reuse import adder_graph, reuse
from compressors.slicing import from_codes
from energy.accelerators import Accelerator, make_accelerator
from energy.activity import ReuseActivity, reuse_activity
from energy.associative.circuits import CamArray, Lines, line_time_ns
from energy.associative.counts import PassCounts, graph_counts
from energy.associative.layers import place, program, tree_counts
from energy.associative.tracks import Tracks
from energy.cost import Cost
from energy.published import targets
from energy.published.cam import EVA_ARRAYS, SUBARRAYS, array_figures, fit_area, fit_driver, growth
from energy.technology import load_technology
from energy.workload import LayerWork, Workload
from tests.benchmarks.processes import ROOT
from tests.cam_contract import CamContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

TECHNOLOGY = load_technology("cmos45")
FEFET = {"cell": "fefet", "domains": 1, "ports": 1, "columns": 256}


def machine(**settings: Any) -> Accelerator:
    return make_accelerator("associative", settings, TECHNOLOGY)


class OnOneArray(CamContract):
    """Of several arrays, more bits may put more to work and be done sooner; so may what outputs share."""

    plain: ClassVar[dict] = {}

    def make(self, **settings: Any) -> Accelerator:
        return machine(**{"arrays_per_tile": 1, "tiles": 1, "block_rows": 0, **self.plain, **settings})


class TestRacetrack(OnOneArray):
    pass


class TestFefet(OnOneArray):
    plain: ClassVar[dict] = FEFET


class TestTransverseReads(OnOneArray):
    work = "transverse additions"
    plain: ClassVar[dict] = {"arithmetic": "transverse", "operands": 3}


class TestSharing(OnOneArray):
    plain: ClassVar[dict] = {"block_rows": 16}

    @pytest.mark.parametrize("density", [0.25, 0.75, 1.0])
    def test_fewer_zero_weights_never_cost_less(self, density: float) -> None:
        """Without zeros, rows of ones and minus ones share more; sharing never costs more than not to share."""
        tensor = integer_weights(32, 72, bits=2, density=density, seed=5)
        shared = self.layer(tensor=tensor)
        assert shared.reuse is not None
        self.assert_no_cheaper(self.price(replace(shared, reuse=None)), self.price(shared))


# arrays


def test_lines_of_a_cell_by_hand() -> None:
    """300 F2 at 45 nm, 1.76 times as high as wide: 1.034 by 0.5875 um."""
    lines = Lines.of(TECHNOLOGY, 300 * 0.045**2)
    assert lines.height_um == pytest.approx(1.034, abs=1e-3) and lines.width_um == pytest.approx(
        0.5875, abs=1e-4
    )
    assert lines.match_ff == pytest.approx(0.292 * 1.034 + 0.0580, abs=1e-3)
    assert lines.search_ff == pytest.approx(0.292 * 0.5875 + 0.0596, abs=1e-3)
    assert lines.energy_fj(2.0) == pytest.approx((4 * lines.match_ff, 4 * lines.search_ff))


def test_time_of_the_lines_by_hand() -> None:
    """64 x 64: 10 kohm and 840 ohm of wire discharge 23 fF and 3.7 fF; 728 ohm charge 23 fF; the search line."""
    lines = Lines.of(TECHNOLOGY, 0.6075)
    cells, drains, wire = 64 * 0.35993, 64 * 0.0580, 12.7 * 1.03402 * 64
    discharge = 10_000 * (cells + drains) + wire * (drains + cells / 2)
    search_line = (12.7 * 0.58751 * 64) * (64 * 0.23115) / 2
    expected = math.log(2) * (discharge + 728 * cells + search_line) * 1e-6
    assert line_time_ns(TECHNOLOGY, lines, 64, 64) == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(0.208, abs=1e-3)


def test_shipped_constants_follow_from_the_lines_and_the_fits() -> None:
    lines = Lines.of(TECHNOLOGY, TECHNOLOGY["cam.cell_area.fefet"].value)
    match_fj, search_fj = lines.energy_fj(TECHNOLOGY["cam.voltage"].value)
    for cell in ("fefet", "cmos", "mtj"):
        assert TECHNOLOGY[f"cam.match_line_energy.{cell}"].value == pytest.approx(match_fj, abs=1e-3)
        assert TECHNOLOGY[f"cam.search_line_energy.{cell}"].value == pytest.approx(search_fj, abs=1e-3)
    assert pytest.approx(match_fj + search_fj, abs=1e-3) == 0.195 * 3.03  # 16T CMOS happens to cost the same
    factor, line = fit_area(TECHNOLOGY, EVA_ARRAYS)
    assert TECHNOLOGY["cam.area_factor"].value == pytest.approx(factor, abs=1e-3)
    assert TECHNOLOGY["cam.line_area"].value == pytest.approx(line, abs=1e-3)
    assert TECHNOLOGY["cam.driver_time"].value == pytest.approx(fit_driver(TECHNOLOGY, EVA_ARRAYS), rel=6e-3)
    for name, figure in (
        ("search_energy", "search energy"),
        ("search_time", "search time"),
        ("write_energy", "write energy"),
    ):
        kinds = SUBARRAYS[figure][1]
        exponent = growth(list(kinds.values()))
        assert TECHNOLOGY[f"cam.subarray_growth.{name}"].value == pytest.approx(exponent, abs=1e-3)
        for cell, (small, _) in kinds.items():
            assert TECHNOLOGY[f"cam.subarray_{name}.{cell}"].value == small


@pytest.mark.parametrize("printed", EVA_ARRAYS, ids=lambda a: a.name)
def test_an_array_is_what_the_target_compares(printed: Any) -> None:
    array = CamArray(printed.entries, printed.bits, "fefet", TECHNOLOGY)
    area, driver = fit_area(TECHNOLOGY, EVA_ARRAYS), fit_driver(TECHNOLOGY, EVA_ARRAYS)
    area_um2, search_ns, search_pj = array_figures(TECHNOLOGY, printed, area, driver, 0.6075)
    assert array.area_mm2.nominal == pytest.approx(area_um2 * 1e-6, rel=1e-3)
    assert array.search_s == pytest.approx(search_ns * 1e-9, rel=5e-3)
    assert array.search_j(printed.bits, 0.0).nominal == pytest.approx(search_pj * 1e-12, rel=1e-3)
    assert array.leakage_w.nominal == pytest.approx(25.7e-6 * (printed.entries + printed.bits) / 128)


def test_matching_rows_keep_their_charge_and_masked_columns_rest() -> None:
    array = CamArray(8, 10, "fefet", TECHNOLOGY)
    # 8 rows of 10 cells, a quarter matches, 3 columns compared
    assert array.search_j(3, 0.25).nominal == pytest.approx((8 * 10 * 0.75 * 0.36 + 8 * 3 * 0.231) * 1e-15)
    assert array.search_j(3, 0.25, charged=3).nominal == pytest.approx(8 * 3 * (0.75 * 0.36 + 0.231) * 1e-15)
    rram = CamArray(1, 1, "rram", TECHNOLOGY)
    assert rram.search_j(1, 0.0).nominal == pytest.approx(4.69e-15)
    assert rram.search_j(1, 1.0).nominal == pytest.approx(1.71e-15)
    assert rram.write_j(2).nominal == pytest.approx(1.2e-12)


def test_blind_figures_of_an_array_do_not_follow_what_is_printed_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blind() -> dict[str, float]:
        checks = [c for c in targets()["eva-cam"].run() if c.kind == "blind" and "64x64" in c.name]
        return {check.name: check.model for check in checks}

    before = blind()
    small, *others = EVA_ARRAYS
    changed = replace(small, area_um2=2 * small.area_um2, search_ns=2 * small.search_ns)
    monkeypatch.setattr("energy.published.cam.EVA_ARRAYS", (changed, *others))
    assert len(before) == 6 and blind() == before


@pytest.mark.parametrize("name", ["eva-cam", "camasim"])
def test_published_arrays_are_met(name: str) -> None:
    """The bars of the issue, calibrated and blind; held-out fits must not know the array they are held against."""
    target = targets()[name]
    checks = target.run()
    assert len({check.name for check in checks}) == len(checks)
    for kind, bar in target.bar.items():
        errors = [abs(check.error) for check in checks if check.kind == kind]
        assert errors and max(errors) <= bar
    blind = {check.name: check.model for check in checks if check.kind == "blind"}
    calibrated = {check.name: check.model for check in checks if check.kind == "calibrated"}
    twins = {n: n.replace("calibrated", "blind") for n in calibrated}
    assert all(blind[twin] != calibrated[n] for n, twin in twins.items())


# racetracks


def test_shifts_are_the_sum_of_steps_between_accesses() -> None:
    one_port, two_ports = Tracks(8, 1), Tracks(8, 2)
    assert one_port.shifts([0, 1, 2, 7, 0]) == 1 + 1 + 5 + 7
    assert two_ports.shifts([0, 1, 2, 7, 0]) == 1 + 1 + 1 + 3  # domain 7 is the second port's fourth
    assert Tracks(1, 1).shifts([0, 0, 0]) == 0 and not Tracks(4, 4).shifted
    assert Tracks(4, 4).seek == Tracks(4, 4).slowest_seek(3) == 0


@pytest.mark.parametrize("ports", [1, 2, 4])
def test_mean_seeks_are_those_of_random_accesses(ports: int) -> None:
    rng = np.random.default_rng(0)
    tracks = Tracks(512, ports)
    random = rng.integers(0, 512, (3, 20_000))
    steps = [
        [tracks.shifts([a, b]) - tracks.shifts([a]) for a, b in zip(track, track[1:], strict=False)]
        for track in random.tolist()
    ]
    assert np.mean(steps) == pytest.approx(tracks.seek, rel=0.02)
    assert np.mean(np.max(steps[:2], axis=0)) == pytest.approx(tracks.slowest_seek(2), rel=0.02)
    assert np.mean(np.max(steps, axis=0)) == pytest.approx(tracks.slowest_seek(3), rel=0.02)


# layers


@settings(max_examples=60, deadline=None)
@given(*(st.integers(1, n) for n in (3000, 600, 40_000, 300, 5000, 200, 100)))
def test_a_placement_has_room_and_never_beats_its_arrays(
    pixels: int, outputs: int, peak: int, rows: int, row_bits: int, arrays: int, least: int
) -> None:
    found = place(pixels, outputs, peak, rows, row_bits, arrays, least)
    assert found.row_groups * rows >= pixels and found.splits * row_bits >= peak
    used = found.row_groups * found.splits * found.spread
    assert found.rounds == -(-found.row_groups * found.splits // arrays)
    assert used <= arrays * found.rounds
    # in the time it takes, all arrays together carry out the program once per group of rows
    busy = min(used, arrays)
    assert found.time_share * busy >= found.row_groups * (1 - 1e-9)


@pytest.mark.parametrize(("digits", "bits", "signed"), [(8, 4, False), (100, 4, False), (300, 8, True)])
def test_trees_without_sharing_are_about_those_of_a_graph(digits: int, bits: int, signed: bool) -> None:
    """Two rows of other inputs share nothing; their graph may overwrite inputs too: four passes instead of five."""
    rng = np.random.default_rng(digits)
    codes = np.kron(np.eye(2, dtype=np.int64), rng.choice([-1, 1], (1, digits)))
    graph = graph_counts(adder_graph(codes), bits, signed)
    trees = tree_counts(np.array([digits, digits]), bits, 1, 2 * digits)
    assert trees.additions == graph.additions
    assert trees.bit_steps == pytest.approx(graph.bit_steps, rel=0.15)
    assert trees.output_bits == pytest.approx(graph.output_bits, abs=2)
    assert trees.compares == pytest.approx(graph.compares * (5 + 4) / (4 + 4), rel=0.2)


def test_reuse_counts_the_passes_of_all_terms_and_survives_json() -> None:
    tensor = ternary_weights(16, 36, terms=2, density=0.5, seed=1)
    found = reuse_activity(tensor, 1, (8, 18), 4, False)
    graphs = [graph for term in reuse(tensor, (8, 18)).graphs for graph in term]
    expected = PassCounts.total(graph_counts(graph, 4, False) for graph in graphs)
    assert found.passes == expected and expected.additions == found.adders
    assert expected.bit_steps == pytest.approx(found.adder_bits, rel=0.02)  # sums stand without a row's sign
    assert ReuseActivity.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    work = Workload((layer(reuse=found),), 1)
    assert Workload.from_dict(json.loads(json.dumps(work.to_dict()))).layers[0].reuse == found


COUNTS = PassCounts(
    additions=10,
    in_place=6,
    compares=200,
    compared_cells=600,
    writes=230,
    written_cells=70.0,
    bit_steps=50,
    track_steps=120,
    output_bits=24,
    peak_bits=150,
)


def tiny(**changes: Any) -> LayerWork:
    """Four outputs of nine 4-bit inputs (1 channel, 3 x 3) over 5 x 3 pixels; the program is ``COUNTS``."""
    shared = ReuseActivity(20, 10, 50, 3, 4, 2, 30, 9, COUNTS)
    plain = layer(
        "conv",
        outputs=4,
        inputs=1,
        output_size=(5, 3),
        input=inputs(bits=4),
        output_bits=4,
        weights=activities(ternary_weights(4, 9, terms=1, density=0.7, seed=1)),
        reuse=shared,
    )
    return replace(plain, **changes)


def price_tiny(work: LayerWork | None = None, **settings: Any) -> Cost:
    small = {"rows": 8, "columns": 5, "domains": 16, "ports": 2, "arrays_per_tile": 2, "tiles": 2}
    return machine(**{**small, **settings}).cost(workload(work or tiny(), image_bits=60), {})


def test_a_layer_by_hand() -> None:
    cost = price_tiny()
    energy = {name: band.nominal for name, band in cost.energy_j["conv"].items()}
    # 15 pixels in rows of 8 are 2 groups; 150 bits in rows of 4 x 16 are 3 arrays each: 6 arrays on 4, 2 rounds
    rows = 15
    reads = 24 * 3  # bits of sums read out of three arrays
    per_pass = 5 * (1 - 1 / 8) * 0.36 + 3 * 0.231
    per_read = 5 * (1 - 1 / 2) * 0.36 + 0.231
    assert energy["search"] == pytest.approx(rows * (200 * per_pass + reads * per_read) * 1e-15)
    assert energy["cell writes"] == pytest.approx(70 * 15 * 0.1e-12)
    words, reach = 3 * 10 - 6, 16 / 2
    loads, passed = 9 * 4 * 15, 24 * 15 * 2
    steps = rows * (120 + words * reach / 3 + reads) + loads + passed
    assert energy["shifts"] == pytest.approx(steps * 0.609e-12)
    assert energy["row loads"] == pytest.approx((loads + passed) * 0.1e-12)
    bits = (10 + 4) * 48
    sram = TECHNOLOGY.sram
    assert energy["program memory"] == pytest.approx(2 * bits * sram.read_j_per_bit(bits / 8192).nominal)
    assert energy["tile bus"] == pytest.approx((loads + passed + 24 * 15) * 0.054e-12)
    # 8 pixels are 3 wide and 2 high; their patches are 4 x 5 inputs; 3 x 1 of them cover 5 x 3
    read, written = 3 * 4 * 5 * 4, 4 * 15 * 4
    assert energy["chip router"] == pytest.approx((read + written) * 0.081e-12)
    live_kb = (15 * 4 + 4 * 15 * 4) / 8192
    buffer_j = read * sram.read_j_per_bit(live_kb).nominal + written * sram.write_j_per_bit(live_kb).nominal
    assert energy["activation buffer"] == pytest.approx(buffer_j)
    assert energy["post-processing"] == pytest.approx((4 + 2) * 15 * 0.6583e-12)
    assert energy["dram"] == pytest.approx(60 * 8e-12)
    assert energy["leakage"] == pytest.approx(cost.leakage_w.nominal * cost.latency_s["conv"])
    assert cost.operand_j["conv"]["row loads"]["outputs"].nominal == pytest.approx(passed * 0.1e-12)


def test_lines_in_parts_charge_no_more_than_the_compared_cells() -> None:
    reads, one = 24 * 3, 0.36 * (1 - 1 / 2) + 0.231
    cost = price_tiny(match_line="compared")
    expected = 15 * (200 * 3 * (0.36 * (1 - 1 / 8) + 0.231) + reads * one) * 1e-15
    assert cost.energy_j["conv"]["search"].nominal == pytest.approx(expected)
    assert cost.latency_s == price_tiny().latency_s


def test_the_time_of_a_layer_by_hand() -> None:
    cost = price_tiny()
    reach = 8
    passes = 200 * 2.5 + 230 * 4.84522
    shifts = (50 + 6 * reach * 7 / 15 + 4 * reach * 19 / 35) * 2.14192
    outside = (36 + 24) * (4.84522 + 2.14192) + 24 * (2.5 + 2.14192)
    # two rounds, in each of which three arrays share a pixel's program
    assert cost.latency_s["conv"] == pytest.approx((passes + shifts + outside) * 2 / 3 * 1e-9)
    assert cost.bound["conv"] == "compute"
    transverse = price_tiny(arithmetic="transverse", operands=3)
    adding = (50 * (1.61338 + 4.84522) + (shifts / 2.14192) * 2.14192) / 2
    assert transverse.latency_s["conv"] == pytest.approx((adding + outside) * 2 / 3 * 1e-9)
    per_addition = transverse.energy_j["conv"]["transverse additions"].nominal
    assert per_addition == pytest.approx(15 * 50 / 2 * 3.47e-12)


def test_area_by_hand() -> None:
    cost = price_tiny()
    array = 8 * 5 * 0.785 * 1.152 + 13 * 2.646
    assert cost.area_mm2["cam arrays"].nominal == pytest.approx(4 * array * 1e-6)
    assert cost.area_mm2["racetracks"].nominal == pytest.approx(4 * 2 * 16 * 40 * 0.00405e-6)
    assert cost.area_mm2["post-processing"].nominal == pytest.approx(2 * 1362.78e-6)
    plain = price_tiny(cell="fefet", domains=1, ports=1)
    assert "racetracks" not in plain.area_mm2 and "shifts" not in plain.energy_j["conv"]
    assert not plain.extrapolated and cost.extrapolated
    assert any("2401.12630 are not known" in note for note in cost.notes)
    assert not any("2401.12630" in note for note in plain.notes)


def test_a_program_too_large_for_the_chip_comes_from_dram_every_time() -> None:
    inside, outside = price_tiny(), price_tiny(program_kb=14 * 48 / 8192 / 4, dram_gb_s=1e-6)
    assert outside.energy_j["conv"]["dram"].nominal == pytest.approx((60 + 0.75 * 14 * 48) * 8e-12)
    assert outside.latency_s["conv"] == pytest.approx(0.75 * 14 * 48 / 8e3)
    assert outside.bound["conv"] == "dram" and inside.bound["conv"] == "compute"
    assert any("75% of the program comes from DRAM" in note for note in outside.notes)
    assert outside.operand_j["conv"]["dram"].keys() == {"inputs", "weights"}


def test_idle_arrays_take_over_outputs_and_copies_of_the_inputs() -> None:
    one = price_tiny(tiles=4, columns=11, outputs_per_array=4)  # 160 bits: two arrays
    two = price_tiny(tiles=4, columns=11, outputs_per_array=2)
    assert two.latency_s["conv"] == pytest.approx(one.latency_s["conv"] / 2)
    assert two.energy_j["conv"]["row loads"].nominal == pytest.approx(
        2 * one.energy_j["conv"]["row loads"].nominal
    )
    assert two.utilisation["conv"] == pytest.approx(2 * one.utilisation["conv"])


@pytest.mark.parametrize("cell", [{}, FEFET])
def test_sharing_sums_saves_passes_and_energy(cell: dict) -> None:
    tensor = ternary_weights(64, 288, terms=1, density=0.5, seed=1)
    plain = layer(outputs=64, inputs=32, weights=activities(tensor), input=inputs(bits=4))
    shared = replace(plain, reuse=reuse_activity(tensor, 1, (64, 72), 4, False))
    alone, together = (machine(**cell).cost(workload(w), {}) for w in (plain, shared))
    assert together.energy_j["conv"]["search"].nominal < 0.8 * alone.energy_j["conv"]["search"].nominal
    assert together.latency_s["conv"] < alone.latency_s["conv"]
    assert any("1 layers whose sharing was not counted" in note for note in alone.notes)
    assert not any("not counted" in note for note in together.notes)


def test_weights_of_several_bits_are_digits_with_shifts() -> None:
    tensor = integer_weights(16, 72, bits=6, density=0.7, seed=2)
    work = layer(outputs=16, weights=activities(tensor), input=inputs(bits=4))
    shared = replace(work, reuse=reuse_activity(tensor, 1, None, 4, False))
    for one in (work, shared):
        cost = machine(**FEFET).cost(workload(one), {})
        assert cost.energy_j["conv"]["search"].nominal > 0
    assert program(shared).counts.additions < program(work).counts.additions
    digits = tensor.codes()
    same = from_codes(digits, np.ones((1, 16, 1), np.float32), shape=(16, 72), bits=6)
    assert program(replace(work, weights=activities(same))).counts == program(work).counts


def test_a_machine_asks_for_its_block() -> None:
    assert machine().reuse_block == (16, 144)
    assert machine(block_rows=8, block_columns=9).reuse_block == (8, 9)
    assert machine(block_columns=0).reuse_block is None


def test_terms_have_scales_of_their_own() -> None:
    work = layer(weights=activities(ternary_weights(32, 72, terms=3, density=0.5, seed=3)))
    assert program(work).scalings == 3 * 32 and program(work).combining == 2 * 32


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"cell": "fefat"}, UnknownName, "accelerator.cell: unknown cell 'fefat'; did you mean 'fefet'"),
        ({"arithmetic": "pass"}, UnknownName, "unknown arithmetic 'pass'; did you mean 'passes'"),
        ({"match_line": "rows"}, UnknownName, "accelerator.match_line: unknown match line 'rows'; did you"),
        ({"ports": 65}, ConfigError, "accelerator.ports=65: expected at most one per domain, of 64"),
        ({"domains": 1, "ports": 1}, ConfigError, "accelerator.domains=1: expected more than one for mtj"),
        ({"columns": 1}, ConfigError, "accelerator.columns=1"),
        ({"operands": 6}, ConfigError, "accelerator.operands=6"),
        ({"program_kb": 0}, ConfigError, "accelerator.program_kb=0: expected a positive number"),
        ({"dram_gb_s": -1.0}, ConfigError, "accelerator.dram_gb_s=-1.0"),
        ({"row": 3}, UnknownName, "unknown setting of 'associative' 'row'; did you mean 'rows'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        machine(**settings)


@pytest.mark.parametrize("name", ["rtm", "fefet", "cmos", "rram"])
def test_shipped_machines_price_a_network(name: str) -> None:
    path = ROOT / "configs" / "accelerator" / f"associative_{name}.yaml"
    shipped = yaml.safe_load(path.read_text(encoding="utf-8"))
    cost = make_accelerator(shipped["kind"], shipped["settings"], TECHNOLOGY).cost(
        workload(layer("a"), layer("b", weights={}, input=None)), {}
    )
    assert 0 < cost.total_energy_j.low < cost.total_energy_j.nominal < cost.total_energy_j.high
    assert any("180 and 90 nm" in note for note in cost.notes) == (name == "rram")
