"""What lies around a layer's integer product on an NVIDIA GPU, each in one pass over memory, in Numba.

From values to codes (as bytes, or as the bit-planes of ``compressors.kernels.cuda``), and from sums to values, where
operations of PyTorch take a pass for each step. Arguments lie on the device, or anywhere under Numba's simulator;
nothing is allocated or copied, so launches may be recorded in a CUDA graph.

Everything that compiles stands in this one file (see ``compressors.kernels.bits``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, types

from compressors.kernels.bits import WORD_BITS
from compressors.kernels.cuda import MAX_BITS, launch

THREADS = 128
_NOTHING = np.uint64(0)


@cuda.jit
def _quantize_bytes(x, step, low, high, moved, top, left, out):  # type: ignore[no-untyped-def]
    """``out [n, h + 2 * top, w + 2 * left, C] = code(x [n, C, h, w]) - moved``, where x is 0 beyond its border.

    A code is the nearest integer to ``value / step``, ties to even, within bounds; all in float32.
    """
    index = cuda.grid(1)
    if index < out.size:
        channel, rest = index % out.shape[3], index // out.shape[3]
        column, rest = rest % out.shape[2], rest // out.shape[2]
        row, image = rest % out.shape[1], rest // out.shape[1]
        y, across = row - top, column - left
        code = np.int64(0)
        if 0 <= y < x.shape[2] and 0 <= across < x.shape[3]:
            value = x[image, channel, y, across] / step
            value = low if value < low else value
            code = np.int64(round(high if value > high else value))
        out[image, row, column, channel] = code - moved


@cuda.jit
def _quantize_planes(x, step, low, high, planes):  # type: ignore[no-untyped-def]
    """``planes [bits, n, h, w, groups, words]`` of the codes of ``x [n, C, h, w]``; a thread makes a word of each."""
    index = cuda.grid(1)
    groups, words = planes.shape[4], planes.shape[5]
    if index < planes.shape[1] * planes.shape[2] * planes.shape[3] * groups * words:
        word, rest = index % words, index // words
        group, rest = rest % groups, rest // groups
        column, rest = rest % planes.shape[3], rest // planes.shape[3]
        row, image = rest % planes.shape[2], rest // planes.shape[2]
        depth = x.shape[1] // groups
        first = word * WORD_BITS
        found = cuda.local.array(MAX_BITS, types.uint64)
        for p in range(planes.shape[0]):
            found[p] = _NOTHING
        count = depth - first if depth - first < WORD_BITS else WORD_BITS
        for j in range(count):
            value = x[image, group * depth + first + j, row, column] / step
            value = low if value < low else value
            code = np.int64(round(high if value > high else value))
            for p in range(planes.shape[0]):
                found[p] |= np.uint64((code >> p) & 1) << np.uint64(j)
        for p in range(planes.shape[0]):
            planes[p, image, row, column, group, word] = found[p]


@cuda.jit
def _finish(sums, scale, shift, relu, out):  # type: ignore[no-untyped-def]
    """``out [rows, N]``: the sum over terms of ``scale [terms, N] * sums [rows, terms, N]``, and ``shift [N]``."""
    index = cuda.grid(1)
    if index < out.size:
        n, row = index % out.shape[1], index // out.shape[1]
        value = shift[n]
        for t in range(sums.shape[1]):
            value += scale[t, n] * np.float32(sums[row, t, n])
        if relu and value < 0:
            value = np.float32(0)
        out[row, n] = value


def quantize_bytes(
    x: Any,
    step: float,
    bounds: tuple[int, int],
    moved: int,
    border: tuple[int, int],
    out: Any,
    stream: Any = 0,
) -> None:
    """Codes of a grid as bytes, channels last, with a border of the code of 0.

    Args:
        x: ``float32 [n, C, h, w]``, however it lies.
        step, bounds: of the grid: the least and the greatest code.
        moved: is taken off every code.
        border: rows and columns on each side.
        out: ``int8 [n, h + 2 * border[0], w + 2 * border[1], C]``.
    """
    arguments = (x, *_grid(step, bounds), moved, *border, out)
    _start(_quantize_bytes, out.size, arguments, stream)


def quantize_planes(x: Any, step: float, bounds: tuple[int, int], planes: Any, stream: Any = 0) -> None:
    """Codes of a grid as bit-planes, see ``compressors.kernels.cuda.pack_images``: of ``float32 [n, C, h, w]``."""
    _start(
        _quantize_planes, planes.size // max(planes.shape[0], 1), (x, *_grid(step, bounds), planes), stream
    )


def finish(sums: Any, scale: Any, shift: Any, relu: bool, out: Any, stream: Any = 0) -> None:
    """Values from sums: ``float32 [rows, N]`` of ``int32 [rows, terms, N]``.

    Args:
        scale: ``float32 [terms, N]``; shift: ``float32 [N]``.
        relu: whether negative values become zero.
    """
    _start(_finish, out.size, (sums, scale, shift, relu, out), stream)


def _grid(step: float, bounds: tuple[int, int]) -> tuple[np.float32, np.float32, np.float32]:
    return np.float32(step), np.float32(bounds[0]), np.float32(bounds[1])


def _start(kernel: Any, count: int, arguments: tuple[Any, ...], stream: Any) -> None:
    if count:
        launch(kernel, (-(-count // THREADS),), (THREADS,), *arguments, stream=stream)
