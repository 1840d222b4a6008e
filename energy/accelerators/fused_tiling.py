"""Loop tiles of a layer on a fused array with three buffers: every tile and order is tried, the fastest is taken.

The rules are those by which Bit Fusion's published figures were made (Sharma et al., ISCA 2018). An element of
``widest`` bits holds ``(widest / p) * (widest / q)`` multipliers of ``p`` by ``q`` bits, whose products it adds; rows
and fused multipliers take consecutive input channels (taps too where patches of the image are gathered beforehand),
columns take filters. Five loops around a tile run over images, rows and columns of the output, input channels, and
filters, in any order; tiles double in size up to the whole, and the kernel is never cut. A tile of each operand fills
at most half of its buffer. As long as what the inner loops use of an operand fits that half, a loop that does not
index the operand reuses it; from the first loop on whose data does not fit, every loop fetches it anew.

The array works while DRAM fetches the next tiles; the first fetch and the last write-back are waited for. Sums are
fetched and written at ``sum_bits`` with every tile. Within a tile, of three ways to stand still (inputs, sums, or
weights) the one that moves fewest bits between buffers and array is taken. Of tilings with equal time the one of least
energy wins.

Everything that compiles stands in this one file (see ``compressors.kernels.bits``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numba import njit

_IMAGES, _ROWS, _COLUMNS, _CHANNELS, _FILTERS = range(5)  # the loops
_INPUTS, _WEIGHTS, _SUMS = range(3)
# [loop, operand]: whether the loop goes to other data of the operand
_INDEXES = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1]], np.int64)


@dataclass(frozen=True)
class FusedLayer:
    """A convolution of ``images`` images, or a product where kernel and output are ``(1, 1)``.

    ``gathered`` inputs come as the patches of every output, copied beforehand, as those of an image do.
    """

    images: int
    kernel: tuple[int, int]
    output: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    channels: int
    filters: int
    input_bits: int
    weight_bits: int
    gathered: bool = False


@dataclass(frozen=True)
class FusedArray:
    """Elements, buffers in bits, bits per cycle of DRAM, and the energies that decide between equally fast tilings.

    ``energies`` are pJ: of the array per cycle; per bit read from and written to the buffers of weights, inputs and
    sums, in that order; and per bit of DRAM. ``result_bits`` is what a finished sum is written to DRAM with; where it
    is 0, sums of every tile, finished or not, are fetched and written whole.
    """

    rows: int
    columns: int
    widest: int
    narrowest: int
    input_buffer: int
    weight_buffer: int
    sum_buffer: int
    dram_bits: int
    energies: tuple[float, float, float, float, float, float, float, float]
    sum_bits: int = 32
    result_bits: int = 0

    def fused(self, input_bits: int, weight_bits: int) -> int:
        """Multipliers that an element makes of itself; 1 for operands as wide as it or wider."""
        return self._parts(input_bits) * self._parts(weight_bits)

    def passes(self, input_bits: int, weight_bits: int) -> int:
        """Times that operands wider than an element go through it, digit by digit."""
        return -(-input_bits // self.widest) * -(-weight_bits // self.widest)

    def _parts(self, bits: int) -> int:
        return max(self.widest // max(bits, self.narrowest), 1)


class Tiling(NamedTuple):
    """What the fastest tiling takes: cycles, bits of each buffer and of DRAM, and the tile itself.

    ``wait`` cycles of ``cycles`` are spent on DRAM, of which ``ends`` fetch the first and write the last tiles.
    ``dram_*`` are the parts of ``dram_read``; what is written to DRAM are sums alone.
    """

    cycles: int
    wait: int
    ends: int
    weight_read: int
    weight_written: int
    sum_read: int
    sum_written: int
    input_read: int
    input_written: int
    dram_read: int
    dram_written: int
    images: int
    rows: int
    columns: int
    channels: int
    filters: int

    @property
    def compute(self) -> int:
        return self.cycles - self.wait


def _orders() -> tuple[np.ndarray, np.ndarray]:
    """Orders of loops, outermost first, by which of the loops run more than once: the others may stand anywhere."""
    rows, starts = [], [0]
    for mask in range(32):
        turning = [loop for loop in range(5) if mask >> loop & 1]
        still = [loop for loop in range(5) if not mask >> loop & 1]
        rows += [(*still, *order) for order in permutations(turning)]
        starts.append(len(rows))
    return np.array(rows, np.int64), np.array(starts, np.int64)


_ORDERS, _STARTS = _orders()


@lru_cache(maxsize=1 << 14)
def fastest_tiling(layer: FusedLayer, array: FusedArray) -> Tiling | None:
    """The tiling of least cycles, and of least energy among those; None where no tile fits the buffers."""
    fused = array.fused(layer.input_bits, layer.weight_bits)
    passes = array.passes(layer.input_bits, layer.weight_bits)
    shape = (*layer.kernel, *layer.output, *layer.stride, *layer.dilation)
    numbers = np.array([layer.images, layer.channels, layer.filters, *shape], np.int64)
    formats = np.array([layer.input_bits, layer.weight_bits, array.sum_bits, array.result_bits], np.int64)
    machine = np.array([array.rows * fused, array.columns, passes, array.dram_bits], np.int64)
    halves = np.array([array.input_buffer, array.weight_buffer, array.sum_buffer], np.int64) // 2
    found = np.zeros(len(Tiling._fields), np.int64)
    energies = np.array(array.energies, np.float64)
    _search(layer.gathered, numbers, formats, machine, halves, energies, _ORDERS, _STARTS, _INDEXES, found)
    return Tiling(*found.tolist()) if found[0] else None


@njit(cache=True, nogil=True)
def _ceil(a, b):  # type: ignore[no-untyped-def]
    return (a + b - 1) // b


@njit(cache=True, nogil=True)
def _doublings(size):  # type: ignore[no-untyped-def]
    """Tile sizes 1, 2, 4, ... up to ``size``."""
    count = 1
    while 1 << (count - 1) < size:
        count += 1
    return count


@njit(cache=True, nogil=True)
def _standing(reduction, filters, points, input_bits, weight_bits, sum_bits):  # type: ignore[no-untyped-def]
    """Which operand stands still in the array: 0 inputs, 1 sums, 2 weights; the one that moves fewest bits."""
    inputs = reduction * points * (input_bits + filters * (weight_bits + sum_bits))
    sums = filters * points * (sum_bits + reduction * (input_bits + weight_bits))
    weights = reduction * filters * (weight_bits + points * (input_bits + sum_bits))
    if inputs <= sums and inputs <= weights:
        return 0
    return 1 if sums <= weights else 2


@njit(cache=True, nogil=True)
def _fetch(order, indexes, turns, halves, moved, kept):  # type: ignore[no-untyped-def]
    """Bits of each operand that all loops fetch, from those of one tile, and what stays in its buffer."""
    for operand in range(3):
        bits, reused = moved[operand], True
        kept[operand] = bits
        for place in range(4, -1, -1):
            loop = order[place]
            if not reused:
                bits *= turns[loop]
            elif indexes[loop, operand]:
                bits *= turns[loop]
                reused = bits <= halves[operand]
                if reused:
                    kept[operand] = bits
        moved[operand] = bits


@njit(cache=True, nogil=True)
def _search(gathered, numbers, formats, machine, halves, energies, orders, starts, indexes, found):  # type: ignore[no-untyped-def]
    images, channels, filters, kernel_h, kernel_w, output_h, output_w = numbers[:7]
    stride_h, stride_w, dilation_h, dilation_w = numbers[7:]
    input_bits, weight_bits, sum_bits, result_bits = formats
    lanes, array_columns, passes, dram_bits = machine
    taps = kernel_h * kernel_w
    turns, tile_bits = np.zeros(5, np.int64), np.zeros(3, np.int64)
    moved, kept = np.zeros(3, np.int64), np.zeros(3, np.int64)
    least, least_energy = np.int64(1) << 62, 1e300
    # filters are cut between columns of the array, except where the patches are gathered
    grain = 1 if gathered else array_columns
    for image_step in range(_doublings(images)):
        image = min(1 << image_step, images)
        turns[0] = _ceil(images, image)
        for point_step in range(_doublings(max(output_h, output_w))):
            row, column = min(1 << point_step, output_h), min(1 << point_step, output_w)
            turns[1], turns[2] = _ceil(output_h, row), _ceil(output_w, column)
            points = image * row * column
            high = (kernel_h - 1) * dilation_h + 1 + (row - 1) * stride_h
            wide = (kernel_w - 1) * dilation_w + 1 + (column - 1) * stride_w
            for channel_step in range(_doublings(channels)):
                channel = min(1 << channel_step, channels)
                turns[3] = _ceil(channels, channel)
                reduction = taps * channel
                tile_bits[0] = (
                    points * reduction if gathered else image * high * wide * channel
                ) * input_bits
                if tile_bits[0] > halves[0]:
                    continue
                padded = _ceil(reduction, lanes) * lanes
                steps = _ceil(reduction, lanes) if gathered else taps * _ceil(channel, lanes)
                for filter_step in range(_doublings(_ceil(filters, grain))):
                    filter_ = min(grain << filter_step, filters)
                    turns[4] = _ceil(filters, filter_)
                    groups = _ceil(filter_, array_columns)
                    tile_bits[1] = padded * filter_ * weight_bits
                    tile_bits[2] = points * groups * array_columns * sum_bits
                    if tile_bits[1] > halves[1] or tile_bits[2] > halves[2]:
                        continue
                    tiles = turns[0] * turns[1] * turns[2] * turns[3] * turns[4]
                    compute = tiles * points * groups * steps * passes
                    if compute > least:
                        continue
                    full = steps * lanes
                    still = _standing(full, groups * array_columns, points, input_bits, weight_bits, sum_bits)
                    products = tiles * reduction * points * filter_
                    input_read = products * input_bits // (filter_ if still == 0 else 1)
                    weight_read = products * weight_bits // (points if still == 2 else 1)
                    sum_moved = products * sum_bits // (reduction if still == 1 else 1)
                    mask = 0
                    for loop in range(5):
                        mask |= (turns[loop] > 1) << loop
                    for order in range(starts[mask], starts[mask + 1]):
                        moved[:] = tile_bits
                        _fetch(orders[order], indexes, turns, halves, moved, kept)
                        sums_in, sums_out, last = moved[2], moved[2], kept[2]
                        first = kept[0] + kept[1] + kept[2]
                        if result_bits:
                            # sums start at zero, and leave as results once
                            whole = tile_bits[2] * (tiles // turns[3])
                            sums_in = moved[2] - whole
                            sums_out = sums_in + whole // sum_bits * result_bits
                            last = kept[2] // sum_bits * result_bits
                            first = kept[0] + kept[1]
                        dram_read = moved[0] + moved[1] + sums_in
                        ends = _ceil(first, dram_bits) + _ceil(last, dram_bits)
                        between = max(_ceil(dram_read + sums_out - first - last, dram_bits), 0)
                        wait = max(0, between - compute) + ends
                        if compute + wait > least:
                            continue
                        energy = compute * energies[0] + (dram_read + sums_out) * energies[7]
                        energy += weight_read * energies[1] + moved[1] * energies[2]
                        energy += input_read * energies[3] + moved[0] * energies[4]
                        sum_read, sum_written = sum_moved + moved[2], sum_moved + sums_in
                        energy += sum_read * energies[5] + sum_written * energies[6]
                        if compute + wait < least or energy < least_energy:
                            least, least_energy = compute + wait, energy
                            found[0], found[1], found[2] = compute + wait, wait, ends
                            found[3], found[4] = weight_read, moved[1]
                            found[5], found[6] = sum_read, sum_written
                            found[7], found[8] = input_read, moved[0]
                            found[9], found[10] = dram_read, sums_out
                            found[11], found[12], found[13] = image, row, column
                            found[14], found[15] = channel, filter_
