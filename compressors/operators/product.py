"""A layer's integer product: its weights packed once, the kernel that suits them, and the sums it computes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from compressors.errors import BadTensor
from compressors.kernels import popcount
from compressors.kernels.layout import (
    InputFormat,
    Panels,
    Sheet,
    aligned,
    bit_panels,
    byte_panels,
    magnitude_planes,
    output_size,
    run_offsets,
    valid_taps,
)
from compressors.kernels.machine import kernels, machine
from compressors.slicing import csd_digits

_TILES = {1: (8, 1), 2: (8, 2), 4: (4, 4)}
"""Vectors of outputs -> rows and vectors of a tile, as many as stay in registers."""
_NARROW_TILE = (2, 2)
_NONE_2D, _NONE_1D = np.zeros((0, 0), np.int64), np.zeros(0, np.int64)
_NO_BUFFER, _NO_SETTINGS = np.zeros(1, np.uint8), np.zeros(5, np.int64)
_ALL = slice(None)
UNBOUNDED = 1 << 62
FEW_LEVELS = 3
"""Thresholds that are compared faster than a sum is scaled and cut into planes."""
_BOUNDS = 4  # layouts of inputs remembered per product


@dataclass(frozen=True)
class Window:
    """How a filter moves over its input; a linear layer is one of a single pixel."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Executed:
    """Operations of one run, on single numbers or words of 32 bits.

    Attributes:
        popcounts: of 32-bit words, each with one or two logic operations in front and one addition behind.
        byte_products: multiplications of a byte by a byte, each with an addition.
        additions: of numbers, those behind popcounts and byte products included.
        shifts: of sums, between planes.
        multiplications: of sums by a factor per channel.
    """

    popcounts: int = 0
    byte_products: int = 0
    additions: int = 0
    shifts: int = 0
    multiplications: int = 0

    def __add__(self, other: Executed) -> Executed:
        return Executed(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True, eq=False)
class Finish:
    """What follows the sums; see ``compressors.kernels.popcount.product_kernel`` for the arithmetic.

    Attributes:
        factors: ``int64 [terms, N]``; constants: ``int64 [N]``; shift: of the scaled sums.
        low, high: bounds of what is kept.
        again: factor, constant and shift from what is kept to codes; None where it is the code.
        rescale: how sums are scaled, to the same numbers: ``multiply``; ``shift_add``, by the signed digits of the
            factors; ``thresholds``, by comparing sums, where there is one term that ends as codes and no factor is
            negative.
    """

    factors: np.ndarray
    constants: np.ndarray
    shift: int = 0
    low: int = -UNBOUNDED
    high: int = UNBOUNDED
    again: tuple[int, int, int] | None = None
    rescale: str = "multiply"


@dataclass(frozen=True, eq=False)
class Product:
    """Integer weights of a layer times integer inputs.

    Attributes:
        codes: ``int64 [terms, N, C / groups, kh, kw]``.
        inputs: format of what is read.
        window: see :class:`Window`.
        family: of kernels, see ``compressors.kernels.machine.kernels``; None for the best.
        method: ``popcount`` or ``bytes``; None for the faster one.
    """

    codes: np.ndarray
    inputs: InputFormat
    window: Window = field(default_factory=Window)
    family: str | None = None
    method: str | None = None
    _bounds: dict[tuple[int, ...], Bound] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        terms, outputs, depth, *_ = self.codes.shape
        if outputs % self.window.groups:
            raise BadTensor(f"{outputs} outputs do not fall into {self.window.groups} groups")
        largest = max(abs(self.inputs.low), abs(self.inputs.high), self.inputs.largest)
        bound = int(np.abs(self.codes).sum((2, 3, 4)).max(initial=0)) * largest
        # the mask's words count zeros of the input where weights are negative, so the bound is on all of them
        if 2 * bound >= 1 << 31:
            raise BadTensor(
                f"sums of up to {bound} do not fit 32 bits ({depth} channels, weights up to "
                f"{np.abs(self.codes).max()}, inputs up to {largest}); use fewer bits"
            )

    @property
    def terms(self) -> int:
        return self.codes.shape[0]

    @property
    def outputs(self) -> int:
        return self.codes.shape[1]

    @property
    def channels(self) -> int:
        return self.codes.shape[2] * self.window.groups

    @property
    def group_outputs(self) -> int:
        """Outputs of one channel group."""
        return self.outputs // self.window.groups

    @cached_property
    def direct(self) -> bool:
        """Whether each output reads so few channels that bytes are added one by one."""
        return self.window.groups > 1 and self.codes.shape[2] % 16 != 0

    @cached_property
    def bytewise(self) -> bool:
        """Whether the input is read as bytes, one per code."""
        if self.direct:
            return True
        fits = self.codes.min(initial=0) >= -128 and self.codes.max(initial=0) <= 127
        if self.method is not None:
            if self.method == "bytes" and not fits:
                raise BadTensor("weights beyond -128 to 127 cannot be multiplied as bytes")
            return self.method == "bytes"
        weight_planes = max(len(magnitude_planes(term)) for term in self.codes)
        pairs = weight_planes * len(self.inputs.exponents)
        able = machine().dots_bytes and kernels(self.family) == "avx512"
        return fits and able and pairs > machine().pairs

    def bounds(self) -> np.ndarray:
        """No sum is larger in magnitude: ``int64 [terms, N]``."""
        largest = max(abs(self.inputs.low), abs(self.inputs.high))
        return np.abs(self.codes).sum((2, 3, 4)) * largest

    def sheet(self, batch: int, size: tuple[int, int], border: tuple[int, int] | None = None) -> Sheet:
        """How a batch of inputs of some height and width is to lie in memory."""
        border = self.window.padding if border is None else border
        return Sheet(self.inputs, self.bytewise, (batch, *size, self.channels), border)

    def out_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width of the output; raises BadTensor where none is left."""
        w = self.window
        found = output_size(size, w.kernel, w.stride, w.padding, w.dilation)
        if min(found) < 1:
            raise BadTensor(
                f"an input of {size[0]} x {size[1]} is smaller than the filter ({w.kernel[0]} x {w.kernel[1]})"
            )
        return found

    def bind(self, sheet: Sheet) -> Bound:
        """The product on inputs that lie as ``sheet`` says."""
        return Bound(self, sheet)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Exact sums ``int64 [terms, batch, N, height, width]`` of input codes ``[batch, C, height, width]``."""
        batch, channels, *size = values.shape
        if channels != self.channels:
            raise BadTensor(f"inputs with {channels} channels for weights that read {self.channels}")
        bound = self._bound_to((batch, *size))
        buffer = bound.sheet.empty()
        bound.sheet.fill(buffer, values)
        totals = bound.sums(buffer)
        return totals.reshape(self.terms, batch, *bound.out_size, self.outputs).transpose(0, 1, 4, 2, 3)

    def _bound_to(self, shape: tuple[int, ...]) -> Bound:
        """The product on the layout of a batch, a height and a width; the latest ones are kept."""
        if shape not in self._bounds:
            while len(self._bounds) >= _BOUNDS:
                self._bounds.pop(next(iter(self._bounds)))
            self._bounds[shape] = self.bind(self.sheet(shape[0], (shape[1], shape[2])))
        return self._bounds[shape]


class Bound:
    """A product on one layout of its inputs: every table the kernel needs, made once."""

    def __init__(self, product: Product, sheet: Sheet) -> None:
        self.product, self.sheet = product, sheet
        window = product.window
        self.out_size = product.out_size(sheet.shape[1:3])
        self.places = sheet.windows(self.out_size, window.stride, window.padding)
        # channels of other groups, or skipped columns, lie between the pixels that a filter reads
        self._contiguous = window.dilation[1] == 1 and window.groups == 1
        self.offsets = run_offsets(sheet, window.kernel, window.dilation, self._contiguous)
        self.which, self._taps = _NONE_1D, np.ones((1, *window.kernel), bool)
        if sheet.format.zero is None and any(window.padding):
            self._taps, which = valid_taps(
                sheet.shape[1:3], self.out_size, window.kernel, window.stride, window.padding, window.dilation
            )
            self.which = np.tile(which, sheet.shape[0]).astype(np.int64)
        codes = product.codes
        if product.direct:
            return
        self.mr, self.nr = self._tile()
        size = product.group_outputs
        self._groups = [self._pack(codes[:, g * size : (g + 1) * size]) for g in range(window.groups)]
        op, family = self._groups[0][0].op, kernels(product.family)
        if op == popcount.BYTES and not machine().dots_bytes:
            family = "plain"
        self.op = popcount.variant(op, family)
        self.kernel = popcount.product_kernel(self.mr, self.nr, self.op)

    @property
    def rows(self) -> int:
        return len(self.places)

    @property
    def tiles(self) -> int:
        return -(-self.rows // self.mr)

    @property
    def width(self) -> int:
        """Outputs of one group, padded to whole blocks."""
        block = self.nr * popcount.LANES
        return -(-self.product.group_outputs // block) * block

    def _tile(self) -> tuple[int, int]:
        if kernels(self.product.family) != "avx512":
            rows, vectors = _NARROW_TILE
        else:
            needed = -(-self.product.group_outputs // popcount.LANES)
            vectors = 4 if needed >= 3 else max(1, needed)
            rows, vectors = _TILES[vectors]
        return (rows if self.rows >= rows else 1), vectors

    def _pack(self, codes: np.ndarray) -> list[Panels]:
        """Panels of each term of one channel group."""
        contiguous, sheet = self._contiguous, self.sheet
        entry_bytes = sheet.pixel_bytes
        if self.product.window.groups > 1:  # runs of this group's channels alone
            entry_bytes = codes.shape[2] if sheet.bytewise else codes.shape[2] // 8
        if sheet.bytewise:
            return [byte_panels(term, entry_bytes, self.nr, contiguous) for term in codes]
        run = entry_bytes * (codes.shape[4] if contiguous else 1)
        whole = entry_bytes * 8 == codes.shape[2] and run % 4 == 0
        alone = whole and bool((np.abs(self.product.codes) == 1).all())
        return [bit_panels(term, entry_bytes, self.nr, contiguous, alone) for term in codes]

    def constants(self, group: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """What turns raw sums into those of the codes: shifts ``[terms]``, offsets ``[terms, classes, N]``."""
        fmt, panels = self.sheet.format, self._groups[group]
        size = self.product.group_outputs
        codes = self.product.codes[:, group * size : (group + 1) * size]
        inside = np.einsum("tnckl,skl->tsn", codes, self._taps.astype(np.int64))
        gains = np.array([fmt.step.bit_length() - 1 + p.last_shift(self.sheet) for p in panels], np.int64)
        counted = sum(1 << e for e in fmt.exponents) if not self.sheet.bytewise else 0
        ones = np.stack([p.ones for p in panels])[:, None, :]
        return gains, fmt.low * inside - fmt.step * counted * ones

    def arguments(
        self,
        finish: Finish,
        group: int = 0,
        shortcut: np.ndarray = _NONE_2D,
        stream: np.ndarray = _NONE_2D,
        codes: np.ndarray = _NO_BUFFER,
        out: Sheet | None = None,
        terms: slice = _ALL,
    ) -> tuple[object, ...]:
        """Everything the kernel takes between the inputs and the range of tiles, for some of the terms."""
        panels = self._groups[group][terms]
        gains, offset = (part[terms] for part in self.constants(group))
        count = self.product.group_outputs
        factors = np.zeros((len(panels), self.width), np.int32)
        factors[:, :count] = finish.factors
        constants = np.zeros((offset.shape[1], self.width), np.int64)
        constants[:, :count] = finish.constants + np.einsum("tn,tsn->sn", finish.factors, offset)
        begins = np.cumsum([0, *(p.data.size for p in panels)])
        tables = [p.pairs(self.sheet) for p in panels]
        for table, begin in zip(tables, begins, strict=False):
            table[:, 2] += begin
        pairs = np.concatenate(tables)
        firsts = np.cumsum([0, *map(len, tables)]).astype(np.int64)
        weights = aligned(np.concatenate([p.data for p in panels]))
        block = max(p.block_bytes for p in panels)
        offsets = self.offsets
        if self.product.window.groups > 1:
            depth = self.product.codes.shape[2]
            offsets = offsets + group * (depth if self.sheet.bytewise else depth // 8)
        digits, thresholds = np.zeros((0, 0, 3, 0), np.int32), np.zeros((0, 0), np.int32)
        if finish.rescale == "shift_add":
            digits = factor_digits(factors).astype(np.int32)
        elif finish.rescale == "thresholds" and out is not None:
            thresholds = code_thresholds(
                factors[0].astype(np.int64) << gains[0], constants[0], finish.shift, out.format.largest
            )
        again = _NONE_1D if finish.again is None else np.array(finish.again, np.int64)
        return (
            self.places, offsets, panels[0].words, weights, block, pairs, firsts, gains, factors, constants, self.which,
            finish.shift, finish.low, finish.high, digits, thresholds, shortcut, stream, again, codes,
            _NONE_1D if out is None else out.places, code_settings(out, self.product.outputs),
        )  # fmt: skip

    def sums(self, buffer: np.ndarray) -> np.ndarray:
        """Exact sums ``int64 [terms, rows, N]`` of what lies in ``buffer``."""
        totals = np.zeros((self.product.terms, self.rows, self.product.outputs), np.int64)
        if self.product.direct:
            for total, arguments in zip(totals, self._direct_tables, strict=True):
                self._direct(buffer, arguments, total)
            return totals
        size = self.product.group_outputs
        for (t, g), (out, arguments) in self._sum_tables.items():
            self.kernel(buffer, *arguments, 0, self.tiles)
            totals[t, :, g * size : (g + 1) * size] = out[:, :size]
        return totals

    @cached_property
    def _sum_tables(self) -> dict[tuple[int, int], tuple[np.ndarray, tuple[object, ...]]]:
        groups, terms = range(self.product.window.groups), range(self.product.terms)
        return {(t, g): self.sum_arguments(t, g) for g in groups for t in terms}

    @cached_property
    def _direct_tables(self) -> list[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        return [self._direct_arguments(codes) for codes in self.product.codes]

    def sum_arguments(self, term: int = 0, group: int = 0) -> tuple[np.ndarray, tuple[object, ...]]:
        """Where exact sums ``int32 [rows, N]`` (and padding) of one term go, and the kernel's arguments for them."""
        size = self.product.group_outputs
        finish = Finish(np.ones((1, size), np.int64), np.zeros(size, np.int64))
        out = np.zeros((self.rows, self.width), np.int32)
        bytes_ = out.reshape(-1).view(np.uint8)
        arguments = list(self.arguments(finish, group, codes=bytes_, terms=slice(term, term + 1)))
        arguments[-2:] = (
            np.arange(self.rows, dtype=np.int64) * (4 * self.width),
            np.array([popcount.SUMS, 0, size, 0, 0], np.int64),
        )
        return out, tuple(arguments)

    def _direct_arguments(self, codes: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """What ``depthwise`` takes of one term's codes, and what is added to its sums."""
        flat = codes.transpose(2, 3, 1, 0).reshape(-1, codes.shape[1], codes.shape[0])  # [taps, depth, N]
        exponents = np.array(magnitude_planes(codes), np.int64)
        masks = -(np.abs(flat) >> exponents.reshape(-1, 1, 1, 1) & 1)
        signs = -(flat < 0).astype(np.int64) & masks
        offsets = run_offsets(
            self.sheet, self.product.window.kernel, self.product.window.dilation, contiguous=False
        )
        source = np.arange(self.product.outputs) // self.product.group_outputs * codes.shape[1]
        inside = np.einsum("nckl,skl->sn", codes, self._taps.astype(np.int64))
        added = self.sheet.format.low * (inside[self.which] if len(self.which) else inside)
        return (offsets, masks, signs, exponents, source), added

    def _direct(
        self, buffer: np.ndarray, arguments: tuple[tuple[np.ndarray, ...], np.ndarray], totals: np.ndarray
    ) -> None:
        tables, added = arguments
        popcount.depthwise(buffer, self.places, *tables, totals)
        totals *= self.sheet.format.step
        totals += added

    def executed(self) -> Executed:
        """Operations of one run's sums."""
        if self.product.direct:
            planes = sum(len(magnitude_planes(c)) for c in self.product.codes)
            adds = self.rows * planes * self.product.codes[0].size
            return Executed(additions=adds, shifts=adds)
        met, shifts = 0, 0
        for panels in self._groups:
            for panel in panels:
                pairs = len(panel.pairs(self.sheet))
                met += pairs * len(self.offsets) * panel.words * self.rows * len(panel.ones)
                shifts += max(0, pairs - 1) * self.rows * len(panel.ones)
        if self.sheet.bytewise:
            return Executed(byte_products=4 * met, additions=4 * met)
        return Executed(popcounts=met, additions=met, shifts=shifts)


def factor_digits(factors: np.ndarray) -> np.ndarray:
    """Canonical signed digits of ``int64 [terms, N]``, as many as the longest has: ``int64 [terms, digits, 3, N]``.

    Of each the shift, -1 where it is negative, and -1 where there is one at all.
    """
    planes, _ = csd_digits(factors.astype(np.int64), 64, 1)
    order = np.argsort(-np.abs(np.stack(planes)), axis=0, kind="stable")  # digits first, from the lowest on
    signed = np.take_along_axis(np.stack(planes), order, 0)
    most = int((signed != 0).sum(0).max(initial=0))
    parts = np.stack([order, -(signed < 0).astype(np.int64), -(signed != 0).astype(np.int64)], 1)[
        : max(most, 1)
    ]
    return np.ascontiguousarray(parts.transpose(2, 0, 1, 3), np.int64)


def code_thresholds(factors: np.ndarray, constants: np.ndarray, shift: int, levels: int) -> np.ndarray:
    """The least sum for each code from 1 to ``levels``: ``int32 [levels, N]``, for factors that are not negative."""
    wanted = (np.arange(1, levels + 1, dtype=object)[:, None] << shift) - constants.astype(object)
    never, always = (1 << 31) - 1, -(1 << 31)
    found = [
        [
            -(-w // f) if f else (always if w <= 0 else never)
            for w, f in zip(row, factors.tolist(), strict=True)
        ]
        for row in wanted.tolist()
    ]
    return np.array(np.clip(np.array(found, object), always, never), np.int32).reshape(levels, -1)


def code_settings(out: Sheet | None, channels: int) -> np.ndarray:
    """How codes are written to a sheet, as the kernels take it: ``int64 [5]``."""
    if out is None:
        return np.array([popcount.NO_CODES, 0, channels, 0, 0], np.int64)
    kind = popcount.CODE_BYTES if out.bytewise else popcount.PLANES
    return np.array([kind, out.format.largest, channels, out.plane_bytes, out.planes], np.int64)
