"""Bits that a layer moves through a systolic array's memories, from element to element, and through DRAM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from energy.accelerators.systolic_counts import Folds
from energy.cost import OPERANDS
from energy.workload import FLOAT_BITS, LayerWork

_KB = 8 * 1024


@dataclass(frozen=True)
class Formats:
    """Bits of a layer's codes and sums, the digits they are cut into, and its terms.

    Codes wider than an element are cut into digits of its width; every pair of digits is a pass over the whole product.
    """

    weight_bits: int
    input_bits: int
    sum_bits: int
    weight_digits: int = 1
    input_digits: int = 1
    terms: int = 1

    @property
    def passes(self) -> int:
        return self.weight_digits * self.input_digits


@dataclass(frozen=True)
class Traffic:
    """Operand -> bits: read from and written to its memory on the chip, passed to a neighbour, and through DRAM."""

    read: Mapping[str, float]
    written: Mapping[str, float]
    steps: Mapping[str, float]
    dram: Mapping[str, float]


@dataclass(frozen=True)
class Memories:
    """Capacity of each operand's memory in KB, and the bits of a residual stream."""

    weights: float
    inputs: float
    outputs: float
    residual_bits: int

    def half(self, operand: str) -> float:
        """Bits of the half that the array works on."""
        return getattr(self, operand) * _KB / 2

    def hold(self, weight_bits: int) -> bool:
        """Whether a network's weights stay on the chip: they take all of their memory."""
        return weight_bits <= self.weights * _KB

    def stored(self, layer: LayerWork, formats: Formats) -> dict[str, int]:
        """Bits of a layer's operands: its weights, its input, and all its sums."""
        return {
            "weights": layer.outputs * layer.reduction * formats.terms * formats.weight_bits,
            "inputs": layer.inputs * layer.pixels * layer.stride[0] * layer.stride[1] * formats.input_bits,
            "outputs": layer.outputs * layer.pixels * formats.terms * formats.sum_bits,
        }

    def chunkings(self, layer: LayerWork, formats: Formats, folds: Folds) -> list[int]:
        """Numbers of chunks worth a try: one, and those from which on more of a moving operand fits its memory."""
        stays, crosses, falls = folds.roles
        counts = {1}
        if stays != "outputs":
            stored = self.stored(layer, formats)
            for operand, parts in ((crosses, folds.down), (falls, folds.across)):
                whole = stored[operand] / layer.groups / self.half(operand)
                counts |= {math.ceil(whole), math.ceil(whole / parts)}
        return sorted(count for count in counts if 1 <= count <= folds.lengths[2])

    def traffic(
        self,
        layer: LayerWork,
        formats: Formats,
        folds: Folds,
        columns_first: bool,
        resident: bool,
        image_bits: int,
    ) -> Traffic:
        """What one image moves where folds follow each other along the columns first, or along the rows.

        ``resident`` weights are on the chip; ``image_bits`` come in for the first layer. A word is moved digit by
        digit, once for every digit of the operand that it meets.
        """
        width = {
            "weights": formats.weight_bits * formats.input_digits,
            "inputs": formats.input_bits * formats.weight_digits,
            "outputs": formats.sum_bits * formats.passes,
        }
        moves = folds.moves()
        read, written, steps = (
            {o: float(getattr(moves[o], what) * layer.groups * width[o]) for o in OPERANDS}
            for what in ("reads", "writes", "steps")
        )
        dram = self.dram_bits(layer, formats, folds, columns_first, resident, image_bits)
        for operand in ("weights", "inputs"):
            written[operand] += dram[operand]
        # a pass adds to the sums of the one before; results are read once more to be scaled
        elements = layer.outputs * layer.pixels
        read["outputs"] += elements * formats.terms * formats.sum_bits * formats.passes
        residual = elements * (FLOAT_BITS if layer.is_float else self.residual_bits)
        result = elements * layer.output_bits + layer.kept * residual
        if result <= self.half("inputs"):
            written["inputs"] += result
        else:
            dram["outputs"] += result
        if layer.added:
            where = read if residual <= self.half("inputs") else dram
            where["inputs"] += residual
        return Traffic(read, written, steps, dram)

    def dram_bits(
        self,
        layer: LayerWork,
        formats: Formats,
        folds: Folds,
        columns_first: bool,
        resident: bool,
        image_bits: int,
    ) -> dict[str, float]:
        """Bits through DRAM.

        What a fold needs again is still there if what was used of the operand since then fits.
        """
        stored = self.stored(layer, formats)
        stays, crosses, falls = folds.roles
        part = {o: bits / layer.groups / folds.chunks for o, bits in stored.items()}
        part[crosses] /= folds.down if columns_first else 1
        part[falls] /= 1 if columns_first else folds.across
        rounds = {stays: folds.chunks, crosses: folds.across, falls: folds.down}
        for operand in (crosses, falls):
            if part[operand] <= self.half(operand):
                rounds[operand] = 1
        # sums start at zero and leave as results: only what goes out in between, and comes back, is DRAM's
        rounds["outputs"] = 2 * (rounds["outputs"] - 1)
        on_chip = {"weights": resident, "inputs": stored["inputs"] <= self.half("inputs"), "outputs": False}
        moved = {o: 0.0 if on_chip[o] else float(stored[o] * rounds[o]) for o in OPERANDS}
        return {**moved, "inputs": max(moved["inputs"], float(image_bits))}
