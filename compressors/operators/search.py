"""Exact similarity search on packed vectors: the nearest rows of a database by popcount, no multiplication."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from compressors.errors import BadTensor, ConfigError
from compressors.kernels import popcount
from compressors.kernels.layout import aligned
from compressors.kernels.machine import kernels

_NEVER = (1 << 31) - 1
_VECTORS = 4
_PIECE = 1 << 16  # rows packed at a time


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some rows of a database in panels."""

    data: np.ndarray
    offsets: np.ndarray
    start: int


class PackedIndex:
    """A database of binary or ternary vectors, packed for search; more rows may be added at any time.

    Binary vectors are ``uint64 [rows, words]``, bit ``j`` of word ``w`` the element ``64 * w + j`` (see
    ``compressors.kernels.bits``); unused bits are zero. Ternary ones are two of these: where an element is not zero,
    and where it is negative.
    """

    def __init__(self, bits: int, ternary: bool = False, family: str | None = None) -> None:
        """
        Args:
            bits: elements of a vector.
            family: of kernels, see ``compressors.kernels.machine.kernels``; None for the best.
        """
        if not isinstance(bits, int | np.integer) or bits < 1:
            raise ConfigError("bits", bits, "a whole number of at least 1 element")
        self.bits, self.ternary, self._family = bits, ternary, family
        self.words = -(-bits // 64)
        self._pieces: list[_Piece] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: np.ndarray, signs: np.ndarray | None = None) -> None:
        """Append vectors; memory-mapped arrays are read piece by piece.

        Args:
            rows: ``uint64 [n, words]``; for ternary vectors the places that are not zero.
            signs: of ternary vectors, the negative places.

        Raises:
            BadTensor: another shape or type, or bits beyond the last element.
        """
        for first in range(0, len(rows), _PIECE):
            part = slice(first, first + _PIECE)
            planes = self._checked(rows[part], None if signs is None else signs[part])
            self._pieces.append(self._pack(planes))
            self._count += planes.shape[1]

    def search(
        self, queries: np.ndarray, k: int = 1, signs: np.ndarray | None = None, threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest rows of each query, the nearest first; of equally near ones the first in the database.

        Args:
            queries, signs: as in :meth:`add`.
            threads: that share the database.

        Returns:
            Hamming distances, or dot products of ternary vectors, ``int32 [queries, k]``, and rows ``int64``. ``k`` is
            cut to the size of the database.

        Raises:
            BadTensor: as in :meth:`add`, or an empty database.
        """
        for name, value in (("k", k), ("threads", threads)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ConfigError(name, value, "a whole number of at least 1")
        if not self._count:
            raise BadTensor("the database is empty: add vectors before searching")
        planes = self._checked(queries, signs)
        k, count = min(k, self._count), planes.shape[1]
        if not count:
            return np.zeros((0, k), np.int32), np.zeros((0, k), np.int64)
        inputs = self._inputs(planes)
        work = [(piece, *cut) for piece in self._pieces for cut in _cuts(piece, threads)]
        lists = [work[i::threads] for i in range(threads)]
        if threads == 1:
            found = [self._scan(inputs, count, k, work)]
        else:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(lambda part: self._scan(inputs, count, k, part), lists))
        keys, rows = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
        order = np.lexsort((rows, keys), axis=1)[:, :k]
        keys, rows = np.take_along_axis(keys, order, 1), np.take_along_axis(rows, order, 1)
        return (-keys if self.ternary else keys), rows

    def _scan(
        self, inputs: np.ndarray, count: int, k: int, work: Iterable[tuple[_Piece, int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        keys, rows = np.full((count, k), _NEVER, np.int32), np.zeros((count, k), np.int64)
        places = np.arange(count, dtype=np.int64) * (self.words * 8)
        plane_bytes = count * self.words * 8
        pairs = np.zeros((2 if self.ternary else 1, 3), np.int64)
        pairs[:, 1] = np.arange(len(pairs)) * plane_bytes
        kernel, width = self._kernel(count)
        for piece, first, last in work:
            block_bytes = piece.data.size // (len(piece.offsets) // width)
            kernel(
                inputs, places, self.words * 2, piece.data, block_bytes, pairs, np.int32(-1 if self.ternary else 1),
                piece.offsets, piece.start, keys, rows, first, last,
            )  # fmt: skip
        return keys, rows

    def _kernel(self, queries: int):  # type: ignore[no-untyped-def]
        mr = min(4, 1 << (queries.bit_length() - 1))
        op = popcount.variant(popcount.MASKED if self.ternary else popcount.XOR, kernels(self._family))
        return popcount.search_kernel(mr, _VECTORS, op), _VECTORS * popcount.LANES

    def _checked(self, rows: np.ndarray, signs: np.ndarray | None) -> np.ndarray:
        """``uint64 [planes, n, words]``."""
        if (signs is not None) != self.ternary:
            raise BadTensor("signs belong to ternary vectors, and these need them")
        parts = [np.asarray(rows)] + ([] if signs is None else [np.asarray(signs)])
        for part in parts:
            if part.dtype != np.uint64 or part.ndim != 2 or part.shape[1] != self.words:
                raise BadTensor(
                    f"vectors of {part.dtype} {list(part.shape)}: "
                    f"expected uint64 [n, {self.words}] for {self.bits} bits"
                )
            unused = self.bits % 64
            if unused and part.size and (part[:, -1] >> np.uint64(unused)).any():
                raise BadTensor(f"vectors have bits beyond element {self.bits}")
        if self.ternary and len(parts[0]) != len(parts[1]):
            raise BadTensor(f"signs of {len(parts[1])} vectors for {len(parts[0])} vectors")
        if self.ternary and (parts[1] & ~parts[0]).any():
            raise BadTensor("an element is negative where the vector is zero")
        return np.stack(parts)

    def _pack(self, planes: np.ndarray) -> _Piece:
        """Panels, with the constant that each row's sum needs."""
        count, width = planes.shape[1], _VECTORS * popcount.LANES
        blocks = -(-count // width)
        padded = np.zeros((len(planes), blocks * width, self.words), np.uint64)
        padded[:, :count] = planes
        words = padded.view("<u4").reshape(len(planes), blocks, _VECTORS, popcount.LANES, -1)
        panels = np.ascontiguousarray(words.transpose(1, 4, 2, 0, 3))
        data = aligned(panels.view(np.uint8).reshape(-1))
        offsets = np.full(blocks * width, _NEVER, np.int64)
        offsets[:count] = 0
        if self.ternary:
            # stored inputs are a + 1 in two planes: a' w = sums - 2 * negatives - (positives - negatives)
            offsets[:count] = np.bitwise_count(planes[0]).sum(1)
        # the sum of a padded row is at most the bits of a query: nothing overflows
        offsets[count:] -= 2 * 64 * self.words
        return _Piece(data, offsets.astype(np.int32), self._count)

    def _inputs(self, planes: np.ndarray) -> np.ndarray:
        """Bytes of the queries: binary ones as they are, ternary ones as two planes that count alike."""
        if self.ternary:
            mask, sign = planes
            every = np.full_like(mask, ~np.uint64(0))
            # a >= 0 and a >= 1; beyond the last element the masks of the database are zero
            planes = np.stack([every & ~sign, mask & ~sign])
        slack = np.zeros(64, np.uint8)
        return np.concatenate([np.ascontiguousarray(planes).view(np.uint8).reshape(-1), slack])


def _cuts(piece: _Piece, parts: int) -> list[tuple[int, int]]:
    """Runs of blocks of a piece, one for each thread."""
    blocks = len(piece.offsets) // (_VECTORS * popcount.LANES)
    edges = [blocks * i // parts for i in range(parts + 1)]
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if a < b]
