"""Pass tables and programs, executed bit by bit and held against integers; counts against executed programs."""

from __future__ import annotations

from itertools import count as numbered
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.reuse import adder_graph
from energy.associative.counts import (
    Additions,
    PassCounts,
    addition_counts,
    count,
    graph_counts,
    schedule,
    stored_words,
)
from energy.associative.programs import Operand, Trace, Word, add_program, load, run, store
from energy.associative.tables import Operation, make_table, one_bit

quick = settings(max_examples=60, deadline=None)
operations = st.sampled_from(["add", "subtract"])


def keys(operation: Operation, in_place: bool) -> dict[str, str]:
    """Pass by pass: ``CBA`` compared, and what carry and result are afterwards."""
    table = make_table(operation, "CBA", in_place)
    found = {}
    for p in table.passes:
        before = {"R": 0, **dict(p.key)}
        after = {**before, **dict(p.write)}
        found["".join(str(before[c]) for c in "CBA")] = f"{after['C']}{after['B' if in_place else 'R']}"
    return found


def test_the_classic_tables_come_out() -> None:
    """Four passes in place, five out of place; (C, B, A) -> (C, result) as printed for associative processors."""
    assert keys("add", True) == {"011": "10", "001": "01", "100": "01", "110": "10"}
    assert keys("subtract", True) == {"001": "11", "011": "00", "110": "00", "100": "11"}
    assert keys("add", False) == {"001": "01", "010": "01", "100": "01", "111": "11", "011": "10"}
    assert keys("subtract", False) == {"001": "11", "010": "01", "100": "11", "110": "00", "111": "11"}


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize(
    ("present", "in_place"), [("CBA", True), ("CB", True), ("CBA", False), ("CB", False)]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_passes_matters_and_is_right(
    operation: Operation, present: str, in_place: bool, reverse: bool
) -> None:
    table = make_table(operation, present, in_place)
    target = "B" if in_place else "R"
    wrong = 0
    for state in product((0, 1), repeat=len(present)):
        row = {"C": 0, "R": 0, **dict(zip(present, state, strict=True))}
        expected = one_bit(operation, row)
        for p in reversed(table.passes) if reverse else table.passes:
            if all(row[c] == b for c, b in p.key):
                row.update(p.write)
        wrong += (row["C"], row[target]) != expected
    assert wrong == 0 or reverse
    if present == "CBA" and in_place and reverse:
        assert wrong > 0


def test_what_is_subtracted_cannot_be_replaced_and_needs_something_to_replace() -> None:
    with pytest.raises(ValueError, match="nothing to replace"):
        make_table("add", "CA", True)
    with pytest.raises(ValueError, match="circle"):
        make_table("add", "BA", True)  # without the carry the two states with A turn into each other


def word_range(bits: int, signed: bool) -> np.ndarray:
    return np.arange(-(1 << (bits - 1)), 1 << (bits - 1)) if signed else np.arange(1 << bits)


def needed(numbers: np.ndarray) -> tuple[int, bool]:
    """Bits that hold them, and whether two's complement is needed."""
    low, high = int(numbers.min()), int(numbers.max())
    return max(high.bit_length(), (~low if low < 0 else 0).bit_length()) + (low < 0), low < 0


def execute(
    left: tuple[int, int, bool], right: tuple[int, int, bool], operation: Operation, in_place: bool
) -> tuple[np.ndarray, np.ndarray, Trace, int, PassCounts]:
    """All pairs of two words (bits, shift, signed): results, truth, what running did, and what was counted."""
    a, b = (
        part.ravel() for part in np.meshgrid(word_range(left[0], left[2]), word_range(right[0], right[2]))
    )
    shifted = (a << left[1]) + (b << right[1]) * (1 if operation == "add" else -1)
    width, signed = needed(shifted)
    fresh = numbered()
    carry = next(fresh)
    words = [Word(tuple(next(fresh) for _ in range(bits)), s) for bits, _, s in (left, right)]
    first, second = Operand(words[0], left[1]), Operand(words[1], right[1])
    program, result = add_program(first, second, operation, carry, width, signed, fresh, in_place)
    cells = (
        np.random.default_rng(0).random((len(a), next(fresh))) < 0.5
    )  # what stood there before is of no matter
    store(cells, words[0], a)
    store(cells, words[1], b)
    trace = run(cells, program)
    if not in_place:
        assert (load(cells, words[0]) == a).all()
    assert (load(cells, words[1]) == b).all()
    additions = one_addition(left, right, width, operation, in_place)
    return load(cells, result), shifted, trace, width, count(additions)


def one_addition(
    left: tuple[int, int, bool],
    right: tuple[int, int, bool],
    width: int,
    operation: Operation,
    in_place: bool,
) -> Additions:
    numbers = (operation == "subtract", in_place, *left, *right, width)
    return Additions(*(np.array([n]) for n in numbers))


@quick
@given(
    st.tuples(st.integers(1, 6), st.integers(0, 3), st.booleans()),
    st.tuples(st.integers(1, 6), st.integers(0, 3), st.booleans()),
    operations,
    st.booleans(),
)
def test_programs_compute_every_sum_exactly_and_are_counted_as_they_run(
    left: tuple[int, int, bool], right: tuple[int, int, bool], operation: Operation, in_place: bool
) -> None:
    left = (left[0], 0 if in_place else left[1], left[2])
    got, truth, trace, width, counted = execute(left, right, operation, in_place)
    assert (got == truth).all()
    assert (counted.compares, counted.writes) == (trace.compares, trace.writes)
    assert counted.compared_cells == trace.compared_cells
    assert counted.bit_steps == width


@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("in_place", [True, False])
def test_passes_and_writes_of_an_eight_bit_addition_by_hand(operation: Operation, in_place: bool) -> None:
    """All 65536 pairs: eight steps of 4 or 5 passes, and one more bit for the carry or the sign."""
    got, truth, trace, width, counted = execute((8, 0, False), (8, 0, False), operation, in_place)
    assert (got == truth).all() and width == 9
    assert trace.compares == 8 * (4 if in_place else 5) + 1  # the ninth bit is the carry
    assert trace.compared_cells == 3 * 8 * (4 if in_place else 5) + 1
    assert addition_counts(8, 8, operation, in_place=in_place) == counted
    # clearing the carry and every new column, then each pass
    assert trace.writes == trace.compares + 1 + (1 if in_place else 9)
    # 6 cells of 8 states in every step; carries of random numbers are as good as random
    assert counted.written_cells == pytest.approx(
        8 * 0.75 + (1.0 if operation == "add" else 0.5) + (2 if in_place else 10)
    )
    assert trace.written_cells == pytest.approx(counted.written_cells, rel=0.06)


def simulate(codes: np.ndarray, bits: int, signed: bool) -> tuple[np.ndarray, np.ndarray, Trace, PassCounts]:
    """A whole graph executed by programs in 300 rows: its outputs and the true ones, ``[N, rows]``, and both counts."""
    graph = adder_graph(codes)
    plan = schedule(graph)
    widths, negative = stored_words(graph, bits, signed)
    x = np.random.default_rng(1).choice(word_range(bits, signed), (graph.inputs, 300))
    fresh = numbered()
    carry = next(fresh)
    words = [Word(tuple(next(fresh) for _ in range(bits)), signed) for _ in range(graph.inputs)]
    cells = np.ones((300, 3000), bool)
    for word, numbers in zip(words, x, strict=True):
        store(cells, word, numbers)
    words += [Word(())] * graph.adders
    totals = np.zeros(4)
    for i in np.argsort(plan.when):
        left, _, right, _, shift = graph.operations[i]
        pair = (Operand(words[left]), Operand(words[right], int(shift)))
        first, second = pair[::-1] if plan.turned[i] else pair
        node = graph.inputs + i
        program, word = add_program(
            first,
            second,
            "subtract" if plan.subtract[i] else "add",
            carry,
            int(widths[node]),
            bool(negative[node]),
            fresh,
            bool(plan.in_place[i]),
        )
        trace = run(cells, program)
        totals += (trace.compares, trace.writes, trace.compared_cells, trace.written_cells)
        words[node] = word
    outputs = np.zeros((len(codes), 300), np.int64)
    for n, (node, shift, sign) in enumerate(graph.outputs):
        if node >= 0:
            flipped = node >= graph.inputs and (graph.operations[node - graph.inputs, [1, 3]] < 0).all()
            outputs[n] = (load(cells, words[node]) << shift) * sign * (-1 if flipped else 1)
    trace = Trace(int(totals[0]), int(totals[1]), int(totals[2]), float(totals[3]))
    return outputs, codes @ x, trace, graph_counts(graph, bits, signed)


@quick
@given(
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from([1, 3, 7]),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 99),
)
def test_graphs_run_on_bit_columns_are_the_layer_and_are_counted_as_they_run(
    rows: int, inputs: int, largest: int, bits: int, signed: bool, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(-largest, largest + 1, (rows, inputs))
    got, truth, trace, counted = simulate(codes, bits + signed, signed)
    assert (got == truth).all()
    assert (counted.compares, counted.writes) == (trace.compares, trace.writes)
    assert counted.compared_cells == trace.compared_cells
    if counted.additions > 5:
        assert counted.written_cells == pytest.approx(trace.written_cells, rel=0.35)


def naive_peak(codes: np.ndarray, bits: int) -> int:
    """Bits in use, operation by operation; inputs come in order, and what can be added is added at once."""
    graph = adder_graph(codes)
    widths, _ = stored_words(graph, bits, False)
    plan = schedule(graph)
    reads = graph.operations[:, [0, 2]]
    waiting = {n: int((reads == n).any(1).sum()) for n in range(graph.nodes)}
    for node in graph.outputs[:, 0]:
        waiting[int(node)] = 1 << 30
    live = {n: int(widths[n]) for n in range(graph.inputs) if waiting[n]}
    most = sum(live.values())
    come, done = set[int](), set[int]()
    for newest in range(graph.inputs):
        come.add(newest)
        for i, (left, right) in enumerate(reads.tolist()):
            if i in done or not {left, right} <= come:
                continue
            node = graph.inputs + i
            replaced = right if plan.turned[i] else left
            assert not plan.in_place[i] or waiting[replaced] == 1
            saved = min(live[replaced], int(widths[node])) if plan.in_place[i] else 0
            most = max(most, sum(live.values()) + int(widths[node]) - saved)
            live[node] = int(widths[node])
            for operand in {left, right}:
                waiting[operand] -= 1
                if not waiting[operand]:
                    del live[operand]
            come.add(node)
            done.add(i)
    return most


@quick
@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 5]), st.integers(0, 99))
def test_words_are_given_up_when_nothing_needs_them(rows: int, inputs: int, largest: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-largest, largest + 1, (rows, inputs))
    graph = adder_graph(codes)
    assert graph_counts(graph, 4, False).peak_bits == naive_peak(codes, 4)


def test_a_sum_of_eight_inputs_by_hand() -> None:
    """Balanced tree of 4-bit inputs that nothing else needs: 4, 2 and 1 additions in place of 4, 5 and 6 bits."""
    counted = graph_counts(adder_graph(np.ones((1, 8), np.int64)), 4, False)
    assert (counted.additions, counted.in_place, counted.words) == (7, 7, 14)
    bits = [4] * 4 + [5] * 2 + [6]
    # four passes per bit both operands have; the carry alone makes the top bit, in one pass
    assert counted.compares == sum(4 * b + 1 for b in bits)
    assert counted.bit_steps == sum(b + 1 for b in bits)
    assert counted.track_steps == sum(2 * b + 1 for b in bits)
    assert counted.output_bits == 7
    # eight inputs; each sum needs one new bit before its other operand is given up
    assert counted.peak_bits == 8 * 4 + 1


def test_totals_of_programs_that_run_one_after_the_other() -> None:
    one = graph_counts(adder_graph(np.ones((1, 8), np.int64)), 4, False)
    two = graph_counts(adder_graph(np.ones((2, 3), np.int64)), 4, False)
    both = PassCounts.total([one, two])
    assert both.compares == one.compares + two.compares
    assert both.peak_bits == max(one.peak_bits, two.peak_bits)
    assert PassCounts.total([]).additions == 0
