"""Digital compute-in-memory: formulas by hand, counts of adders against a built tree, and the contract."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import ConfigError, UnknownName
from energy.accelerators import Accelerator, make_accelerator
from energy.accelerators.digital_cim import DigitalCim
from energy.cim.process import Process
from energy.cim.settings import DigitalCimConfig
from energy.cim.trees import Adders, Widths, tree_adders
from energy.technology import load_technology
from tests.cam_contract import CamContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, ternary_weights, workload

TECHNOLOGY = load_technology("cmos45")
ROOT = Path(__file__).parents[2]


def machine(**settings: Any) -> DigitalCim:
    return make_accelerator("digital_cim", settings, TECHNOLOGY)  # type: ignore[return-value]


def value(name: str) -> float:
    return TECHNOLOGY[name].value


class TestTrees(CamContract):
    """Adder trees."""

    work = "adders"

    def make(self, **settings: Any) -> Accelerator:
        return machine(**settings)


class TestRipple(TestTrees):
    """An adder in every cell."""

    def make(self, **settings: Any) -> Accelerator:
        ripple = {"adder": "ripple", "column_bits": 1, "outputs": 64, "node_nm": 65, "vdd_v": 0.8}
        return super().make(**{**ripple, **settings})


def full_adders(operands: int, bits: int) -> int:
    """A tree put together level by level: an adder of two numbers has a full adder per bit of the wider."""
    numbers, adders = [bits] * operands, 0
    while len(numbers) > 1:
        pairs = list(zip(numbers[0::2], numbers[1::2], strict=False))
        left = numbers[len(pairs) * 2 :]
        adders += sum(max(pair) for pair in pairs)
        numbers = [max(pair) + 1 for pair in pairs] + left
    return adders


@given(st.integers(0, 9), st.integers(1, 16))
def test_full_adders_of_a_tree(levels: int, bits: int) -> None:
    operands = 1 << levels
    assert tree_adders(operands, bits) == full_adders(operands, bits)
    assert tree_adders(operands, bits) == operands * (bits + 1) - (bits + levels + 1)


@given(st.integers(1, 300), st.integers(1, 16))
def test_trees_of_any_size_are_between_the_powers_of_two(operands: int, bits: int) -> None:
    below, above = 1 << int(math.log2(operands)), 1 << math.ceil(math.log2(operands))
    assert tree_adders(below, bits) <= tree_adders(operands, bits) <= tree_adders(above, bits)


@pytest.mark.parametrize(
    ("settings", "weight_bits", "expected"),
    [
        ({"rows": 32, "column_bits": 8, "booth": True, "input_bits_per_cycle": 2}, 8, Widths(9, 1, 14, 1, 14, 20)),
        ({"rows": 128, "column_bits": 1, "input_bits_per_cycle": 2}, 8, Widths(2, 1, 9, 8, 16, 22)),
        ({"rows": 256, "column_bits": 4}, 4, Widths(4, 1, 12, 1, 12, 19)),
        ({"rows": 64, "column_bits": 4, "input_bits_per_cycle": 2}, 8, Widths(4, 2, 11, 2, 15, 21)),
        ({"rows": 128, "column_bits": 1, "adder": "ripple"}, 8, Widths(1, 1, 15, 1, 15, 23)),
    ],
)  # fmt: skip
def test_widths_by_hand(settings: dict, weight_bits: int, expected: Widths) -> None:
    assert Widths.of(DigitalCimConfig(**settings), weight_bits, 8) == expected


@given(st.integers(2, 64), st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
@settings(deadline=None)
def test_widths_hold_every_sum(rows: int, column_bits: int, weight_bits: int, seed: int) -> None:
    widths = Widths.of(DigitalCimConfig(rows=rows, column_bits=column_bits), weight_bits, 8)
    assert rows * (2**column_bits - 1) < 2**widths.total
    trees = -(-weight_bits // column_bits)
    largest = rows * (2 ** (trees * column_bits) - 1)
    assert largest < 2**widths.joined
    assert largest * 255 < 2 ** (widths.accumulator + 1)  # signed operands need no more


def test_a_tree_by_hand() -> None:
    """28 nm and 1 V: 3 NAND2 and 2 XOR2 an adder, 6 NAND2 by capacitance; 4 operands of 2 bits have 7 adders."""
    config = DigitalCimConfig(rows=4, column_bits=2, vdd_v=1.0, accumulator_bits=6)
    widths = Widths.of(config, 2, 4)
    adders = Adders.of(config, Process(TECHNOLOGY, 28.0, 1.0), widths)
    gate = value("cim.gate_capacitance") * value("cim.load") * 1e-15
    assert tree_adders(4, 2) == 2 * 2 + 3 == 7
    assert adders.product_j.nominal == pytest.approx(gate * (7 * 6 / 4 + 0.5 * 2))
    assert adders.fixed_j.nominal == pytest.approx(gate * (6 * 6 + 6 * 3))
    full_adder, nand = value("cim.adder_area.28nm"), value("cim.gate_area")
    assert adders.area_mm2.nominal == pytest.approx(((7 + 6) * full_adder + (2 * 4 + 6 * 6) * nand) * 1e-6)
    # a NOR2; a sum; a carry through 4 bits; a sum and 2 bits of carry into the accumulator
    gates = 1 + 4.8 + (4.4 + 2 * 3) + 4.8 + 2 * (6 - 4)
    at_28 = Process(TECHNOLOGY, 28.0, 0.9)
    assert Adders.of(config, at_28, widths).delay_s == pytest.approx(gates * value("cim.gate_delay") * 1e-9)


def test_peak_by_hand() -> None:
    made = machine(
        rows=4, outputs=6, column_bits=2, vdd_v=1.0, accumulator_bits=6, macros=3, frequency_mhz=100
    )
    peak = made.peak(4, 3)
    # two trees to a weight, three cycles to an input
    assert peak.ops_per_s == pytest.approx(2 * 3 * 4 * 3 * 100e6 / 3)
    built = made._build(4, 3)
    parts = made.peak_energy_j(4, 3)
    assert parts["adders"].nominal == pytest.approx(4 * 6 * 0.25 * built.adders.product_j.nominal)
    assert parts["accumulators"].nominal == pytest.approx(6 * built.adders.fixed_j.nominal)
    assert parts["row drivers"].nominal == pytest.approx(
        4 * 0.5 * 6 * 2 * value("nvm.line_capacitance") * 1e-15
    )
    cycle = sum(band.nominal for band in parts.values())
    assert peak.power_w.nominal == pytest.approx(3 * cycle * 100e6 + made.leakage_w.nominal)
    area = made.area_mm2
    bits = 4 * 6 * 2 * 3
    assert area["cells"].nominal == pytest.approx(bits * value("nvm.area.sram") * 28e-6**2)
    whole = sum(band.nominal for band in area.values())
    assert whole / (area["cells"].nominal + area["adders"].nominal) == pytest.approx(value("cim.overhead"))


def test_a_layer_by_hand() -> None:
    made = machine(rows=32, outputs=4, column_bits=2, vdd_v=1.0, macros=64, frequency_mhz=100)
    weights = activities(integer_weights(10, 72, bits=3, density=1.0, seed=1))
    work = layer(outputs=10, weights=weights, input=inputs(bits=4), output_size=(3, 2))
    cost = made.cost(workload(work, image_bits=0), {})
    energy = {name: band.nominal for name, band in cost.energy_j["conv"].items()}
    built = made._build(3, 4)
    counts = weights["twos_complement"].nonzero[1]
    ones_in = float(work.input.nonzero[1].sum())
    assert energy["adders"] == pytest.approx(counts.sum() / 2 * ones_in * 6 * built.adders.product_j.nominal)
    # 10 outputs of 3 bits take two trees each, 5 macros beside each other and 3 above
    assert energy["accumulators"] == pytest.approx(20 * 3 * 4 * 6 * built.adders.fixed_j.nominal)
    lines = 5 * 72 * ones_in * 6 * 4 * 2 * value("nvm.line_capacitance") * 1e-15
    assert energy["row drivers"] == pytest.approx(lines)
    assert cost.latency_s["conv"] == pytest.approx(6 * 4 / 100e6)
    assert cost.utilisation["conv"] == pytest.approx(20 * 72 / (64 * 4 * 32))


def test_energy_follows_the_bits_of_both_operands() -> None:
    made = machine(column_bits=4, rows=64)
    per_mac = {(w, i): made.peak(w, i).energy_per_mac_j for w in (4, 8, 16) for i in (1, 2, 4, 8)}
    for w in (4, 8, 16):
        assert per_mac[w, 8] > 7 * per_mac[w, 1]  # a cycle per bit, and a wider accumulator
    for i in (1, 8):
        assert 1.8 * per_mac[4, i] < per_mac[8, i] < per_mac[16, i] / 1.8


@pytest.mark.parametrize("bits", range(1, 17))
def test_columns_of_a_colonnade_weight(bits: int) -> None:
    """As many as its bits and seven more, of 128."""
    made = machine(rows=128, outputs=128, column_bits=1, adder="ripple", frequency_mhz=100, macros=1)
    peak = made.peak(bits, bits)
    assert peak.ops_per_s == pytest.approx(2 * 128 * (128 // (bits + 7)) * 100e6 / bits)


def test_ripple_adders_glitch_as_simulated() -> None:
    """Transitions per adder and cycle in a unit-delay simulation, over those in a tree: what the constants say."""
    per_row, tree = value("cim.ripple_activity.row"), value("cim.ripple_activity.tree")
    for rows in (4, 8, 16):
        assert 1 + per_row * rows == pytest.approx(ripple_transitions(rows, 15), rel=0.15)
    assert tree == pytest.approx(tree_transitions(32, 8), rel=0.15)


def ripple_transitions(rows: int, width: int, columns: int = 60, cycles: int = 5) -> float:
    """Of sum and carry, in ``rows`` ripple adders that pass their sums down, per adder and cycle."""
    rng = np.random.default_rng(rows)
    weights = rng.integers(0, 2, (columns, rows, width))
    sums, carries = (np.zeros((columns, rows, width), np.int64) for _ in range(2))
    changes = 0
    for cycle in range(cycles + 1):
        products = weights * rng.integers(0, 2, (columns, rows, 1))
        above = rng.integers(0, 2, (columns, 1, width))
        while True:
            down = np.concatenate([above, sums[:, :-1]], 1)
            along = np.concatenate([np.zeros((columns, rows, 1), np.int64), carries[:, :, :-1]], 2)
            new_sums = products ^ down ^ along
            new_carries = (products & down) | (along & (products ^ down))
            moved = int((new_sums != sums).sum() + (new_carries != carries).sum())
            sums, carries = new_sums, new_carries
            if not moved:
                break
            changes += moved if cycle else 0
    return changes / (columns * rows * width * cycles)


def tree_transitions(operands: int, bits: int, trees: int = 60, cycles: int = 5) -> float:
    rng = np.random.default_rng(operands)
    weights = rng.integers(0, 2, (trees, operands, bits))
    shapes = [(trees, operands >> (d + 1), bits + d) for d in range(int(math.log2(operands)))]
    sums, carries = ([np.zeros(shape, np.int64) for shape in shapes] for _ in range(2))
    changes = 0
    for cycle in range(cycles + 1):
        products = weights * rng.integers(0, 2, (trees, operands, 1))
        while True:
            moved, new_sums, new_carries = 0, [], []
            for d, (s, c) in enumerate(zip(sums, carries, strict=True)):
                below = np.concatenate([sums[d - 1], carries[d - 1][:, :, -1:]], 2) if d else products
                one, other = below[:, 0::2], below[:, 1::2]
                along = np.concatenate([np.zeros((*s.shape[:2], 1), np.int64), c[:, :, :-1]], 2)
                new_sums.append(one ^ other ^ along)
                new_carries.append((one & other) | (along & (one ^ other)))
                moved += int((new_sums[-1] != s).sum() + (new_carries[-1] != c).sum())
            sums, carries = new_sums, new_carries
            if not moved:
                break
            changes += moved if cycle else 0
    return changes / (cycles * sum(math.prod(shape) for shape in shapes))


@given(st.floats(0.4, 0.95), st.integers(0, 100))
@settings(deadline=None)
def test_values_set_the_energy_of_adders(density: float, seed: int) -> None:
    made = machine()
    sparse, dense = (
        layer(weights=activities(integer_weights(32, 72, bits=4, density=d, seed=seed)))
        for d in (density, 1.0)
    )
    known, other = (made.cost(workload(w), {}).energy_j["conv"] for w in (sparse, dense))
    ones = [w.weights["twos_complement"].nonzero[1].sum() for w in (sparse, dense)]
    assert known["adders"].nominal / other["adders"].nominal == pytest.approx(ones[0] / ones[1])
    assert known["accumulators"] == other["accumulators"]


def test_ternary_weights_take_one_tree() -> None:
    work = layer(weights=activities(ternary_weights(32, 72, terms=2, density=0.5, seed=1)))
    made = machine()
    used = made.used(work)
    assert used.shape == (2, 32) and used.all()
    assert made.cost(workload(work), {}).energy_j["conv"]["adders"].nominal > 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"adder": "tre"}, UnknownName, "accelerator.adder: unknown adder 'tre'; did you mean 'tree'"),
        ({"booth": True}, ConfigError, "accelerator.input_bits_per_cycle=1: expected 2 where booth is true"),
        ({"adder": "ripple"}, ConfigError, "accelerator.adder=ripple: expected tree, where a column"),
        ({"column_bits": 17}, ConfigError, "accelerator.column_bits=17"),
        ({"peak_weight_density": 1.5}, ConfigError, "accelerator.peak_weight_density=1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        machine(**settings)


def test_a_weight_wider_than_the_macro_has_no_peak() -> None:
    with pytest.raises(ConfigError, match="weight_bits=8: expected a width that 8 columns hold"):
        machine(adder="ripple", column_bits=1, outputs=8).peak(8, 8)


def test_the_shipped_machine_prices_a_network() -> None:
    path = ROOT / "configs" / "accelerator" / "digital_cim.yaml"
    shipped = yaml.safe_load(path.read_text(encoding="utf-8"))
    made = make_accelerator(shipped["kind"], shipped["settings"], TECHNOLOGY)
    cost = made.cost(workload(layer("a"), layer("b", weights={}, input=None)), {})
    assert 0 < cost.total_energy_j.low < cost.total_energy_j.nominal < cost.total_energy_j.high
    assert 1 < made.peak(8, 8).tops_per_w < 100
