"""The row-stationary array: the contract, what is its own by hand, and the chip and the tool it is held against."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from compressors.errors import ConfigError
from energy.accelerators import make_accelerator
from energy.accelerators.rowstationary import RowStationary
from energy.mapping.problem import DIMS, Problem
from energy.mapping.search import best_mapping
from energy.published import Check, target
from energy.published.eyeriss import chip_runs, clock_pj
from energy.published.mapping import figures, timeloop_search
from energy.technology import load_technology
from energy.technology.scaling import scale_energy
from energy.workload import Workload
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import inputs, layer, workload

TECHNOLOGY = load_technology("cmos45")


def make(**settings: Any) -> RowStationary:
    return make_accelerator("rowstationary", settings, TECHNOLOGY)  # type: ignore[return-value]


class TestContract(AcceleratorContract):
    """With a DRAM so wide that the image, which only a first layer reads, does not set its time."""

    skips_zeros = False

    def make(self, **settings: Any) -> RowStationary:
        return make(**{"dram_bits": 4096, "run_length_coding": False, "zero_gating": False, **settings})

    def test_float_costs_more_than_eight_bits(self) -> None:
        """The clock, which is most of it, ticks for both alike."""
        integer, floating = (
            self.price(work, g=8) for work in (self.layer(), layer(weights={}, input=None, output_bits=32))
        )
        clocks = [cost.energy_j["conv"]["clock"].nominal for cost in (integer, floating)]
        assert clocks[0] == pytest.approx(clocks[1], rel=0.5)
        rest = [c.total_energy_j.nominal - t for c, t in zip((integer, floating), clocks, strict=True)]
        assert rest[1] > 2 * rest[0]
        assert floating.total_area_mm2.nominal > integer.total_area_mm2.nominal


class TestContractWithZeros(TestContract):
    def make(self, **settings: Any) -> RowStationary:
        return make(**{"dram_bits": 4096, "rows": 6, "columns": 7, **settings})


def test_filter_rows_by_output_rows_make_a_set_of_elements() -> None:
    """Three filter rows leave 4 of 12 rows for further sets; 13 output rows take 13 of 14 columns."""
    design = make().design
    problem = Problem((1, 1, 64, 32, 13, 13, 3, 3))
    found = best_mapping(problem, design.machine, design.flows, (8, 8, 16, 8))
    at = {dim: found.spatial[:, d] for d, dim in enumerate(DIMS)}
    assert at["FY"].tolist() == [3, 1] and at["Y"].tolist() == [1, 13]
    assert (at["C"] * at["K"]).tolist() == [4, 1]
    assert found.temporal[0].prod() <= 24  # partial sums of so many filters fit beside an element
    long = best_mapping(Problem((1, 1, 8, 8, 27, 27, 5, 5)), design.machine, design.flows, (8, 8, 16, 8))
    assert long.spatial[1, DIMS.index("Y")] == 14  # two turns of 27 rows, one position idle in the second


def test_every_element_costs_the_clock_in_every_cycle() -> None:
    cost = make().cost(workload(layer()), {})
    clock = TECHNOLOGY["eyeriss.clock"]
    cycle_pj = scale_energy(clock.band, 65, 1.0, 45, 1.0).nominal * 12 * 14
    cycles = cost.latency_s["conv"] * TECHNOLOGY["clock_hz"].value
    assert cost.energy_j["conv"]["clock"].nominal == pytest.approx(cycle_pj * cycles * 1e-12)
    assert any("fitted to the Eyeriss chip" in note for note in cost.notes)
    batched = make(batch=4).cost(workload(layer()), {})
    each = batched.latency_s["conv"] * TECHNOLOGY["clock_hz"].value
    assert batched.energy_j["conv"]["clock"].nominal == pytest.approx(cycle_pj * each * 1e-12)


def test_run_length_coding_by_hand() -> None:
    """A quarter of the values of 8 bits is left: each takes 8 + 5 + 1/3 bits, so 5/12 of what they took."""
    first = layer("a", outputs=8, inputs=8)
    quarter = replace(inputs(bits=8, density=1.0), nonzero={g: np.array([0.25]) for g in (1, 2, 4, 8)})
    second = layer("b", outputs=8, inputs=8, input=quarter)
    coded, plain = (make(run_length_coding=on).cost(workload(first, second), {}) for on in (True, False))

    def dram(cost: Any, name: str, operand: str) -> float:
        return cost.operand_j[name]["dram"][operand].nominal

    share = 0.25 * (8 + 5 + 1 / 3) / 8
    assert dram(coded, "b", "inputs") == pytest.approx(share * dram(plain, "b", "inputs"))
    assert dram(coded, "a", "outputs") == pytest.approx(share * dram(plain, "a", "outputs"))
    assert dram(coded, "a", "inputs") == dram(plain, "a", "inputs")  # the image
    assert dram(coded, "b", "outputs") == dram(plain, "b", "outputs")  # whose zeros nobody knows
    assert dram(coded, "b", "weights") == dram(plain, "b", "weights")


def test_codes_longer_than_the_values_are_not_used() -> None:
    dense = layer("b", outputs=8, inputs=8, input=inputs(bits=8, density=1.0))
    coded, plain = (make(run_length_coding=on).cost(workload(layer("a"), dense), {}) for on in (True, False))
    assert coded.energy_j["b"]["dram"] == plain.energy_j["b"]["dram"]


def test_the_shipped_description_is_the_chip() -> None:
    path = Path(__file__).resolve().parents[2] / "configs" / "accelerator" / "eyeriss_like.yaml"
    data = yaml.safe_load(path.read_text())
    machine = make_accelerator(data["kind"], data["settings"], TECHNOLOGY)
    work: Workload = workload(layer())
    assert machine.cost(work, {}).breakdown() == make().cost(work, {}).breakdown()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sum_words": 0}, "accelerator.sum_words"),
        ({"buffer_kb": 0}, "a capacity up to 1 GB"),
        ({"rows": 0}, "accelerator.rows"),
        ({"precision": 12}, "2, 4, 8 or 16"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)


# published figures


def checks(name: str) -> list[Check]:
    found = target(name).run()
    assert found
    return found


def test_shares_are_within_three_points_each() -> None:
    found = checks("eyeriss-shares")
    assert len(found) == 25
    assert all(abs(check.error) <= 0.03 for check in found)
    for network in {check.name.partition(":")[0] for check in found}:
        assert sum(c.model for c in found if c.name.startswith(f"{network}:")) == pytest.approx(100)


def test_shares_are_those_of_the_published_table(shared_data: Callable[[str], Path]) -> None:
    """Summed up from the file of the Bit Fusion repository; pooling counts except among the convolutions."""
    parts = ("RF", "ALU", "DRAM", "Array", "Buffer")
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    names = {"AlexNet": "AlexNet", "RESNET-18": "ResNet-18", "VGG-7": "VGG-7", "LSTM": "LSTM"}
    products: dict[str, set[float]] = defaultdict(set)
    with shared_data("accelerators/bitfusion_eyeriss_results.csv").open() as file:
        for row in csv.DictReader(file):
            if row["Benchmark"] not in names:
                continue
            networks = [names[row["Benchmark"]]]
            if row["Benchmark"] == "AlexNet" and row["Layer"].startswith("conv"):
                networks.append("AlexNet, convolutions")
            for network in networks:
                totals[network] = [t + float(row[p]) for t, p in zip(totals[network], parts, strict=True)]
                products[network].add(float(row["ALU"]))
    for network, entry in figures()["eyeriss_shares"].items():
        whole = sum(totals[network])
        assert [100 * t / whole for t in totals[network]] == pytest.approx(entry["shares"], abs=0.06)
        ours = {float(16 * k * max(c, 1) * size**2 * taps**2) for k, c, size, taps, _, _ in entry["layers"]}
        assert ours == products[network]  # the layers are those that were run


def test_the_chip_within_what_is_asked() -> None:
    assert all(abs(check.error) <= 0.15 for check in checks("eyeriss-energy"))
    assert all(abs(check.error) <= 0.10 for check in checks("eyeriss-dram"))
    fitted = [clock_pj(run) for run in chip_runs().values()]
    clock = TECHNOLOGY["eyeriss.clock"]
    assert clock.value * clock.low <= min(fitted) <= clock.value <= max(fitted) <= clock.value * clock.high


def test_timeloops_mapping_costs_what_timeloop_says() -> None:
    assert all(abs(check.error) <= 0.003 for check in checks("timeloop"))


@pytest.mark.parametrize("name", figures()["timeloop"]["searched"])
def test_no_search_of_timeloop_found_better(name: str) -> None:
    assert timeloop_search(name)[1] <= figures()["timeloop"]["searched"][name]["uj"] * 1.02


def test_zigzag_finds_the_same() -> None:
    assert all(abs(check.error) <= 0.005 for check in checks("zigzag-energy"))
    assert all(abs(check.error) <= 0.10 for check in checks("zigzag-latency"))
