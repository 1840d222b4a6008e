"""Elements without multipliers for weights of -1, 0 and 1: selections before an adder tree, or counters of ones.

``ternary``: an element adds its input of up to ``input_bits`` bits, takes it away, or adds nothing, as one digit says.
A layer runs once for every plane of its weights, so ternary weights take one pass per term, and integers of ``b`` bits
as many as their digits in ``encoding``. Zeros leave an element at rest.

``binary``: an element compares one bit of the weights with one of the inputs (exclusive-or, or and), and a tree counts
the ones (popcount). A layer runs for every pair of planes; +-1 weights and inputs take one pass. A plane of -1, 0 and 1
is a sign and a mask, and is counted in one pass too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.errors import UnknownName
from compressors.registry import check_range
from compressors.slicing import ENCODINGS
from energy.accelerators import register_accelerator
from energy.accelerators.element_array import ArrayConfig, ElementArray, Work, weight_planes
from energy.datapath.parts import Parts, accumulator, lane, shifter
from energy.technology import Technology
from energy.workload import LayerWork


@dataclass(frozen=True)
class TernaryConfig(ArrayConfig):
    """Bits of an input that an element adds, and how weights that are not ternary are written."""

    input_bits: int = 8
    encoding: str = "csd"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("accelerator.input_bits", self.input_bits, 1, 32)
        if self.encoding not in ("csd", "sign_magnitude"):
            raise UnknownName(
                "encoding", self.encoding, ("csd", "sign_magnitude"), key="accelerator.encoding"
            )


class _Planes(ElementArray):
    """Elements that take one plane of the weights at a time, and inputs ``input_bits`` wide."""

    input_bits: int
    digit_bits: int
    """Bits that one digit of the weights takes in a register."""

    def work(self, layer: LayerWork) -> Work:
        weights, e = layer.weights[self.encodings[0]], self.element
        planes = weights.nonzero[1]
        digits_i, live_i, used_i = self._inputs(layer)
        passes, tiles = self.tiling.passes(layer), self.tiling.tiles(layer)
        steps = -(-layer.reduction // self.tiling.lanes) * len(planes) * digits_i
        busy = float(layer.macs * len(planes) * digits_i)
        live = float(planes.mean()) / layer.reduction * live_i
        parts = Parts(
            products=e.products * used_i * live * busy,
            operand_bits=(self.digit_bits + used_i * self.input_bits) / 2 * busy,
            elements=e.elements * busy,
        )
        return Work(
            cycles=float(steps * passes * tiles),
            busy=busy,
            parts=parts + self.column * (layer.outputs * layer.pixels * steps),
            weight_bits=float(weights.dense_bits),
            weight_reads=float(weights.dense_bits * tiles),
            fed_bits=float(passes * layer.pixels * layer.reduction * layer.input_bits * len(planes)),
            rescalings=float(weights.terms),
        )

    def _inputs(self, layer: LayerWork) -> tuple[int, float, float]:
        """Digits of an input, the share that is not zero, and the share of their bits that is used."""
        digits = -(-layer.input_bits // self.input_bits)
        live = float(layer.input.nonzero[max(layer.input.nonzero)].max())
        return digits, live, layer.input_bits / (digits * self.input_bits)


@register_accelerator("ternary", TernaryConfig)
class Ternary(_Planes):
    """See the module's text."""

    digit_bits = 2

    def __init__(self, config: TernaryConfig, technology: Technology) -> None:
        super().__init__(config, technology)
        self.config = config
        self.encodings = (config.encoding,)
        self.input_bits = config.input_bits

    @property
    def element(self) -> Parts:
        # the selection is a row of partial products; the sign is one of the two bits of the digit
        one = lane(1, self.input_bits, self.config.lanes)
        return Parts(one.products, (self.digit_bits + self.input_bits) / 2, one.elements)

    @property
    def column(self) -> Parts:
        return accumulator(1, self.input_bits) + shifter(1, self.input_bits)

    @property
    def extrapolation(self) -> str:
        return f"elements of a digit and {self.input_bits} bits: parts of square ones of 2 bits and more"

    def full(self, weight_bits: int, input_bits: int) -> tuple[float, Parts]:
        e, digits_i = self.element, -(-input_bits // self.input_bits)
        used_i = input_bits / (digits_i * self.input_bits)
        bits = (self.digit_bits + used_i * self.input_bits) / 2
        digits = weight_planes(weight_bits, self.config.encoding) * digits_i
        return 1.0 / digits, Parts(e.products * used_i, bits, e.elements)


@dataclass(frozen=True)
class BinaryConfig(ArrayConfig):
    """How weights of more than one bit are written."""

    encoding: str = "twos_complement"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoding not in ENCODINGS:
            raise UnknownName("encoding", self.encoding, ENCODINGS, key="accelerator.encoding")


@register_accelerator("binary", BinaryConfig)
class Binary(_Planes):
    """See the module's text."""

    digit_bits = 1
    input_bits = 1

    def __init__(self, config: BinaryConfig, technology: Technology) -> None:
        super().__init__(config, technology)
        self.config = config
        self.encodings = (config.encoding,)

    @property
    def element(self) -> Parts:
        return lane(1, 1, self.config.lanes)

    @property
    def column(self) -> Parts:
        return accumulator(1, 1) + shifter(1, 1)

    @property
    def extrapolation(self) -> str:
        return "elements of 1 x 1 bits: parts of those of 2 bits and more"

    def full(self, weight_bits: int, input_bits: int) -> tuple[float, Parts]:
        return 1.0 / (weight_planes(weight_bits, self.config.encoding) * input_bits), self.element

    def _inputs(self, layer: LayerWork) -> tuple[int, float, float]:
        planes = layer.input.nonzero[1]
        return len(planes), float(np.mean(planes)), 1.0
