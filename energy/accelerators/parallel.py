"""Bit-parallel multipliers, and multipliers that split into narrower ones (spatial fusion, as in Bit Fusion).

An element multiplies ``widest`` bits. With a smaller ``narrowest`` it also takes 2, 4, ... times as many operands of
half, a quarter, ... the bits on either side; the products go to one sum, so they stand for that many more lanes.
Operands wider than an element take one pass per pair of digits. Bits that an operand does not use, and products with a
zero, do not switch the multiplier; zeros save no time.

``structure`` is how the splitting is built: ``fused`` as in Bit Fusion (arXiv 1712.01507), ``bit_groups`` as in
BitBlade, ``sub_word`` as in DVAFS (only multipliers on the diagonal work on narrow operands, which must be of equal
width), or ``temporal`` groups of 2 bits. Those other than ``fused`` are Bit Fusion's elements times what the 28 nm
benchmark of Ibrahim et al. says about the structures (``energy.datapath.scalable``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressors.errors import ConfigError, UnknownName
from energy.accelerators import register_accelerator
from energy.accelerators.element_array import ArrayConfig, ElementArray, Work, densities, weight_width
from energy.datapath.parts import Parts, accumulator, fused_multiplier
from energy.datapath.scalable import STRUCTURES, relative_to_fused
from energy.technology import Technology
from energy.workload import LayerWork

_WIDTHS = (2, 4, 8, 16)


@dataclass(frozen=True)
class ParallelConfig(ArrayConfig):
    """Widest and narrowest operands in bits, and how the element splits."""

    widest: int = 8
    narrowest: int = 8
    structure: str = "fused"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("widest", "narrowest"):
            if getattr(self, name) not in _WIDTHS:
                raise ConfigError(f"accelerator.{name}", getattr(self, name), "2, 4, 8 or 16 bits")
        if self.narrowest > self.widest:
            raise ConfigError("accelerator.narrowest", self.narrowest, f"at most widest = {self.widest}")
        if self.structure not in STRUCTURES:
            raise UnknownName("structure", self.structure, STRUCTURES, key="accelerator.structure")
        if self.structure != "fused" and (self.widest, self.narrowest) != (8, 2):
            raise ConfigError(
                "accelerator.structure", self.structure, "fused, unless elements go from 8 to 2 bits"
            )


@register_accelerator("parallel", ParallelConfig)
class Parallel(ElementArray):
    """See the module's text."""

    encodings = ("sign_magnitude",)  # any: only packed sizes and whole zeros are looked at

    def __init__(self, config: ParallelConfig, technology: Technology) -> None:
        super().__init__(config, technology)
        self.config = config
        if config.structure != "fused":
            self.area_factor = relative_to_fused(config.structure, 8, 8, technology)[0]

    @property
    def element(self) -> Parts:
        return fused_multiplier(self.config.widest, self.config.narrowest)

    @property
    def column(self) -> Parts:
        return accumulator(self.config.widest, self.config.widest)

    @property
    def extrapolation(self) -> str:
        if self.config.structure == "fused":
            return ""
        return f"{self.config.structure} elements: Bit Fusion's at 45 nm times a ratio known at 28 nm"

    def work(self, layer: LayerWork) -> Work:
        c, weights = self.config, layer.weights[self.encodings[0]]
        bits = weight_width(layer, weights), layer.input_bits
        passes_w, passes_i = (-(-b // c.widest) for b in bits)
        widths = self._digits(*bits)
        split = self._split(*widths)
        steps = -(-layer.reduction // (c.lanes * split)) * weights.terms * passes_w * passes_i
        products = layer.macs * weights.terms * passes_w * passes_i
        live = densities(layer, weights)
        used = [b / (p * w) for b, p, w in zip(bits, (passes_w, passes_i), widths, strict=True)]
        parts = self._working(products / split, used, live[0] * live[1])
        return Work(
            cycles=float(steps * self.tiling.passes(layer) * self.tiling.tiles(layer)),
            busy=products / split,
            parts=parts + self.column * (layer.outputs * layer.pixels * steps),
            weight_bits=float(weights.dense_bits),
            weight_reads=float(weights.dense_bits * self.tiling.tiles(layer)),
            fed_bits=float(
                self.tiling.passes(layer)
                * layer.pixels
                * layer.reduction
                * layer.input_bits
                * weights.terms
                * passes_w
            ),
            rescalings=float(weights.terms),
            factor=self._energy_factor(*widths),
        )

    def full(self, weight_bits: int, input_bits: int) -> tuple[float, Parts]:
        c = self.config
        bits = weight_bits, input_bits
        passes, widths = [-(-b // c.widest) for b in bits], self._digits(*bits)
        used = [b / (p * w) for b, p, w in zip(bits, passes, widths, strict=True)]
        parts = self._working(1.0, used, 1.0) * self._energy_factor(*widths)
        return self._split(*widths) / math.prod(passes), parts

    def below(self, weight_bits: int, input_bits: int) -> Parts:
        return self.column * self._energy_factor(*self._digits(weight_bits, input_bits))

    def _digits(self, weight_bits: int, input_bits: int) -> tuple[int, int]:
        """Widths that the element is split to for operands of these bits."""
        allowed = [w for w in _WIDTHS if self.config.narrowest <= w <= self.config.widest]
        weights, inputs = (
            next((w for w in allowed if w >= b), self.config.widest) for b in (weight_bits, input_bits)
        )
        if self.config.structure == "sub_word":
            return max(weights, inputs), max(weights, inputs)
        return weights, inputs

    def _split(self, weight_bits: int, input_bits: int) -> int:
        if self.config.structure == "sub_word":
            return self.config.widest // input_bits
        return (self.config.widest // weight_bits) * (self.config.widest // input_bits)

    def _working(self, busy: float, used: Sequence[float], live: float) -> Parts:
        """Of ``busy`` cycles of elements, with these shares of both operands' bits used."""
        e = self.element
        return Parts(
            products=e.products * used[0] * used[1] * live * busy,
            operand_bits=e.operand_bits * (used[0] + used[1]) / 2 * busy,
            elements=e.elements * busy,
            fusion_bits=e.fusion_bits * live * busy,
        )

    def _energy_factor(self, weight_bits: int, input_bits: int) -> float:
        """On the energy of a cycle, accumulators included; the benchmark gives it per product."""
        if self.config.structure == "fused":
            return 1.0
        narrow = min(weight_bits, input_bits), max(weight_bits, input_bits)
        per_product = relative_to_fused(self.config.structure, *narrow, self.technology)[1]
        fused = (self.config.widest // weight_bits) * (self.config.widest // input_bits)
        return per_product * self._split(weight_bits, input_bits) / fused
