"""What an accelerator costs for one inference: joules, seconds and square millimetres, by where they arise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OPERANDS = ("weights", "inputs", "outputs")
"""What a component's energy is spent on: ``outputs`` are partial sums too."""


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
        operand_j: layer -> component -> operand (see ``OPERANDS``) -> energy; for components that serve single
            operands, whose parts add up to the component's energy.
        bound: layer -> what sets its time: ``compute``, ``dram``, or the name of a memory whose port does.
        leakage_w: power of the machine at rest; its energy is the component ``leakage``.
        extrapolated: whether a figure lies outside what its constants were fitted to; ``notes`` say which.
        resources: on a programmable device, which is not measured in area: kind -> how many are taken, and there.
    """

    energy_j: Mapping[str, Mapping[str, Band]]
    latency_s: Mapping[str, float]
    area_mm2: Mapping[str, Band]
    utilisation: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    operand_j: Mapping[str, Mapping[str, Mapping[str, Band]]] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)
    leakage_w: Band = field(default_factory=Band.zero)
    extrapolated: bool = False
    resources: Mapping[str, tuple[float, float]] = field(default_factory=dict)

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
        resources = {kind: {"taken": t, "there": n} for kind, (t, n) in self.resources.items()}
        return {
            "energy_j": {
                layer: {name: band.nominal for name, band in components.items()}
                for layer, components in self.energy_j.items()
            },
            "operand_j": {
                layer: {c: {o: b.nominal for o, b in parts.items()} for c, parts in components.items()}
                for layer, components in self.operand_j.items()
            },
            "latency_s": dict(self.latency_s),
            "bound": dict(self.bound),
            "area_mm2": {name: band.nominal for name, band in self.area_mm2.items()},
            "utilisation": dict(self.utilisation),
            "leakage_w": self.leakage_w.nominal,
            "energy_band_j": [energy.low, energy.high],
            "area_band_mm2": [area.low, area.high],
            "extrapolated": self.extrapolated,
            "notes": list(self.notes),
            **({"resources": resources} if resources else {}),
        }


class Ledger:
    """Energy entries of a layer by component and operand, summed up as they come."""

    def __init__(self) -> None:
        self._energy: dict[str, dict[str, Band]] = {}
        self._operands: dict[str, dict[str, dict[str, Band]]] = {}

    def add(self, layer: str, component: str, energy: Band, operand: str | None = None) -> None:
        """Book ``energy`` in joules; either all entries of a component name an operand, or none does."""
        components = self._energy.setdefault(layer, {})
        components[component] = components.get(component, Band.zero()) + energy
        if operand is not None:
            assert operand in OPERANDS, operand
            parts = self._operands.setdefault(layer, {}).setdefault(component, {})
            parts[operand] = parts.get(operand, Band.zero()) + energy

    @property
    def energy_j(self) -> dict[str, dict[str, Band]]:
        return self._energy

    @property
    def operand_j(self) -> dict[str, dict[str, dict[str, Band]]]:
        return self._operands


@dataclass(frozen=True)
class Peak:
    """What a machine reaches when every element is busy, as chips are specified.

    Attributes:
        ops_per_s: multiplications and additions, two to a multiply-accumulate.
        power_w: at that rate, leakage included.
        area_mm2: of the machine.
        notes: as in :class:`Cost`.
    """

    ops_per_s: float
    power_w: Band
    area_mm2: Band
    notes: tuple[str, ...] = ()

    @property
    def tops(self) -> float:
        return self.ops_per_s * 1e-12

    @property
    def tops_per_w(self) -> float:
        return self.ops_per_s * 1e-12 / self.power_w.nominal

    @property
    def tops_per_mm2(self) -> float:
        return self.ops_per_s * 1e-12 / self.area_mm2.nominal

    @property
    def energy_per_mac_j(self) -> float:
        return 2.0 * self.power_w.nominal / self.ops_per_s
