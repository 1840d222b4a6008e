"""The Bit Fusion chip: its search of tilings against one that walks every loop, figures by hand, the contract."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError
from energy.accelerators import make_accelerator
from energy.accelerators.fused_systolic import FusedSystolic
from energy.accelerators.fused_tiling import FusedArray, FusedLayer, fastest_tiling
from energy.published import target
from energy.published.bitfusion import PRINTED_MW, chip, comparison, networks
from energy.technology import load_technology
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

TECHNOLOGY = load_technology("cmos45")
ENERGIES = (240.0, 0.021, 0.029, 0.059, 0.114, 0.033, 0.073, 15.0)
SMALL = FusedArray(
    rows=2,
    columns=3,
    widest=8,
    narrowest=2,
    input_buffer=3000,
    weight_buffer=6000,
    sum_buffer=2500,
    dram_bits=24,
    energies=ENERGIES,
)
LAYER = FusedLayer(
    images=2,
    kernel=(3, 2),
    output=(4, 3),
    stride=(1, 2),
    dilation=(1, 1),
    channels=5,
    filters=7,
    input_bits=4,
    weight_bits=8,
)


def make(**options: Any) -> FusedSystolic:
    return make_accelerator("bitfusion_chip", options, TECHNOLOGY)  # type: ignore[return-value]


def up(value: int, to: int) -> int:
    return math.ceil(value / to) * to


@dataclass
class Fetches:
    """How often a nest of loops fetches an operand's data, of which ``kept`` bits fit the working half."""

    times: int
    kept: int

    @property
    def bits(self) -> int:
        return self.times * self.kept


def walk_loops(order: tuple[int, ...], turns: list[int], indexing: set[int], tile: int, half: int) -> Fetches:
    """Go through every iteration and fetch when what the loops outside the buffer point at changes."""
    outside, kept = 5, tile
    for place in range(4, -1, -1):
        if order[place] in indexing:
            if kept * turns[order[place]] > half:
                break
            kept *= turns[order[place]]
        outside = place
    region, times = None, 0
    for point in itertools.product(*(range(turns[loop]) for loop in order)):
        times += point[:outside] != region
        region = point[:outside]
    return Fetches(times, kept)


def every_tiling(layer: FusedLayer, array: FusedArray) -> list[tuple[int, float, dict[str, int]]]:
    """Cycles, energy and figures of every tile size in every one of the 120 orders, by plain counting."""
    fused = max(array.widest // max(layer.input_bits, array.narrowest), 1)
    fused *= max(array.widest // max(layer.weight_bits, array.narrowest), 1)
    passes = math.ceil(layer.input_bits / array.widest) * math.ceil(layer.weight_bits / array.widest)
    lanes, taps = array.rows * fused, layer.kernel[0] * layer.kernel[1]
    (high, wide), grain = layer.output, 1 if layer.gathered else array.columns

    def sizes(whole: int, step: int = 1) -> list[int]:
        found = [step]
        while found[-1] < whole:
            found.append(2 * found[-1])
        return [min(size, whole) for size in found]

    squares = [(min(s, high), min(s, wide)) for s in sizes(max(high, wide))]
    squares[-1] = (high, wide)
    answers = []
    for b, (h, w), c, f in itertools.product(
        sizes(layer.images), squares, sizes(layer.channels), sizes(layer.filters, grain)
    ):
        wholes = (layer.images, high, wide, layer.channels, layer.filters)
        turns = [math.ceil(a / t) for a, t in zip(wholes, (b, h, w, c, f), strict=True)]
        patch = [
            (k - 1) * d + 1 + (t - 1) * s
            for k, d, t, s in zip(layer.kernel, layer.dilation, (h, w), layer.stride, strict=True)
        ]
        read = h * w * taps * c if layer.gathered else patch[0] * patch[1] * c
        tile = {
            "inputs": b * read * layer.input_bits,
            "weights": up(taps * c, lanes) * f * layer.weight_bits,
            "sums": b * h * w * up(f, array.columns) * array.sum_bits,
        }
        halves = {
            "inputs": array.input_buffer // 2,
            "weights": array.weight_buffer // 2,
            "sums": array.sum_buffer // 2,
        }
        if any(tile[o] > halves[o] for o in tile):
            continue
        steps = math.ceil(taps * c / lanes) if layer.gathered else taps * math.ceil(c / lanes)
        tiles = math.prod(turns)
        compute = tiles * b * h * w * math.ceil(f / array.columns) * steps * passes
        inner = inner_bits(layer, array, (b * h * w, taps * c, f), (steps * lanes, up(f, array.columns)))
        for order in itertools.permutations(range(5)):
            indexing = {"inputs": {0, 1, 2, 3}, "weights": {3, 4}, "sums": {0, 1, 2, 4}}
            fetch = {o: walk_loops(order, turns, indexing[o], tile[o], halves[o]) for o in tile}
            drained, last = fetch["sums"].bits, fetch["sums"].kept
            sums_in, sums_out, first_sums = drained, drained, fetch["sums"].kept
            if array.result_bits:
                outputs = tile["sums"] * turns[0] * turns[1] * turns[2] * turns[4]
                sums_in = drained - outputs
                sums_out = sums_in + outputs // array.sum_bits * array.result_bits
                last, first_sums = last // array.sum_bits * array.result_bits, 0
            dram_read = fetch["inputs"].bits + fetch["weights"].bits + sums_in
            first = fetch["inputs"].kept + fetch["weights"].kept + first_sums
            ends = math.ceil(first / array.dram_bits) + math.ceil(last / array.dram_bits)
            between = max(math.ceil((dram_read + sums_out - first - last) / array.dram_bits), 0)
            figures = {
                "weight_read": tiles * inner["weights"],
                "weight_written": fetch["weights"].bits,
                "sum_read": tiles * inner["sums"] + drained,
                "sum_written": tiles * inner["sums"] + sums_in,
                "input_read": tiles * inner["inputs"],
                "input_written": fetch["inputs"].bits,
            }
            moved = zip(array.energies[1:7], (figures[k] for k in ORDER), strict=True)
            energy = compute * array.energies[0] + sum(e * bits for e, bits in moved)
            energy += (dram_read + sums_out) * array.energies[7]
            figures |= {"dram_read": dram_read, "dram_written": sums_out, "compute": compute, "ends": ends}
            answers.append((compute + max(0, between - compute) + ends, energy, figures))
    return answers


ORDER = ("weight_read", "weight_written", "input_read", "input_written", "sum_read", "sum_written")


def inner_bits(
    layer: FusedLayer, array: FusedArray, tile: tuple[int, int, int], padded: tuple[int, int]
) -> dict[str, int]:
    """Bits between buffers and array in one tile, with that operand still that moves fewest, padding included."""
    i, w, s = layer.input_bits, layer.weight_bits, array.sum_bits

    def bits(points: int, reduction: int, filters: int, still: str) -> dict[str, int]:
        products = points * reduction * filters
        return {
            "inputs": (points * reduction if still == "inputs" else products) * i,
            "weights": (reduction * filters if still == "weights" else products) * w,
            "sums": (points * filters if still == "sums" else products) * s,
        }

    points, reduction, filters = tile
    choice = min(
        ("inputs", "sums", "weights"),
        key=lambda still: sum(bits(points, padded[0], padded[1], still).values()),
    )
    return bits(points, reduction, filters, choice)


shapes = st.builds(
    FusedLayer,
    images=st.integers(1, 2),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 2)]),
    output=st.sampled_from([(1, 1), (2, 2), (1, 3), (4, 2)]),
    stride=st.sampled_from([(1, 1), (2, 1)]),
    dilation=st.sampled_from([(1, 1), (1, 2)]),
    channels=st.integers(1, 5),
    filters=st.integers(1, 7),
    input_bits=st.sampled_from([1, 2, 3, 8, 10]),
    weight_bits=st.sampled_from([1, 2, 4, 8]),
    gathered=st.booleans(),
)


@settings(max_examples=12, deadline=None)
@given(shapes, st.sampled_from([0, 8]), st.sampled_from([8, 64, 4096]))
def test_the_search_finds_what_walking_every_loop_finds(
    layer: FusedLayer, result_bits: int, dram_bits: int
) -> None:
    array = replace(SMALL, result_bits=result_bits, dram_bits=dram_bits)
    answers = every_tiling(layer, array)
    found = fastest_tiling(layer, array)
    if not answers:
        assert found is None
        return
    cycles, energy, _ = min(answers, key=lambda a: a[:2])
    assert found is not None and found.cycles == cycles
    equally_good = [f for c, e, f in answers if c == cycles and e == pytest.approx(energy, rel=1e-12)]
    ours = {**found._asdict(), "compute": found.compute}
    assert any(all(ours[k] == v for k, v in figures.items()) for figures in equally_good)


def test_a_tile_by_hand() -> None:
    """One tile holds all: 12 points of 2 images, 30 products of 5 channels, 7 filters in three groups of columns."""
    array = replace(SMALL, input_buffer=1 << 20, weight_buffer=1 << 20, sum_buffer=1 << 20, dram_bits=1 << 20)
    tiling = fastest_tiling(LAYER, array)
    assert tiling is not None
    # 4-bit inputs fuse two multipliers an element: four lanes, 6 taps of two steps for five channels
    assert tiling.compute == 24 * 6 * 2 * 3
    assert tiling.wait == tiling.ends == 2
    assert tiling.input_written == 2 * (6 * 6) * 5 * 4
    assert tiling.weight_written == 32 * 7 * 8
    assert tiling.dram_written == 24 * 9 * 32
    products = 24 * 30 * 7
    assert tiling.input_read == products * 4 and tiling.weight_read == products * 8
    assert tiling.sum_read == 24 * 7 * 32 + 24 * 9 * 32
    assert tiling.dram_read == tiling.input_written + tiling.weight_written + tiling.dram_written
    gathered = fastest_tiling(replace(LAYER, gathered=True), array)
    assert gathered is not None
    # taps and channels share the lanes, and each of 24 outputs reads 30 inputs of its own
    assert gathered.compute == 24 * 8 * 3 and gathered.input_written == 24 * 30 * 4


def test_operands_fuse_and_divide() -> None:
    fused = {(i, w): SMALL.fused(i, w) for i in (1, 2, 3, 4, 8, 16) for w in (2, 8)}
    assert fused[2, 2] == fused[1, 2] == 16 and fused[3, 2] == fused[4, 2] == 8
    assert fused[8, 8] == fused[16, 8] == 1 and fused[8, 2] == 4
    assert SMALL.passes(8, 8) == 1 and SMALL.passes(9, 16) == 4


def test_cycles_and_traffic_of_all_published_layers(shared_data: Callable[[str], Path]) -> None:
    """Ten integers for each of 61 layers on five arrays."""
    columns = {
        "Cycles": "cycles",
        "Memory wait cycles": "wait",
        "WBUF Read": "weight_read",
        "WBUF Write": "weight_written",
        "OBUF Read": "sum_read",
        "OBUF Write": "sum_written",
        "IBUF Read": "input_read",
        "IBUF Write": "input_written",
        "DRAM Read": "dram_read",
        "DRAM Write": "dram_written",
    }
    rows = list(csv.DictReader(shared_data("accelerators/bitfusion_sim_sweep.csv").read_text().splitlines()))
    assert len(rows) == 305
    for row in rows:
        machine = chip(int(row["M"]), int(row["Bandwidth (bits/cycle)"]))
        layer = networks()[row["Network"]][row["Layer"].split("/")[-2]]
        tiling = fastest_tiling(layer, machine.array)
        assert tiling is not None
        ours = {column: getattr(tiling, name) for column, name in columns.items()}
        assert ours == {column: int(row[column]) for column in columns}, (row["Network"], row["Layer"])


def test_targets_reach_their_bars() -> None:
    exact = target("bitfusion-cycles").run()
    assert len(exact) == 305 + 120 and all(check.model == check.published for check in exact)
    ratios = {check.name: check for check in target("bitfusion-eyeriss").run()}
    assert ratios["geometric mean, speed"].published == pytest.approx(3.92, abs=0.01)
    assert ratios["geometric mean, energy"].published == pytest.approx(5.12, abs=0.01)
    assert abs(ratios["geometric mean, speed"].error) <= 0.05
    assert abs(ratios["geometric mean, energy"].error) <= 0.08
    assert len(ratios) == 18 and all(abs(check.error) <= 0.15 for check in ratios.values())


def test_eyeriss_as_its_energy_model_gives_it(shared_data: Callable[[str], Path]) -> None:
    """3.2 pJ per unit, DRAM at 0.15, 500 MHz, 16 images: the powers that were printed, and by which factor."""
    cycles: dict[str, float] = {}
    energy_j: dict[str, float] = {}
    lines = shared_data("accelerators/bitfusion_eyeriss_results.csv").read_text().splitlines()
    for row in csv.DictReader(lines):
        units = sum(float(row[part]) for part in ("ALU", "Buffer", "Array", "RF")) + 0.15 * float(row["DRAM"])
        network = row["Benchmark"]
        cycles[network] = cycles.get(network, 0.0) + float(row["time(ms)"])
        energy_j[network] = energy_j.get(network, 0.0) + units * 3.2e-12
    assert cycles.keys() == comparison().keys()
    for network, published in comparison().items():
        time_s = cycles[network] / 500e6 / 16
        assert published.eyeriss_ms == pytest.approx(time_s * 1e3)
        power_mw = energy_j[network] / 16 / time_s * 1e3
        assert published.eyeriss_mw == pytest.approx(power_mw * PRINTED_MW, rel=1e-6)


def one_layer(**changes: Any) -> Any:
    """4-bit weights of 32 filters, 64 channels of 8-bit inputs, 3 x 3 taps, 8 x 8 outputs."""
    dense = activities(integer_weights(32, 576, bits=4, density=1.0, seed=0))
    return layer(inputs=64, weights=dense, **changes)


def shape_of(work: Any, images: int = 16, gathered: bool = False) -> FusedLayer:
    return FusedLayer(images, work.kernel, work.output_size, (1, 1), (1, 1), 64, 32, 8, 4, gathered=gathered)


def test_a_layer_by_hand() -> None:
    """The tiling's figures at their prices, a sixteenth for each image."""
    machine = make(gather_image=False)
    work = one_layer()
    cost = machine.cost(workload(work), {})
    tiling = fastest_tiling(shape_of(work), machine.array)
    assert tiling is not None
    assert tiling.compute >= 16 * 64 * 9 * 2  # 64 channels take two steps of 16 rows and two 4-bit halves
    assert cost.latency_s["conv"] == pytest.approx(tiling.cycles / 16 / 500e6)
    energy = {name: band.nominal for name, band in cost.energy_j["conv"].items()}
    assert energy["pe array"] == pytest.approx(tiling.compute * 512 * 0.4698e-12 / 16)
    weights = tiling.weight_read * 0.021 + tiling.weight_written * 0.029
    assert energy["weight buffer"] == pytest.approx(weights * 1e-12 / 16)
    fed = tiling.input_read * 0.059 + tiling.input_written * 0.114
    assert energy["input buffer"] == pytest.approx(fed * 1e-12 / 16)
    sums = tiling.sum_read * 0.033 + tiling.sum_written * 0.073
    assert energy["output buffer"] == pytest.approx(sums * 1e-12 / 16)
    assert energy["dram"] == pytest.approx((tiling.dram_read + tiling.dram_written) * 8e-12 / 16)
    assert energy["post-processing"] == pytest.approx(32 * 64 * 0.6583e-12)
    whole = machine.energy_j(shape_of(work)).nominal
    listed = sum(energy[part] for part in energy if part not in ("post-processing", "leakage"))
    assert whole / 16 == pytest.approx(listed)
    assert cost.utilisation["conv"] == pytest.approx(work.macs * 16 / (tiling.cycles * 1024))
    area = {name: band.nominal for name, band in cost.area_mm2.items()}
    assert area["pe array"] == pytest.approx(512 * 1486.59e-6)
    assert area["weight buffer"] == pytest.approx(0.76747776) and area["input buffer"] == pytest.approx(
        0.242112
    )
    for component, parts in cost.operand_j["conv"].items():
        assert sum(band.nominal for band in parts.values()) == pytest.approx(energy[component])


def test_buffers_follow_the_table_to_other_sizes() -> None:
    """Twice the capacity in as many banks: 0.25 KB instead of the published 0.125 KB of weights."""
    sram = TECHNOLOGY.sram
    wide = make(weight_kb=128).array.energies
    ratio = sram.read_j_per_bit(0.25).nominal / sram.read_j_per_bit(0.125).nominal
    assert wide[1] == pytest.approx(0.021 * ratio) and wide[3] == pytest.approx(0.059)
    assert make().array.energies[1:7] == pytest.approx((0.021, 0.029, 0.059, 0.114, 0.033, 0.073))
    odd = make(input_kb=0.5).cost(workload(layer()), {})
    assert odd.extrapolated and any("input buffer" in note for note in odd.notes)
    assert not make().cost(workload(layer()), {}).extrapolated


def test_requantised_sums_save_dram() -> None:
    """All of eight channels fit a tile: sums of 32 bits go out and in, or results of 8 bits, and 16 kept, go out."""
    work = layer()
    whole, short = (make(requantise=r, gather_image=False).cost(workload(work), {}) for r in (False, True))
    parts = [cost.operand_j["conv"]["dram"]["outputs"].nominal for cost in (whole, short)]
    assert parts == pytest.approx([32 * 64 * 2 * 32 * 8e-12, 32 * 64 * 8 * 8e-12])
    kept = make(gather_image=False, requantise=True).cost(workload(layer(kept=True)), {})
    result = kept.operand_j["conv"]["dram"]["outputs"].nominal
    assert result == pytest.approx(32 * 64 * (8 + 16) * 8e-12)


def test_a_residual_stream_is_read() -> None:
    work, added = one_layer(), one_layer(added=True)
    plain, more = (make(gather_image=False).cost(workload(w), {}) for w in (work, added))
    stream = 32 * 64 * 32
    assert more.energy_j["conv"]["dram"].nominal - plain.energy_j["conv"]["dram"].nominal == pytest.approx(
        stream * 8e-12
    )
    assert more.total_latency_s - plain.total_latency_s == pytest.approx(stream / 192 / 500e6)


def test_a_batch_shares_the_weights() -> None:
    """A classifier waits for its weights: sixteen images take them once."""
    work = layer(
        inputs=512,
        kernel=(1, 1),
        output_size=(1, 1),
        weights=activities(integer_weights(32, 512, bits=4, density=1.0, seed=0)),
    )
    alone, together = (make(batch=b, gather_image=False).cost(workload(work), {}) for b in (1, 16))
    ratio = (
        alone.operand_j["conv"]["dram"]["weights"].nominal
        / together.operand_j["conv"]["dram"]["weights"].nominal
    )
    assert ratio == pytest.approx(16)
    assert alone.bound == {"conv": "dram"} and alone.total_latency_s > 3 * together.total_latency_s


def test_the_peak_is_a_full_array() -> None:
    machine = make()
    peak = machine.peak(2, 2)
    assert peak.ops_per_s == pytest.approx(2 * 16 * 512 * 500e6)
    fed = 512 * 16 * 2 * (0.021 + 0.059)
    leakage = machine.cost(workload(layer()), {}).leakage_w.nominal
    assert peak.power_w.nominal == pytest.approx((512 * 0.4698 + fed) * 1e-12 * 500e6 + leakage)
    assert machine.peak(8, 8).ops_per_s == pytest.approx(peak.ops_per_s / 16)
    assert machine.peak(8, 16).ops_per_s == pytest.approx(peak.ops_per_s / 32)


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="accelerator.widest"):
        make(widest=16)
    with pytest.raises(ConfigError, match="accelerator.narrowest"):
        make(widest=2, narrowest=4)
    with pytest.raises(ConfigError, match="half holds one output of layer conv"):
        make(output_kb=0.0625).cost(workload(layer()), {})


class TestContract(AcceleratorContract):
    """What the contract asks of a machine that skips nothing and pads its lanes.

    Weights are padded to whole rows of fused multipliers, which hold more channels the narrower the operands are, so
    only layers that fill them get monotone with bits.
    """

    def make(self, **options: Any) -> FusedSystolic:
        return make(**options)

    def test_a_layer_of_zeros_only_moves_its_operands_and_leaks(self) -> None:
        """Zeros cost as much as anything: the chip does not look at them."""
        costs = [
            self.price(layer(weights=activities(integer_weights(32, 72, bits=4, density=d, seed=1))))
            for d in (0.0, 1.0)
        ]
        assert costs[0].breakdown() == costs[1].breakdown()

    def test_layers_are_priced_one_by_one_apart_from_shared_memory_and_leakage(self) -> None:
        a, b = layer("a"), layer("b", output_size=(4, 4), outputs=16)
        machine = self.make(gather_image=False)
        both, alone = (self.price(*layers, accelerator=machine) for layers in ((a, b), (b,)))
        assert both.energy_j["b"] == alone.energy_j["b"] and both.latency_s["b"] == alone.latency_s["b"]
        assert both.area_mm2 == alone.area_mm2

    @pytest.mark.parametrize("g", [4])
    @pytest.mark.parametrize("groups", [2, 4, 8])
    def test_grouping_channels_never_saves_more_than_its_products(self, g: int, groups: int) -> None:
        plain = self.price(self.dense_layer(groups=1), g=g)
        grouped = self.price(self.dense_layer(groups=groups), g=g)
        assert grouped.total_latency_s >= plain.total_latency_s / groups
        arrays = [cost.energy_j["conv"]["pe array"].nominal for cost in (plain, grouped)]
        assert arrays[1] >= arrays[0] / groups

    @pytest.mark.parametrize("which", ["weights", "inputs"])
    def test_more_bits_never_take_longer_where_lanes_are_full(self, which: str) -> None:
        costs = []
        for bits in (2, 4, 8):
            widths = {"weights": 8, "inputs": 8, which: bits}
            tensor = integer_weights(32, 256 * 9, bits=widths["weights"], density=1.0, seed=0)
            work = layer(
                inputs=256,
                outputs=32,
                weights=activities(tensor),
                input=inputs(bits=widths["inputs"]),
            )
            costs.append(self.price(work, accelerator=self.make(gather_image=False)))
        for few, many in itertools.pairwise(costs):
            self.assert_no_cheaper(many, few)

    def test_each_term_is_a_set_of_filters(self) -> None:
        machine = self.make(gather_image=False)
        one, two = (
            self.price(
                layer(weights=activities(ternary_weights(32, 72, terms=t, density=0.5, seed=1))),
                accelerator=machine,
            )
            for t in (1, 2)
        )
        arrays = [cost.energy_j["conv"]["pe array"].nominal for cost in (one, two)]
        assert arrays[1] == pytest.approx(2 * arrays[0])
