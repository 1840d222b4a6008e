"""Column, slice and value skipping: the contract, cases worked by hand, and brute force over real columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.slicing import from_codes
from dse.errors import ConfigError, UnknownName
from energy.accelerators import make_accelerator
from energy.accelerators.columns import Columns
from energy.activity import WeightActivity, weight_activity
from energy.bit_columns import ColumnActivity
from energy.technology import load_technology
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, workload

PJ = 1e-12
TECHNOLOGY = load_technology("cmos45")
ENERGY = {
    n.rsplit(".", 1)[1]: c.value for n, c in TECHNOLOGY.constants.items() if n.startswith("pe_parts.energy.")
}


def columns(**settings: Any) -> Columns:
    return make_accelerator("columns", settings, TECHNOLOGY)  # type: ignore[return-value]


class ColumnsContract(AcceleratorContract):
    counts_alone = False  # a run that channel groups cut short takes as long as a whole one
    defaults: dict[str, Any] = {}

    def make(self, **settings: Any) -> Columns:
        return columns(**{"lanes": 64, "pixels": 2, **self.defaults, **settings})


class TestColumns(ColumnsContract):
    pass


class TestColumnsRunByRun(ColumnsContract):
    defaults = {"sync": "run", "encoding": "twos_complement"}


class TestSlices(ColumnsContract):
    defaults = {"skip": "slice"}


class TestValues(ColumnsContract):
    defaults = {"skip": "value"}


class TestWithoutSkipping(ColumnsContract):
    defaults = {"skip": "none"}
    skips_zeros = False


def naive_columns(
    codes: np.ndarray, planes: int, run: int, filters: int, groups: int
) -> tuple[list[int], list[int]]:
    """Non-zero columns of the magnitudes of ``codes [N, K]``, bit by bit, and what the slowest of a pass takes."""
    table = []
    for row in codes:
        per_run = []
        for start in range(0, len(row), run):
            members = [abs(int(code)) for code in row[start : start + run]]
            per_run.append(sum(any(code >> bit & 1 for code in members) for bit in range(planes)))
        table.append(per_run)
    slowest = []
    size = len(codes) // groups
    for group in range(groups):
        own = table[group * size : (group + 1) * size]
        for start in range(0, size, filters):
            slowest.append(sum(max(column) for column in zip(*own[start : start + filters], strict=True)))
    return [sum(row) for row in table], slowest


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 8),
    st.sampled_from([1, 3, 8, 16]),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 7, 64, 70]),
)
def test_columns_are_those_of_brute_force(
    seed: int, bits: int, run: int, filters: int, groups: int, reduction: int
) -> None:
    rng = np.random.default_rng(seed)
    largest = (1 << (bits - 1)) - 1
    codes = rng.integers(-largest, largest + 1, (6, reduction)) * (rng.random((6, reduction)) < 0.3)
    tensor = from_codes(codes[None], np.ones((1, 6, 1)), shape=codes.shape, bits=bits)
    found = weight_activity(tensor, "sign_magnitude", [(run, filters)], groups).columns[run, filters]
    nonzero, slowest = naive_columns(codes, bits - 1, run, filters, groups)
    assert found.runs == -(-reduction // run) and found.planes == bits - 1
    assert found.nonzero.tolist() == nonzero and found.slowest.tolist() == slowest


def test_columns_survive_the_round_trip_and_are_absent_unless_asked_for() -> None:
    tensor = integer_weights(10, 20, bits=4, density=0.3, seed=1)
    counted = weight_activity(tensor, "csd", [(8, 4), (16, 4)])
    again = WeightActivity.from_dict(counted.to_dict())
    assert set(again.columns) == {(8, 4), (16, 4)}
    for request, found in counted.columns.items():
        assert again.columns[request].nonzero.tolist() == found.nonzero.tolist()
        assert again.columns[request].slowest.tolist() == found.slowest.tolist()
        assert (again.columns[request].runs, again.columns[request].planes) == (found.runs, found.planes)
    plain = weight_activity(tensor, "csd").to_dict()
    assert plain["columns"] == []
    del plain["columns"]  # as written before there were any
    assert WeightActivity.from_dict(plain).columns == {}


def by_hand(found: ColumnActivity) -> Any:
    """Three filters of 8 weights of 4 bits; 13 of their 72 bits are set."""
    counts = {1: np.array([[3, 2, 1], [2, 1, 0], [3, 1, 0]]), 8: np.array([[4, 3, 1]])}
    weights = WeightActivity(
        "sign_magnitude", 1, 4, dense_bits=24 * 4, nonzero=counts, signs={1: 8, 8: 8}, columns={(4, 2): found}
    )
    return layer(
        outputs=3,
        inputs=8,
        kernel=(1, 1),
        output_size=(1, 5),
        weights={"sign_magnitude": weights},
        input=inputs(bits=8, density=1.0),
    )


def test_columns_worked_by_hand() -> None:
    """2 filters x 2 runs of 4 weights x 4 pixels; filters have 5, 3 and 1 columns that are not zero, of 6 each."""
    found = ColumnActivity(runs=2, planes=3, nonzero=np.array([5, 3, 1]), slowest=np.array([5, 1]))
    machine = columns(filters=2, lanes=8, pixels=4, group=4)
    cost = machine.cost(workload(by_hand(found)), {})
    # Pass 1 takes ceil(5 / 2) cycles, pass 2 ceil(1 / 2); 2 tiles of pixels.
    cycles = (3 + 1) * 2
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    busy = 9 * 4 * 5  # 9 columns of 4 weights for 5 pixels
    assert cost.utilisation["conv"] == pytest.approx(busy / (cycles * 2 * 8 * 4))
    # 13 bits are ones: their inputs are added; registers work for all bits of a column, control for every run.
    element = 4.5 * ENERGY["operand_bits"] + ENERGY["elements"] / 4
    below = 4.5 * (ENERGY["accumulator_bits"] + ENERGY["fusion_bits"])
    expected = 13 * 5 * 8 * ENERGY["products"] + busy * element + busy / 8 * below
    assert cost.energy_j["conv"]["pe array"].nominal == pytest.approx(expected * PJ)
    # 9 columns of 4 bits, a bit for each of 3 x 2 x 3 columns, 24 signs; read for both tiles.
    stored = 9 * 4 + 18 + 24
    assert cost.operand_j["conv"]["local buffers"]["weights"].nominal == pytest.approx(
        2 * stored * 1.414 / 64 * PJ
    )
    # filters wait: 36 digits in 4 steps of 2 x 8
    assert any(f"{1 - 36 / 64:.0%} of the array's time" in note for note in cost.notes)


def test_filters_that_wait_at_every_run_take_longer() -> None:
    found = ColumnActivity(runs=2, planes=3, nonzero=np.array([5, 3, 1]), slowest=np.array([6, 1]))
    run, whole = (
        columns(filters=2, lanes=4, pixels=4, group=4, sync=s).cost(workload(by_hand(found)), {})
        for s in ("run", "filter")
    )
    assert run.total_latency_s * 500e6 == pytest.approx((6 + 1) * 2)
    assert whole.total_latency_s * 500e6 == pytest.approx((5 + 1) * 2)


def test_values_and_slices_worked_by_hand() -> None:
    found = ColumnActivity(2, 3, np.array([5, 3, 1]), np.array([5, 1]))
    value = columns(filters=2, lanes=2, pixels=4, skip="value").cost(workload(by_hand(found)), {})
    # 4, 3 and 1 weights are not zero: ceil(4 / 2) and ceil(1 / 2) cycles in two passes, two tiles.
    assert value.total_latency_s * 500e6 == pytest.approx((2 + 1) * 2)
    stored = 24 + 8 * 4 + 8  # a bitmap, 8 magnitudes of 4 bits, their signs
    assert value.operand_j["conv"]["local buffers"]["weights"].nominal == pytest.approx(
        2 * stored * 1.414 / 64 * PJ
    )
    tensor = integer_weights(16, 64, bits=8, density=0.4, seed=1)
    weights = activities(tensor)
    work = layer(outputs=16, inputs=64, kernel=(1, 1), output_size=(1, 1), weights=weights)
    sliced = columns(skip="slice", slice_bits=4, lanes=16, pixels=1).cost(workload(work), {})
    most = weights["sign_magnitude"].nonzero[4].sum(0).max()
    assert sliced.total_latency_s * 500e6 == pytest.approx(-(-most // 16))


def test_what_was_not_counted_is_taken_as_independent_and_said() -> None:
    tensor = integer_weights(32, 512, bits=8, density=1.0, seed=1)
    uncounted = layer(outputs=32, inputs=512, kernel=(1, 1), weights=activities(tensor))
    counted = layer(
        outputs=32,
        inputs=512,
        kernel=(1, 1),
        weights={"sign_magnitude": weight_activity(tensor, "sign_magnitude", [(8, 16)])},
    )
    guess, truth = (columns(lanes=64).cost(workload(work), {}) for work in (uncounted, counted))
    assert any("bit columns of 8 weights were not counted" in note for note in guess.notes)
    assert guess.extrapolated and not any("not counted" in note for note in truth.notes)
    assert guess.total_latency_s == pytest.approx(
        truth.total_latency_s, rel=0.05
    )  # random bits are independent


def test_small_weights_leave_columns_out() -> None:
    """Laplace weights: most leading columns of sign and magnitude are zero, few of two's complement."""
    rng = np.random.default_rng(0)
    codes = np.clip(np.round(rng.laplace(0, 12, (32, 256))), -127, 127).astype(np.int64)
    tensor = from_codes(codes[None], np.ones((1, 32, 1)), shape=codes.shape, bits=8)
    times = {}
    for encoding in ("sign_magnitude", "twos_complement"):
        machine = columns(encoding=encoding, lanes=64)
        counted = {encoding: weight_activity(tensor, encoding, machine.columns)}
        work = layer(outputs=32, inputs=256, kernel=(1, 1), weights=counted)
        times[encoding] = machine.cost(workload(work), {}).total_latency_s
        dense = columns(encoding=encoding, lanes=64, skip="none").cost(workload(work), {}).total_latency_s
        assert times[encoding] <= dense
    assert times["sign_magnitude"] < 0.8 * times["twos_complement"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"skip": "columns"}, UnknownName, "unknown skip 'columns'; did you mean 'column'"),
        ({"sync": "all"}, UnknownName, "unknown sync 'all'"),
        ({"encoding": "cds"}, UnknownName, "did you mean 'csd'"),
        ({"group": 0}, ConfigError, "accelerator.group=0"),
        ({"lanes": 12}, ConfigError, "accelerator.lanes=12: expected a multiple of group = 8"),
        ({"skip": "slice", "slice_bits": 3}, ConfigError, "accelerator.slice_bits=3"),
        ({"input_bits": 0}, ConfigError, "accelerator.input_bits=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        columns(**settings)
