"""Rows of weights in ascending order, in which a cell of the nearest level is a run: its sum costs two look-ups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SortedRows:
    """Kept weights of each row.

    Attributes:
        ascending: ``float64 [rows, length]``, pruned weights infinite at the end.
        sums: ``float64 [rows, length + 1]``, of the first so many weights.
        kept: ``int64 [rows]``, how many there are.
    """

    ascending: np.ndarray
    sums: np.ndarray
    kept: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, keep: np.ndarray) -> SortedRows:
        """From ``weight [rows, length]`` and booleans of that shape."""
        ascending = np.sort(np.where(keep, weight, np.inf), axis=1)
        sums = np.zeros((weight.shape[0], weight.shape[1] + 1))
        np.cumsum(np.where(np.isinf(ascending), 0.0, ascending), axis=1, out=sums[:, 1:])
        return cls(ascending, sums, keep.sum(1))

    def at(self, row: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """Weights of ``row [n]`` by ``rank [n, m]``, the nearest kept one if there are not that many; else 0."""
        last = np.maximum(self.kept[row] - 1, 0)[:, None]
        found = self.ascending[row[:, None], np.clip(rank, 0, last)]
        return np.where(self.kept[row][:, None] > 0, found, 0.0)

    def below(self, row: np.ndarray, value: np.ndarray) -> np.ndarray:
        """How many weights of ``row [n]`` are below ``value [n, m]``: ``int64 [n, m]``."""
        return count_below(self.ascending, self.kept, row, value)

    def cells(self, row: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Where the cells of the nearest of ``levels [n, L]``, ascending, begin and end: ``int64 [n, L + 1]``."""
        cut = self.below(row, 0.5 * (levels[:, 1:] + levels[:, :-1]))
        return np.concatenate([np.zeros((len(row), 1), np.int64), cut, self.kept[row][:, None]], axis=1)

    def totals(self, row: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number and sum ``float64 [n, L]`` of the weights between ``ends [n, L + 1]``."""
        return np.diff(ends).astype(np.float64), np.diff(self.sums[row[:, None], ends])

    def means(self, row: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Means ``float64 [n, L]`` of the weights between ``ends [n, L + 1]``; of none, the weight there."""
        count, total = self.totals(row, ends)
        first, last = self.at(row, ends[:, :-1]), self.at(row, ends[:, 1:] - 1)
        # a mean of equal weights, a difference of sums, may come out beside them
        return np.where(count > 0, np.clip(total / np.maximum(count, 1.0), first, last), first)

    def distortion(self, row: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Squared error of the nearest of ``levels [n, L]``, less the sum of squares, which no level changes."""
        count, total = self.totals(row, self.cells(row, levels))
        return ((count * levels - 2.0 * total) * levels).sum(1)


def count_below(ascending: np.ndarray, length: np.ndarray, row: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Binary search: how many of the first ``length [rows]`` numbers in ``row [n]`` are below ``value [n, m]``."""
    low = np.zeros(value.shape, np.int64)
    high = np.broadcast_to(length[row][:, None], value.shape)
    last = ascending.shape[1] - 1
    for _ in range(int(last + 1).bit_length()):
        middle = (low + high) >> 1
        less = (ascending[row[:, None], np.minimum(middle, last)] < value) & (low < high)
        low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
    return low
