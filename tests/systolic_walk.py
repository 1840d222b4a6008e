"""A systolic array walked cycle by cycle with real numbers: what counted cycles and moves are held against."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Walk:
    """Sums that came out, cycles that passed, and words moved by what they are: read, written, passed on."""

    sums: np.ndarray
    cycles: int = 0
    reads: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stays", "crosses", "falls"), 0))
    writes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stays", "crosses", "falls"), 0))
    steps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stays", "crosses", "falls"), 0))


class Registers:
    """A grid of registers whose words move by one element a cycle; the word's number, or None."""

    def __init__(self, rows: int, columns: int) -> None:
        self.cells: list[list[tuple | None]] = [[None] * columns for _ in range(rows)]

    def right(self, entering: list[tuple | None], used: int) -> int:
        """Move right by one, the last used column dropping its word; how many words moved between elements."""
        moved = 0
        for row, new in zip(self.cells, entering, strict=True):
            moved += sum(word is not None for word in row[: used - 1])
            row[1:used] = row[: used - 1]
            row[0] = new
        return moved

    def down(self, entering: list[tuple | None], used: int) -> int:
        moved = sum(word is not None for row in self.cells[: used - 1] for word in row)
        self.cells[1:used] = self.cells[: used - 1]
        self.cells[0] = list(entering)
        return moved


def walk_stationary(left: np.ndarray, top: np.ndarray, rows: int, columns: int) -> Walk:
    """``left [stream, K] @ top [K, N]`` with ``top`` in the elements (weights, or the inputs where those stay)."""
    stream, reduction = left.shape
    outputs = top.shape[1]
    walk = Walk(np.zeros((stream, outputs), np.int64))
    for k0 in range(0, reduction, rows):
        for n0 in range(0, outputs, columns):
            a, b = left[:, k0 : k0 + rows], top[k0 : k0 + rows, n0 : n0 + columns]
            _stationary_fold(walk, a, b, walk.sums[:, n0 : n0 + columns], rows, columns, first=k0 == 0)
    return walk


def _stationary_fold(
    walk: Walk, a: np.ndarray, b: np.ndarray, sums: np.ndarray, rows: int, columns: int, first: bool
) -> None:
    used_rows, used_columns = b.shape
    held = Registers(rows, columns)
    for cycle in range(rows):
        # the last row's operand enters first
        row = rows - 1 - cycle
        entering = (
            [(int(b[row, c]),) for c in range(used_columns)] if row < used_rows else [None] * used_columns
        )
        entering += [None] * (columns - used_columns)
        walk.reads["stays"] += sum(word is not None for word in entering)
        walk.steps["stays"] += held.down(entering, rows)
        walk.cycles += 1
    weight = [[held.cells[r][c] for c in range(columns)] for r in range(rows)]
    crossing, falling = Registers(rows, columns), Registers(rows, columns)
    stream, out = a.shape[0], np.zeros_like(sums)
    missing, cycle = stream * used_columns, 0
    while missing:
        entering = []
        for r in range(rows):
            m = cycle - r
            inside = r < used_rows and 0 <= m < stream
            entering.append((m, int(a[m, r])) if inside else None)
            walk.reads["crosses"] += inside
        walk.steps["crosses"] += crossing.right(entering, used_columns)
        # a sum enters the first row with what the folds before left, when its input does
        starts: list[tuple | None] = []
        for c in range(columns):
            m = cycle - c
            inside = c < used_columns and 0 <= m < stream
            starts.append((m, 0 if first else int(sums[m, c])) if inside else None)
            walk.reads["falls"] += inside and not first
        walk.steps["falls"] += falling.down(starts, rows)
        for r in range(rows):
            for c in range(used_columns):
                word, total = crossing.cells[r][c], falling.cells[r][c]
                if word is not None and total is not None and weight[r][c] is not None:
                    assert word[0] == total[0], "an input met another pixel's sum"
                    falling.cells[r][c] = (total[0], total[1] + word[1] * weight[r][c][0])
        for c in range(used_columns):
            total = falling.cells[rows - 1][c]
            if total is not None:
                out[total[0], c] = total[1]
                walk.writes["falls"] += 1
                missing -= 1
        cycle += 1
    # the next fold starts when the last column would be done, used or not
    walk.cycles += cycle + columns - used_columns
    sums[:] = out


def walk_sums(left: np.ndarray, top: np.ndarray, rows: int, columns: int) -> Walk:
    """``left [M, K] @ top [K, N]`` with a sum in every element; sums leave downwards while the next fold runs."""
    pixels, stream = left.shape
    outputs = top.shape[1]
    walk = Walk(np.zeros((pixels, outputs), np.int64))
    for m0 in range(0, pixels, rows):
        for n0 in range(0, outputs, columns):
            a, b = left[m0 : m0 + rows], top[:, n0 : n0 + columns]
            sums = _sums_fold(walk, a, b, rows, columns, stream)
            walk.sums[m0 : m0 + rows, n0 : n0 + columns] = sums
            leaving = Registers(rows, columns)
            leaving.cells = [
                [(0,) if r < a.shape[0] and c < b.shape[1] else None for c in range(columns)]
                for r in range(rows)
            ]
            for _ in range(rows):
                walk.writes["stays"] += sum(word is not None for word in leaving.cells[-1])
                walk.steps["stays"] += leaving.down([None] * columns, rows)
    return walk


def _sums_fold(walk: Walk, a: np.ndarray, b: np.ndarray, rows: int, columns: int, stream: int) -> np.ndarray:
    used_rows, used_columns = a.shape[0], b.shape[1]
    sums = np.zeros((used_rows, used_columns), np.int64)
    crossing, falling = Registers(rows, columns), Registers(rows, columns)
    missing, cycle = stream * used_rows * used_columns, 0
    while missing:
        from_left, from_top = [], []
        for r in range(rows):
            inside = r < used_rows and 0 <= cycle - r < stream
            from_left.append((cycle - r, int(a[r, cycle - r])) if inside else None)
            walk.reads["crosses"] += inside
        for c in range(columns):
            inside = c < used_columns and 0 <= cycle - c < stream
            from_top.append((cycle - c, int(b[cycle - c, c])) if inside else None)
            walk.reads["falls"] += inside
        walk.steps["crosses"] += crossing.right(from_left, used_columns)
        walk.steps["falls"] += falling.down(from_top, used_rows)
        for r in range(used_rows):
            for c in range(used_columns):
                one, other = crossing.cells[r][c], falling.cells[r][c]
                if one is not None and other is not None:
                    assert one[0] == other[0], "factors of different products met"
                    sums[r, c] += one[1] * other[1]
                    missing -= 1
        cycle += 1
    # the next fold starts when the last element would be done, used or not
    walk.cycles += cycle + rows - used_rows + columns - used_columns
    return sums
