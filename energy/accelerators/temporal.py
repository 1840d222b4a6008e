"""Serial multipliers: one operand, or both, comes in digit by digit (Stripes, Loom).

Every element multiplies a digit of ``digit`` bits of the serial operand with ``parallel_bits`` of the other, or with a
digit of it where both are serial; the sums of a filter are shifted and added below its elements. So a product takes as
many cycles as it has digits: ``inputs`` serial is Stripes (Judd et al., MICRO 2016), ``both`` is Loom (Sharify et al.,
DAC 2018). Nothing is skipped; a zero digit leaves its multiplier at rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError, UnknownName
from compressors.slicing import ENCODINGS, GRANULARITIES
from energy.accelerators import register_accelerator
from energy.accelerators.element_array import (
    ArrayConfig,
    ElementArray,
    Work,
    densities,
    weight_planes,
    weight_width,
)
from energy.datapath.parts import Parts, accumulator, lane, shifter
from energy.technology import Technology
from energy.workload import LayerWork

_SERIAL = ("inputs", "weights", "both")


@dataclass(frozen=True)
class TemporalConfig(ArrayConfig):
    """Which operand is serial, the bits of its digits and of the parallel operand, and how weights are written."""

    serial: str = "inputs"
    digit: int = 1
    parallel_bits: int = 8
    encoding: str = "twos_complement"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.serial not in _SERIAL:
            raise UnknownName("serial operand", self.serial, _SERIAL, key="accelerator.serial")
        if self.digit not in GRANULARITIES:
            raise ConfigError("accelerator.digit", self.digit, "1, 2, 4 or 8 bits")
        if self.parallel_bits not in (2, 4, 8, 16):
            raise ConfigError("accelerator.parallel_bits", self.parallel_bits, "2, 4, 8 or 16 bits")
        if self.encoding not in ENCODINGS:
            raise UnknownName("encoding", self.encoding, ENCODINGS, key="accelerator.encoding")


@register_accelerator("temporal", TemporalConfig)
class Temporal(ElementArray):
    """See the module's text."""

    def __init__(self, config: TemporalConfig, technology: Technology) -> None:
        super().__init__(config, technology)
        self.config = config
        self.encodings = (config.encoding,)
        wide = config.parallel_bits
        self._weights = config.digit if config.serial != "inputs" else wide
        self._inputs = config.digit if config.serial != "weights" else wide

    @property
    def element(self) -> Parts:
        return lane(self._weights, self._inputs, self.config.lanes)

    @property
    def column(self) -> Parts:
        return accumulator(self._weights, self._inputs) + shifter(self._weights, self._inputs)

    @property
    def extrapolation(self) -> str:
        if min(self._weights, self._inputs) >= 2 and self._weights == self._inputs:
            return ""
        return f"elements of {self._weights} x {self._inputs} bits: parts of square ones of 2 bits and more"

    def work(self, layer: LayerWork) -> Work:
        c, weights = self.config, layer.weights[self.encodings[0]]
        live_w, live_i = densities(layer, weights)
        used_w = used_i = 1.0
        if c.serial == "inputs":
            bits = weight_width(layer, weights)
            digits_w = weights.terms * -(-bits // self._weights)
            used_w = bits * weights.terms / (digits_w * self._weights)
        else:
            planes = weights.nonzero[c.digit]
            digits_w = len(planes)
            live_w = float(planes.mean()) / layer.reduction
        if c.serial == "weights":
            digits_i = -(-layer.input_bits // self._inputs)
            used_i = layer.input_bits / (digits_i * self._inputs)
        else:
            digits_i = len(layer.input.nonzero[c.digit])
            live_i = float(np.mean(layer.input.nonzero[c.digit]))
        passes, tiles = self.tiling.passes(layer), self.tiling.tiles(layer)
        steps = -(-layer.reduction // c.lanes) * digits_w * digits_i
        busy = float(layer.macs * digits_w * digits_i)
        e = self.element
        parts = Parts(
            products=e.products * used_w * used_i * live_w * live_i * busy,
            operand_bits=(used_w * self._weights + used_i * self._inputs) / 2 * busy,
            elements=e.elements * busy,
        )
        return Work(
            cycles=float(steps * passes * tiles),
            busy=busy,
            parts=parts + self.column * (layer.outputs * layer.pixels * steps),
            weight_bits=float(weights.dense_bits),
            weight_reads=float(weights.dense_bits * tiles),
            fed_bits=float(passes * layer.pixels * layer.reduction * layer.input_bits * digits_w),
            rescalings=float(weights.terms),
        )

    def full(self, weight_bits: int, input_bits: int) -> tuple[float, Parts]:
        c, e = self.config, self.element
        used_w = used_i = 1.0
        if c.serial == "inputs":
            digits_w = -(-weight_bits // self._weights)
            used_w = weight_bits / (digits_w * self._weights)
        else:
            digits_w = -(-weight_planes(weight_bits, c.encoding) // c.digit)
        digits_i = -(-input_bits // self._inputs)
        if c.serial == "weights":
            used_i = input_bits / (digits_i * self._inputs)
        bits = (used_w * self._weights + used_i * self._inputs) / 2
        return 1.0 / (digits_w * digits_i), Parts(e.products * used_w * used_i, bits, e.elements)
