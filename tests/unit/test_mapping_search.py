"""The search against all mappings of small problems, and what it keeps for other formats."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError
from energy.cost import Band
from energy.mapping import kernel, layout, search
from energy.mapping.machine import ORDERS, Axis, Dataflow, Level, Machine, Network
from energy.mapping.problem import DIMS, OPERANDS, Problem
from energy.mapping.search import FORMATS, best_mapping


def per_bit(joules: float) -> Band:
    return Band(joules, joules, joules)


def machine(
    energies: tuple[float, ...] = (1.0, 1.0, 6.0, 200.0),
    registers: float = 64,
    buffer: float = 512,
    hop: float = 0.5,
) -> Machine:
    """Weights and sums in every element of 2 x 2, inputs and outputs in a buffer; energies from the inside out."""
    sums, weights, shared, dram = map(per_bit, energies)
    levels = (
        Level("sums", ("outputs",), sums, sums, 16, buffering="stream"),
        Level("registers", ("weights",), weights, weights, registers, buffering="stream"),
        Level("buffer", ("inputs", "outputs"), shared, shared, buffer, buffering="stream"),
        Level("dram", OPERANDS, dram, dram),
    )
    axes = (Axis("rows", 2, "buffer"), Axis("columns", 2, "buffer"))
    return Machine(levels, axes, (("buffer", Network("systolic", per_bit(hop))),))


FLOW = Dataflow(
    "free",
    spatial=(("rows", ("C", "FX")), ("columns", ("K",))),
    loops=(("registers", ("K", "C", "FX")),),
    ragged=False,
)
BITS = (8.0, 8.0, 16.0, 8.0)


def splits(n: int, parts: int) -> list[tuple[int, ...]]:
    """Ordered factorisations."""
    if parts == 1:
        return [(n,)]
    return [(d, *rest) for d in range(1, n + 1) if n % d == 0 for rest in splits(n // d, parts - 1)]


def tilings(problem: Problem, on: Machine, flow: Dataflow) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All turns and positions that ``flow`` allows, whether they fit or not, with axes that take what they can."""
    levels, axes = len(on.levels), len(on.axes)
    choices = []
    for dim, bound in zip(DIMS, problem.bounds, strict=True):
        where = [(0, i) for i in range(on.outer, levels)]
        where += [(0, on.index(level)) for level, dims in flow.loops if dim in dims]
        names = [axis.name for axis in on.axes]
        where += [(1, names.index(axis)) for axis, dims in flow.spatial if dim in dims]
        choices.append([tuple(zip(where, cut, strict=True)) for cut in splits(bound, len(where))])
    for combination in itertools.product(*choices):
        mapping = (np.ones((levels, 8), np.int64), np.ones((axes, 8), np.int64))
        for d, cut in enumerate(combination):
            for (kind, row), n in cut:
                mapping[kind][row, d] = n
        if not any(takes_more(flow, on, *mapping, axis) for axis in range(axes)):
            yield mapping


def takes_more(flow: Dataflow, on: Machine, temporal: np.ndarray, spatial: np.ndarray, axis: int) -> bool:
    """Whether an axis is too full, or could take more of a loop that turns outside the array."""
    free = on.axes[axis].size // int(spatial[axis].prod())
    dims = dict(flow.spatial)[on.axes[axis].name]
    outside = temporal[on.outer :].prod(0)
    return free == 0 or any(
        outside[d] % n == 0 for d, dim in enumerate(DIMS) if dim in dims for n in range(2, free + 1)
    )


def fits(on: Machine, temporal: np.ndarray, spatial: np.ndarray, writes: np.ndarray) -> bool:
    """Sums are wide wherever some are written, and in all memories of elements."""
    for i, level in enumerate(on.levels[:-1]):
        size = temporal[: i + 1].prod(0) * (spatial.prod(0) if i >= on.outer else 1)
        block = Problem(tuple(int(n) for n in size))
        wide = i < on.outer or writes[i, 2] > 0
        widths = (BITS[0], BITS[1], BITS[2] if wide else BITS[3])
        held = (block.words(o) * widths[o] for o, name in enumerate(OPERANDS) if name in level.operands)
        if sum(held) > level.capacity_bits:
            return False
    return True


def least_energy(problem: Problem, on: Machine, flow: Dataflow) -> float:
    """Of all tilings in all orders."""
    table, scale = layout.nest(problem, on), layout.scale(on, BITS)
    levels, inside = len(on.levels), ["outputs"] * on.outer
    outer = [
        layout.orders([*inside, *names]) for names in itertools.product(ORDERS, repeat=levels - on.outer)
    ]
    best, found = np.inf, np.zeros((3, levels, 4))
    nothing = np.zeros((levels, 4))
    for temporal, spatial in tilings(problem, on, flow):
        if not fits(on, temporal, spatial, nothing):
            continue
        for orders in outer:
            kernel.count(table, temporal, spatial, orders, np.ones(4), found)
            priced = sum((found[i] * scale[:levels, 4 * i : 4 * i + 4]).sum() for i in range(3))
            if priced < best and fits(on, temporal, spatial, found[1]):
                best = float(priced)
    return best


@settings(max_examples=20, deadline=None)
@given(
    bounds=st.tuples(*(st.sampled_from(values) for values in ((2, 4, 6), (2, 4), (1, 2), (2, 4), (1, 3)))),
    energies=st.tuples(
        *(st.sampled_from(values) for values in ((0.5, 2.0), (0.5, 4.0), (3.0, 20.0), (30.0, 200.0)))
    ),
    registers=st.sampled_from([16, 64, 256]),
    buffer=st.sampled_from([256, 512, 4096]),
)
def test_the_search_finds_the_best_of_all_mappings(
    bounds: tuple[int, ...], energies: tuple[float, ...], registers: float, buffer: float
) -> None:
    """Bounds cut the search short, and tiles that can grow are left out; neither may lose the optimum."""
    filters, channels, rows, columns, taps = bounds
    problem = Problem((1, 1, filters, channels, rows, columns, 1, taps))
    on = machine(energies, registers, buffer)
    found = best_mapping(problem, on, (FLOW,), BITS, anew=True)
    assert found.energy_j <= least_energy(problem, on, FLOW) * (1 + 1e-9)


@pytest.mark.parametrize(
    "bounds", [(1, 1, 24, 16, 8, 12, 3, 3), (4, 1, 40, 30, 1, 1, 1, 1), (1, 6, 4, 4, 9, 7, 3, 1)]
)
def test_what_is_found_fits_and_is_priced_as_counted(bounds: tuple[int, ...]) -> None:
    problem, on = Problem(bounds), machine(buffer=8192)
    found = best_mapping(problem, on, (FLOW,), BITS, anew=True)
    counted = np.zeros((3, 4, 4))
    table, scale = layout.nest(problem, on), layout.scale(on, BITS)
    kernel.count(table, found.temporal, found.spatial, layout.orders(found.orders), found.shares, counted)
    np.testing.assert_array_equal(counted, [found.reads, found.writes, found.moves])
    priced = sum((counted[i] * scale[:4, 4 * i : 4 * i + 4]).sum() for i in range(3))
    assert found.energy_j == pytest.approx(float(priced), rel=1e-12)
    size = found.temporal[:3].prod(0) * found.spatial.prod(0)
    held = Problem(tuple(int(n) for n in size))
    assert held.words(1) * 8 + held.words(2) * 8 <= 8192
    assert found.temporal.prod() >= problem.macs / 4


def test_a_larger_memory_never_costs_more() -> None:
    problem = Problem((1, 1, 32, 24, 14, 14, 3, 3))
    energies = [
        best_mapping(problem, machine(buffer=2.0**n), (FLOW,), BITS, anew=True).energy_j for n in range(9, 18)
    ]
    assert energies == sorted(energies, reverse=True) and energies[-1] < energies[0] / 1.5


def test_other_formats_are_rescored_and_not_searched_again() -> None:
    problem, on = Problem((1, 1, 24, 16, 8, 12, 3, 3)), machine(buffer=8192)
    best_mapping(problem, on, (FLOW,), BITS)
    before = search.candidates.cache_info().misses
    for weights, activations in ((8, 8), (5, 3), (2, 7), (3.5, 6), (1, 1)):
        bits = (weights, activations, 16.0, activations)
        found, anew = best_mapping(problem, on, (FLOW,), bits), None
        assert search.candidates.cache_info().misses == before
        anew = best_mapping(problem, on, (FLOW,), bits, anew=True)
        before = search.candidates.cache_info().misses
        assert anew.energy_j * (1 - 1e-9) <= found.energy_j <= anew.energy_j * 1.15
        if (weights, activations) in FORMATS:
            assert found.energy_j == pytest.approx(anew.energy_j, rel=1e-9)


def test_the_answer_does_not_depend_on_what_was_asked_before() -> None:
    problem, on = Problem((1, 1, 12, 18, 10, 6, 3, 3)), machine(buffer=4096)
    asked = [(8.0, 8.0, 16.0, 8.0), (3.0, 5.0, 16.0, 5.0), (2.0, 2.0, 16.0, 2.0)]
    one = [best_mapping(problem, on, (FLOW,), bits).energy_j for bits in asked]
    search.candidates.cache_clear()
    other = [best_mapping(problem, on, (FLOW,), bits).energy_j for bits in reversed(asked)]
    assert one == other[::-1]


def test_wide_words_that_no_format_prepared_for_get_a_search() -> None:
    """A register of 64 bits holds two words of 32 bits for FORMATS, and one of 64 bits for this question."""
    problem, on = Problem((1, 1, 4, 4, 2, 2, 1, 1)), machine(buffer=4096)
    found = best_mapping(problem, on, (FLOW,), (64.0, 64.0, 16.0, 64.0))
    assert found.temporal[1].prod() == 1


def test_memories_too_small_for_a_word_are_told() -> None:
    with pytest.raises(ConfigError, match=r"sums 16 bits.*words have \(8, 8, 32, 8\) bits"):
        best_mapping(Problem((1, 1, 4, 4, 2, 2, 1, 1)), machine(), (FLOW,), (8, 8, 32, 8))


def test_loops_that_do_not_divide_leave_positions_idle() -> None:
    """Seven filters on two columns: four turns, one of eight positions idle; no word is moved for it."""
    problem, ragged = Problem((1, 1, 7, 4, 3, 1, 1, 1)), replace(FLOW, ragged=True, slack=1.0)
    found = best_mapping(problem, machine(buffer=4096), (ragged,), BITS, anew=True)
    assert found.spatial[1, DIMS.index("K")] == 2
    assert found.temporal.prod() * 4 == 8 * 4 * 3
    assert found.reads[1, 0] == pytest.approx(7 * 4 * 3)
    assert found.writes[3].sum() == pytest.approx(7 * 3)


def test_slack_bounds_the_turns() -> None:
    """Registers so dear that it pays to leave elements idle, unless that may not take longer."""
    problem, on = Problem((1, 1, 6, 6, 4, 1, 1, 1)), machine(buffer=4096, hop=500.0)
    fastest = 6 * 6 * 4 / 4
    lazy = best_mapping(problem, on, (FLOW,), BITS, anew=True)
    quick = best_mapping(problem, on, (replace(FLOW, slack=1.0),), BITS, anew=True)
    assert quick.temporal.prod() == fastest <= lazy.temporal.prod()
    assert lazy.energy_j <= quick.energy_j


def test_the_faster_of_equals_is_taken() -> None:
    """Ports that no energy depends on decide among mappings that cost the same."""
    problem, on = Problem((1, 1, 4, 4, 4, 4, 1, 1)), machine((0.0, 0.0, 0.0, 0.0), buffer=1 << 20, hop=0.0)
    narrow = replace(on, levels=(*on.levels[:3], replace(on.levels[3], read_bits=8)))
    found = best_mapping(problem, narrow, (FLOW,), BITS, anew=True)
    assert found.energy_j == 0 and found.cycles == found.busy.max()
    least_dram = sum(problem.words(operand) for operand in (0, 1))  # a word a cycle
    assert found.cycles <= 2 * least_dram + found.temporal.prod()
