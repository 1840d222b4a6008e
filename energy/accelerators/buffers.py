"""The memories around an array of filters, lanes and pixels, and what stands behind its sums.

Weights lie in one buffer that all layers share, activations in another; a small buffer beside every filter feeds it.
Outputs are written at the bits the next layer reads, plus a copy at ``residual_bits`` where a residual add needs it.
Sums are rescaled by one 16-bit unit per filter.
"""

from __future__ import annotations

from dataclasses import dataclass

from energy.accelerators.tiling import residual_width
from energy.cost import Band, Ledger
from energy.technology import Technology
from energy.workload import LayerWork

KB = 8 * 1024
"""Bits."""
LEAST_KB = 1 / 1024
"""Of a buffer: a byte. The law of memories goes on to nothing, which would feed an array for nothing."""


@dataclass(frozen=True)
class Buffers:
    """Capacities in KB; ``filters`` local buffers and rescaling units."""

    technology: Technology
    weight_kb: float
    activation_kb: float
    local_kb: float
    filters: int
    residual_bits: int

    def book_local(self, ledger: Ledger, name: str, weight_bits: float, input_bits: float) -> None:
        """Bits that the buffers beside the filters give to the array."""
        read_j = self.technology.sram.read_j_per_bit(self.local_kb)
        ledger.add(name, "local buffers", read_j * weight_bits, "weights")
        ledger.add(name, "local buffers", read_j * input_bits, "inputs")

    def book_shared(self, ledger: Ledger, layer: LayerWork, weight_bits: float, input_bits: float) -> None:
        """Weights read once, inputs ``input_bits``, outputs and residual stream."""
        sram, name = self.technology.sram, layer.name
        elements = layer.outputs * layer.pixels
        stream = residual_width(layer, self.residual_bits)
        read_j = sram.read_j_per_bit(self.activation_kb)
        written = elements * (layer.output_bits + layer.kept * stream)
        ledger.add(name, "weight buffer", sram.read_j_per_bit(self.weight_kb) * weight_bits, "weights")
        ledger.add(name, "activation buffer", read_j * input_bits, "inputs")
        ledger.add(name, "activation buffer", read_j * (layer.added * elements * stream), "outputs")
        ledger.add(name, "activation buffer", sram.write_j_per_bit(self.activation_kb) * written, "outputs")

    def book_rescaling(self, ledger: Ledger, layer: LayerWork, per_output: float) -> None:
        """Multiplications and additions of sums: ``per_output`` of them, and the residual add."""
        unit = self.technology["fp32_mac_energy" if layer.is_float else "pe_energy.16/16"].band
        operations = (per_output + layer.added) * layer.outputs * layer.pixels
        ledger.add(layer.name, "post-processing", unit * (operations * 1e-12))

    def area_mm2(self) -> dict[str, Band]:
        area = {"post-processing": self.technology["pe_area.16/16"].band * (self.filters * 1e-6)}
        for name, (count, capacity_kb) in self._memories.items():
            area[name] = self.technology.sram.area_mm2(capacity_kb) * count
        return area

    def leakage_w(self) -> Band:
        leakage = self.technology["pe_leakage.16/16"].band * (self.filters * 1e-6)
        for count, capacity_kb in self._memories.values():
            leakage += self.technology.sram.leakage_w(capacity_kb) * count
        return leakage

    def notes(self) -> list[str]:
        """Buffers that the table of memories does not cover."""
        every = (("weight", self.weight_kb), ("activation", self.activation_kb), ("local", self.local_kb))
        return [
            f"{name} buffer of {capacity_kb:.2f} KB lies outside the SRAM table"
            for name, capacity_kb in every
            if self.technology.sram.extrapolates(capacity_kb)
        ]

    @property
    def _memories(self) -> dict[str, tuple[int, float]]:
        return {
            "local buffers": (self.filters, self.local_kb),
            "weight buffer": (1, self.weight_kb),
            "activation buffer": (1, self.activation_kb),
        }
