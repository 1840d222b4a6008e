"""Programs of passes on bit columns, and a plain simulator that executes them.

A word is a list of columns, least bit first; every row holds a number of its own in it, so a program adds in all rows
at once. Operands may be two's complement: past its end such a word repeats its last column. An operand may be shifted,
which is a choice of columns and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from energy.associative.tables import CARRY, COPY, LEFT, RESULT, RIGHT, Operation, PassTable, make_table


@dataclass(frozen=True)
class Instruction:
    """Rows that hold ``bits`` in ``compare`` get ``values`` in ``write``; with nothing to compare, all rows."""

    compare: tuple[int, ...]
    bits: tuple[int, ...]
    write: tuple[int, ...]
    values: tuple[int, ...]


@dataclass(frozen=True)
class Word:
    """Columns of a number, least bit first; ``signed``: two's complement."""

    columns: tuple[int, ...]
    signed: bool = False

    def column(self, bit: int) -> int | None:
        """Column of that bit; past the end the sign's, or None where the word is unsigned or not begun."""
        if 0 <= bit < len(self.columns):
            return self.columns[bit]
        return self.columns[-1] if bit >= 0 and self.signed and self.columns else None


@dataclass(frozen=True)
class Operand:
    """``word << shift`` as an operand of an addition."""

    word: Word
    shift: int = 0

    def column(self, bit: int) -> int | None:
        return self.word.column(bit - self.shift)


@dataclass(frozen=True)
class Trace:
    """What running a program did, on average per row.

    Attributes:
        compares, writes: passes that compared, and passes that wrote.
        compared_cells: cells per row that took part in compares.
        written_cells: cells written per row, of the rows that matched.
    """

    compares: int
    writes: int
    compared_cells: int
    written_cells: float


def add_program(
    left: Operand,
    right: Operand,
    operation: Operation,
    carry: int,
    width: int,
    signed: bool,
    fresh: Iterator[int],
    in_place: bool,
) -> tuple[list[Instruction], Word]:
    """The program of ``left + right`` or ``left - right`` as a word of ``width`` bits.

    Args:
        left, right: the operands.
        operation: ``add`` or ``subtract``.
        carry: column of the carry; cleared first.
        width, signed: of the result.
        fresh: columns that are free, taken as needed.
        in_place: the result takes the columns of ``left``, which must not be shifted nor share any with ``right``.

    Returns:
        The instructions and the word that holds the result.
    """
    begin = right.shift if operation == "subtract" else max(left.shift, right.shift)
    program = [Instruction((), (), (carry,), (0,))]
    if in_place:
        program += _extended(left.word, width, fresh, grown := list(left.word.columns[:width]))
        left = Operand(Word(tuple(grown), left.word.signed))
    columns: list[int] = []
    for bit in range(width):
        kept = in_place and bit < len(left.word.columns)
        target = left.word.columns[bit] if kept else next(fresh)
        columns.append(target)
        places = {CARRY: carry, LEFT: left.column(bit), RIGHT: right.column(bit), RESULT: target}
        table = _step(operation, places, bit >= begin, kept)
        if not kept:
            program.append(Instruction((), (), (target,), (0,)))
        program += _instructions(table, places)
    return program, Word(tuple(columns), signed)


def _extended(word: Word, width: int, fresh: Iterator[int], columns: list[int]) -> list[Instruction]:
    """Copies of the sign in new columns, before the sum overwrites it; they are appended to ``columns``."""
    program: list[Instruction] = []
    for _ in range(len(columns), width if word.signed else 0):
        columns.append(next(fresh))
        program.append(Instruction((), (), (columns[-1],), (0,)))
        program.append(Instruction((word.columns[-1],), (1,), (columns[-1],), (1,)))
    return program


def _step(
    operation: Operation, places: dict[str, int | None], carrying: bool, kept: bool
) -> PassTable | None:
    """The table of one bit; before a carry can arise the only operand there is is copied."""
    if carrying:
        present = "".join(c for c in (CARRY, LEFT, RIGHT) if places[c] is not None)
        return make_table(operation, present, kept)
    if kept:
        return None
    if places[LEFT] is None:
        places[LEFT] = places[RIGHT]
    return None if places[LEFT] is None else COPY


def _instructions(table: PassTable | None, places: dict[str, int | None]) -> list[Instruction]:
    return [
        Instruction(
            tuple(places[c] for c, _ in p.key),  # type: ignore[misc]
            tuple(b for _, b in p.key),
            tuple(places[c] for c, _ in p.write),  # type: ignore[misc]
            tuple(b for _, b in p.write),
        )
        for p in (table.passes if table else ())
    ]


def run(cells: np.ndarray, program: Sequence[Instruction]) -> Trace:
    """Execute ``program`` on ``cells``, bool ``[rows, columns]``, in place."""
    compares = compared = 0
    written = 0.0
    for step in program:
        tagged = np.ones(len(cells), bool)
        for column, bit in zip(step.compare, step.bits, strict=True):
            tagged &= cells[:, column] == bit
        for column, value in zip(step.write, step.values, strict=True):
            cells[tagged, column] = value
        compares += bool(step.compare)
        compared += len(step.compare)
        written += tagged.mean() * len(step.write)
    return Trace(compares, len(program), compared, float(written))


def store(cells: np.ndarray, word: Word, numbers: np.ndarray) -> None:
    """Write ``numbers [rows]`` into the columns of ``word``."""
    for bit, column in enumerate(word.columns):
        cells[:, column] = np.asarray(numbers) >> bit & 1


def load(cells: np.ndarray, word: Word) -> np.ndarray:
    """The numbers that ``word`` holds, ``int64 [rows]``."""
    bits = cells[:, list(word.columns)].astype(np.int64)
    numbers = (bits << np.arange(len(word.columns))).sum(1)
    if word.signed and word.columns:
        numbers -= bits[:, -1] << len(word.columns)
    return numbers
