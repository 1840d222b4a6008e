"""Packing and popcounting of bit-planes.

Layout: bit ``j`` of word ``w`` in a row is column ``64 * w + j`` of that row; columns past the end are 0,
so counts need no masking. A plane is ``uint64 [rows, words]``, a stack of planes ``uint64 [planes, rows, words]``
with the least significant plane first.

Everything that compiles stands in this one file: Numba's cache is keyed on the file a kernel lies in and
would serve stale machine code if an imported intrinsic changed elsewhere.
"""

from __future__ import annotations

import numpy as np
from numba import config, njit, types
from numba.extending import intrinsic

WORD_BITS = 64


@intrinsic
def _ctpop(typingctx, word):  # type: ignore[no-untyped-def]
    """LLVM's population count of one uint64 (a vector instruction once the loop around it is vectorised)."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


# an intrinsic exists in compiled code alone; with NUMBA_DISABLE_JIT the kernels run as plain Python
_popcount = np.bitwise_count if config.DISABLE_JIT else _ctpop


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


@njit(cache=True, nogil=True)
def _count_ones(plane, ones):  # type: ignore[no-untyped-def]
    for r in range(plane.shape[0]):
        row = plane[r]
        total = np.uint64(0)
        for w in range(row.shape[0]):
            total += _popcount(row[w])
        ones[r] = total


@njit(cache=True, nogil=True)
def _count_toggles(plane, toggles):  # type: ignore[no-untyped-def]
    for r in range(plane.shape[0]):
        before = plane[r, :-1]
        after = plane[r, 1:]
        total = np.uint64(0)
        for w in range(before.shape[0]):
            total += _popcount(before[w] ^ after[w])
        toggles[r] = total


@njit(cache=True, nogil=True)
def _count_nonzero_digits(planes, granularity, counts):  # type: ignore[no-untyped-def]
    bits, rows, words = planes.shape
    for s in range(counts.shape[0]):
        low = s * granularity
        high = min(low + granularity, bits)
        for r in range(rows):
            total = np.uint64(0)
            for w in range(words):
                union = planes[low, r, w]
                for b in range(low + 1, high):
                    union |= planes[b, r, w]
                total += _popcount(union)
            counts[s, r] = total


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


def count_ones(plane: np.ndarray) -> np.ndarray:
    """Ones per row of ``uint64 [rows, words]`` as ``int64 [rows]``."""
    ones = np.empty(plane.shape[0], np.int64)
    _count_ones(np.ascontiguousarray(plane), ones)
    return ones


def count_toggles(plane: np.ndarray) -> np.ndarray:
    """Bits that differ between consecutive words, per row of ``uint64 [rows, words]``, as ``int64 [rows]``.

    A word is what 64 lanes of a bus or register hold at once, so this is what switches from one cycle to the next.
    """
    toggles = np.empty(plane.shape[0], np.int64)
    _count_toggles(np.ascontiguousarray(plane), toggles)
    return toggles


def count_nonzero_digits(planes: np.ndarray, granularity: int) -> np.ndarray:
    """Non-zero digits of ``granularity`` bits.

    Args:
        planes: ``uint64 [bits, rows, words]``, least significant first.
        granularity: bits per digit; the topmost digit may have fewer.

    Returns:
        ``int64 [digits, rows]``: how many columns have a non-zero digit at that position.
    """
    digits = -(-planes.shape[0] // granularity)
    counts = np.zeros((digits, planes.shape[1]), np.int64)
    _count_nonzero_digits(np.ascontiguousarray(planes), granularity, counts)
    return counts
