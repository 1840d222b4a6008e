"""How inputs and weights lie in memory for ``compressors.kernels.popcount``.

Inputs lie plane by plane, pixels row by row with their channels side by side and a border around each image, so that
what one row of a filter reads is a single run of bits: no patches are copied. Codes are stored as their distance from
the lowest one, hence unsigned; a border holds the code of zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compressors.kernels.popcount import BYTES, LANES, MASKED, NARROW_PIXEL, XOR

_LINE = 64
_SLACK = 64  # bytes behind the last pixel that a word may reach into


@dataclass(frozen=True)
class InputFormat:
    """What numbers a layer reads, and as what planes they are stored: ``step * sum_p 2**exponents[p] * plane_p + low``.

    Attributes:
        exponents: one for each plane.
        low, step: see above.
        zero: the stored code of 0; None where 0 is no code, and borders count as nothing at all.
    """

    exponents: tuple[int, ...]
    low: int = 0
    step: int = 1
    zero: int | None = 0

    @classmethod
    def integers(cls, bits: int, signed: bool) -> InputFormat:
        """``[0, 2**bits)``, or ``[-2**(bits-1), 2**(bits-1))``."""
        low = -(1 << (bits - 1)) if signed else 0
        return cls(tuple(range(bits)), low, 1, -low)

    @classmethod
    def binary(cls) -> InputFormat:
        """-1 and 1."""
        return cls((0,), -1, 2, None)

    @classmethod
    def ternary(cls) -> InputFormat:
        """-1, 0 and 1, as two planes that count alike."""
        return cls((0, 0), -1, 1, 1)

    @property
    def largest(self) -> int:
        """The largest stored code."""
        return sum(1 << e for e in self.exponents)

    @property
    def high(self) -> int:
        return self.step * self.largest + self.low

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Codes as they are stored, integers from 0 to ``largest``."""
        return (values - self.low) // self.step

    def plane_bits(self, stored: np.ndarray) -> np.ndarray:
        """Booleans ``[planes, ...]`` of stored codes."""
        if len(set(self.exponents)) == len(self.exponents):
            return np.stack([stored >> e & 1 for e in self.exponents]).astype(bool)
        return np.stack([stored > i for i in range(len(self.exponents))])


@dataclass(frozen=True)
class Sheet:
    """A batch of images of codes in memory: ``uint8 [planes, batch, rows, columns, pixel_bytes]`` and some slack.

    Attributes:
        format: of the codes.
        bytewise: one plane with a byte per code instead of a plane per bit.
        shape: batch, height, width, channels.
        border: rows above and below, columns left and right.
    """

    format: InputFormat
    bytewise: bool
    shape: tuple[int, int, int, int]
    border: tuple[int, int] = (0, 0)

    @property
    def planes(self) -> int:
        return 1 if self.bytewise else len(self.format.exponents)

    @property
    def pixel_bytes(self) -> int:
        channels = self.shape[3]
        if not self.bytewise:
            return -(-channels // LANES) * 2
        unit = 4 if channels <= NARROW_PIXEL else LANES
        return -(-channels // unit) * unit

    @property
    def rows(self) -> int:
        return self.shape[1] + 2 * self.border[0]

    @property
    def columns(self) -> int:
        return self.shape[2] + 2 * self.border[1]

    @property
    def plane_bytes(self) -> int:
        return self.shape[0] * self.rows * self.columns * self.pixel_bytes

    @cached_property
    def places(self) -> np.ndarray:
        """Byte at which each pixel begins, ``int64 [batch * height * width]``."""
        return self.windows((self.shape[1], self.shape[2]), (1, 1), (0, 0))

    def windows(self, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> np.ndarray:
        """Byte at which the window of each output begins, ``int64 [batch * size]``."""
        b, y, x = np.ogrid[: self.shape[0], : size[0], : size[1]]
        row = b * self.rows + y * stride[0] - padding[0] + self.border[0]
        place = (row * self.columns + x * stride[1] - padding[1] + self.border[1]) * self.pixel_bytes
        return np.ascontiguousarray(place.reshape(-1), np.int64)

    def empty(self) -> np.ndarray:
        """Zeros everywhere: ``uint8 [planes * plane_bytes + slack]``."""
        buffer = np.zeros(self.planes * self.plane_bytes + _SLACK, np.uint8)
        zero = self.format.zero or 0
        if self.bytewise:
            buffer[:] = zero
        else:
            bits = self.format.plane_bits(np.array(zero))
            for p, bit in enumerate(bits):
                buffer[p * self.plane_bytes : (p + 1) * self.plane_bytes] = 0xFF if bit else 0
        return buffer

    def fill(self, buffer: np.ndarray, values: np.ndarray) -> None:
        """Write codes ``[batch, channels, height, width]`` into a buffer of :meth:`empty`, plainly."""
        stored = self.format.stored(np.asarray(values, np.int64).transpose(0, 2, 3, 1))
        view = self.interior(buffer)
        if self.bytewise:
            view[0, ..., : self.shape[3]] = stored
            return
        padded = np.zeros((*stored.shape[:3], self.pixel_bytes * 8), np.int64)
        padded[..., : self.shape[3]] = stored
        view[:] = np.packbits(self.format.plane_bits(padded), axis=-1, bitorder="little")

    def interior(self, buffer: np.ndarray) -> np.ndarray:
        """A view without the border, ``uint8 [planes, batch, height, width, pixel_bytes]``."""
        whole = buffer[: self.planes * self.plane_bytes].reshape(
            self.planes, self.shape[0], self.rows, self.columns, self.pixel_bytes
        )
        (top, left), (_, height, width, _) = self.border, self.shape
        return whole[:, :, top : top + height, left : left + width]


@dataclass(frozen=True, eq=False)
class Panels:
    """The weights of one term and channel group, as the micro-kernel reads them.

    Attributes:
        op: ``MASKED``, ``XOR`` or ``BYTES``.
        vectors: of 16 outputs, in a block.
        data: ``uint8``, planes one after the other.
        exponents: one for each plane.
        plane_bytes, block_bytes: from a plane, and from a block, to the next.
        words: per run.
        ones: ``int64 [N]``, what the negative weights add to a sum of one input plane.
    """

    op: int
    vectors: int
    data: np.ndarray
    exponents: tuple[int, ...]
    plane_bytes: int
    block_bytes: int
    words: int
    ones: np.ndarray

    def pairs(self, sheet: Sheet) -> np.ndarray:
        """All pairs of planes in Horner's order: ``int64 [pairs, 3]``, see ``popcount``."""
        if self.op == BYTES:
            return np.zeros((1, 3), np.int64)
        order = sorted(
            (
                (a + w, p * sheet.plane_bytes, q * self.plane_bytes)
                for q, w in enumerate(self.exponents)
                for p, a in enumerate(sheet.format.exponents)
            ),
            key=lambda pair: -pair[0],
        )
        exponents = [pair[0] for pair in order]
        shifts = [a - b for a, b in zip(exponents[:1] + exponents, exponents, strict=False)]
        table = [(s, p, q) for s, (_, p, q) in zip(shifts, order, strict=True)]
        return np.array(table, np.int64).reshape(-1, 3)

    def last_shift(self, sheet: Sheet) -> int:
        """What is left to shift the sums by when all pairs are in."""
        if self.op == BYTES:
            return 0
        return min(self.exponents) + min(sheet.format.exponents) if self.exponents else 0


def aligned(data: np.ndarray) -> np.ndarray:
    """A copy of bytes that begins at a cache line, so that no vector load crosses two."""
    room = np.empty(data.size + _LINE, np.uint8)
    first = -room.ctypes.data % _LINE
    room[first : first + data.size] = data
    return room[first : first + data.size]


def magnitude_planes(codes: np.ndarray) -> tuple[int, ...]:
    """Exponents of the planes that the magnitudes of integers need."""
    largest = int(np.abs(codes).max(initial=0))
    every = np.bitwise_or.reduce(np.abs(codes).reshape(-1), initial=0)
    return tuple(e for e in range(largest.bit_length()) if every >> e & 1)


def pixel_runs(codes: np.ndarray, pixel_entries: int, contiguous: bool) -> np.ndarray:
    """Weights ``[N, C, kh, kw]`` as the runs that are read: ``[N, runs, entries]``, zero where channels are padded."""
    outputs, channels, kh, kw = codes.shape
    laid = np.zeros((outputs, kh, kw, pixel_entries), codes.dtype)
    laid[..., :channels] = codes.transpose(0, 2, 3, 1)
    return laid.reshape(outputs, kh, -1) if contiguous else laid.reshape(outputs, kh * kw, -1)


def _words(entries: np.ndarray, per_word: int) -> np.ndarray:
    """Padded to whole words: ``[N, runs, words * per_word]``."""
    short = -entries.shape[2] % per_word
    return np.pad(entries, ((0, 0), (0, 0), (0, short)))


def _blocks(words: np.ndarray, vectors: int) -> np.ndarray:
    """``uint32 [N, words, parts]`` to panels ``[blocks, words, vectors, parts, 16]``, outputs padded with zeros."""
    outputs, count, parts = words.shape
    width = vectors * LANES
    padded = np.zeros((-(-outputs // width) * width, count, parts), np.uint32)
    padded[:outputs] = words
    return padded.reshape(-1, vectors, LANES, count, parts).transpose(0, 3, 1, 4, 2)


def bit_panels(
    codes: np.ndarray, pixel_bytes: int, vectors: int, contiguous: bool, signs_alone: bool
) -> Panels:
    """Panels of integer weights ``[N, C, kh, kw]``, a plane for each bit of the magnitude.

    Args:
        signs_alone: no weight is 0 and all magnitudes are 1, and no run has padding: no mask is needed.
    """
    runs = _words(pixel_runs(codes, pixel_bytes * 8, contiguous), 32)
    exponents = magnitude_planes(codes)
    planes, ones = [], np.zeros(len(codes), np.int64)
    for e in exponents:
        mask = (np.abs(runs) >> e & 1).astype(bool)
        sign = mask & (runs < 0)
        ones += sign.sum((1, 2)) << e
        parts = [sign] if signs_alone else [mask, sign]
        bits = np.packbits(np.stack(parts), axis=-1, bitorder="little").view("<u4")
        planes.append(_blocks(bits.reshape(len(parts), len(codes), -1).transpose(1, 2, 0), vectors))
    if not planes:  # all weights are zero
        return Panels(MASKED, vectors, np.zeros(1, np.uint8), (), 0, 0, runs.shape[2] // 32, ones)
    data = np.ascontiguousarray(np.stack(planes))
    blocks = data.shape[1]
    return Panels(
        XOR if signs_alone else MASKED,
        vectors,
        data.view(np.uint8).reshape(-1),
        exponents,
        data[0].nbytes,
        data[0].nbytes // blocks,
        runs.shape[2] // 32,
        ones,
    )


def byte_panels(codes: np.ndarray, pixel_bytes: int, vectors: int, contiguous: bool) -> Panels:
    """Panels of integer weights ``[N, C, kh, kw]`` from -128 to 127, four to a word."""
    runs = _words(pixel_runs(codes, pixel_bytes, contiguous), 4)
    words = np.ascontiguousarray(runs.astype(np.int8)).view("<u4").reshape(len(codes), -1, 1)
    data = np.ascontiguousarray(_blocks(words, vectors))
    return Panels(
        BYTES,
        vectors,
        data.view(np.uint8).reshape(-1),
        (0,),
        data.nbytes,
        data.nbytes // data.shape[0],
        runs.shape[2] // 4,
        np.zeros(len(codes), np.int64),
    )


def run_offsets(sheet: Sheet, kernel: Sequence[int], dilation: Sequence[int], contiguous: bool) -> np.ndarray:
    """Byte, from a window's first pixel, at which each run begins: ``int64 [runs]``."""
    rows = np.arange(kernel[0]) * dilation[0] * sheet.columns
    if contiguous:
        return np.ascontiguousarray(rows * sheet.pixel_bytes, np.int64)
    pixels = rows[:, None] + np.arange(kernel[1]) * dilation[1]
    return np.ascontiguousarray(pixels.reshape(-1) * sheet.pixel_bytes, np.int64)


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Height and width that a convolution makes of ``size``."""
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    return height, width


def valid_taps(
    size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Which taps of a filter lie inside the image: ``bool [classes, kh, kw]``, and the class of each output pixel."""

    def inside(axis: int) -> np.ndarray:
        at = np.arange(out[axis])[:, None] * stride[axis] - padding[axis]
        at = at + np.arange(kernel[axis]) * dilation[axis]
        return (at >= 0) & (at < size[axis])

    masks = inside(0)[:, None, :, None] & inside(1)[None, :, None, :]
    flat = masks.reshape(math.prod(out), -1)
    classes, which = np.unique(flat, axis=0, return_inverse=True)
    return classes.reshape(-1, *kernel), which.reshape(-1)
