"""The popcount kernels on an NVIDIA GPU: products of packed planes, convolution, exact similarity search.

Weights are planes of -1, 0 and 1, each a mask ``M`` and a sign ``S`` within it, with a factor; inputs are planes of
0 and 1. For a pair of planes the sum of products is ``popc(M & (A ^ S)) - popc(S)``; the second part is a constant of
the output and is taken off once. Where no weight is zero there is no mask.

A block of threads works on a tile of 32 rows (pixels, vectors, queries) by 32 outputs. It loads the next few words of
every input plane, then of one weight plane after the other, into shared memory; each thread keeps 4 x 4 sums in
registers. A convolution finds the words of a filter's taps in the image as it goes: patches are never written out.

Host functions take NumPy arrays and give NumPy arrays; of inputs that lie on the device already the result stays there.
Under Numba's simulator (``NUMBA_ENABLE_CUDASIM=1`` before Numba is imported) all of it runs without a GPU, slowly.

Everything that compiles stands in this one file (see ``compressors.kernels.bits``).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numba import config, cuda, types
from numba.core.errors import NumbaPerformanceWarning

from compressors.errors import BadTensor, ConfigError, DseError
from compressors.kernels.bits import WORD_BITS, pack, words_for
from compressors.tensor import SlicedTensor, pack_rows, unpack_rows

MAX_BITS = 8
"""Of an input."""

_SIDE = 8  # threads in each direction of a tile
_EACH = 4  # rows, and outputs, of a thread
_TILE = _SIDE * _EACH
_DEPTH = 4  # words of a row loaded at a time
_THREADS = _SIDE * _SIDE
_LOADERS = _THREADS // _DEPTH  # rows loaded at the same time
_LOADS = _TILE // _LOADERS
_PADDED = _DEPTH + 1  # so that threads side by side read from different banks
_NOTHING = np.uint64(0)
_PART = 4096  # values that one block selects from
_SELECTORS = 64  # threads that select
_VALUES = 1 << 28  # that are kept at a time for search


class NoCudaDevice(DseError):
    """There is no GPU that Numba can use, and no simulator."""


@dataclass(frozen=True, eq=False)
class PlaneWeights:
    """Integer weights ``sum_p factor[p] * D_p`` per term, where ``D_p`` is 0 outside the mask, else -1 or 1.

    Attributes:
        mask: ``uint64 [planes, N, taps, words]``; None where no digit is zero. The channels of a tap fill whole words,
            with zeros behind the last one.
        sign: the same shape, within the mask.
        factor: ``int64 [planes]``.
        first: ``int64 [terms + 1]``; term ``t`` has the planes from ``first[t]`` up to ``first[t + 1]``.
        kernel: height and width of the filters; (1, 1) for a matrix.
        channels: inputs of a tap.
    """

    mask: np.ndarray | None
    sign: np.ndarray
    factor: np.ndarray
    first: np.ndarray
    kernel: tuple[int, int]
    channels: int
    _copies: dict[Any, tuple[Any, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        planes, outputs, taps, words = self.sign.shape
        expected = (planes, outputs, self.kernel[0] * self.kernel[1], words_for(self.channels))
        if self.sign.shape != expected or (self.mask is not None and self.mask.shape != expected):
            shape = None if self.mask is None else self.mask.shape
            raise BadTensor(
                f"signs of shape {self.sign.shape} and masks of shape {shape} for {self.channels} channels and "
                f"filters of {self.kernel}: expected {expected}"
            )

    @property
    def terms(self) -> int:
        return len(self.first) - 1

    @property
    def outputs(self) -> int:
        return self.sign.shape[1]

    @property
    def inputs(self) -> int:
        """Of an output."""
        return self.kernel[0] * self.kernel[1] * self.channels

    @classmethod
    def ternary(cls, mask: np.ndarray, sign: np.ndarray, columns: int) -> PlaneWeights:
        """A matrix of -1, 0 and 1: ``uint64 [N, words]`` each."""
        planes = np.ascontiguousarray(mask, np.uint64)[None, :, None]
        signs = np.ascontiguousarray(sign, np.uint64)[None, :, None]
        if planes.shape != signs.shape:
            raise BadTensor(f"masks of shape {mask.shape} and signs of shape {sign.shape}: expected the same")
        return cls(planes, signs & planes, np.ones(1, np.int64), np.array([0, 1]), (1, 1), columns)

    @classmethod
    def binary(cls, sign: np.ndarray, columns: int) -> PlaneWeights:
        """A matrix of -1 and 1: ``uint64 [N, words]``, ones where negative and zeros behind the last column."""
        signs = np.ascontiguousarray(sign, np.uint64)[None, :, None]
        return cls(None, signs, np.ones(1, np.int64), np.array([0, 1]), (1, 1), columns)

    @classmethod
    def sliced(cls, tensor: SlicedTensor) -> PlaneWeights:
        """The integer codes of a tensor ``[N, K]`` or ``[N, channels, kh, kw]``, without its scales."""
        mask, sign = _taps(tensor.magnitude, tensor.shape), _taps(tensor.sign, tensor.shape)
        order = np.argsort(tensor.term, kind="stable")
        digit_bits = tensor.granularity
        mask = mask[order].reshape(-1, *mask.shape[2:])
        sign = np.repeat(sign[order], digit_bits, axis=0) & mask
        factor = (tensor.factor[order, None] << np.arange(digit_bits)).reshape(-1)
        first = np.searchsorted(tensor.term[order], np.arange(tensor.terms + 1)) * digit_bits
        kernel = tensor.shape[2:] if len(tensor.shape) == 4 else (1, 1)
        channels = tensor.columns // (kernel[0] * kernel[1])
        full = int(np.bitwise_count(mask).sum()) == len(mask) * tensor.shape[0] * tensor.columns
        return cls(None if full else mask, sign, factor, first, (kernel[0], kernel[1]), channels)

    def on_device(self, dtype: type) -> tuple[Any, ...]:
        """Masks, signs, factors, first planes, and what to take off each output, copied once per type of sum."""
        if dtype not in self._copies:
            sign = self.sign.reshape(*self.sign.shape[:2], -1)
            mask = sign if self.mask is None else self.mask.reshape(sign.shape)
            ones = self.factor[:, None] * np.bitwise_count(sign).sum(2, dtype=np.int64)
            constants = np.stack([part.sum(0) for part in np.split(ones, self.first[1:-1])])
            arrays = (mask, sign, self.factor.astype(dtype), self.first, constants.astype(dtype))
            self._copies[dtype] = tuple(cuda.to_device(np.ascontiguousarray(array)) for array in arrays)
        return self._copies[dtype]


def _taps(words: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rows ``uint64 [..., N, words]`` of a tensor's shape, as ``[..., N, taps, words]`` with the channels together."""
    if len(shape) != 4 or shape[2:] == (1, 1):
        return words[..., None, :]
    channels, taps = shape[1], shape[2] * shape[3]
    bits = unpack_rows(words, channels * taps).reshape(*words.shape[:-1], channels, taps)
    return pack_rows(np.swapaxes(bits, -1, -2))


@cache
def _product_kernel(masked: bool, wide: bool):  # type: ignore[no-untyped-def]
    """Sums of 32 or 64 bits, over weights with or without a mask."""
    kind = types.int64 if wide else types.int32

    @cuda.jit
    def kernel(inputs, input_factor, input_sum, mask, sign, factor, first, constants, window, out):  # type: ignore[no-untyped-def]
        # inputs [bits, batch, height, width, groups, words]; mask, sign [planes, N, taps * words]; out [terms, rows, N]
        columns, stride_y, stride_x, top, left, dilation_y, dilation_x, out_height, out_width = window
        bits, height, width, words = inputs.shape[0], inputs.shape[2], inputs.shape[3], inputs.shape[5]
        depth, rows, outputs = sign.shape[2], out.shape[1], out.shape[2] // inputs.shape[4]
        group, term = cuda.blockIdx.y, cuda.blockIdx.z
        row_tiles = (rows + _TILE - 1) // _TILE
        first_row = cuda.blockIdx.x % row_tiles * _TILE
        first_output = cuda.blockIdx.x // row_tiles * _TILE
        across, down = cuda.threadIdx.x, cuda.threadIdx.y
        thread = down * _SIDE + across
        lane, loader = thread % _DEPTH, thread // _DEPTH  # the word and the rows that this thread loads

        shared_words = cuda.shared.array((MAX_BITS, _TILE, _PADDED), types.uint64)
        shared_mask = cuda.shared.array((_TILE, _PADDED), types.uint64)
        shared_sign = cuda.shared.array((_TILE, _PADDED), types.uint64)
        totals = cuda.local.array((_EACH, _EACH), kind)
        own_mask = cuda.local.array(_EACH, types.uint64)
        own_sign = cuda.local.array(_EACH, types.uint64)
        image = cuda.local.array(_LOADS, types.int32)
        start_y = cuda.local.array(_LOADS, types.int32)
        start_x = cuda.local.array(_LOADS, types.int32)
        for i in range(_EACH):
            for j in range(_EACH):
                totals[i, j] = 0
        for i in range(_LOADS):
            row = first_row + loader + i * _LOADERS
            image[i] = row // (out_height * out_width) if row < rows else -1
            start_y[i] = row // out_width % out_height * stride_y - top
            start_x[i] = row % out_width * stride_x - left

        word, tap_y, tap_x = lane, 0, 0
        for begin in range(0, depth, _DEPTH):
            at = begin + lane
            while word >= words:  # on to the tap that holds the word
                word -= words
                tap_x += 1
                if tap_x == columns:
                    tap_x = 0
                    tap_y += 1
            for i in range(_LOADS):
                y, x = start_y[i] + tap_y * dilation_y, start_x[i] + tap_x * dilation_x
                inside = at < depth and image[i] >= 0 and 0 <= y < height and 0 <= x < width
                for p in range(bits):
                    value = _NOTHING
                    if inside:
                        value = inputs[p, image[i], y, x, group, word]
                    shared_words[p, loader + i * _LOADERS, lane] = value
            word += _DEPTH
            for plane in range(first[term], first[term + 1]):
                for i in range(_LOADS):
                    output = first_output + loader + i * _LOADERS
                    negative, kept = _NOTHING, _NOTHING
                    if output < outputs and at < depth:
                        negative = sign[plane, group * outputs + output, at]
                        if masked:
                            kept = mask[plane, group * outputs + output, at]
                    shared_sign[loader + i * _LOADERS, lane] = negative
                    if masked:
                        shared_mask[loader + i * _LOADERS, lane] = kept
                cuda.syncthreads()
                for k in range(_DEPTH):
                    for j in range(_EACH):
                        own_sign[j] = shared_sign[across + j * _SIDE, k]
                        if masked:
                            own_mask[j] = shared_mask[across + j * _SIDE, k]
                    for p in range(bits):
                        by = factor[plane] * input_factor[p]
                        for i in range(_EACH):
                            value = shared_words[p, down + i * _SIDE, k]
                            for j in range(_EACH):
                                met = value ^ own_sign[j]
                                if masked:
                                    met &= own_mask[j]
                                totals[i, j] += by * np.int32(cuda.popc(met))
                cuda.syncthreads()

        for i in range(_EACH):
            row = first_row + down + i * _SIDE
            for j in range(_EACH):
                output = first_output + across + j * _SIDE
                if row < rows and output < outputs:
                    total = totals[i, j]
                    if input_sum != 0:
                        total -= input_sum * constants[term, group * outputs + output]
                    out[term, row, group * outputs + output] = total

    return kernel


@cuda.jit
def _select(values, rows, known, direction, lowest, highest, stride, part, k, chosen, chosen_rows):  # type: ignore[no-untyped-def]
    """Of every part of every query's values, the ``k`` that come first, in no order.

    Keys ``direction * value * stride + row`` are all different. The greatest key that is still chosen is found by
    bisection; what is counted at each step goes to one of three places in turn, so that one barrier is enough.

    Args:
        values: ``int32 [queries, n]``; rows: ``int64 [queries, n]``, which vectors they are of if ``known``.
        lowest, highest: of all ``direction * value``; stride: more than any row.
        chosen, chosen_rows: ``[queries, parts * k]``; only the last part may have fewer than ``k``.
    """
    counts = cuda.shared.array(3, types.int32)
    taken = cuda.shared.array(1, types.int32)
    parts = (values.shape[1] + part - 1) // part
    query, index, thread = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts, cuda.threadIdx.x
    begin, end = index * part, (index + 1) * part
    if end > values.shape[1]:
        end = values.shape[1]
    wanted = k if k < end - begin else end - begin
    if thread == 0:
        counts[0] = 0
        taken[0] = 0
    cuda.syncthreads()
    low, high, step = lowest * stride, highest * stride + stride - 1, 0
    while low < high:
        middle = low + (high - low) // 2
        if thread == 0:
            counts[(step + 1) % 3] = 0
        own = 0
        for i in range(begin + thread, end, _SELECTORS):
            row = rows[query, i] if known else i
            if direction * np.int64(values[query, i]) * stride + row <= middle:
                own += 1
        cuda.atomic.add(counts, step % 3, own)
        cuda.syncthreads()
        if counts[step % 3] >= wanted:
            high = middle
        else:
            low = middle + 1
        step += 1
    for i in range(begin + thread, end, _SELECTORS):
        row = rows[query, i] if known else i
        if direction * np.int64(values[query, i]) * stride + row <= low:
            slot = index * k + cuda.atomic.add(taken, 0, 1)
            chosen[query, slot] = values[query, i]
            chosen_rows[query, slot] = row


def require_device() -> None:
    """
    Raises:
        NoCudaDevice: nothing here can run the kernels.
    """
    if config.ENABLE_CUDASIM or cuda.is_available():
        return
    reason = " ".join(str(cuda.cuda_error() or "the compiler library NVVM was not found").split()).rstrip(".")
    raise NoCudaDevice(
        f"no CUDA device that Numba can use: {reason}; run on a machine with an NVIDIA GPU, its driver and the CUDA "
        "toolkit, or set NUMBA_ENABLE_CUDASIM=1 before the start to simulate one, or use the kernels of the processor"
    )


def launch(
    kernel: Any, blocks: tuple[int, ...], threads: tuple[int, ...], *arguments: Any, stream: Any = 0
) -> None:
    """Start a kernel on a stream of Numba's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaPerformanceWarning)  # small work leaves multiprocessors idle
        kernel[blocks, threads, stream](*arguments)


def _on_device(array: Any) -> bool:
    return bool(getattr(array, "__cuda_ndarray__", False)) or hasattr(array, "__cuda_array_interface__")


def _words(array: Any) -> Any:
    """The words on the device, copied there if need be; signed words of other libraries are taken for unsigned ones."""
    if not _on_device(array):
        return cuda.to_device(np.ascontiguousarray(array, np.uint64))
    ours = array if getattr(array, "__cuda_ndarray__", False) else cuda.as_cuda_array(array)
    if ours.dtype.itemsize != 8 or ours.dtype.kind not in "ui":
        raise BadTensor(f"planes of {ours.dtype} on the device: expected uint64")
    return ours if ours.dtype.kind == "u" else ours.view(np.uint64)


def pack_images(codes: np.ndarray, bits: int, *, signed: bool = False, groups: int = 1) -> np.ndarray:
    """Codes ``int [batch, channels, height, width]`` as planes ``uint64 [bits, batch, height, width, groups, words]``.

    The channels of a group fill whole words. Signed codes are written in two's complement.

    Raises:
        BadTensor: channels that do not fall into the groups, or a code that ``bits`` do not hold.
    """
    codes = np.asarray(codes, np.int64)
    batch, channels, height, width = codes.shape
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if groups < 1 or channels % groups:
        raise BadTensor(f"{channels} channels do not fall into {groups} groups")
    if codes.size and (codes.min() < low or codes.max() > high):
        raise BadTensor(f"codes span [{codes.min()}, {codes.max()}]; {bits} bits hold [{low}, {high}]")
    rows = codes.transpose(0, 2, 3, 1).reshape(-1, channels // groups) & ((1 << bits) - 1)
    return pack(rows, bits).reshape(bits, batch, height, width, groups, -1)


@dataclass(frozen=True)
class _Window:
    """Where the filters of a convolution lie; as it is, a product."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def size(self, image: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result."""
        low = (min(self.stride), min(self.padding), min(self.dilation))
        if low[0] < 1 or low[1] < 0 or low[2] < 1:
            raise ConfigError("stride, padding, dilation", low, "at least 1, 0 and 1")
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(image, self.padding, self.dilation, kernel, self.stride, strict=True)
        )
        if min(height, width) < 1:
            raise BadTensor(
                f"filters of {kernel} with dilation {self.dilation} do not fit images of {image} with padding "
                f"{self.padding}"
            )
        return height, width


def product(inputs: Any, weights: PlaneWeights, *, signed: bool = False, dtype: type = np.int32) -> Any:
    """Integer products of packed inputs and weights.

    Args:
        inputs: ``uint64 [bits, rows, words]``, 1 to 8 planes with the least significant first, on the host or the
            device; columns past the end are 0.
        signed: inputs are two's complement: the last plane counts negative.
        dtype: of the sums, ``np.int32`` or ``np.int64``.

    Returns:
        ``[terms, rows, N]``, where the inputs were.

    Raises:
        BadTensor: shapes that do not fit, or sums that could overflow.
        ConfigError: another number of bits, or another type.
        NoCudaDevice: nothing here can run it.
    """
    if len(inputs.shape) != 3 or weights.kernel != (1, 1):
        raise BadTensor(
            f"inputs of shape {tuple(inputs.shape)} and filters of {weights.kernel}: expected [bits, rows, words] "
            "and a matrix"
        )
    bits, rows, words = inputs.shape
    return _sums(inputs, (bits, rows, 1, 1, 1, words), weights, _Window(), signed, dtype)


def convolve(
    inputs: Any,
    weights: PlaneWeights,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    signed: bool = False,
    dtype: type = np.int32,
) -> Any:
    """Convolution in two dimensions, of zeros beyond the border.

    Args:
        inputs: ``uint64 [bits, batch, height, width, groups, words]``, see :func:`pack_images`.
        signed, dtype: see :func:`product`.

    Returns:
        ``[terms, batch, out_height, out_width, N]``, where the inputs were.

    Raises:
        BadTensor, ConfigError, NoCudaDevice: as :func:`product`, and for a window that does not fit the images.
    """
    if len(inputs.shape) != 6:
        raise BadTensor(
            f"inputs of shape {tuple(inputs.shape)}: expected [bits, batch, height, width, groups, words]"
        )
    window = _Window(tuple(stride), tuple(padding), tuple(dilation))
    size = window.size(tuple(inputs.shape[2:4]), weights.kernel)
    sums = _sums(inputs, tuple(inputs.shape), weights, window, signed, dtype)
    return sums.reshape(weights.terms, inputs.shape[1], *size, weights.outputs)


def _sums(
    inputs: Any, shape: tuple[int, ...], weights: PlaneWeights, window: _Window, signed: bool, dtype: type
) -> Any:
    """Products of inputs seen as images ``[bits, batch, height, width, groups, words]``."""
    bits, batch, height, width, groups, words = shape
    if not 1 <= bits <= MAX_BITS:
        raise ConfigError("bits of an input", bits, f"1 to {MAX_BITS}")
    if words != weights.sign.shape[3] or groups < 1 or weights.outputs % groups:
        raise BadTensor(
            f"inputs of {groups} groups of {words} words do not fit weights of {weights.outputs} outputs and "
            f"{weights.sign.shape[3]} words per tap"
        )
    _check_range(weights, bits, dtype)
    require_device()
    factor = _input_factors(bits, signed)
    size = window.size((height, width), weights.kernel)
    out = cuda.device_array((weights.terms, batch * size[0] * size[1], weights.outputs), dtype)
    masked, planes = weights.mask is not None, weights.on_device(dtype)
    geometry = (weights.kernel[1], *window.stride, *window.padding, *window.dilation, *size)
    on_device = cuda.to_device(factor.astype(dtype))
    _multiply(_words(inputs).reshape(shape), on_device, int(factor.sum()), masked, planes, geometry, out)
    return out if _on_device(inputs) else out.copy_to_host()


def _input_factors(bits: int, signed: bool) -> np.ndarray:
    """What each plane of an input counts: the last one of two's complement is negative."""
    factor = np.left_shift(1, np.arange(bits))
    return np.where((np.arange(bits) == bits - 1) & signed, -factor, factor)


class BoundProduct:
    """A convolution with all that it reads but the inputs on the device.

    A launch allocates and copies nothing, so it may be recorded in a CUDA graph: memory and stream are the caller's.
    """

    def __init__(
        self,
        weights: PlaneWeights,
        bits: int,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        signed: bool = False,
    ) -> None:
        """
        Raises:
            BadTensor: sums that could overflow 32 bits.
            ConfigError: another number of bits than 1 to 8.
            NoCudaDevice: nothing here can run it.
        """
        if not 1 <= bits <= MAX_BITS:
            raise ConfigError("bits of an input", bits, f"1 to {MAX_BITS}")
        _check_range(weights, bits, np.int32)
        require_device()
        self.weights, self._window = weights, _Window(tuple(stride), tuple(padding), tuple(dilation))
        factor = _input_factors(bits, signed)
        self._factor, self._factor_sum = cuda.to_device(factor.astype(np.int32)), int(factor.sum())
        self._planes = weights.on_device(np.int32)

    def launch(self, inputs: Any, out: Any, stream: Any = 0) -> None:
        """Fill ``out``, ``int32 [terms, rows, N]``, from ``inputs``, see :func:`convolve`; both lie on the device."""
        size = self._window.size(tuple(inputs.shape[2:4]), self.weights.kernel)
        window = self._window
        geometry = (self.weights.kernel[1], *window.stride, *window.padding, *window.dilation, *size)
        masked = self.weights.mask is not None
        _multiply(inputs, self._factor, self._factor_sum, masked, self._planes, geometry, out, stream)


def _check_range(weights: PlaneWeights, bits: int, dtype: type) -> None:
    """Refuse sums that could overflow, or parts of them."""
    if dtype not in (np.int32, np.int64):
        raise ConfigError("dtype", getattr(dtype, "__name__", dtype), "int32 or int64")
    largest = max(int(part.sum()) for part in np.split(np.abs(weights.factor), weights.first[1:-1]))
    bound = largest * ((1 << bits) - 1) * weights.inputs
    if bound > np.iinfo(dtype).max:
        raise BadTensor(
            f"sums of up to {bound} do not fit {np.iinfo(dtype).bits} bits ({weights.inputs} inputs of {bits} bits, "
            f"weights up to {largest}); use {'dtype=np.int64 or ' if dtype == np.int32 else ''}fewer bits"
        )


def _multiply(
    inputs: Any,
    factor: Any,
    factor_sum: int,
    masked: bool,
    planes: tuple[Any, ...],
    geometry: tuple[int, ...],
    out: Any,
    stream: Any = 0,
) -> None:
    """Fill ``out [terms, rows, N]``, all on the device; see the kernel."""
    terms, rows, outputs = out.shape
    if not terms * rows * outputs:
        return
    groups = inputs.shape[4]
    tiles = -(-rows // _TILE) * -(-outputs // groups // _TILE)
    kernel = _product_kernel(masked, out.dtype == np.int64)
    blocks, threads = (tiles, groups, terms), (_SIDE, _SIDE)
    launch(kernel, blocks, threads, inputs, factor, factor_sum, *planes, geometry, out, stream=stream)


_ROWS = (1, 1, 1, 0, 0, 1, 1, 1, 1)  # the geometry of vectors: images of one pixel


def _compare(queries: np.ndarray, factor: np.ndarray, mask: Any, sign: Any, out: Any) -> None:
    """Sums of ``factor`` times the ones of ``mask & (query plane ^ sign)`` for every query and row."""
    planes = (mask, sign, *(cuda.to_device(np.array(a, np.int32)) for a in ([1], [0, 1], [[0]])))
    inputs = cuda.to_device(np.ascontiguousarray(queries[:, :, None, None, None]))
    on_device = cuda.to_device(factor.astype(out.dtype))
    _multiply(inputs, on_device, 0, mask is not sign, planes, _ROWS, out)


def _as_rows(array: Any, what: str, words: int | None = None) -> Any:
    shape = tuple(array.shape)
    if len(shape) != 2 or (words is not None and shape[1] != words):
        raise BadTensor(f"{what} of shape {shape}: expected [rows, {words or 'words'}]")
    return array


def _on_host(array: Any) -> np.ndarray:
    return np.ascontiguousarray(_words(array).copy_to_host() if _on_device(array) else array, np.uint64)


def _binary(database: Any, queries: Any) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """The database's masks, which are its signs as nothing is masked, and signs, query planes, and their factors."""
    sign = _words(_as_rows(database, "a database"))
    planes = _on_host(_as_rows(queries, "queries", sign.shape[1]))[None]
    rows = sign.reshape(1, *sign.shape)
    return rows, rows, planes, np.array([1])


def _ternary(database: tuple[Any, Any], queries: tuple[Any, Any]) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """As :func:`_binary`: a query is a plane of its ones less one of its minus ones, and the constants cancel."""
    mask = _words(_as_rows(database[0], "masks of a database"))
    sign = _words(_as_rows(database[1], "signs of a database", mask.shape[1]))
    kept = _on_host(_as_rows(queries[0], "masks of queries", mask.shape[1]))
    negative = _on_host(_as_rows(queries[1], "signs of queries", mask.shape[1]))
    if mask.shape != sign.shape or kept.shape != negative.shape:
        raise BadTensor(
            f"masks and signs of shapes {mask.shape} and {sign.shape} in the database, {kept.shape} and "
            f"{negative.shape} in the queries: expected as many signs as masks"
        )
    planes = np.stack([kept & ~negative, kept & negative])
    shape = (1, *mask.shape)
    return mask.reshape(shape), sign.reshape(shape), planes, np.array([1, -1])


def ternary_similarity(database: tuple[Any, Any], queries: tuple[Any, Any]) -> np.ndarray:
    """Dot products of ternary vectors: ``int32 [queries, n]``.

    Args:
        database: masks and signs ``uint64 [n, words]``, on the host or the device.
        queries: masks and signs ``uint64 [queries, words]``.

    Raises:
        BadTensor: shapes that do not fit.
        NoCudaDevice: nothing here can run it.
    """
    require_device()
    mask, sign, planes, factor = _ternary(database, queries)
    out = cuda.device_array((1, planes.shape[1], sign.shape[1]), np.int32)
    _compare(planes, factor, mask, sign, out)
    return out.copy_to_host()[0]


def nearest_hamming(database: Any, queries: Any, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest rows of each query, the nearest first; of equally near ones the first in the database.

    Args:
        database: ``uint64 [n, words]``, on the host or the device.
        queries: ``uint64 [queries, words]``.
        k: cut to the size of the database.

    Returns:
        Hamming distances ``int32 [queries, k]``, and rows ``int64``.

    Raises:
        BadTensor: shapes that do not fit, or an empty database.
        ConfigError: ``k`` below 1.
        NoCudaDevice: nothing here can run it.
    """
    require_device()
    return _nearest(*_binary(database, queries), k, 1)


def nearest_ternary(
    database: tuple[Any, Any], queries: tuple[Any, Any], k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`nearest_hamming`, by the greatest dot products, of arguments as in :func:`ternary_similarity`."""
    require_device()
    return _nearest(*_ternary(database, queries), k, -1)


def _nearest(
    mask: Any, sign: Any, planes: np.ndarray, factor: np.ndarray, k: int, direction: int
) -> tuple[np.ndarray, np.ndarray]:
    if k < 1:
        raise ConfigError("k", k, "at least 1")
    _, n, words = sign.shape
    if not n:
        raise BadTensor("the database is empty: expected at least one row")
    k, count, bits = min(k, n), planes.shape[1], words * WORD_BITS
    values, rows = np.empty((count, k), np.int32), np.empty((count, k), np.int64)
    at_once = max(1, _VALUES // n)
    for first in range(0, count, at_once):
        part = slice(first, min(first + at_once, count))
        compared = cuda.device_array((1, part.stop - part.start, n), np.int32)
        _compare(planes[:, part], factor, mask, sign, compared)
        found, found_rows = _narrow(compared.reshape(compared.shape[1:]), k, direction, bits, n)
        order = np.lexsort((found_rows, direction * found), axis=1)
        values[part] = np.take_along_axis(found, order, 1)
        rows[part] = np.take_along_axis(found_rows, order, 1)
    return values, rows


def _narrow(values: Any, k: int, direction: int, bits: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The best ``k`` of each row of ``values [queries, n]`` in any order, from the best of parts of them."""
    count, part = values.shape[0], max(_PART, 4 * k)
    rows, known = cuda.to_device(np.zeros((1, 1), np.int64)), False
    while True:
        parts = -(-values.shape[1] // part)
        left = (parts - 1) * k + min(k, values.shape[1] - (parts - 1) * part)
        chosen, chosen_rows = (
            cuda.device_array((count, left), np.int32),
            cuda.device_array((count, left), np.int64),
        )
        arguments = (values, rows, known, direction, -bits, bits, n, part, k, chosen, chosen_rows)
        launch(_select, (count * parts,), (_SELECTORS,), *arguments)
        if parts == 1:
            return chosen.copy_to_host(), chosen_rows.copy_to_host()
        values, rows, known = chosen, chosen_rows, True
