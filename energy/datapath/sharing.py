"""Precision-scalable arrays of 2-bit multipliers, counted: adders, registers and selections, used and idle.

The arrays are those of Ibrahim, Mei and Verhelst (arXiv 2108.04773): 4 x 4 multipliers of 2 x 2 bits make a unit of
level 2, 4 x 4 of those a unit of level 3, 4 x 4 of those the array (level 4). At every level the sixteen results are
added up (``out``: outputs are shared), kept apart (``in``: inputs are shared), or added along one side (``both``).
Operands of 8 bits are groups of 2 bits. The groups of one product lie inside a level-2 unit (``L2``, as in Bit Fusion,
arXiv 1712.01507), one in each unit of a level-3 unit (``L3``, as in BitBlade), or follow each other in time (``BS``, as
in Loom). Narrower operands make more products of the same multipliers (``full``), or leave those off the diagonal at
rest and read no more inputs (``sub_word``, as in DVAFS).

Every precision arranges the results in *lanes*: so many sums of such a width. Precisions with different lanes use
different adders, so those of the others are idle, but their inputs switch with the lanes that are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

UNITS = 16
"""Units of one level in a unit of the next."""
_BRICK = 2
_SUMMED = {"in": (0, 0), "both": (1, 0), "out": (1, 1)}
"""Whether results are added up along the side of the weights, and along that of the inputs."""
_HEADROOM = 4
PRECISIONS = {
    "full": ((8, 8), (4, 8), (2, 8), (4, 4), (2, 2)),
    "sub_word": ((8, 8), (4, 4), (2, 2)),
}
"""Bits of weights and inputs that an array was measured at."""


@dataclass(frozen=True)
class Lanes:
    """``number`` results of ``width`` bits from one unit, and the adder bits that make them, in two stages."""

    number: int
    width: int
    first: float = 0.0
    second: float = 0.0

    @property
    def adders(self) -> float:
        return self.first + self.second


@dataclass(frozen=True)
class Design:
    """One array.

    Attributes:
        groups: ``L2``, ``L3`` or ``BS``: where the groups of bits of a product come together.
        l4, l3, l2: ``in``, ``both`` or ``out`` at each level.
        unrolling: ``full`` or ``sub_word``.
    """

    groups: str
    l4: str
    l3: str
    l2: str
    unrolling: str = "full"

    @property
    def name(self) -> str:
        return f"{self.groups} {self.l4}/{self.l3}/{self.l2} {self.unrolling}"

    @property
    def family(self) -> str:
        """The architecture it is a variant of: how groups are put together, below any dataflow."""
        return f"{self.unrolling} {self.groups} {self.l2}"

    @property
    def precisions(self) -> tuple[tuple[int, int], ...]:
        return PRECISIONS[self.unrolling]

    def active(self, weight_bits: int) -> float:
        """Share of the multipliers that work."""
        return weight_bits / 8 if self.unrolling == "sub_word" else 1.0

    def products(self, weight_bits: int, input_bits: int) -> float:
        """Multiply-accumulates a cycle; one that takes several cycles counts by its share."""
        bricks = UNITS**3 * self.active(weight_bits)
        return bricks * _BRICK**2 / (weight_bits * input_bits)

    @cached_property
    def input_bits(self) -> int:
        """Registers before the array: words of 8 bits, the more the fewer units read the same."""
        below = "in" if self.unrolling == "sub_word" else self.l2
        words = [
            math.prod(4 if _SUMMED[shared][side] else 1 for shared in (self.l4, self.l3, below))
            for side in (0, 1)
        ]
        return UNITS * 8 * sum(words)

    @cached_property
    def serial_bits(self) -> int:
        """Registers of the shift-and-add units where groups follow each other in time."""
        return UNITS**2 * 32 if self.groups == "BS" else 0

    def level2(self, weight_bits: int, input_bits: int) -> Lanes:
        """One unit of level 2."""
        if self.groups == "L2":
            return self._fused(self.l2, weight_bits, input_bits, 2 * _BRICK)
        bricks = _tree(self.l2, 2 * _BRICK)
        if self.groups == "L3":
            return bricks
        return Lanes(1, weight_bits + input_bits + 4, bricks.adders, 8 + 14)  # two serial shift-and-add units

    def level3(self, weight_bits: int, input_bits: int) -> Lanes:
        """One unit of level 3; adders of all the lanes below."""
        below = self.level2(weight_bits, input_bits)
        if self.groups == "L3":
            one = self._fused(self.l3, weight_bits, input_bits, below.width)
        else:
            one = _tree(self.l3, below.width)
        return Lanes(
            one.number * below.number, one.width, one.first * below.number, one.second * below.number
        )

    def level4(self, weight_bits: int, input_bits: int) -> Lanes:
        below = self.level3(weight_bits, input_bits)
        one = _tree(self.l4, below.width)
        return Lanes(one.number * below.number, one.width, one.adders * below.number)

    def outputs(self, weight_bits: int, input_bits: int) -> Lanes:
        """The accumulators: as many adder bits as they hold."""
        sums = self.level4(weight_bits, input_bits)
        width = sums.width + (0 if self.groups == "BS" else _HEADROOM)
        return Lanes(sums.number, sums.width, sums.number * width)

    @property
    def selected(self) -> float:
        """Bits that the precision selects in one unit that fuses products: those of each result, once per precision."""
        shared, width, lanes = self.l2, 2 * _BRICK, 1
        if self.groups == "L3":
            below = self.level2(8, 8)
            shared, width, lanes = self.l3, below.width, below.number
        narrow = {tuple(min(bits, 4) for bits in p) for p in self.precisions}
        words = [
            max(block.number * block.width for block in (self._block(shared, *p, span, width) for p in every))
            * len(every)
            for span, every in ((4, narrow), (8, self.precisions))
        ]
        return lanes * (4 * words[0] + words[1])

    def summed(self, lanes: int, units: int, weight_bits: int) -> float:
        """Multipliers whose results an output of ``lanes`` of one of ``units`` units holds."""
        bricks = UNITS**3 * self.active(weight_bits)
        if (
            self.groups == "BS"
        ):  # what comes out of the serial units has been in a register: one more addition
            bricks = 2 * UNITS**2
        return max(bricks / (units * lanes), 1.0)

    def _fused(self, shared: str, weight_bits: int, input_bits: int, width: int) -> Lanes:
        """Sixteen results of ``width`` bits as the groups of products: four blocks of four, then those together."""
        half, whole = (self._block(shared, weight_bits, input_bits, span, width) for span in (4, 8))
        blocks, members = 4, 4
        if self.unrolling == "sub_word":  # beside the diagonal nothing comes in
            blocks = 4 if input_bits == 8 else 2
            members = 4 if input_bits > 2 else 2
        first = blocks * max(members - half.number, 0) * half.width
        second = max(blocks * half.number - whole.number, 0) * whole.width
        return Lanes(whole.number, whole.width, first, second)

    def _block(self, shared: str, weight_bits: int, input_bits: int, span: int, width: int) -> Lanes:
        weight_bits, input_bits = min(weight_bits, span), min(input_bits, span)
        kept = [
            1 if summed else span // bits
            for summed, bits in zip(_SUMMED[shared], (weight_bits, input_bits), strict=True)
        ]
        products = span // weight_bits * (span // input_bits)
        if self.unrolling == "sub_word":
            kept, products = [1 if _SUMMED[shared][0] else span // input_bits], span // input_bits
        number = math.prod(kept)
        grown = round(math.log2(products // number)) + width - 2 * _BRICK
        return Lanes(number, weight_bits + input_bits + grown)


def _tree(shared: str, width: int) -> Lanes:
    """Sixteen results of ``width`` bits added up along one side, both or none, by two-operand adders."""
    sides = sum(_SUMMED[shared])
    adders = 0
    if sides:
        adders = 8 * (width + 1) + 4 * (width + 2)
    if sides == 2:
        adders += 2 * (width + 3) + (width + 4)
    return Lanes(UNITS >> 2 * sides, width + 2 * sides, adders)
