"""Analog compute-in-memory: weights stay in the cells of arrays, whose columns add up products.

The machine. Each array has ``rows`` by ``columns`` cells. An input drives a row, ``dac_bits`` of it at a time; every
cell multiplies it with the ``cell_bits`` of a weight that it stores, and the column adds up. A group of columns
(``joined_columns``, twice as many where positive and negative weights have a column each) ends in one conversion;
converters may take turns on several groups. Sums of the digits of weights and inputs are shifted and added behind the
converters. ``energy.cim.settings`` says what can be set, ``energy.cim.machine`` how layers are placed, and what
surrounds the arrays.

Energy. Cells take energy by what they hold and what is applied to them, counted on the tensors: a product of ones
switches the capacitance of a cell of static RAM; a resistive cell takes ``V**2 * G * t`` while its input is not zero,
with the conductance in proportion to its digit. Rows are driven only where the input's digit is not zero. Conversions
take the same whatever they convert. Weights of all zeros in an output (or, with a column for each sign and digit, in a
digit) take no columns. Without a given rate, the converters set the time.

Ternary and binary weights have a column for each sign in any encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError
from energy.accelerators import register_accelerator
from energy.cim.cells import Cells
from energy.cim.converters import Converters, required_bits
from energy.cim.digits import input_driven, input_level, levels
from energy.cim.machine import price
from energy.cim.placement import Placement, Shape, used_units
from energy.cim.process import Process
from energy.cim.settings import CrossbarConfig
from energy.cost import Band, Cost, Ledger, Peak
from energy.technology import Technology
from energy.workload import LayerWork, Workload

_OPERANDS = {"adc": "outputs", "shift-add": "outputs", "row drivers": "inputs", "cells": "weights"}


@dataclass(frozen=True)
class Events:
    """What happens in arrays; see :meth:`Crossbar.energy_j`.

    Attributes:
        lines: cells that a driven row passes, once per pulse.
        samples: bits of inputs converted to analog.
        full, empty: cells that a full input meets, counted by the share of the largest digit that they hold, and by
            what is missing to that.
        conversions: sums converted.
    """

    lines: float
    samples: float
    full: float
    empty: float
    conversions: float


@register_accelerator("crossbar", CrossbarConfig)
class Crossbar:
    """See the module's text. All figures are per inference of one image."""

    def __init__(self, config: CrossbarConfig, technology: Technology) -> None:
        self.config = config
        self.process = Process(technology, config.node_nm, config.vdd_v)
        self.encodings = (config.weight_encoding,)
        self.shape = Shape(config.rows, config.groups)
        self.count = config.arrays
        self._cells = Cells.of(config, self.process)
        self._converters = Converters.of(config, self.process)
        self.write_j, self.write_s = self._cells.write_j, self._cells.write_s

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; the granularity means nothing here, ``cell_bits`` does."""
        notes, extrapolated = self._notes()
        return price(self, workload, notes, extrapolated)

    def peak(self, weight_bits: int, input_bits: int) -> Peak:
        """All arrays busy, bits one as often as ``peak_weight_density`` and ``peak_input_density`` say.

        Inputs are signed where the machine is built for signed ones.

        Raises:
            ConfigError: a weight that takes more than an array.
        """
        weights = self._weights_per_array(weight_bits)
        if not weights:
            raise ConfigError("weight_bits", weight_bits, f"a width that {self.config.columns} columns hold")
        digits = self._digits(input_bits - self.config.bipolar_inputs)
        rate = self.count / (digits * self._converters.activation_s)
        energy = sum(self.peak_energy_j(weight_bits, input_bits).values(), Band.zero())
        power = energy * (self.count / self._converters.activation_s) + self.leakage_w
        return Peak(
            2.0 * self.config.rows * weights * rate,
            power,
            sum(self.area_mm2.values(), Band.zero()),
            ("arrays and their converters; buffers, interconnect and post-processing are left out",),
        )

    def peak_energy_j(self, weight_bits: int, input_bits: int) -> dict[str, Band]:
        """By component, of one full array and one digit of its inputs."""
        c, width = self.config, min(self.config.dac_bits, input_bits)
        density = c.peak_input_density
        driven = 1.0 - (1.0 - density) ** width
        if c.input_coding == "pulses":
            driven = density * (2.0**width - 1.0)
        cells, on = c.rows * density * c.groups * c.group_columns, c.peak_weight_density
        if c.encoding == "differential":
            on *= 0.5  # of a pair, one stores 0
        events = Events(
            c.rows * c.columns * driven,
            float(c.rows * width),
            cells * on,
            cells * (1.0 - on),
            float(self.shape.units),
        )
        return self.energy_j(events)

    def energy_j(self, events: Events) -> dict[str, Band]:
        """Energy by component."""
        cells, converters = self._cells, self._converters
        return {
            "cells": cells.full_j * events.full + cells.empty_j * events.empty,
            "row drivers": cells.line_j * events.lines + converters.dac_j * events.samples,
            "adc": converters.adc_j * events.conversions,
            "shift-add": converters.shift_add_j * events.conversions,
        }

    @property
    def area_mm2(self) -> dict[str, Band]:
        """Of all arrays, by component."""
        converters = self._converters
        parts = {
            "cells": self._cells.area_mm2,
            "row drivers": converters.dac_mm2,
            "adc": converters.adc_mm2,
            "shift-add": converters.shift_add_mm2,
        }
        share = self.process.band("cim.control.area")
        whole = sum(parts.values(), Band.zero())
        parts["control"] = Band(
            *(w * s / (1.0 - s) for w, s in zip(_edges(whole), _edges(share), strict=True))
        )
        return {name: band * self.count for name, band in parts.items()}

    @property
    def leakage_w(self) -> Band:
        """Cells of static RAM as such; other cells keep their weights without power, converters rest unpowered."""
        if self.config.cell != "sram":
            return Band.zero()
        bits = self.config.rows * self.config.columns * self.config.depth * self.count
        return self.process.own_leakage_w(self.process.technology.sram.leakage_w(bits / 8192))

    def used(self, layer: LayerWork) -> np.ndarray:
        c, weights = self.config, layer.weights[self.encodings[0]]
        # where zeros are not stored as zeros, or signs come last, only outputs without any weight are left out
        if weights.magnitude_bits == 1:
            used = used_units(weights.nonzero[1], weights.terms, 1, whole=False)
            return used if c.encoding == "differential" else np.repeat(used, 2, axis=0)
        joined = c.cell_bits * c.joined_columns
        return used_units(weights.nonzero[1], weights.terms, joined, whole=c.encoding != "differential")

    def step_s(self, layer: LayerWork) -> float:
        return self._layer_digits(layer) * self._converters.activation_s

    def cells(self, layer: LayerWork, used: np.ndarray) -> float:
        return float(used.sum()) * layer.reduction * self.config.group_columns

    def book(self, ledger: Ledger, layer: LayerWork, placement: Placement, used: np.ndarray) -> None:
        found = self.energy_j(self._events(layer, placement, used))
        for component, energy in found.items():
            ledger.add(layer.name, component, energy, _OPERANDS[component])

    def _events(self, layer: LayerWork, placement: Placement, used: np.ndarray) -> Events:
        c, pixels = self.config, layer.pixels
        level = input_level(layer.input, c.dac_bits)
        if c.input_coding == "pulses":
            driven = level * (2.0**c.dac_bits - 1.0)
        else:
            driven = input_driven(layer.input, c.dac_bits)
        digits, on = self._layer_digits(layer), self._stored(layer, used)
        sampled = digits * min(c.dac_bits, layer.input.bits)
        return Events(
            lines=driven * pixels * placement.driven * c.columns,
            samples=float(placement.driven * pixels * sampled),
            full=level * pixels * on,
            empty=level * pixels * (self.cells(layer, used) - on),
            conversions=float(placement.results * pixels * digits),
        )

    def _stored(self, layer: LayerWork, used: np.ndarray) -> float:
        """Digits of all placed cells, as shares of the largest."""
        c, weights = self.config, layer.weights[self.encodings[0]]
        bits = weights.nonzero[1].astype(float)
        if weights.magnitude_bits == 1:
            return float(bits.sum())
        if c.encoding == "offset":
            bits = bits.reshape(weights.terms, -1, bits.shape[1]).copy()
            bits[:, -1] = layer.reduction - bits[:, -1]  # the sign bit of two's complement, inverted
            bits = (bits * used.reshape(weights.terms, -1, bits.shape[2]).any(1)[:, None]).reshape(
                -1, bits.shape[2]
            )
        return float(levels(bits, weights.terms, c.cell_bits).sum())

    def _layer_digits(self, layer: LayerWork) -> int:
        signed = layer.input.signed
        passes = 2 if signed and not self.config.bipolar_inputs else 1
        return self._digits(layer.input.bits - signed) * passes

    def _digits(self, magnitude_bits: int) -> int:
        return max(1, -(-magnitude_bits // self.config.dac_bits))

    def _weights_per_array(self, weight_bits: int) -> int:
        c = self.config
        bits = weight_bits - 1 if c.encoding == "differential" else weight_bits
        digits = max(1, -(-bits // c.cell_bits))
        return self.shape.units // -(-digits // c.joined_columns)

    def _notes(self) -> tuple[list[str], bool]:
        c, notes = self.config, []
        exact = required_bits(c)
        if c.adc_bits and c.adc_bits < exact:
            notes.append(
                f"converters of {c.adc_bits} bits round sums of {exact}; accuracy is not modelled here"
            )
        outside = not 7 <= c.node_nm <= 130
        if outside:
            notes.append(f"{c.node_nm:g} nm lies outside the nodes of published macros (7 to 130 nm)")
        return notes, outside


def _edges(band: Band) -> tuple[float, float, float]:
    return band.low, band.nominal, band.high
