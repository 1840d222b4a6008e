"""What switches and what could be skipped, counted from packed planes in one pass over memory.

Eight words of each of up to eight planes are read at a time. What is counted there stays in vector registers: ones,
toggles, and the ones of the union of 2, 4 and 8 planes, which are the non-zero digits of so many bits. Which of the
bytes are zero is noted as one bit each, and every few hundred words the notes are folded into groups of 8 to 64
columns. The micro-kernel is emitted as vector code of LLVM: left to itself it takes half the width on many processors.

Everything that compiles stands in this one file (see ``compressors.kernels.bits``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

WORD_BITS = 64
GRANULARITIES = (1, 2, 4, 8)
GROUPS = (8, 16, 32, 64)
"""Consecutive columns that are looked at together."""

_LANES = 8  # words of a vector
_TOGETHER = max(GRANULARITIES)  # planes that are read side by side
_BLOCK = 64  # vectors between two foldings of the zero bytes
_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I64, _LANES)
_BYTES = ir.VectorType(_I8, 8 * _LANES)
_FOLDS = ((1, 0x5555555555555555), (2, 0x1111111111111111), (4, 0x0101010101010101))


@dataclass(frozen=True, eq=False)
class PlaneStatistics:
    """Counts over packed planes, ``int64``.

    The last axis is the row where counts were asked for per row; otherwise it is absent and rows are added up.

    Attributes:
        ones: ``[planes, rows]``.
        toggles: ``[planes, rows]``, bits that differ between consecutive words of a row. A word is what 64 lanes of
            a bus or register hold at once, so this is what switches from one cycle to the next.
        nonzero: granularity of 1, 2, 4 and 8 bits -> ``[digits, rows]``, columns whose digit at that position is not
            zero; the topmost digit may have fewer bits.
        zero_groups: 8, 16, 32 and 64 -> ``[planes, rows]``, groups of so many consecutive columns that are all zero.
    """

    ones: np.ndarray
    toggles: np.ndarray
    nonzero: Mapping[int, np.ndarray]
    zero_groups: Mapping[int, np.ndarray]


def _load(builder, address, kind):  # type: ignore[no-untyped-def]
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = 8
    return loaded


def _population(builder, value):  # type: ignore[no-untyped-def]
    kind = ir.FunctionType(_VECTOR, [_VECTOR])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.v{_LANES}i64")
    return builder.call(function, [value])


def _constant(value):  # type: ignore[no-untyped-def]
    return ir.Constant(_VECTOR, [value] * _LANES)


def _unions(builder, words):  # type: ignore[no-untyped-def]
    """The union of every 2, 4 and 8 neighbours, in this order."""
    level, found = words, []
    for _ in GRANULARITIES[1:]:
        level = [
            builder.or_(level[i], level[i + 1]) if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
        found += level
    return found


class _Totals:
    """Vectors that are added to in registers, and to memory at the end."""

    def __init__(self, builder, count):  # type: ignore[no-untyped-def]
        self._builder = builder
        self._places = [cgutils.alloca_once(builder, _VECTOR) for _ in range(count)]
        for place in self._places:
            builder.store(_constant(0), place)

    def add(self, index, value):  # type: ignore[no-untyped-def]
        place = self._places[index]
        self._builder.store(self._builder.add(self._builder.load(place), value), place)

    def write(self, address):  # type: ignore[no-untyped-def]
        """Add them to ``int64 [count, 8]`` at the address."""
        builder = self._builder
        for i, place in enumerate(self._places):
            at = builder.add(address, ir.Constant(_I64, 8 * _LANES * i))
            total = builder.add(_load(builder, at, _VECTOR), builder.load(place))
            builder.store(total, builder.inttoptr(at, _VECTOR.as_pointer())).align = 8


@intrinsic(prefer_literal=True)
def _tally(typingctx, planes, source, stride, vectors, inside, notes, counts):  # type: ignore[no-untyped-def]
    """Count in vectors of eight words of ``planes`` planes, a literal.

    Args:
        source: address of the first word; stride: bytes to the next plane.
        vectors: how many, up to ``_BLOCK``. One word behind the last of them is read too.
        inside: address of a word per word, ones where the following word belongs to the same row, else zeros.
        notes: address of ``uint64 [planes, _BLOCK]``, set to a bit per byte that is not zero.
        counts: address of ``int64 [counters, 8]``, added to: ones, toggles, and unions of 2, 4 and 8 planes.
    """
    if not isinstance(planes, types.IntegerLiteral):
        return None
    number = planes.literal_value

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, source, stride, vectors, inside, notes, counts = args
        wide = lambda value: ir.Constant(_I64, value)  # noqa: E731
        totals = _Totals(builder, _counters(number))
        starts = [builder.add(source, builder.mul(stride, wide(p))) for p in range(number)]
        with cgutils.for_range(builder, vectors, intp=_I64) as loop:
            at = builder.shl(loop.index, wide(6))
            within = _load(builder, builder.add(inside, at), _VECTOR)
            words = []
            for p in range(number):
                here = builder.add(starts[p], at)
                word = _load(builder, here, _VECTOR)
                following = _load(builder, builder.add(here, wide(8)), _VECTOR)
                words.append(word)
                totals.add(p, _population(builder, word))
                toggled = builder.and_(builder.xor(word, following), within)
                totals.add(number + p, _population(builder, toggled))
                some = builder.icmp_unsigned("!=", builder.bitcast(word, _BYTES), ir.Constant(_BYTES, None))
                note = builder.add(notes, wide(8 * _BLOCK * p))
                note = builder.add(note, builder.shl(loop.index, wide(3)))
                builder.store(builder.bitcast(some, _I64), builder.inttoptr(note, _I64.as_pointer()))
            for i, union in enumerate(_unions(builder, words)):
                totals.add(2 * number + i, _population(builder, union))
        totals.write(counts)
        return context.get_dummy_value()

    arguments = [planes, *[types.intp] * 6]
    return types.void(*arguments), codegen


@intrinsic
def _fold(typingctx, notes, vectors, counts):  # type: ignore[no-untyped-def]
    """Count the groups of 8, 16, 32 and 64 columns that are not zero.

    Args:
        notes: address of ``uint64 [8 * vectors]``, a bit per byte.
        counts: address of ``int64 [4, 8]``, added to.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        notes, vectors, counts = args
        totals = _Totals(builder, len(GROUPS))
        with cgutils.for_range(builder, vectors, intp=_I64) as loop:
            at = builder.shl(loop.index, ir.Constant(_I64, 6))
            note = _load(builder, builder.add(notes, at), _VECTOR)
            totals.add(0, _population(builder, note))
            for i, (shift, kept) in enumerate(_FOLDS):
                note = builder.or_(note, builder.lshr(note, _constant(shift)))
                note = builder.and_(note, _constant(kept))
                totals.add(i + 1, _population(builder, note))
        totals.write(counts)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


def _counters(planes: int) -> int:
    """Ones and toggles of each plane, and the non-zero digits of 2, 4 and 8 bits."""
    return 2 * planes + sum(-(-planes // g) for g in GRANULARITIES[1:])


@cache
def _kernel(planes: int):  # type: ignore[no-untyped-def]
    """Fills in what :func:`_count` returns of ``planes`` planes from ``at`` on."""
    counters = _counters(planes)

    @njit(cache=True, nogil=True)
    def kernel(words, at, width, table):  # type: ignore[no-untyped-def]
        number, runs, length = words.shape
        inside = np.full(_BLOCK * _LANES + width, ~np.uint64(0), np.uint64)
        inside[width - 1 :: width] = 0
        notes = np.zeros((planes, _BLOCK), np.uint64)
        end = np.zeros((planes, 2 * _LANES), np.uint64)
        sums, folded = np.empty((counters, _LANES), np.int64), np.empty((planes, 4, _LANES), np.int64)
        to_notes, to_sums = notes.ctypes.data, sums.ctypes.data
        whole = (length - 1) // _LANES  # vectors that have a word behind them
        for run in range(runs):
            sums[:] = 0
            folded[:] = 0
            source = words.ctypes.data + 8 * (at * runs + run) * length
            for first in range(0, whole + 1, _BLOCK):
                vectors = min(_BLOCK, whole - first)
                if vectors > 0:
                    begin = first * _LANES
                    phase = inside.ctypes.data + 8 * (begin % width)
                    _tally(planes, source + 8 * begin, 8 * runs * length, vectors, phase, to_notes, to_sums)
                if vectors < _BLOCK:  # what is left, up to a vector of words, in a place of its own
                    begin = whole * _LANES
                    phase = inside.ctypes.data + 8 * (begin % width)
                    for p in range(planes):
                        rest = words[at + p, run, begin:]
                        end[p, : rest.shape[0]] = rest
                    _tally(planes, end.ctypes.data, 16 * _LANES, 1, phase, to_notes + 8 * vectors, to_sums)
                    vectors += 1
                    for p in range(planes):
                        notes[p, vectors : (vectors + _LANES - 1) // _LANES * _LANES] = 0
                for p in range(planes):
                    notes_of_plane, folded_of_plane = to_notes + 8 * _BLOCK * p, folded[p].ctypes.data
                    _fold(notes_of_plane, (vectors + _LANES - 1) // _LANES, folded_of_plane)
            for p in range(planes):
                table[at + p, run] = sums[p].sum()
                table[number + at + p, run] = sums[planes + p].sum()
            counter, row = 2 * planes, 2 * number
            for g in GRANULARITIES[1:]:
                for digit in range((planes + g - 1) // g):
                    table[row + at // g + digit, run] = sums[counter].sum()
                    counter += 1
                row += (number + g - 1) // g
            for g in range(4):
                for p in range(planes):
                    table[row + number * g + at + p, run] = folded[p, g].sum()

    return kernel


def _count(words: np.ndarray, width: int) -> np.ndarray:
    """The same as :func:`_count_plainly`."""
    planes, runs, _ = words.shape
    table = np.empty((_counters(planes) + len(GROUPS) * planes, runs), np.int64)
    for at in range(0, planes, _TOGETHER):
        _kernel(min(_TOGETHER, planes - at))(words, at, width, table)
    return table


def _count_plainly(words: np.ndarray, width: int) -> np.ndarray:
    """Counts in runs of rows, step by step, and without compiling.

    Args:
        words: ``uint64 [planes, runs, n]``.
        width: words of a row; a run holds whole rows.

    Returns:
        ``int64 [counters, runs]``: of every plane the ones, then the toggles; of every digit of 2, 4 and 8 bits the
        columns where it is not zero; of every plane the groups of 8, 16, 32 and 64 columns that are not zero.
    """
    planes, runs, _ = words.shape
    rows = words.reshape(planes, runs, -1, width)
    counts = [np.bitwise_count(words).sum(2, dtype=np.int64)]
    counts.append(np.bitwise_count(rows[..., 1:] ^ rows[..., :-1]).sum((2, 3), dtype=np.int64))
    for g in GRANULARITIES[1:]:
        unions = np.bitwise_or.reduceat(words, np.arange(0, planes, g), axis=0)
        counts.append(np.bitwise_count(unions).sum(2, dtype=np.int64))
    for g in GROUPS:
        counts.append(np.count_nonzero(words.astype("<u8", copy=False).view(f"<u{g // 8}"), axis=2))
    return np.concatenate(counts)


def statistics(planes: np.ndarray, *, columns: int | None = None, per_row: bool = False) -> PlaneStatistics:
    """Count what the energy of data depends on.

    Args:
        planes: ``uint64 [planes, rows, words]``, least significant first, see ``compressors.kernels.bits``.
        columns: bits of a row that are data. Groups that lie beyond them altogether are not counted; without it all
            64 columns of every word are data.
        per_row: keep the rows apart.
    """
    number, rows, width = planes.shape
    columns = width * WORD_BITS if columns is None else columns
    runs, together = (rows, 1) if per_row else (1, rows)
    if number and rows and width:
        words = np.ascontiguousarray(planes, np.uint64).reshape(number, runs, -1)
        table = (_count_plainly if config.DISABLE_JIT else _count)(words, width)
    else:
        table = np.zeros((_counters(number) + len(GROUPS) * number, runs), np.int64)
    if not per_row:
        table = table[:, 0]
    ones, toggles = table[:number], table[number : 2 * number]
    nonzero, row = {1: ones}, 2 * number
    for g in GRANULARITIES[1:]:
        digits = -(-number // g)
        nonzero[g] = table[row : row + digits]
        row += digits
    zero = {}
    for g in GROUPS:
        zero[g] = together * -(-columns // g) - table[row : row + number]
        row += number
    return PlaneStatistics(ones, toggles, nonzero, zero)
