"""How many passes an adder graph takes on an associative processor, without executing them.

Every node of the graph is a word in columns; rows are output pixels and do the same at once. An operand that no later
addition needs is overwritten by the sum (four passes a bit), otherwise the sum goes to new columns (five passes). The
numbers are those of ``programs.add_program``, in closed form and for all additions of a graph at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache

import numpy as np

from compressors.adders import AdderGraph, input_range
from energy.associative.tables import COPY, Operation, PassTable, make_table

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class PassCounts:
    """What a program does in every row, once.

    Attributes:
        additions, in_place: operations, and how many of them overwrite an operand.
        compares, compared_cells: compare passes, and cells of a row that take part in them.
        writes, written_cells: write passes (conditional ones, those that clear a new column or the carry), and cells
            written in a row on average over random bits.
        bit_steps: bits of all sums, one after another: what the carry ripples through.
        track_steps: bits that the words of an addition are moved by, all words taken together.
        output_bits: bits of all outputs as they are read.
        peak_bits: bits of a row in use at most, inputs and outputs included.
    """

    additions: int
    in_place: int
    compares: int
    compared_cells: int
    writes: int
    written_cells: float
    bit_steps: int
    track_steps: int
    output_bits: int
    peak_bits: int

    @property
    def words(self) -> int:
        """Words that additions look for: two operands, and a place for the sum where it is a new one."""
        return 3 * self.additions - self.in_place

    @classmethod
    def total(cls, parts: Iterable[PassCounts]) -> PassCounts:
        """Programs one after the other, in the same rows."""
        parts = list(parts)
        values = {f.name: sum(getattr(p, f.name) for p in parts) for f in fields(cls)}
        return cls(**{**values, "peak_bits": max((p.peak_bits for p in parts), default=0)})


@dataclass(frozen=True, eq=False)
class Additions:
    """Additions and subtractions of words, arrays ``[additions]``.

    Attributes:
        subtract, in_place: what is done, and whether the sum replaces the left operand.
        left, right: bits of the operands' words; ``left_shift``, ``right_shift`` of their shifts.
        left_signed, right_signed: whether they are two's complement.
        width: bits of the result.
    """

    subtract: np.ndarray
    in_place: np.ndarray
    left: np.ndarray
    left_shift: np.ndarray
    left_signed: np.ndarray
    right: np.ndarray
    right_shift: np.ndarray
    right_signed: np.ndarray
    width: np.ndarray


@cache
def _table(name: str, operation: Operation) -> PassTable:
    """``kept CBA`` replaces ``B``, ``new CBA`` makes a new column."""
    kind, present = name.split()
    return COPY if present == "B" and kind == "new" else make_table(operation, present, kind == "kept")


def steps(a: Additions) -> dict[str, np.ndarray]:
    """Bits of every addition by the table that each takes: which of carry, left and right there is."""
    begin = np.where(a.subtract, a.right_shift, np.maximum(a.left_shift, a.right_shift))
    begin = np.minimum(begin, a.width)
    left_end = np.where(a.left_signed, a.width, np.minimum(a.left_shift + a.left, a.width))
    right_end = np.where(a.right_signed, a.width, np.minimum(a.right_shift + a.right, a.width))
    own = np.minimum(a.left, a.width)
    kept_end = np.where(a.in_place, np.where(a.left_signed, a.width, own), 0)
    start = np.maximum(begin, kept_end)  # of new columns that a carry may reach

    def between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.maximum(high - low, 0)

    left_from = np.maximum(start, np.minimum(a.left_shift, a.width))
    both = between(np.maximum(left_from, start), np.minimum(left_end, right_end))
    only_left = between(left_from, left_end) - both
    only_right = between(start, right_end) - both
    # a sign that is replaced is copied to the new columns before
    copied = np.where(a.in_place & a.left_signed, a.width - own, 0)
    copied = copied + between(np.maximum(a.left_shift, kept_end), np.minimum(left_end, begin))
    copied = copied + np.where(a.subtract, 0, between(a.right_shift, np.minimum(right_end, begin)))
    return {
        "kept CBA": between(begin, np.minimum(kept_end, right_end)),
        "kept CB": between(np.maximum(begin, right_end), kept_end),
        "new CBA": both,
        "new CB": only_left,
        "new CA": only_right,
        "new C": between(start, a.width) - both - only_left - only_right,
        "new B": copied,
    }


def count(a: Additions, output_bits: int = 0, peak_bits: int = 0) -> PassCounts:
    """Passes of all additions together; the two bits are passed through."""
    compares = cells = 0
    written = 0.0
    by_step = steps(a)
    for operation, chosen in (("add", ~a.subtract), ("subtract", a.subtract)):
        for name, bits in by_step.items():
            number = int(bits[chosen].sum())
            table = _table(name, operation)  # type: ignore[arg-type]
            compares += number * len(table.passes)
            cells += number * table.compared_cells
            written += number * table.written_cells
    additions = len(a.width)
    kept = np.where(a.in_place, np.minimum(a.left, a.width), 0)
    cleared = additions + int((a.width - kept).sum())
    moved = np.maximum(a.width, a.left * a.in_place) + a.left * ~a.in_place + a.right
    return PassCounts(
        additions=additions,
        in_place=int(a.in_place.sum()),
        compares=compares,
        compared_cells=cells,
        writes=compares + cleared,
        written_cells=written + cleared,
        bit_steps=int(a.width.sum()),
        track_steps=int(moved.sum()),
        output_bits=output_bits,
        peak_bits=peak_bits,
    )


def addition_counts(
    left: int, right: int, operation: Operation = "add", *, in_place: bool = False, signed: bool = False
) -> PassCounts:
    """Passes of one addition or difference of words of ``left`` and ``right`` bits, as wide as it can get."""
    numbers = (operation == "subtract", in_place, left, 0, signed, right, 0, signed, max(left, right) + 1)
    return count(Additions(*(np.array([n]) for n in numbers)))


def graph_counts(graph: AdderGraph, bits: int, signed: bool) -> PassCounts:
    """Passes of a whole graph whose inputs have ``bits`` bits.

    An operation with two negative signs is an addition whose sign is taken up where the output is scaled.
    """
    widths, negative = stored_words(graph, bits, signed)
    plan = schedule(graph)
    outputs = int(graph.output_widths(bits, signed).sum())
    return count(graph_additions(graph, plan, widths, negative), outputs, peak_bits(graph, plan, widths))


def stored_words(graph: AdderGraph, bits: int, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Bits of every node's word and whether it is two's complement, ``[nodes]`` each; sums stand without their sign."""
    low, high = graph.ranges(*input_range(bits, signed)).T
    flipped = np.zeros(graph.nodes, bool)
    flipped[graph.inputs :] = (graph.operations[:, 1] < 0) & (graph.operations[:, 3] < 0)
    low, high = np.where(flipped, -high, low), np.where(flipped, -low, high)
    magnitude = np.maximum(np.where(low < 0, ~low, 0), np.maximum(high, 0))
    return np.frexp(magnitude.astype(float))[1] + (low < 0), low < 0


@dataclass(frozen=True, eq=False)
class Schedule:
    """When operations run and which words they replace, arrays ``[adders]`` in the order of the graph.

    Attributes:
        when: place in the program.
        subtract: whether two signs differ.
        turned: the right operand goes first, as what is subtracted from or replaced.
        in_place: the sum replaces the operand that goes first.
        last: ``[nodes]``, when each node is read last; -1 for never, beyond all for outputs.
    """

    when: np.ndarray
    subtract: np.ndarray
    turned: np.ndarray
    in_place: np.ndarray
    last: np.ndarray


def schedule(graph: AdderGraph) -> Schedule:
    """Every operation as soon as the inputs it needs have come, the inputs coming in their order.

    So partial sums are not kept longer than needed. Only a word that is not needed any more and not shifted is
    replaced, and never what is subtracted.
    """
    left, left_sign, right, right_sign, shift = graph.operations.T
    when = np.empty(graph.adders, np.int64)
    when[np.argsort(_furthest_input(graph), kind="stable")] = np.arange(graph.adders)
    last = np.full(graph.nodes, -1, np.int64)
    np.maximum.at(last, left, when)
    np.maximum.at(last, right, when)
    last[graph.outputs[graph.outputs[:, 0] >= 0, 0]] = _NEVER
    subtract = left_sign != right_sign
    left_dies = (last[left] == when) & (left != right)
    right_dies = (last[right] == when) & (left != right) & (shift == 0)
    turned = np.where(subtract, left_sign < 0, right_dies & ~left_dies)
    return Schedule(when, subtract, turned, np.where(turned, right_dies, left_dies), last)


def _furthest_input(graph: AdderGraph) -> np.ndarray:
    """The last input that each operation depends on, ``int64 [adders]``."""
    furthest = np.arange(graph.nodes)
    depth = graph.node_depth[graph.inputs :]
    left, right = graph.operations[:, 0], graph.operations[:, 2]
    order = np.argsort(depth, kind="stable")
    starts = np.searchsorted(depth[order], np.arange(1, depth.max(initial=0) + 2))
    for first, beyond in zip(starts, starts[1:], strict=False):
        level = order[first:beyond]
        furthest[graph.inputs + level] = np.maximum(furthest[left[level]], furthest[right[level]])
    return furthest[graph.inputs :]


def graph_additions(graph: AdderGraph, plan: Schedule, widths: np.ndarray, negative: np.ndarray) -> Additions:
    """The graph's operations as additions of words of ``widths``, two's complement where ``negative``."""
    left, _, right, _, shift = graph.operations.T
    first, second = np.where(plan.turned, right, left), np.where(plan.turned, left, right)
    return Additions(
        subtract=plan.subtract,
        in_place=plan.in_place,
        left=widths[first],
        left_shift=np.where(plan.turned, shift, 0),
        left_signed=negative[first],
        right=widths[second],
        right_shift=np.where(plan.turned, 0, shift),
        right_signed=negative[second],
        width=widths[graph.inputs :],
    )


def peak_bits(graph: AdderGraph, plan: Schedule, widths: np.ndarray) -> int:
    """Most bits of a row in use at once; a word is given up after its last use.

    All inputs that are read at all stand there from the beginning.
    """
    left, _, right, _, _ = graph.operations.T
    loaded = int(widths[: graph.inputs][plan.last[: graph.inputs] >= 0].sum())
    if not graph.adders:
        return loaded
    made = widths[graph.inputs :]
    replaced = np.where(plan.in_place, np.minimum(widths[np.where(plan.turned, right, left)], made), 0)
    grown, kept = np.zeros((2, graph.adders), np.int64)
    grown[plan.when], kept[plan.when] = made, replaced
    dying = (plan.last >= 0) & (plan.last < _NEVER)
    freed = np.bincount(plan.last[dying], widths[dying], graph.adders).astype(np.int64)
    before = loaded + np.concatenate([[0], np.cumsum(grown - freed)[:-1]])
    return int(max(loaded, (before + grown - kept).max()))
