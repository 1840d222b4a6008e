"""Codes and scales that are each the best for the other, by taking turns.

For given scales the levels of a row are known, so the best code tuple of a weight is that of the nearest level; for
given codes the best scales follow from how many weights have each tuple and their sums. Both come from the sorted row
by binary search: a turn costs the levels, not the weights. Each row's result depends on that row alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.methods.planes import least_squares
from compressors.methods.sorted_rows import SortedRows

_ROUNDS = 100  # turns end by themselves long before, but for rows of very many weights


@dataclass(frozen=True, eq=False)
class _Levels:
    """Code tuples of every problem from the least level to the greatest."""

    rank: np.ndarray  # int64 [n, L], which tuple
    value: np.ndarray  # float64 [n, L]

    @classmethod
    def of(cls, scale: np.ndarray, alphabet: np.ndarray) -> _Levels:
        level = sum(scale[:, t, None] * alphabet[t] for t in range(len(alphabet)))
        rank = np.argsort(level, axis=1, kind="stable")
        return cls(rank, np.take_along_axis(level, rank, 1))

    @property
    def borders(self) -> np.ndarray:
        return 0.5 * (self.value[:, 1:] + self.value[:, :-1])


def _unsorted(values: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """``values [n, L]`` of the levels in ascending order, back in the order of the alphabet."""
    result = np.empty_like(values)
    np.put_along_axis(result, rank, values, 1)
    return result


def alternate(
    weight: np.ndarray, keep: np.ndarray, starts: np.ndarray, alphabet: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Code tuples and scales that are each the best for the other (trit-plane alternation, arXiv 2509.16989).

    From every start, the best tuple of each weight and the least squares of all scales take turns until no weight
    changes its tuple; the start that ends lowest is taken, per row.

    Args:
        weight: ``float64 [rows, length]``; keep: booleans of that shape, False where a weight stays 0.
        starts: ``float64 [starts, rows, terms]``, scales to start from.
        alphabet: ``int64 [terms, L]``, the tuples a weight may take; of equal levels the first is used.

    Returns:
        Codes ``int64 [terms, rows, length]`` and scales ``float32 [terms, rows]``. The error is at most that of any
        assignment to the levels of a start, up to the rounding of the scales to float32.
    """
    rows = SortedRows.of(weight, keep)
    row = np.tile(np.arange(weight.shape[0]), len(starts))
    scale = np.ascontiguousarray(starts.reshape(len(row), -1), np.float64)
    largest = np.where(keep, np.abs(weight), 0.0).max(1)
    cut = np.full((len(row), alphabet.shape[1] - 1), -1)
    error = np.zeros(len(row))
    active = np.arange(len(row))
    tuples, terms = alphabet.astype(np.float64), len(alphabet)
    products = (tuples[:, None] * tuples).reshape(terms * terms, -1).T
    for _ in range(_ROUNDS):
        levels = _Levels.of(scale[active], alphabet)
        ends = rows.cells(row[active], levels.value)
        new = ends[:, 1:-1]
        count, total = rows.totals(row[active], ends)
        error[active] = ((count * levels.value - 2.0 * total) * levels.value).sum(1)
        moved = (new != cut[active]).any(1)
        cut[active] = new
        active, count, total, rank = active[moved], count[moved], total[moved], levels.rank[moved]
        if not len(active):
            break
        count, total = _unsorted(count, rank), _unsorted(total, rank)
        gram = (count @ products).reshape(-1, terms, terms)  # integers: exact in any order of summation
        right = np.stack([(total * codes).sum(1) for codes in tuples], axis=1)
        scale[active] = least_squares(gram, right, scale[active], largest[row[active]])
    best = error.reshape(len(starts), -1).argmin(0)
    chosen = scale.reshape(len(starts), weight.shape[0], -1)[best, np.arange(weight.shape[0])]
    stored = chosen.astype(np.float32)
    order = np.argsort(np.where(keep, weight, np.inf), axis=1, kind="stable")
    codes = _assign(rows, order, stored.astype(np.float64), alphabet)
    return codes, np.ascontiguousarray(stored.T)


def _assign(rows: SortedRows, order: np.ndarray, scale: np.ndarray, alphabet: np.ndarray) -> np.ndarray:
    """The nearest tuple of every kept weight: ``int64 [terms, rows, length]``; ``order`` sorts the weights."""
    count, length = order.shape
    levels = _Levels.of(scale, alphabet)
    repeated = np.diff(levels.value, axis=1, prepend=np.nan) == 0
    first = np.maximum.accumulate(np.where(repeated, 0, np.arange(alphabet.shape[1])), axis=1)
    rank = np.take_along_axis(levels.rank, first, 1)
    row = np.arange(count)[:, None]
    step = np.zeros((count, length + 1), np.int64)
    np.add.at(step, (row, rows.below(np.arange(count), levels.borders)), 1)
    tuples = alphabet[:, np.take_along_axis(rank, np.cumsum(step[:, :-1], axis=1), 1)]
    tuples[:, np.arange(length) >= rows.kept[:, None]] = 0
    codes = np.empty_like(tuples)
    np.put_along_axis(codes, np.broadcast_to(order, tuples.shape), tuples, 2)
    return codes
