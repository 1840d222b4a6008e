"""A network on a bit-serial overlay, priced: see ``energy.accelerators.fpga``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compressors.errors import ConfigError
from compressors.slicing import GRANULARITIES
from energy.fpga.fabric import law
from energy.fpga.overlay import Overlay
from energy.fpga.pricing import PJ, Pricing
from energy.workload import LayerWork


class OverlayPricing(Pricing):
    """One array for all layers."""

    def prepare(self, granularity: Mapping[str, int]) -> None:
        signed = self.config.lanes == "signed"
        self.modes: dict[str, int] = {}
        for layer in self.layers:
            g = granularity.get(layer.name)
            if g not in GRANULARITIES:
                allowed = ", ".join(map(str, GRANULARITIES))
                raise ConfigError(f"granularity of {layer.name}", g, f"one of {allowed}")
            self.modes[layer.name] = g if signed else 1
        c, digit = self.config, max(self.modes.values(), default=1)
        self.array = Overlay(c.rows, c.columns, c.word_bits, c.buffer_words, c.accumulator, digit, signed)

    def widest_sum(self) -> int:
        return self.array.accumulator

    def price(self) -> None:
        self.taken = self.array.resources(self.device, law(self.technology, self.device.fabric))
        stored = sum(layer.weights[self.array.encoding].dense_bits for layer in self.layers)
        resident = stored <= self.array.weight_capacity
        for layer in self.layers:
            self._price(layer, resident)
        if not resident:
            kb = stored / 8192
            self.notes.append(
                f"weights of {kb:,.0f} KB do not fit the buffers and are fetched for every image"
            )
        self.notes.append("stages that fetch, write results and control are left out")
        narrow = sorted({g for g in self.modes.values() if g < self.array.digit})
        if narrow:
            words = ", ".join(map(str, narrow))
            self.notes.append(f"digits of {words} bits run on elements built for {self.array.digit}")

    def _price(self, layer: LayerWork, resident: bool) -> None:
        mode, array, name = self.modes[layer.name], self.array, layer.name
        worked = array.worked(layer, mode, self.config.skip == "planes")
        cycles = array.cycles(layer, worked, mode)
        changing = min(float(np.mean(layer.input.nonzero[mode])), 1.0)
        self.book_luts(layer, cycles * self.taken.luts * changing)
        words = float(cycles * array.word_bits)
        self.ledger.add(name, "block ram", self.fabric.read_j * (words * array.rows), "weights")
        self.ledger.add(name, "block ram", self.fabric.read_j * (words * array.columns), "inputs")
        self.book_rescaling(layer)
        waiting = self._book_dram(layer, resident) / self.config.dram_bits_per_cycle
        self.latency_s[name] = max(cycles, waiting) / self.clock.nominal
        self.bound[name] = "compute" if cycles >= waiting else "dram"
        products = array.products(layer, worked, mode)
        self.busy[name] = products / (cycles * array.rows * array.columns * array.lanes) if cycles else 1.0

    def _book_dram(self, layer: LayerWork, resident: bool) -> float:
        """Bits moved for the layer: operands, results and the residual stream, all booked; the image comes on top."""
        dram_j = self.technology["dram_energy"].band * PJ
        first = layer is self.workload.layers[0]
        read = layer.inputs * layer.pixels * layer.stride[0] * layer.stride[1] * layer.input_bits
        weights, inputs = self.array.fetched_bits(
            layer.weights[self.array.encoding].dense_bits, 0.0 if first else float(read), resident
        )
        stream = (layer.kept + layer.added) * self.config.residual_bits
        outputs = float(layer.outputs * layer.pixels * (layer.output_bits + stream))
        for operand, bits in (("weights", weights), ("inputs", inputs), ("outputs", outputs)):
            self.ledger.add(layer.name, "dram", dram_j * bits, operand)
        return weights + inputs + outputs + self.workload.image_bits * first
