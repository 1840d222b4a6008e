"""How few bits a tensor's codes can be stored in, counted on the codes alone."""

from __future__ import annotations

import numpy as np

_KEYS = 1 << 16  # numbers of code tuples up to this are used as they are, above only those that occur


def signed_width(codes: np.ndarray) -> int:
    """Bits of two's complement that hold every one of ``codes``."""
    low, high = min(int(codes.min()), -1), max(int(codes.max()), 0)
    return max((~low).bit_length(), high.bit_length()) + 1


def shared_table_bits(codes: np.ndarray, entry_bits: int) -> int:
    """Bits of indices into a table of the distinct code tuples (weight sharing), and of that table.

    There is one table for the tensor, or one per row, of as many entries as the row with the most distinct tuples
    needs. Weights that are zero in every term take an index like all others, or stand in a bitmap instead. The
    smallest of these four counts.

    Args:
        codes: ``int64 [terms, N, K]``; ``entry_bits``: of one tuple in a table.
    """
    key, keys = _numbered(codes)
    nonzero = codes.any(0)
    kept, rows = int(nonzero.sum()), key.shape[0]
    ordered = np.sort(key, axis=1)
    in_row = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    in_tensor = int((np.bincount(key.ravel(), minlength=keys) > 0).sum())
    longest, longest_nonzero = int(in_row.max()), int((in_row - ~nonzero.all(1)).max())
    bitmap = key.size
    return min(
        key.size * _index_bits(in_tensor) + in_tensor * entry_bits,
        key.size * _index_bits(longest) + rows * longest * entry_bits,
        bitmap + _behind(kept, in_tensor - (kept < key.size), 1, entry_bits),
        bitmap + _behind(kept, longest_nonzero, rows, entry_bits),
    )


def _behind(kept: int, entries: int, tables: int, entry_bits: int) -> int:
    return kept * _index_bits(entries) + tables * entries * entry_bits


def _index_bits(entries: int) -> int:
    return max(entries - 1, 0).bit_length()


def _numbered(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """A number ``int64 [N, K]`` for every tuple, and how many there may be."""
    key, keys = np.zeros(codes.shape[1:], np.int64), 1
    for plane in codes:
        low = int(plane.min())
        span = int(plane.max()) - low + 1
        key, keys = key * span + (plane - low), keys * span
        if keys > _KEYS:
            distinct, inverse = np.unique(key, return_inverse=True)
            key, keys = inverse.reshape(key.shape), len(distinct)
    return key, keys
