"""Runs of inputs that share a scale."""

from __future__ import annotations

import numpy as np


def group_length(columns: int, group: int) -> int:
    """Length of the equal runs into which ``columns`` inputs fall: the largest divisor not above ``group``.

    0 is one run of all inputs.
    """
    if not group:
        return columns
    return next(length for length in range(min(group, columns), 0, -1) if columns % length == 0)


def grouped(weight: np.ndarray, group: int) -> np.ndarray:
    """``weight [N, K]`` as ``[N, groups, length]``, with the length of :func:`group_length`."""
    return weight.reshape(weight.shape[0], -1, group_length(weight.shape[1], group))
