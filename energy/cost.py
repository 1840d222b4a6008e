"""What an accelerator costs for one inference: joules, seconds and square millimetres, by where they arise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Band:
    """A quantity with the range its constants leave open."""

    low: float
    nominal: float
    high: float

    def __add__(self, other: Band) -> Band:
        return Band(self.low + other.low, self.nominal + other.nominal, self.high + other.high)

    def __mul__(self, factor: float) -> Band:
        return Band(self.low * factor, self.nominal * factor, self.high * factor)

    __rmul__ = __mul__

    @classmethod
    def zero(cls) -> Band:
        return cls(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Cost:
    """Modelled cost of one inference.

    Attributes:
        energy_j: layer -> component -> energy.
        latency_s: layer -> time; layers run one after the other.
        area_mm2: component -> area of the machine.
        utilisation: layer -> useful share of the processing elements' slots, 0 to 1.
        notes: what was extrapolated, assumed, or left out.
    """

    energy_j: Mapping[str, Mapping[str, Band]]
    latency_s: Mapping[str, float]
    area_mm2: Mapping[str, Band]
    utilisation: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def total_energy_j(self) -> Band:
        parts = (band for components in self.energy_j.values() for band in components.values())
        return sum(parts, Band.zero())

    @property
    def total_latency_s(self) -> float:
        return sum(self.latency_s.values())

    @property
    def total_area_mm2(self) -> Band:
        return sum(self.area_mm2.values(), Band.zero())

    def breakdown(self) -> dict[str, Any]:
        """The nominal figures as plain data, with the bands of the totals."""
        energy, area = self.total_energy_j, self.total_area_mm2
        return {
            "energy_j": {
                layer: {name: band.nominal for name, band in components.items()}
                for layer, components in self.energy_j.items()
            },
            "latency_s": dict(self.latency_s),
            "area_mm2": {name: band.nominal for name, band in self.area_mm2.items()},
            "utilisation": dict(self.utilisation),
            "energy_band_j": [energy.low, energy.high],
            "area_band_mm2": [area.low, area.high],
            "notes": list(self.notes),
        }
