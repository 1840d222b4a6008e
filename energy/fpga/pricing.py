"""What every machine on a programmable device books: the fabric's energies, float layers, the image, and notes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from energy.accelerators.float_unit import NOTE as FLOAT_NOTE
from energy.accelerators.float_unit import FloatUnits
from energy.cost import Band, Cost, Ledger
from energy.fpga.clock import clock_hz
from energy.fpga.device import Device, Resources
from energy.fpga.settings import FpgaConfig
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

ENCODING = "sign_magnitude"
PJ = 1e-12
NO_AREA = (
    "a programmable device has no area of its own; its LUTs, block RAMs and DSP slices are in the breakdown"
)
_BLOCK_KB = {"xc7": 2.25, "ice40": 0.5}


@dataclass(frozen=True)
class Fabric:
    """A device, how it is used, and what its parts take: estimates with wide bands."""

    config: FpgaConfig
    technology: Technology

    @cached_property
    def device(self) -> Device:
        return Device.of(self.technology, self.config.device)

    @cached_property
    def lut_j(self) -> Band:
        """Per LUT and cycle in which its inputs change."""
        return self.technology["fpga.lut_energy"].band * PJ

    @cached_property
    def read_j(self) -> Band:
        """Per bit of a block RAM."""
        return self.hard(self.technology.sram.read_j_per_bit(_BLOCK_KB[self.device.fabric]))

    @cached_property
    def write_j(self) -> Band:
        return self.hard(self.technology.sram.write_j_per_bit(_BLOCK_KB[self.device.fabric]))

    def hard(self, joules: Band) -> Band:
        """A hard block that does what the technology does for ``joules``."""
        return _product(joules, self.technology["fpga.hard_block_spread"].band)


class Pricing(ABC):
    """The books of one workload; each style prices its layers."""

    def __init__(self, fabric: Fabric, workload: Workload, granularity: Mapping[str, int]) -> None:
        self.fabric, self.workload = fabric, workload
        self.config, self.technology, self.device = fabric.config, fabric.technology, fabric.device
        self.layers = [layer for layer in workload.layers if not layer.is_float]
        self.ledger = Ledger()
        self.latency_s: dict[str, float] = {}
        self.busy: dict[str, float] = {}
        self.bound: dict[str, str] = {}
        self.notes: list[str] = []
        self.taken = Resources()
        self.prepare(granularity)
        self.clock = self._clock(self.widest_sum())

    @abstractmethod
    def prepare(self, granularity: Mapping[str, int]) -> None:
        """Look at the layers before the clock is known."""

    @abstractmethod
    def widest_sum(self) -> int:
        """Bits of the widest sum between two registers."""

    @abstractmethod
    def price(self) -> None:
        """Book all layers in integers, of which there is at least one."""

    def cost(self) -> Cost:
        """Price everything."""
        for layer in self.workload.layers:
            if layer.is_float:
                self._book_float(layer)
        if self.layers:
            self.price()
        image_j = self.technology["dram_energy"].band * (self.workload.image_bits * PJ)
        self.ledger.add(self.workload.layers[0].name, "dram", image_j, "inputs")
        names = [layer.name for layer in self.workload.layers]
        static = self.config.static_w
        leakage = Band.zero() if static is None else Band(1.0, 1.0, 1.0) * static
        if static is not None:
            for name in names:
                self.ledger.add(name, "leakage", leakage * self.latency_s[name])
        return Cost(
            {name: self.ledger.energy_j[name] for name in names},
            {name: self.latency_s[name] for name in names},
            {},
            {name: self.busy[name] for name in names},
            (*self._resource_notes(), *self.notes, *self._general_notes()),
            operand_j=self.ledger.operand_j,
            bound={name: self.bound[name] for name in names},
            leakage_w=leakage,
            extrapolated=True,
            resources=self.device.taken(self.taken),
        )

    def book_luts(self, layer: LayerWork, changes: float) -> None:
        """LUTs times cycles in which their inputs change."""
        self.ledger.add(layer.name, "luts", self.fabric.lut_j * changes)

    def book_rescaling(self, layer: LayerWork, multiplied: bool = True) -> None:
        """A multiplication per term and output where sums are scaled, an addition where a residual joins them."""
        operations = layer.weights[ENCODING].terms * multiplied + layer.added
        unit = self.fabric.hard(self.technology["pe_energy.16/16"].band)
        self.ledger.add(layer.name, "rescaling", unit * (operations * layer.outputs * layer.pixels * PJ))

    def _book_float(self, layer: LayerWork) -> None:
        """fp32 units of LUTs: the technology's own, dearer by the gap between the two kinds of logic."""
        units = FloatUnits(self.config.float_units, self.clock.nominal, self.technology)
        made = _product(units.energy_j(layer), self.technology["fpga.power_gap"].band)
        self.ledger.add(layer.name, "float units", made)
        weights = layer.outputs * layer.reduction * FLOAT_BITS
        read = layer.groups * layer.reduction * layer.pixels * FLOAT_BITS
        self.ledger.add(layer.name, "block ram", self.fabric.read_j * weights, "weights")
        self.ledger.add(layer.name, "block ram", self.fabric.read_j * read, "inputs")
        self.latency_s[layer.name] = units.latency_s(layer)
        self.busy[layer.name] = layer.macs / (-(-layer.macs // units.units) * units.units)
        self.bound[layer.name] = "compute"

    def _clock(self, bits: int) -> Band:
        if self.config.clock_mhz is not None:
            return Band(1.0, 1.0, 1.0) * (self.config.clock_mhz * 1e6)
        clock = clock_hz(self.technology, self.config.device, bits)
        low, nominal, high = (f / 1e6 for f in (clock.low, clock.nominal, clock.high))
        self.notes.append(
            f"estimate: clock of {nominal:.0f} MHz for sums of {bits} bits ({low:.0f} to {high:.0f})"
        )
        return clock

    def _resource_notes(self) -> list[str]:
        taken = (f"{t:,.0f} of {n:,.0f} {kind}" for kind, (t, n) in self.device.taken(self.taken).items())
        notes, share = [f"{self.device.name}: {', '.join(taken)}"], self.device.share(self.taken)
        if share > 1:
            notes.append(f"does not fit {self.device.name}: it takes {share:.2f} times what there is")
        elif share > self.config.share:
            notes.append(
                f"takes more of {self.device.name} than the share of {self.config.share:g} that it may"
            )
        return notes

    def _general_notes(self) -> list[str]:
        notes = [NO_AREA, "estimate: energy of LUTs, block RAM and DSP slices, which no sourced table gives"]
        if self.config.static_w is None:
            notes.append("power at rest is not priced: give static_w from the vendor's power report")
        if any(layer.is_float for layer in self.workload.layers):
            notes.append(FLOAT_NOTE + "; the LUTs they take here are not counted")
        if self.workload.unpriced:
            notes.append(f"not priced: {', '.join(self.workload.unpriced)}")
        return notes


def _product(a: Band, b: Band) -> Band:
    return Band(a.low * b.low, a.nominal * b.nominal, a.high * b.high)
