"""Bit columns of weights: what machines skip that read a run of weights one bit position at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressors.tensor import unpack_rows

ColumnRequest = tuple[int, int]
"""Weights of a run whose bits of one position are a column, and filters that wait for each other at every run."""


@dataclass(frozen=True, eq=False)
class ColumnActivity:
    """Bit columns: the bits of one position of a run of consecutive weights of an output channel.

    Attributes:
        runs: of a channel; the last one may be shorter.
        planes: positions, of all terms.
        nonzero: ``int64 [N]``, columns of each channel that hold a one (or a digit that is not zero).
        slowest: ``int64 [passes]``, for every group of so many filters as wait for each other the sum over runs of the
            most non-zero columns any of them has in the run. Filters of different channel groups never wait.
    """

    runs: int
    planes: int
    nonzero: np.ndarray
    slowest: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        counts = {"nonzero": self.nonzero.tolist(), "slowest": self.slowest.tolist()}
        return {"runs": self.runs, "planes": self.planes, **counts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ColumnActivity:
        counts = (np.array(data[name], np.int64) for name in ("nonzero", "slowest"))
        return cls(data["runs"], data["planes"], *counts)


def column_activity(planes: np.ndarray, columns: int, request: ColumnRequest, groups: int) -> ColumnActivity:
    """Count the columns of ``planes``.

    Args:
        planes: ``uint64 [planes, N, words]``, ones where a digit is not zero.
        columns: weights of an output channel.
        request: weights of a run, and filters that wait for each other.
        groups: channel groups that the ``N`` output channels fall into.
    """
    run, filters = request
    runs = -(-columns // run)
    per_run = np.zeros((planes.shape[1], runs), np.int64)
    for plane in planes:
        bits = unpack_rows(plane, columns)
        padded = np.pad(bits, ((0, 0), (0, runs * run - columns)))
        per_run += padded.reshape(len(bits), runs, run).any(2)
    passes = -(-len(per_run) // groups // filters)
    together = np.zeros((groups, passes * filters, runs), np.int64)
    together[:, : len(per_run) // groups] = per_run.reshape(groups, -1, runs)
    slowest = together.reshape(groups * passes, filters, runs).max(1).sum(1)
    return ColumnActivity(runs, planes.shape[0], per_run.sum(1), slowest)
