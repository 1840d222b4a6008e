"""Constants of compute-in-memory machines at the machine's own process and supply.

Capacitances are in proportion to feature size down to 28 nm. Below, lines go on shrinking while transistors hardly do:
cells and converters take the geometric mean between in proportion and not at all, logic does not change (macros from 22
to 4 nm switch about as much per adder as those of 28 nm); the band covers both. Everything else goes by
``energy.technology.scaling``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from energy.cost import Band
from energy.technology import Technology
from energy.technology.scaling import scale_area, scale_delay, scale_energy, scale_leakage, usual_vdd

PLANAR_NM = 28.0
"""The last planar node; also the one at which capacitances of ``cim.yaml`` hold."""


@dataclass(frozen=True)
class Process:
    """``technology`` as built at ``node_nm`` and run at ``vdd_v``."""

    technology: Technology
    node_nm: float
    vdd_v: float

    @cached_property
    def _volts(self) -> float:
        """Square of the supply, or the power that a chip was calibrated with, of volts."""
        return self.vdd_v ** self.technology["cim.voltage_exponent"].value

    def value(self, name: str) -> float:
        return self.technology[name].value

    def band(self, name: str) -> Band:
        return self.technology[name].band

    def switched_j(self, name: str) -> Band:
        """Energy of a capacitance of a cell or a converter."""
        return self._switched(name, 0.5)

    def wire_j(self, name: str) -> Band:
        """Energy of the capacitance of a line."""
        return self._switched(name, 1.0)

    def logic_j(self, name: str) -> Band:
        """Energy of a capacitance of logic."""
        return self._switched(name, 0.0)

    def _switched(self, name: str, exponent: float) -> Band:
        band = self.band(name) * (1e-15 * self._volts)
        ratio = self.node_nm / PLANAR_NM
        if ratio >= 1.0:
            return band * ratio
        return Band(band.low * ratio, band.nominal * ratio**exponent, band.high)

    def energy_j(self, name: str) -> Band:
        """Energy in pJ of a constant that says at which node and supply it holds."""
        constant = self.technology[name]
        return scale_energy(
            constant.band * 1e-12, constant.node_nm, constant.vdd_v or 1.0, self.node_nm, self.vdd_v
        )

    def time_s(self, name: str) -> float:
        """Nominal time of a constant in ns."""
        constant = self.technology[name]
        scaled = scale_delay(constant.band, constant.node_nm, constant.vdd_v, self.node_nm, self.vdd_v)
        return scaled.nominal * 1e-9

    def logic_mm2(self, name: str) -> Band:
        """Area of a constant in um2 that shrinks with the node."""
        return scale_area(self.band(name) * 1e-6, self.technology[name].node_nm, self.node_nm)

    def adder_mm2(self) -> Band:
        """A full adder: between two synthesised nodes in log-log, beyond them as all areas."""
        at28, at45 = (self.band(f"cim.adder_area.{node}nm") * 1e-6 for node in (28, 45))
        if self.node_nm <= 28:
            return scale_area(at28, 28.0, self.node_nm)
        if self.node_nm >= 45:
            return scale_area(at45, 45.0, self.node_nm)
        share = math.log(self.node_nm / 28) / math.log(45 / 28)
        ends = zip((at28.low, at28.nominal, at28.high), (at45.low, at45.nominal, at45.high), strict=True)
        return Band(*(one * (other / one) ** share for one, other in ends))

    def cell_mm2(self, name: str) -> Band:
        """Area of a constant in squares of the feature size."""
        return self.band(name) * (self.node_nm**2 * 1e-12)

    def own_j(self, band: Band) -> Band:
        """An energy at the technology's own node, at this one."""
        return scale_energy(band, *self._own, self.node_nm, self.vdd_v)

    def own_mm2(self, band: Band) -> Band:
        """An area at the technology's own node, at this one."""
        return scale_area(band, self.technology.node_nm, self.node_nm)

    def own_leakage_w(self, band: Band) -> Band:
        """A power at rest at the technology's own node, at this one."""
        return scale_leakage(band, *self._own, self.node_nm, self.vdd_v)

    @property
    def _own(self) -> tuple[float, float]:
        """Node of the technology's own constants, and the supply that is usual there."""
        return self.technology.node_nm, usual_vdd(self.technology.node_nm)
