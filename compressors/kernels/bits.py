"""Packing of bit-planes.

Layout: bit ``j`` of word ``w`` in a row is column ``64 * w + j`` of that row; columns past the end are 0,
so counts need no masking. A plane is ``uint64 [rows, words]``, a stack of planes ``uint64 [planes, rows, words]``
with the least significant plane first.

Everything that compiles stands in this one file: Numba's cache is keyed on the file a kernel lies in and
would serve stale machine code if an imported intrinsic changed elsewhere.
"""

from __future__ import annotations

import numpy as np
from numba import njit

WORD_BITS = 64


@njit(cache=True, nogil=True)
def _pack(codes, bits, planes):  # type: ignore[no-untyped-def]
    rows, columns = codes.shape
    for b in range(bits):
        for r in range(rows):
            source = codes[r]
            target = planes[b, r]
            for w in range(target.shape[0]):
                word = np.uint64(0)
                first = w * WORD_BITS
                chunk = source[first : min(first + WORD_BITS, columns)]
                for j in range(chunk.shape[0]):
                    word |= np.uint64((chunk[j] >> b) & 1) << np.uint64(j)
                target[w] = word


@njit(cache=True, nogil=True)
def _unpack(planes, columns, codes):  # type: ignore[no-untyped-def]
    for b in range(planes.shape[0]):
        for r in range(planes.shape[1]):
            source = planes[b, r]
            target = codes[r]
            for k in range(columns):
                bit = (source[k // WORD_BITS] >> np.uint64(k % WORD_BITS)) & np.uint64(1)
                target[k] |= np.int64(bit) << b


def words_for(columns: int) -> int:
    """Number of 64-bit words that hold ``columns`` bits."""
    return -(-columns // WORD_BITS)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Non-negative integers to bit-planes.

    Args:
        codes: integers ``[rows, columns]`` in ``[0, 2**bits)``.
        bits: number of planes, 1 to 32.

    Returns:
        ``uint64 [bits, rows, words]``, least significant plane first.

    Raises:
        ValueError: a code that does not fit.
    """
    codes = np.ascontiguousarray(codes, dtype=np.int64)
    if codes.size and (codes.min() < 0 or codes.max() >= 1 << bits):
        raise ValueError(
            f"codes span [{codes.min()}, {codes.max()}]; {bits} bits hold [0, {(1 << bits) - 1}]"
        )
    planes = np.zeros((bits, codes.shape[0], words_for(codes.shape[1])), np.uint64)
    _pack(codes, bits, planes)
    return planes


def unpack(planes: np.ndarray, columns: int) -> np.ndarray:
    """The inverse of :func:`pack`: ``uint64 [bits, rows, words]`` to ``int64 [rows, columns]``."""
    codes = np.zeros((planes.shape[1], columns), np.int64)
    _unpack(np.ascontiguousarray(planes), columns, codes)
    return codes
