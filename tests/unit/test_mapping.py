"""Access counts against a loop nest that is run, and figures by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError, UnknownName
from energy.cost import Band
from energy.mapping import kernel, layout
from energy.mapping.dataflows import DATAFLOWS, dataflow
from energy.mapping.machine import ORDERS, Axis, Dataflow, Level, Machine, Network
from energy.mapping.problem import DIMS, INPUTS, OPERANDS, OUTPUTS, WEIGHTS, Problem, distinct, divisors
from energy.mapping.search import best_mapping
from tests.energy_workloads import layer
from tests.loop_nest import Nest, Store

FREE = Band(0.0, 0.0, 0.0)
COLUMNS = ("weights", "inputs", "partial", "final")
Counts = dict[str, np.ndarray]


def counts(
    problem: Problem, machine: Machine, temporal: np.ndarray, spatial: np.ndarray, orders: list[str]
) -> np.ndarray:
    """Words read, written and passed on."""
    found = np.zeros((3, len(machine.levels), 4))
    table = layout.nest(problem, machine)
    kernel.count(table, temporal, spatial, layout.orders(orders), np.ones(4), found)
    return found


def simulated(
    stores: list[Store],
    temporal: np.ndarray,
    spatial: np.ndarray,
    orders: list[str],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> np.ndarray:
    """The same, counted while the loops run."""
    turns = [
        [(DIMS[d], int(row[d])) for d in ORDERS[order] if row[d] > 1]
        for row, order in zip(temporal, orders, strict=True)
    ]
    unrolled = [[(DIMS[d], int(n)) for d, n in enumerate(row) if n > 1] for row in spatial]
    nest = Nest(stores, turns, unrolled, stride, dilation)
    nest.run()
    return np.array(
        [
            [[float(counter[i, column]) for column in COLUMNS] for i in range(len(stores))]
            for counter in (nest.reads, nest.writes, nest.moves)
        ]
    )


def as_machine(stores: list[Store]) -> Machine:
    levels, axes, networks = [], [], []
    for i, store in enumerate(stores):
        name = f"m{i}"
        capacity = None if i == len(stores) - 1 else 1e9
        levels.append(Level(name, store.keeps, FREE, FREE, capacity, slides=store.slides))
        axes += [Axis(f"a{len(axes) + n}", 64, name) for n in range(store.axes)]
        networks.append((name, Network(store.network, FREE, store.halo)))
    return Machine(tuple(levels), tuple(axes), tuple(networks))


@st.composite
def nests(draw: st.DrawFn) -> tuple[Any, ...]:
    """Two to four memories, up to two axes anywhere, and loops of at most 150 turns in all anywhere."""
    stores: list[Store] = []
    free = 2
    depth = draw(st.integers(2, 4))
    for i in range(depth):
        outermost = i == depth - 1
        keeps = tuple(o for o in OPERANDS if outermost or draw(st.booleans()))
        axes = draw(st.integers(0, free))
        free -= axes
        network = draw(st.sampled_from(["bus", "systolic", "unicast"]))
        stores.append(Store(keeps, draw(st.booleans()), axes, network, draw(st.booleans())))
    temporal, spatial = np.ones((depth, 8), np.int64), np.ones((2 - free, 8), np.int64)
    rows = [*temporal, *spatial]
    size = 1
    for _ in range(draw(st.integers(2, 7))):
        row, d, n = (draw(s) for s in (st.integers(0, len(rows) - 1), st.integers(0, 7), st.integers(2, 3)))
        if size * n <= 150:
            rows[row][d] *= n
            size *= n
    orders = [draw(st.sampled_from(list(ORDERS))) for _ in range(depth)]
    steps = [(draw(st.integers(1, 3)), draw(st.integers(1, 2))) for _ in range(2)]
    return stores, temporal, spatial, orders, *steps


@settings(max_examples=250, deadline=None)
@given(nests())
def test_closed_forms_count_what_a_running_nest_moves(case: tuple[Any, ...]) -> None:
    """Reads, writes and passes of every memory and operand, for any hierarchy, unrolling, order and stride."""
    stores, temporal, spatial, orders, stride, dilation = case
    bounds = tuple(int(n) for n in temporal.prod(0) * spatial.prod(0))
    found = counts(Problem(bounds, stride, dilation), as_machine(stores), temporal, spatial, orders)
    np.testing.assert_array_equal(found, simulated(stores, temporal, spatial, orders, stride, dilation))


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_rows_of_a_window_are_a_set(outputs: int, taps: int, stride: int, dilation: int) -> None:
    rows = {stride * y + dilation * f for y in range(outputs) for f in range(taps)}
    assert distinct(outputs, taps, stride, dilation) == len(rows)


@given(st.integers(1, 500))
def test_divisors(n: int) -> None:
    assert divisors(n) == [d for d in range(1, n + 1) if n % d == 0]


def test_a_layer_as_a_problem() -> None:
    work = layer(outputs=32, inputs=8, groups=2, kernel=(3, 1), stride=(2, 2), output_size=(5, 1), weights={})
    problem = Problem.of(work, batch=4)
    assert problem.bounds == (4, 2, 16, 4, 5, 1, 3, 1)
    assert problem.stride == (2, 1) and problem.dilation == (1, 1)  # a step that is never taken is none
    assert problem.macs == 4 * work.macs
    assert [problem.words(o) for o in range(3)] == [32 * 4 * 3, 4 * 8 * 11, 4 * 32 * 5]


def small_machine(buffer_bits: float = 1e9, **changes: Any) -> Machine:
    """Weights in every element, inputs and outputs in a buffer, 2 rows by 2 columns."""
    levels = (
        Level("registers", ("weights",), FREE, FREE, 1e9, buffering="stream"),
        Level("buffer", ("inputs", "outputs"), FREE, FREE, buffer_bits, buffering="stream"),
        Level("dram", OPERANDS, FREE, FREE),
    )
    machine = Machine(
        levels,
        (Axis("rows", 2, "buffer"), Axis("columns", 2, "buffer")),
        (("buffer", Network("systolic")),),
    )
    return replace(machine, **changes)


def rows(**cuts: tuple[int, ...]) -> np.ndarray:
    """Loop counts by dim, one for each level or axis."""
    table = np.ones((len(next(iter(cuts.values()))), 8), np.int64)
    for dim, numbers in cuts.items():
        table[:, DIMS.index(dim)] = numbers
    return table


def test_a_nest_by_hand() -> None:
    """Four filters of four channels at three points: 2 x 2 of them in the array, the points inside, channels outside.

    dram[C2] buffer[K2 X3] rows<C2> columns<K2>
    """
    problem = Problem((1, 1, 4, 4, 1, 3, 1, 1))
    temporal, spatial = rows(K=(1, 2, 1), C=(1, 1, 2), X=(1, 3, 1)), rows(K=(1, 2), C=(2, 1))
    found = counts(problem, small_machine(), temporal, spatial, ["outputs", "weights", "outputs"])
    reads, writes, moves = found
    assert reads[0, WEIGHTS] == 48  # one for each product
    assert writes[0, WEIGHTS] == reads[2, WEIGHTS] == 16  # each weight is loaded once: points turn inside
    # inputs: 12 turns, two channels each time, handed from column to column
    assert (reads[1, INPUTS], moves[1, INPUTS]) == (24, 24)
    assert writes[1, INPUTS] == reads[2, INPUTS] == 12
    # sums: 12 turns, two filters each time, from two rows that add them up; half of them come back for more
    assert (writes[1, 2], moves[1, 2], reads[1, 2]) == (24, 24, 12 + 12)
    # a sum leaves the buffer when all channels are in it: the buffer holds all of them while channels turn outside
    assert (writes[2, 2], writes[2, 3], reads[2, 2]) == (0, 12, 0)


def test_the_law_of_the_eyeriss_papers() -> None:
    """Chen et al., ISCA 2016: a datum is read a times from DRAM, b times each from the buffer, over c elements, d
    products in each: a E(DRAM) + a b E(buffer) + a b c E(array) + a b c d E(registers)."""
    levels = (
        Level("pad", ("inputs",), FREE, FREE, 1e9),
        Level("buffer", OPERANDS, FREE, FREE, 1e9),
        Level("dram", OPERANDS, FREE, FREE),
    )
    machine = Machine(levels, (Axis("columns", 4, "buffer"),), (("buffer", Network("bus")),))
    problem = Problem((1, 1, 4 * 2 * 3 * 5, 2, 1, 6, 1, 1))
    # filters: d = 3 at a time in an element, c = 4 elements, b = 2 loads of the element, a = 5 loads of the buffer
    temporal = rows(K=(3, 2, 5), C=(1, 1, 2), X=(1, 2, 3))
    spatial = rows(K=(4,))
    order = ["outputs", "weights", "weights"]  # points inside filters, so that filters come back to them
    reads, writes, moves = counts(problem, machine, temporal, spatial, order)
    data = problem.words(INPUTS)
    a, b, c, d = 5, 2, 4, 3
    assert reads[2, INPUTS] == a * data
    assert reads[1, INPUTS] == a * b * data
    assert moves[1, INPUTS] == writes[0, INPUTS] == a * b * c * data
    assert reads[0, INPUTS] == a * b * c * d * data


def test_latency_by_hand() -> None:
    """Twelve turns, after 12 inputs of 8 bits have come through 32 bits a cycle, and 4 weights of 8 bits for 2 x 2."""
    problem = Problem((1, 1, 4, 4, 1, 3, 1, 1))
    temporal, spatial = rows(K=(1, 2, 1), C=(1, 2, 1), X=(1, 3, 1)), rows(K=(1, 2), C=(2, 1))
    levels = small_machine().levels
    narrow = (
        *levels[:1],
        replace(levels[1], read_bits=16, write_bits=64),
        replace(levels[2], read_bits=32, shared_port=True),
    )

    def cycles(*levels: Level) -> tuple[float, list[float]]:
        machine = small_machine(levels=levels)
        found = counts(problem, machine, temporal, spatial, ["outputs", "weights", "outputs"])
        times = np.empty(4)
        scale = layout.scale(machine, (8.0, 8.0, 16.0, 8.0))
        orders = layout.orders(["outputs", "weights", "outputs"])
        args = (layout.nest(problem, machine), scale, temporal, spatial, orders, np.ones(4), found, times)
        return kernel.latency(*args), times.tolist()

    total, (registers, buffer, dram, elements) = cycles(*narrow)
    assert elements == 12 + 12 * 8 / 32 + 4 * 8 / 32
    # the buffer reads 24 inputs, 12 sums that come back, and 12 results: the elements' own memory holds those wide
    assert buffer == (24 * 8 + 12 * 16 + 12 * 16) / 16
    assert dram == (16 * 8 + 12 * 8 + 12 * 8) / 32
    assert registers == 0 and total == buffer
    # weights that are not buffered make elements wait for three of the four fillings of 4 x 8 bits
    single = (replace(narrow[0], buffering="single"), replace(narrow[1], read_bits=None), narrow[2])
    assert cycles(*single)[1][3] == elements + 3 * 4 * 8 / 32


@pytest.mark.parametrize("name", DATAFLOWS)
def test_every_dataflow_maps_a_convolution(name: str) -> None:
    machine = small_machine()
    found = best_mapping(
        Problem((1, 1, 8, 6, 5, 7, 3, 3)), machine, (dataflow(name, machine),), (8, 8, 32, 8)
    )
    whole = found.temporal.prod(0) * found.spatial.prod(0)
    assert all(whole >= (1, 1, 8, 6, 5, 7, 3, 3))
    assert found.spatial.prod(1).max() == 2
    assert found.reads[0, WEIGHTS] == pytest.approx(
        8 * 6 * 5 * 7 * 9
    )  # the real products, not the padded ones
    text = found.describe(machine)
    assert text.startswith("dram[") and "rows<" in text and text.endswith("]")


def test_names_are_checked() -> None:
    machine = small_machine()
    with pytest.raises(UnknownName, match="did you mean 'row_stationary'"):
        dataflow("rowstationary", machine)
    wrong: list[tuple[Dataflow, str]] = [
        (Dataflow("f", (("row", ("C",)),)), "did you mean 'rows'"),
        (Dataflow("f", (("rows", ("Q",)),)), "dataflow.dims"),
        (Dataflow("f", (), loops=(("dram", ("C",)),)), "dataflow.loops"),
        (Dataflow("f", (), orders=(("buffer", ("input",)),)), "did you mean 'inputs'"),
        (Dataflow("f", (("rows", ("C",)),), first=(("rows", "FY"),)), "dataflow.first"),
    ]
    for flow, message in wrong:
        with pytest.raises(UnknownName, match=message):
            best_mapping(Problem((1,) * 8), machine, (flow,), (8, 8, 8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": ()}, "at least one memory"),
        ({"levels": small_machine().levels[::-1]}, "outermost memory without end"),
        ({"levels": (*small_machine().levels[:1] * 2, *small_machine().levels)}, "a name of its own"),
        ({"axes": (Axis("rows", 0, "buffer"),)}, "at least one position"),
        ({"axes": (Axis("rows", 2, "dram"), Axis("columns", 2, "buffer"))}, "from the innermost outwards"),
        ({"axes": (Axis("rows", 2, "bufer"),)}, "did you mean 'buffer'"),
        ({"networks": (("buffer", Network("mesh")),)}, "systolic"),
    ],
)
def test_machines_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=message):
        small_machine(**changes)


def test_an_operand_on_the_chip_turns_inside_its_memory() -> None:
    machine = small_machine().keeping({"inputs", "outputs"})
    assert [machine.home(operand) for operand in OPERANDS] == [2, 1, 1]
    problem = Problem((1, 1, 8, 4, 4, 4, 1, 1))
    found = best_mapping(problem, machine, (dataflow("weight_stationary", machine),), (8, 8, 32, 8))
    assert found.reads[2, INPUTS] == found.writes[2, OUTPUTS:].sum() == 0
    assert found.reads[2, WEIGHTS] >= problem.words(WEIGHTS)
    assert math.prod(found.temporal[2]) == 1
