"""Floating-point units beside an integer machine, for layers that were left in floating point."""

from __future__ import annotations

from dataclasses import dataclass

from energy.cost import Band
from energy.technology import Technology
from energy.workload import LayerWork

NOTE = "fp32 units: area and leakage extrapolated from integer elements, a lower bound"


@dataclass(frozen=True)
class FloatUnits:
    """``units`` fp32 multiply-accumulate units, one product each per cycle of ``clock_hz``."""

    units: int
    clock_hz: float
    technology: Technology

    def latency_s(self, layer: LayerWork) -> float:
        """Time for a layer's products, all units busy."""
        return -(-layer.macs // self.units) / self.clock_hz

    def energy_j(self, layer: LayerWork) -> Band:
        """Of the products and their sums; operands are moved at the machine's own cost."""
        return self.technology["fp32_mac_energy"].band * (layer.macs * 1e-12)

    @property
    def area_mm2(self) -> Band:
        return self.technology["fp32_mac_area"].band * (self.units * 1e-6)

    @property
    def leakage_w(self) -> Band:
        return self.technology["fp32_mac_leakage"].band * (self.units * 1e-6)
