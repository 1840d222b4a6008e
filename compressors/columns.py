"""Bit columns that need not be stored, counted on the codes of any tensor.

A bit column is the same bit of every weight in a run of inputs. Machines that read weights column by column leave out
those that hold nothing, in one of three ways:

* ``flip``: sign and magnitude; columns without a one (BitWave, arXiv 2507.12444);
* ``average``: two's complement; leading columns that repeat the sign and low columns that are constant (BBS, arXiv
  2409.05227: 8 bits of each run say how many of the former, up to 3, and what the latter hold, up to 6 bits);
* ``shift``: the same after one number was added to the whole run, which makes its low columns zero.
"""

from __future__ import annotations

import numpy as np

from compressors.errors import BadTensor
from compressors.tensor import SlicedTensor

MODES = ("flip", "average", "shift")
BITS = 8
TOP = (1 << (BITS - 1)) - 1
OFFSETS = tuple(
    sorted(range(-16, 16), key=lambda z: (abs(z), z))
)  # five bits; of equal errors the smallest wins
REDUNDANT = (
    3  # leading columns that the encoding of rounded averages, two bits for their number, can leave out
)
RUN_BITS = 8  # stored with each run: its free leading columns and its constant, or which columns are there
_CONSTANT = 6  # low columns that a run's constant can hold


def runs_of(array: np.ndarray, group: int, fill: object) -> np.ndarray:
    """``[N, K]`` as ``[N, runs, length]``, the last run filled up."""
    length = min(group, array.shape[1])
    padded = np.pad(array, ((0, 0), (0, -array.shape[1] % length)), constant_values=fill)
    return padded.reshape(array.shape[0], -1, length)


def bit_length(value: np.ndarray) -> np.ndarray:
    """Bits of non-negative integers below 2**52."""
    return np.frexp(value.astype(np.float64))[1].astype(np.int64)


def freed_columns(codes: np.ndarray, valid: np.ndarray, mode: str, group: int) -> np.ndarray:
    """Bit columns out of 8 that need not be stored, by counting the bits of the codes.

    Args:
        codes: ``int64 [N, K]`` in [-128, 127]; valid: booleans, which of them matter.
        mode: ``flip``: columns of sign and magnitude without a one; ``average``: up to 3 leading columns that repeat
            the sign and up to 6 low ones that are constant; ``shift``: leading and zero low columns after the best
            offset.
        group: length of a run.

    Returns:
        ``int64 [N, runs]``.
    """
    runs, mask = runs_of(codes, group, 0), runs_of(valid, group, False)
    runs = np.where(mask, runs, 0)
    if mode == "flip":
        ones = np.bitwise_or.reduce(np.abs(runs), axis=2)
        return BITS - np.bitwise_count(ones).astype(np.int64) - (runs < 0).any(2)
    if mode == "average":
        every = np.bitwise_and.reduce(np.where(mask, runs, -1), axis=2)
        varying = np.bitwise_or.reduce(runs, axis=2) & ~every
        leading = np.minimum(_leading(runs), REDUNDANT)
        return leading + np.minimum(np.minimum(_trailing(varying), _CONSTANT), BITS - 1 - leading)
    best = np.zeros(runs.shape[:2], np.int64)
    for offset in OFFSETS:
        moved = np.where(mask, runs + offset, 0)
        leading = _leading(moved)  # negative beyond 8 bits
        freed = leading + np.minimum(_trailing(np.bitwise_or.reduce(moved, axis=2)), BITS - 1 - leading)
        best = np.where(leading >= 0, np.maximum(best, freed), best)
    return best


def _leading(runs: np.ndarray) -> np.ndarray:
    """Leading columns of two's complement that repeat the sign, per run."""
    return BITS - 1 - bit_length(np.where(runs < 0, -1 - runs, runs).max(2))


def _trailing(columns: np.ndarray) -> np.ndarray:
    """Low columns without a one."""
    return np.where(columns == 0, BITS, bit_length(columns & -columns) - 1)


def effective_bits(tensor: SlicedTensor, group: int = 32) -> float:
    """Bits that a weight takes on average when runs of ``group`` inputs leave out the columns that are free.

    A run takes its remaining columns and ``RUN_BITS`` more. A channel that this does not shorten is stored as it is,
    and so are the scales, which do not count. Zeros may stay behind a bitmap of the others. The smallest way is taken
    that is the same for the whole tensor.

    Raises:
        BadTensor: several terms, or codes beyond 8 bits.
    """
    codes = tensor.codes()
    if len(codes) != 1 or tensor.bits > BITS or codes.min() < -TOP - 1 or codes.max() > TOP:
        raise BadTensor(f"{tensor.encoding} codes of {len(codes)} terms: expected one term of up to 8 bits")
    return min(
        _stored(codes[0], valid, mode, group, tensor.bits)
        for mode in MODES
        for valid in (np.ones(codes[0].shape, bool), codes[0] != 0)
    )


def _stored(codes: np.ndarray, valid: np.ndarray, mode: str, group: int, bits: int) -> float:
    length = runs_of(valid, group, False).sum(2)
    columns = BITS - freed_columns(codes, valid, mode, group)
    by_column = np.where(length > 0, length * columns + RUN_BITS, 0).sum(1)
    total = np.minimum(by_column, valid.sum(1) * bits).sum()
    bitmap = 0 if valid.all() else codes.size
    return float(total + bitmap) / codes.size
