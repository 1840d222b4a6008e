"""An adder graph as a straight-line program: order of operations, running sums, slots of a workspace.

A kernel of thousands of additions is bound by where their operands lie. Two things keep them near:

* every row is a running sum. What a graph adds up for one row alone needs no order of its own, so a shared sum goes
  into all its rows as soon as it is there (integers add up to the same in any order, also modulo ``2**32``);
* the next operation is the one after which the fewest vectors are alive. What lives on has a slot of the workspace;
  slots are given out by linear scan (Poletto & Sarkar 1999) and are free again after the last use.

The program is cut into parts, within which values are in registers as far as there are any, so that compilers take
time in proportion to it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from compressors.adders import AdderGraph, input_range
from compressors.errors import ConfigError, UnknownName

INPUT_TYPES = ("int8", "uint8", "int16", "int32")
VECTOR_BYTES = 64
_PART = 16  # operations in a part; in longer ones compilers move loads far ahead of their use

Instruction = tuple  # of a mnemonic and numbers
Term = tuple[int, int, int]  # row, shift, sign


@dataclass(frozen=True)
class Program:
    """A graph in the order in which it is carried out.

    Instructions, ``v`` being numbers of values, each made once and used within its part:

    * ``("load", v, input)``, ``("take", v, slot)``: a vector of an input, or of a slot;
    * ``("add", v, first, first shift, sign, second, second shift)``: ``(first << shift) +- (second << shift)``;
    * ``("negate", v, value)``;
    * ``("keep", v, slot)``: into a slot; ``("put", row, sign, v, shift)``: into an output;
    * ``("zero", row)``: an output that is always 0.

    Attributes:
        parts: instructions, by part.
        slots: vectors of the workspace.
        input_type: name of the inputs' dtype.
        lane_bits: 16 or 32, of one position within a vector; sums may wrap, outputs fit.
        low, high: inputs for which outputs are exact.
        shape: ``(N, K)``.
    """

    parts: tuple[tuple[Instruction, ...], ...]
    slots: int
    input_type: str
    lane_bits: int
    low: int
    high: int
    shape: tuple[int, int]

    @property
    def lanes(self) -> int:
        """Positions in a vector."""
        return 8 * VECTOR_BYTES // self.lane_bits

    def count(self, mnemonic: str) -> int:
        """Instructions of one kind; ``add`` are the graph's additions, each once per position."""
        return sum(instruction[0] == mnemonic for part in self.parts for instruction in part)


def schedule(
    graph: AdderGraph, input_type: str = "int32", bits: int | None = None, signed: bool = True
) -> Program:
    """Order a graph's operations and give slots to what is used again.

    Args:
        input_type: one of ``INPUT_TYPES``.
        bits: width of the inputs' numbers, ``signed`` or not, where it is less than their type's; narrow ones let
            outputs, and with them all additions, have 16 bits. Without it, 8- and 16-bit inputs use their types'
            whole range, and those of 32 bits as much as leaves the outputs in 32 bits.

    Raises:
        UnknownName: another type of inputs.
        ConfigError: inputs of so many bits that an output overflows 32 bits, or more than their type has.
    """
    if input_type not in INPUT_TYPES:
        raise UnknownName("input type", input_type, INPUT_TYPES)
    low, high = _admitted(graph, input_type, bits, signed)
    spans = graph.output_ranges(low, high)
    least, most = int(spans.min(initial=0)), int(spans.max(initial=0))
    terms, counts = _rows(graph)
    shift = max(graph.operations[:, 4].max(initial=0), *(t[1] for of in terms for t in of), 0)
    if least < -(1 << 31) or most >= 1 << 31 or shift >= 32:
        raise ConfigError(
            "bits", bits, f"so few that outputs, now in [{least}, {most}], fit 32 bits", "narrow the inputs"
        )
    narrow = least >= -(1 << 15) and most < 1 << 15 and shift < 16
    layout = _Layout(graph, terms, counts)
    parts, shape = layout.run(), (len(graph.outputs), graph.inputs)
    return Program(parts, layout.slots.most, input_type, 16 if narrow else 32, low, high, shape)


def _admitted(graph: AdderGraph, input_type: str, bits: int | None, signed: bool) -> tuple[int, int]:
    """The inputs a kernel must be exact for."""
    whole = np.iinfo(input_type)
    if bits is not None:
        low, high = input_range(bits, signed)
        if low < whole.min or high > whole.max:
            raise ConfigError("bits", bits, f"numbers that {input_type} holds, and not [{low}, {high}]")
        return low, high
    if input_type != "int32":
        return int(whole.min), int(whole.max)
    largest = ((1 << 31) - 1) // int(graph.output_ranges(-1, 1).max(initial=1))
    return -largest, largest


def _rows(graph: AdderGraph) -> tuple[list[list[Term]], list[int]]:
    """What every row sums: per node the terms it is, and per row how many terms it has.

    A node that is used once, on the way to one row, is no sum of its own: its operands are terms of that row.
    """
    operations, inputs = graph.operations.tolist(), graph.inputs
    uses = np.bincount(graph.operations[:, [0, 2]].ravel(), minlength=graph.nodes)
    uses += np.bincount(graph.outputs[graph.outputs[:, 0] >= 0, 0], minlength=graph.nodes)
    terms: list[list[Term]] = [[] for _ in range(graph.nodes)]
    counts = [0] * len(graph.outputs)
    for row, (root, root_shift, root_sign) in enumerate(graph.outputs.tolist()):
        stack = [(root, root_shift, root_sign)] if root >= 0 else []
        while stack:
            node, shift, sign = stack.pop()
            if node < inputs or uses[node] > 1:
                terms[node].append((row, shift, sign))
                counts[row] += 1
                continue
            left, left_sign, right, right_sign, more = operations[node - inputs]
            stack += [(left, shift, sign * left_sign), (right, shift + more, sign * right_sign)]
    return terms, counts


def _order(graph: AdderGraph, terms: list[list[Term]]) -> list[int]:
    """The operations that are sums of their own, always next the one that leaves the fewest vectors alive."""
    inputs, operands = graph.inputs, graph.operations[:, [0, 2]].tolist()
    wanted = _wanted(graph, terms)
    users: dict[int, list[int]] = {}
    for node in wanted:
        for operand in operands[node - inputs]:
            users.setdefault(operand, []).append(node)
    left = {node: len(of) for node, of in users.items()}  # uses to come
    waits = {node: sum(o >= inputs for o in operands[node - inputs]) for node in wanted}
    alive: set[int] = set()

    def grows(node: int) -> int:
        """How many more vectors are alive after this operation."""
        both = set(operands[node - inputs])
        dying = sum(left[o] == operands[node - inputs].count(o) for o in both)
        return (node in users) + len(both - alive) - dying

    heap = [(grows(node), node) for node in wanted if not waits[node]]
    heapq.heapify(heap)
    order, done = [], set()
    while heap:
        growth, node = heapq.heappop(heap)
        if node in done or growth != grows(node):
            continue  # another entry of the same operation is up to date
        done.add(node)
        order.append(node)
        for operand in operands[node - inputs]:
            left[operand] -= 1
        alive.update(operands[node - inputs])
        alive.add(node)
        for user in users.get(node, ()):
            waits[user] -= 1
        touched = {u for o in (*operands[node - inputs], node) for u in users.get(o, ())} - done
        for user in touched:
            if not waits[user]:
                heapq.heappush(heap, (grows(user), user))
    return order


def _wanted(graph: AdderGraph, terms: list[list[Term]]) -> list[int]:
    """Operations that rows sum, and those that these are made of, in the graph's order."""
    inputs = graph.inputs
    wanted = np.array([bool(of) for of in terms], bool)
    for s in range(graph.adders - 1, -1, -1):
        if wanted[inputs + s]:
            wanted[graph.operations[s, [0, 2]]] = True
    return (inputs + np.flatnonzero(wanted[inputs:])).tolist()


class _Layout:
    """The program under way: what is where, in the part at hand and in the workspace."""

    def __init__(self, graph: AdderGraph, terms: list[list[Term]], counts: list[int]) -> None:
        self.inputs, self.operations = graph.inputs, graph.operations.tolist()
        self.terms, self.waiting = terms, counts  # terms that a row still waits for
        self.order = _order(graph, terms)
        self.last: dict[int, int] = {}  # node -> the last part with an operation that uses it
        for index, node in enumerate(self.order):
            left, _, right, _, _ = self.operations[node - self.inputs]
            self.last[left] = self.last[right] = index // _PART
        self.slots = _Slots()
        self.number = self.values = 0
        self.parts: list[tuple[Instruction, ...]] = []
        self.code: list[Instruction] = []
        self.present: dict[int, int] = {}  # node -> value, in this part
        self.sums: dict[int, int] = {}  # row -> value of its running sum, in this part
        self.scaled: dict[int, tuple[int, int]] = {}  # row -> shift and sign that the running sum lacks

    def run(self) -> tuple[tuple[Instruction, ...], ...]:
        """All parts."""
        self.code += [("zero", row) for row, count in enumerate(self.waiting) if not count]
        for begin in range(0, len(self.order), _PART):
            self.number = begin // _PART
            for node in self.order[begin : begin + _PART]:
                self._operation(node)
            self._close()
        for node in range(self.inputs):
            if self.terms[node] and node not in self.last:
                self._fetch(node)
                if len(self.code) > 2 * _PART:
                    self._close()
        self._close()
        return tuple(self.parts)

    def _close(self) -> None:
        """End a part: running sums go into their slots."""
        for row, value in self.sums.items():
            self.code.append(("keep", value, self.slots.give(-1 - row)))
        if self.code:
            self.parts.append(tuple(self.code))
        self.code, self.present, self.sums = [], {}, {}

    def _value(self, mnemonic: str, *numbers: int) -> int:
        """The number of the value that one more instruction makes."""
        self.code.append((mnemonic, self.values, *numbers))
        self.values += 1
        return self.values - 1

    def _take(self, key: int, again: bool) -> int:
        """What is in a slot, which is free from here on unless it is read ``again``."""
        value = self._value("take", self.slots.of[key])
        if not again:
            self.slots.release(key)
        return value

    def _fetch(self, node: int) -> int:
        """The value of an operand; an input that comes for the first time goes into its rows."""
        if node in self.present:
            return self.present[node]
        again = self.last.get(node, -1) > self.number
        if node in self.slots.of:
            self.present[node] = self._take(node, again)
        else:
            self._made(node, self._value("load", node))
        return self.present[node]

    def _made(self, node: int, value: int) -> None:
        self.present[node] = value
        if self.last.get(node, -1) > self.number:
            self.code.append(("keep", value, self.slots.give(node)))
        for row, shift, sign in self.terms[node]:
            self._sum(row, value, shift, sign)

    def _operation(self, node: int) -> None:
        left, left_sign, right, right_sign, shift = self.operations[node - self.inputs]
        first, second = (self._fetch(left), 0), (self._fetch(right), shift)
        if left_sign < right_sign:
            first, second = second, first
        value = self._value("add", *first, left_sign * right_sign, *second)
        if left_sign == right_sign == -1:
            value = self._value("negate", value)
        self._made(node, value)

    def _sum(self, row: int, value: int, shift: int, sign: int) -> None:
        """Add a term to a row's running sum; its first term is the sum until there is another."""
        self.waiting[row] -= 1
        if row in self.scaled:
            old_shift, old_sign = self.scaled[row]
            old = self.sums[row] if row in self.sums else self._take(-1 - row, False)
            first, second = (old, old_shift), (value, shift)
            if old_sign < sign:
                first, second = second, first
            value = self._value("add", *first, old_sign * sign, *second)
            shift, sign = 0, max(old_sign, sign)
        self.sums[row], self.scaled[row] = value, (shift, sign)
        if not self.waiting[row]:
            self.code.append(("put", row, sign, value, shift))
            del self.sums[row]


class _Slots:
    """What is in which slot; the one that was freed last is given first, as it is the likeliest in the cache."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}  # node, or -1 - row
        self.free: list[int] = []
        self.most = 0

    def give(self, key: int) -> int:
        if not self.free:
            self.free.append(self.most)
            self.most += 1
        self.of[key] = self.free.pop()
        return self.of[key]

    def release(self, key: int) -> None:
        self.free.append(self.of.pop(key))
