"""A bit-serial overlay: one array of serial elements that runs every layer, digit plane by digit plane.

``rows`` outputs by ``columns`` positions, each element with ``lanes`` products of digits per cycle (BISMO, Umuroglu et
al., FPL 2018). A pair of planes takes as many cycles as the reduction has lanes; planes of weights that hold no digit
for the rows at work are left out. Lanes are ``unsigned``, as BISMO's: single bits in two's complement, where a plane of
signs is subtracted as a whole, and ternary or binary planes are two, what is added and what is subtracted. Or they are
``signed`` and take digits of sign and magnitude of any width.

Weights stay in the buffers where all of them fit; else each layer's are fetched, and either its weights or its inputs
again for every part of the others that the buffer holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from energy.fpga.device import Device, Resources
from energy.fpga.fabric import Law, serial_element
from energy.workload import LayerWork


@dataclass(frozen=True)
class Overlay:
    """Shape of the array: see the module's text.

    Attributes:
        word_bits: bits of an operand that an element reads per cycle; digits of ``digit`` bits make them lanes.
        buffer_words: words behind every row and every column.
        accumulator: bits of a sum.
        signed: lanes have signs of their own.
    """

    rows: int
    columns: int
    word_bits: int
    buffer_words: int
    accumulator: int
    digit: int
    signed: bool

    @property
    def encoding(self) -> str:
        """How the weights are written."""
        return "sign_magnitude" if self.signed else "twos_complement"

    @property
    def lanes(self) -> int:
        return self.word_bits // self.digit

    @property
    def weight_capacity(self) -> int:
        """Bits."""
        return self.rows * self.buffer_words * self.word_bits

    @property
    def input_capacity(self) -> int:
        return self.columns * self.buffer_words * self.word_bits

    def products_per_s(self, clock_hz: float) -> float:
        """Of two digits each, all elements busy; twice as many operations."""
        return self.rows * self.columns * self.lanes * clock_hz

    def resources(self, device: Device, law: Law) -> Resources:
        """Elements by the law of the fabric, buffers, and a multiplier per row for scaled sums."""
        element = law(serial_element(self.lanes, self.digit, self.accumulator, self.signed))
        buffers = device.memory(self.buffer_words, self.word_bits) * (self.rows + self.columns)
        rescaling = Resources(dsps=self.rows) if device.holds.dsps else Resources()
        return Resources(luts=element * self.rows * self.columns) + buffers + rescaling

    def worked(self, layer: LayerWork, mode: int, skip: bool) -> np.ndarray:
        """``bool [planes, groups, passes]``: which planes are worked on for the rows that fill the array in a pass."""
        weights = layer.weights[self.encoding]
        nonzero = weights.nonzero[mode]
        if not self.signed and len(nonzero) == weights.terms and weights.magnitude_bits == 1:
            nonzero = np.repeat(nonzero, 2, axis=0)  # signed digits: what is added, and what is subtracted
        per_group = layer.outputs // layer.groups
        passes = -(-per_group // self.rows)
        padded = np.zeros((len(nonzero), layer.groups, passes * self.rows), bool)
        padded[:, :, :per_group] = (nonzero > 0).reshape(len(nonzero), layer.groups, per_group)
        found = padded.reshape(len(nonzero), layer.groups, passes, self.rows).any(3)
        return found if skip else np.ones_like(found)

    def cycles(self, layer: LayerWork, worked: np.ndarray, mode: int) -> int:
        """Cycles of a layer whose planes are ``worked`` on."""
        steps = -(-layer.reduction // self.lanes) * -(-layer.pixels // self.columns)
        return int(worked.sum()) * len(layer.input.nonzero[mode]) * steps

    def products(self, layer: LayerWork, worked: np.ndarray, mode: int) -> float:
        """Products of digits in those planes that are the layer's own, not an idle row's, lane's or column's."""
        per_group = layer.outputs // layer.groups
        filled = np.minimum(per_group - np.arange(worked.shape[2]) * self.rows, self.rows)
        digits = float((worked * filled).sum()) * layer.reduction
        return digits * len(layer.input.nonzero[mode]) * layer.pixels

    def fetched_bits(self, weight_bits: float, input_bits: float, resident: bool) -> tuple[float, float]:
        """Bits of weights and of inputs read from DRAM for a layer: whichever order of tiles reads less."""
        if resident:
            return 0.0, input_bits
        inputs_again = (weight_bits, input_bits * max(-(-weight_bits // self.weight_capacity), 1))
        weights_again = (weight_bits * max(-(-input_bits // self.input_capacity), 1), input_bits)
        return min(inputs_again, weights_again, key=sum)
