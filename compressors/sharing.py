"""Weight sharing: one multiplication per distinct magnitude of a row instead of one per weight.

A row with few distinct values is a factorised dot product (Hegde et al., UCNN, ISCA 2018, arXiv 1804.06508): inputs
that meet the same magnitude are added, or subtracted, and the sum is multiplied once. Several rows may share additions:
inputs that meet the same tuple of values over a group of rows (the same but for the sign of the whole tuple) are
summed once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.adders import check_inputs
from compressors.kernels import adders as kernels
from compressors.reuse import Block, check_block, check_codes
from compressors.tensor import SlicedTensor

_TILE = 64  # positions evaluated at once


@dataclass(frozen=True, eq=False)
class SharedProducts:
    """Factorised dot products that compute ``T @ x`` for an integer matrix ``T [N, K]``.

    Members of a sum are ``index << 1 | subtracted``; sum ``s`` has those from ``starts[s]`` to ``starts[s + 1]``.

    Attributes:
        shape: ``(N, K)``.
        input_starts, inputs: sums of inputs that meet the same tuple of values.
        group_starts, groups: sums of these that meet the same magnitude in one row.
        magnitude: ``int64 [groups]``, what each such sum is multiplied with.
        row: ``int64 [groups]``, the row it belongs to.
        multiplications_before: weights that are not zero.
        additions_before: one fewer than those, per row that has any.
    """

    shape: tuple[int, int]
    input_starts: np.ndarray
    inputs: np.ndarray
    group_starts: np.ndarray
    groups: np.ndarray
    magnitude: np.ndarray
    row: np.ndarray
    multiplications_before: int
    additions_before: int

    @property
    def multiplications(self) -> int:
        """One per distinct non-zero magnitude of every row (within each block of columns); those by 1 count too."""
        return len(self.magnitude)

    @property
    def additions(self) -> int:
        """Additions and subtractions, for one position."""
        in_sums = len(self.inputs) - (len(self.input_starts) - 1)
        in_groups = len(self.groups) - len(self.magnitude)
        return in_sums + in_groups + len(self.magnitude) - len(np.unique(self.row))

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """``T @ x`` for integers ``x [K, M]`` as ``int64 [N, M]``, exact wherever that fits ``int64``.

        Raises:
            BadTensor: an ``x`` that is not of that shape or not of integers.
        """
        x = check_inputs(x, self.shape[1])
        y = np.empty((self.shape[0], x.shape[1]), np.int64)
        for m in range(0, x.shape[1], _TILE):
            sums = kernels.signed_sums(self.input_starts, self.inputs, x[:, m : m + _TILE])
            products = kernels.signed_sums(self.group_starts, self.groups, sums)
            y[:, m : m + _TILE] = kernels.scaled_sums(self.magnitude, self.row, products, self.shape[0])
        return y


def shared_products(codes: np.ndarray, block: Block = None) -> SharedProducts:
    """Factorise the products of an integer matrix.

    Args:
        codes: integers ``[N, K]``.
        block: rows that share sums, and columns that are factorised at once; the last ones may be smaller. ``None``
            takes every row by itself and all its columns.

    Raises:
        BadTensor: codes that are not a matrix of integers.
        ConfigError: a block without rows or columns.
    """
    codes = check_codes(codes)
    rows, columns = codes.shape
    height, width = check_block((1, max(columns, 1)) if block is None else block, rows, columns)
    parts = _Parts()
    for top in range(0, rows, height):
        for first in range(0, columns, width):
            parts.add(codes[top : top + height, first : first + width], top, first)
    nonzero = np.count_nonzero(codes, axis=1)
    return SharedProducts(
        (rows, columns),
        *_sums(parts.inputs),
        *_sums(parts.groups),
        np.array(parts.magnitude, np.int64),
        np.array(parts.row, np.int64),
        int(nonzero.sum()),
        int(np.maximum(nonzero - 1, 0).sum()),
    )


def share(tensor: SlicedTensor, block: Block = None) -> tuple[tuple[SharedProducts, ...], ...]:
    """The factorised products of a layer, ``[terms][groups]``: inputs with scales of their own do not mix."""
    groups = tensor.scale.shape[2]
    return tuple(
        tuple(shared_products(part, block) for part in np.split(codes, groups, axis=1))
        for codes in tensor.codes()
    )


class _Parts:
    """Members of the sums of all blocks so far."""

    def __init__(self) -> None:
        self.inputs: list[np.ndarray] = []
        self.groups: list[np.ndarray] = []
        self.magnitude: list[int] = []
        self.row: list[int] = []

    def add(self, codes: np.ndarray, top: int, first: int) -> None:
        """Factorise ``codes [rows, columns]``, whose first row is ``top`` and first input ``first``."""
        used = np.flatnonzero(codes.any(0))
        if not len(used):
            return
        values = codes[:, used]
        leading = np.take_along_axis(values, (values != 0).argmax(0)[None], 0)[0]
        tuples, which = np.unique(values * np.sign(leading), axis=1, return_inverse=True)
        made = len(self.inputs)
        self.inputs += _split((first + used) << 1 | (leading < 0), which.ravel())
        for r, in_row in enumerate(tuples):
            sums = np.flatnonzero(in_row)
            magnitude, which = np.unique(np.abs(in_row[sums]), return_inverse=True)
            self.groups += _split((made + sums) << 1 | (in_row[sums] < 0), which.ravel())
            self.magnitude += magnitude.tolist()
            self.row += [top + r] * len(magnitude)


def _split(members: np.ndarray, which: np.ndarray) -> list[np.ndarray]:
    """Members by the sum they are in; ``which`` takes every number from 0 on."""
    if not len(members):
        return []
    ordered = members[np.argsort(which, kind="stable")]
    return np.split(ordered, np.cumsum(np.bincount(which))[:-1])


def _sums(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where each sum begins, and the members of all."""
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return starts, np.concatenate([np.empty(0, np.int64), *parts])
