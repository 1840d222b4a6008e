"""Digital compute-in-memory: cells of static RAM feed adders beside or between them, inputs come bit by bit.

The machine. Each macro has ``outputs`` adder trees over ``rows`` products of a few input bits and ``column_bits`` of a
weight; wider weights take several trees, whose sums are joined, and sums over the digits of an input are accumulated.
With ``adder: ripple`` (Colonnade) every cell has an adder, sums pass down the rows with a register every few rows, and
the carry runs along further columns, so that a weight takes as many columns as its bits and those of the sum's growth.
``energy.cim.settings`` says what can be set, ``energy.cim.machine`` how layers are placed, and what surrounds the
macros.

Energy. Adders switch by the products that are one, counted on the tensors; what follows a tree switches in every
cycle. Bits of a weight that are zero in all of a tree take no tree. Without a given clock, the adders' delay sets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError
from energy.accelerators import register_accelerator
from energy.cim.digits import input_driven
from energy.cim.machine import price
from energy.cim.placement import Placement, Shape, used_units
from energy.cim.process import Process
from energy.cim.settings import DigitalCimConfig
from energy.cim.trees import Adders, Widths
from energy.cost import Band, Cost, Ledger, Peak
from energy.technology import Technology
from energy.workload import LayerWork, Workload


@dataclass(frozen=True)
class Built:
    """Widths and adders for operands of some bits; the accumulator is as wide as the longest sum."""

    widths: Widths
    adders: Adders


@register_accelerator("digital_cim", DigitalCimConfig)
class DigitalCim:
    """See the module's text. All figures are per inference of one image."""

    encodings = ("twos_complement",)

    def __init__(self, config: DigitalCimConfig, technology: Technology) -> None:
        self.config = config
        self.process = Process(technology, config.node_nm, config.vdd_v)
        self.shape = Shape(config.rows, config.outputs)
        self.count = config.macros
        self.write_j = technology["nvm.write_energy.sram"].band * 1e-12
        self.write_s = 1.0 / technology["clock_hz"].value
        self._known: dict[tuple[int, int], Built] = {}
        self._built = self._build(max(config.column_bits, 8), 8)

    def _build(self, weight_bits: int, input_bits: int) -> Built:
        key = weight_bits, input_bits
        if key not in self._known:
            widths = Widths.of(self.config, weight_bits, input_bits)
            self._known[key] = Built(widths, Adders.of(self.config, self.process, widths))
        return self._known[key]

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; the granularity means nothing here, ``column_bits`` does."""
        outside = not 4 <= self.config.node_nm <= 65
        notes = [
            f"{self.config.node_nm:g} nm lies outside the nodes of published macros (4 to 65 nm)"
        ] * outside
        return price(self, workload, notes, outside)

    def peak(self, weight_bits: int, input_bits: int) -> Peak:
        """All macros busy, bits one as often as ``peak_weight_density`` and ``peak_input_density`` say.

        Raises:
            ConfigError: a weight that takes more than a macro.
        """
        built = self._build(weight_bits, input_bits)
        cycle_s, weights = self._cycle_s(built), self._weights_per_macro(built.widths)
        if not weights:
            expected = f"a width that {self.config.outputs} columns hold"
            raise ConfigError("weight_bits", weight_bits, expected)
        energy = sum(self.peak_energy_j(weight_bits, input_bits).values(), Band.zero())
        rate = self.count / (self._digits(input_bits) * cycle_s)
        return Peak(
            2.0 * self.config.rows * weights * rate,
            energy * (self.count / cycle_s) + self.leakage_w,
            sum(self.area_mm2.values(), Band.zero()),
            ("macros; buffers, interconnect and post-processing are left out",),
        )

    def peak_energy_j(self, weight_bits: int, input_bits: int) -> dict[str, Band]:
        """By component, of one full macro and one cycle."""
        c, built = self.config, self._build(weight_bits, input_bits)
        columns = self._weights_per_macro(built.widths) * self._switching(built.widths)
        ones = c.rows * columns * c.peak_weight_density * c.peak_input_density
        return self.energy_j(built, ones, columns, c.rows * c.peak_input_density)

    def energy_j(self, built: Built, products: float, sums: float, driven: float) -> dict[str, Band]:
        """Energy by component of ``products`` of ones, ``sums`` of columns, and ``driven`` rows."""
        line_j = self.process.wire_j("nvm.line_capacitance") * (self.config.outputs * self.config.column_bits)
        return {
            "adders": built.adders.product_j * products,
            "accumulators": built.adders.fixed_j * sums,
            "row drivers": line_j * driven,
        }

    @property
    def area_mm2(self) -> dict[str, Band]:
        """Of all macros, by component."""
        c, process = self.config, self.process
        bits = c.rows * c.outputs * c.column_bits * c.depth
        cell = process.cell_mm2("nvm.area.sram")
        if c.storage_area_f2:
            cell = Band(1.0, 1.0, 1.0) * (c.storage_area_f2 * c.node_nm**2 * 1e-12)
        parts = {"cells": cell * bits, "adders": self._built.adders.area_mm2 * c.outputs}
        over = process.band("cim.overhead")
        whole = sum(parts.values(), Band.zero())
        parts["control"] = Band(
            whole.low * max(over.low - 1.0, 0.0),
            whole.nominal * max(over.nominal - 1.0, 0.0),
            whole.high * max(over.high - 1.0, 0.0),
        )
        return {name: band * self.count for name, band in parts.items()}

    @property
    def leakage_w(self) -> Band:
        """Low-power transistors: cells, and adders by their area."""
        c, process = self.config, self.process
        kb = c.rows * c.outputs * c.column_bits * c.depth * self.count / 8192
        sram = process.technology.sram
        cells = process.own_leakage_w(sram.leakage_w(kb))
        per_cell = process.cell_mm2("nvm.area.sram").nominal * 8192 * kb
        return cells * (1.0 + self._built.adders.area_mm2.nominal * c.outputs * self.count / per_cell)

    def used(self, layer: LayerWork) -> np.ndarray:
        weights = layer.weights[self.encodings[0]]
        if self.config.adder == "tree":
            return used_units(weights.nonzero[1], weights.terms, self.config.column_bits, whole=False)
        used = used_units(weights.nonzero[1], weights.terms, 1, whole=True)
        per_term = used.reshape(weights.terms, -1, used.shape[1]).any(1)
        return np.repeat(per_term, self._units(self._layer(layer).widths), axis=0)

    def step_s(self, layer: LayerWork) -> float:
        return self._digits(layer.input.bits) * self._cycle_s(self._layer(layer))

    def cells(self, layer: LayerWork, used: np.ndarray) -> float:
        return float(used.sum()) * layer.reduction * self.config.column_bits

    def book(self, ledger: Ledger, layer: LayerWork, placement: Placement, used: np.ndarray) -> None:
        c, built = self.config, self._layer(layer)
        ones_in = float(np.asarray(layer.input.nonzero[1], float).sum()) / c.input_bits_per_cycle
        driven = input_driven(layer.input, c.input_bits_per_cycle)
        found = self.energy_j(
            built,
            self._stored(layer, built) / c.column_bits * ones_in * layer.pixels,
            float(placement.results) * self._digits(layer.input.bits) * layer.pixels,
            placement.driven * driven * layer.pixels,
        )
        operands = {"adders": "outputs", "accumulators": "outputs", "row drivers": "inputs"}
        for component, energy in found.items():
            ledger.add(layer.name, component, energy, operands[component])

    def _stored(self, layer: LayerWork, built: Built) -> float:
        """Bits that are one; with ripple adders those of the sign, too, which the carry's columns repeat."""
        weights = layer.weights[self.encodings[0]]
        bits = weights.nonzero[1].reshape(weights.terms, -1, layer.outputs)
        ones = float(bits.sum())
        if self.config.adder == "tree":
            return ones
        # of ternary digits, half are taken to be negative: the sign is their second bit
        negative = 0.5 * ones if weights.magnitude_bits == 1 else float(bits[:, -1].sum())
        return ones + negative * (built.widths.total - bits.shape[1])

    def _layer(self, layer: LayerWork) -> Built:
        return self._build(self._planes(layer), layer.input.bits)

    def _planes(self, layer: LayerWork) -> int:
        """Bits of a weight as stored; a ternary one has two."""
        weights = layer.weights[self.encodings[0]]
        planes = len(weights.nonzero[1]) // weights.terms
        return 2 if weights.magnitude_bits == 1 else planes

    def _digits(self, input_bits: int) -> int:
        return -(-input_bits // self.config.input_bits_per_cycle)

    def _units(self, widths: Widths) -> int:
        """Trees, or columns, of a weight."""
        return widths.total if self.config.adder == "ripple" else widths.trees

    def _switching(self, widths: Widths) -> float:
        """As :meth:`_units`, with a share of the columns that are left over; at its peak an array of ripple adders
        switches as a whole."""
        if self.config.adder == "tree":
            return float(self._units(widths))
        return self.config.outputs / max(1, self._weights_per_macro(widths))

    def _weights_per_macro(self, widths: Widths) -> int:
        return self.config.outputs // self._units(widths)

    def _cycle_s(self, built: Built) -> float:
        if self.config.frequency_mhz:
            return 1e-6 / self.config.frequency_mhz
        return built.adders.delay_s
