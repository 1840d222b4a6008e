"""Pass tables: one bit of an addition as compares and writes of an associative processor.

A pass compares a few columns of every row with a key at once and writes columns of the rows that match. A table of
passes carries out one bit of ``B + A`` or ``B - A`` with the carry (or borrow) ``C``. The order matters: what a pass
writes must not match a later one. ``make_table`` derives passes and order from the truth table (the classic tables of
associative processors come out; Foster, Content Addressable Parallel Processors, 1976; arXiv 2203.00662).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

CARRY, LEFT, RIGHT, RESULT = "C", "B", "A", "R"
Operation = Literal["add", "subtract"]
Bits = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Pass:
    """Rows whose columns hold ``key`` get ``write``; both name columns and bits."""

    key: Bits
    write: Bits


@dataclass(frozen=True)
class PassTable:
    """One bit of an operation.

    Attributes:
        compared: columns that every pass compares.
        passes: in the order they must run.
        preset: columns that must be zero before, beside those of the operands.
    """

    compared: tuple[str, ...]
    passes: tuple[Pass, ...]
    preset: tuple[str, ...] = ()

    @property
    def compared_cells(self) -> int:
        """Cells per row that take part in the table's compares."""
        return len(self.passes) * len(self.compared)

    @property
    def written_cells(self) -> float:
        """Cells per row that are written on average over random bits: every pass matches ``2**-compared`` rows."""
        return sum(len(p.write) for p in self.passes) / 2 ** len(self.compared)


def one_bit(operation: Operation, values: Mapping[str, int]) -> tuple[int, int]:
    """Carry and result bit of ``B + A + C`` or ``B - A - C``; columns that are absent count as zero."""
    left, right, carry = (values.get(column, 0) for column in (LEFT, RIGHT, CARRY))
    total = left + right + carry if operation == "add" else left - right - carry
    return int(total > 1 if operation == "add" else total < 0), total & 1


@cache
def make_table(operation: Operation, present: str, in_place: bool) -> PassTable:
    """The passes of one bit.

    Args:
        operation: ``add`` or ``subtract``.
        present: which of ``C``, ``B`` and ``A`` there are, as ``"CBA"``; without ``C`` no carry comes in, without an
            operand it has ended and counts as zero.
        in_place: the result replaces ``B``; otherwise it goes to a column ``R`` that holds zero before.

    Raises:
        ValueError: no order of passes exists, or ``in_place`` without ``B``.
    """
    if in_place and LEFT not in present:
        raise ValueError(f"nothing to replace in {present!r}")
    target = LEFT if in_place else RESULT
    columns = tuple(present)
    changes: dict[tuple[int, ...], tuple[tuple[int, ...], Bits]] = {}
    for state in product((0, 1), repeat=len(columns)):
        before = {**dict.fromkeys((CARRY, RESULT), 0), **dict(zip(columns, state, strict=True))}
        carry, result = one_bit(operation, before)
        after = {**before, CARRY: carry, target: result}
        write = tuple((c, after[c]) for c in (CARRY, target) if after[c] != before[c])
        if write:
            changes[state] = (tuple(after[c] for c in columns), write)
    order = _ordered({state: after for state, (after, _) in changes.items()})
    passes = tuple(Pass(tuple(zip(columns, s, strict=True)), changes[s][1]) for s in order)
    return PassTable(columns, passes, () if in_place else (RESULT,))


def _ordered(changes: Mapping[tuple[int, ...], tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The changing states in an order in which no rewritten row is matched again.

    A state that a pass leaves behind must have had its own pass before.
    """
    order: list[tuple[int, ...]] = []

    def visit(state: tuple[int, ...], above: tuple[tuple[int, ...], ...]) -> None:
        if state in above:
            raise ValueError(f"passes in a circle: {above}")
        after = changes[state]
        if after in changes and after != state and after not in order:
            visit(after, (*above, state))
        if state not in order:
            order.append(state)

    for state in changes:
        visit(state, ())
    return order


COPY = PassTable((LEFT,), (Pass(((LEFT, 1),), ((RESULT, 1),)),), (RESULT,))
"""``R`` becomes ``B``, where ``R`` holds zero before."""
