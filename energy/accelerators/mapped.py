"""The frame of machines that run layers as loop nests: the best mapping of each layer, priced (``energy.mapping``).

A layer is searched once for its shape; other bit widths re-score the access counts found then. The weights of a sum of
scaled planes are filters of their own, added up when they are scaled. Operands wider than an element take one pass per
pair of digits, and their digits and partial sums are exchanged with the innermost memories in each of them; of
narrower ones the upper part of the multiplier does not switch. With ``zero_gating`` the multiplier also rests where a
weight or an input is zero. Zeros never save time.

Whatever does not stay on the chip comes from DRAM and goes there. Weights stay if those of the whole network fit into a
memory that keeps weights; with ``keep_activations`` so does what one layer hands to the next, if all that either of
them reads and writes fits. Residual copies lie beside the outputs. The image always comes from DRAM.

A layer takes the longest of what the ports, the DRAM and the elements need; these wait for the first tiles, and for
every tile of a memory that is not buffered. Layers in floating point run the same nest on fp32 units in the place of
the elements, with words of 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Named
from dataclasses import replace

import numpy as np

from compressors.errors import ConfigError
from energy.accelerators.float_unit import NOTE, FloatUnits
from energy.accelerators.mapped_design import Design, Form, staying
from energy.accelerators.systolic import mac_energy, multiplier_energy
from energy.accelerators.tiling import residual_width
from energy.cost import OPERANDS, Band, Cost, Ledger, Peak
from energy.mapping import kernel, layout
from energy.mapping.machine import Level, Machine
from energy.mapping.problem import INPUTS, OUTPUTS, Problem
from energy.mapping.search import Mapping, best_mapping
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

_FINAL = 3
_OPERAND = (*OPERANDS, OPERANDS[OUTPUTS])
"""Of each column of counts: partial sums and final outputs are both outputs."""
_REFERENCE = Problem((1, 1, 256, 256, 56, 56, 3, 3))
"""A layer large enough to fill any array, for specifications."""


class MappedArray:
    """See the module's text. All figures are per image."""

    encodings = ("sign_magnitude",)  # any: only packed sizes and whole zeros are looked at

    def __init__(self, design: Design, technology: Technology) -> None:
        self.design, self.technology = design, technology
        self._clock_hz = technology["clock_hz"].value
        self._floats = FloatUnits(design.machine.positions, self._clock_hz, technology)
        self._kind = f"{design.precision}/{design.precision}"

    def cost(self, workload: Workload, granularity: Named[str, int]) -> Cost:
        """Price ``workload``; the granularity means nothing here."""
        forms = [self._form(layer) for layer in workload.layers]
        problems = [self._problem(layer, form) for layer, form in zip(workload.layers, forms, strict=True)]
        stays = staying(self.design, workload.layers, problems, forms)
        has_float = any(layer.is_float for layer in workload.layers)
        area, leakage_w = self._area(has_float)
        ledger, latency, bound, busy = Ledger(), {}, {}, {}
        batch, positions = self.design.batch, self.design.machine.positions
        for index, (layer, problem, form, kept) in enumerate(
            zip(workload.layers, problems, forms, stays, strict=True)
        ):
            machine, mapping = self._map(problem, form, kept)
            bits = self._moved_bits(mapping, machine, problem, form, layer)
            if index == 0:
                again = mapping.reads[-1, INPUTS] / problem.words(INPUTS)
                bits[0, -1, INPUTS] = again * workload.image_bits * batch
            else:
                bits[0, -1, INPUTS] *= self._dram_share(layer)
            bits[1, -1, _FINAL] *= self._dram_share(next(iter(workload.layers[index + 1 :]), None))
            bound[layer.name], cycles = self._time(mapping, machine, form, bits)
            latency[layer.name] = cycles / batch / self._clock_hz
            busy[layer.name] = problem.macs * form.passes / (cycles * positions)
            self._book(ledger, layer, form, bits)
            ledger.add(layer.name, "pe array", self._array_j(layer, form))
            if self.design.overhead_j.nominal:
                ledger.add(layer.name, "clock", self.design.overhead_j * (positions * cycles / batch))
            ledger.add(layer.name, "leakage", leakage_w * latency[layer.name])
        notes, extrapolated = self._notes(workload, forms, stays)
        return Cost(
            ledger.energy_j,
            latency,
            area,
            busy,
            notes,
            operand_j=ledger.operand_j,
            bound=bound,
            leakage_w=leakage_w,
            extrapolated=extrapolated,
        )

    def peak(self, weight_bits: int, input_bits: int) -> Peak:
        """Every element busy, fed as in a large 3x3 convolution; DRAM is left out."""
        form = self._integer_form(weight_bits, input_bits, input_bits, 1)
        mapping = best_mapping(_REFERENCE, self.design.machine, self.design.flows, form.bits)
        moved = self._moved_bits(mapping, self.design.machine, _REFERENCE, form)
        product_j = mac_energy(self.technology, *self._element_bits(form)) * (form.passes * 1e-12)
        moved_j = sum(
            (self._level_j(level, moved[:, i]) for i, level in enumerate(self.design.machine.levels[:-1])),
            Band.zero(),
        )
        rate = self.design.machine.positions * self._clock_hz / form.passes
        area, leakage_w = self._area(has_float=False)
        overhead = self.design.overhead_j * (self.design.machine.positions * self._clock_hz)
        power_w = (product_j + moved_j * (1.0 / _REFERENCE.macs)) * rate + overhead + leakage_w
        notes = ("elements and their memories on a 3x3 convolution of 256 channels; DRAM is left out",)
        return Peak(2 * rate, power_w, sum(area.values(), Band.zero()), notes)

    # what a layer is

    def _form(self, layer: LayerWork) -> Form:
        if layer.is_float:
            return Form(FLOAT_BITS, FLOAT_BITS, FLOAT_BITS, layer.output_bits)
        weights = layer.weights[self.encodings[0]]
        weight_bits = -(-weights.dense_bits // (layer.outputs * layer.reduction * weights.terms))
        return self._integer_form(weight_bits, layer.input_bits, layer.output_bits, weights.terms)

    def _integer_form(self, weight_bits: int, input_bits: int, output_bits: int, terms: int) -> Form:
        digits = tuple(-(-bits // self.design.precision) for bits in (weight_bits, input_bits))
        return Form(weight_bits, input_bits, self.design.accumulator_bits, output_bits, digits, terms)

    def _problem(self, layer: LayerWork, form: Form) -> Problem:
        return Problem.of(replace(layer, outputs=layer.outputs * form.terms), self.design.batch)

    # what it costs

    def _map(self, problem: Problem, form: Form, kept: frozenset[str]) -> tuple[Machine, Mapping]:
        """The best mapping with the operands in ``kept`` on the chip, and the machine that has them there.

        Tiles are a little larger than what they hold where loops do not divide; what has no room for them comes from
        DRAM after all.
        """
        for operands in (kept, kept & {"weights"}):
            machine = self.design.machine.keeping(operands)
            try:
                return machine, best_mapping(problem, machine, self.design.flows, form.bits)
            except ConfigError:
                continue
        machine = self.design.machine
        return machine, best_mapping(problem, machine, self.design.flows, form.bits)

    def _dram_share(self, layer: LayerWork | None) -> float:
        """Part of their bits that the inputs of ``layer`` take in DRAM; None is the network's output."""
        return 1.0

    def _time(self, mapping: Mapping, machine: Machine, form: Form, bits: np.ndarray) -> tuple[str, float]:
        """What sets the time, and cycles."""
        times = {"compute": float(mapping.busy[-1] + mapping.turns * (form.passes - 1))}
        for level, busy in zip(machine.levels, mapping.busy[:-1], strict=True):
            times[level.name] = float(busy)
        outermost = machine.levels[-1]
        times[outermost.name] = float(bits[:2, -1].sum()) / (outermost.read_bits or math.inf)
        return max(times.items(), key=lambda item: item[1])

    def _moved_bits(
        self, mapping: Mapping, machine: Machine, problem: Problem, form: Form, layer: LayerWork | None = None
    ) -> np.ndarray:
        """Bits read, written and passed on, ``[3, L, 4]``, with the residual stream of ``layer``."""
        bits = np.stack([mapping.reads, mapping.writes, mapping.moves]) * np.array(form.bits)
        if form.passes > 1:
            bits += self._digit_bits(mapping, machine, problem, form)
        if layer is not None:
            stream = (
                layer.outputs
                * layer.pixels
                * self.design.batch
                * residual_width(layer, self.design.residual_bits)
            )
            home = machine.home("outputs")
            bits[0, home, OUTPUTS] += layer.added * stream
            bits[1, home, OUTPUTS] += layer.kept * stream
        return bits

    def _digit_bits(self, mapping: Mapping, machine: Machine, problem: Problem, form: Form) -> np.ndarray:
        """What elements exchange with their memories beyond one pass, in bits.

        Every pass takes a digit of each operand and adds to the sums.
        """
        table = layout.elements(layout.nest(problem, machine))
        counts = np.zeros((3, len(machine.levels), 4))
        perms = layout.orders(mapping.orders)
        kernel.count(table, mapping.temporal, mapping.spatial, perms, mapping.shares, counts)
        taken = [form.passes * bits for bits in self._element_bits(form)]
        more = [max(t - b, 0) for t, b in zip(taken, (form.weights, form.inputs), strict=True)]
        return counts * np.array([*more, *[form.sums * (form.passes - 1)] * 2])

    def _book(self, ledger: Ledger, layer: LayerWork, form: Form, bits: np.ndarray) -> None:
        """All moves of a batch, as those of one image."""
        machine, per_image = self.design.machine, (bits / self.design.batch).tolist()
        networks = dict(machine.networks)
        for i, level in enumerate(machine.levels):
            for column, operand in enumerate(_OPERAND):
                if operand in level.operands:
                    moved = level.read_j * per_image[0][i][column] + level.write_j * per_image[1][i][column]
                    ledger.add(layer.name, level.name, moved, operand)
                if level.name in networks:
                    hops = networks[level.name].hop_j * per_image[2][i][column]
                    ledger.add(layer.name, "interconnect", hops, operand)
        unit = self.technology["fp32_mac_energy" if layer.is_float else "pe_energy.16/16"].band
        scalings = (form.terms + layer.added) * layer.outputs * layer.pixels
        ledger.add(layer.name, "post-processing", unit * (scalings * 1e-12))

    def _level_j(self, level: Level, bits: np.ndarray) -> Band:
        """Energy of ``bits [3, 4]`` read, written and passed on beneath a level."""
        network = dict(self.design.machine.networks).get(level.name)
        read, written, passed = (float(kind.sum()) for kind in bits)
        moved = level.read_j * read + level.write_j * written
        return moved if network is None else moved + network.hop_j * passed

    def _element_bits(self, form: Form) -> tuple[int, int]:
        """Bits of the digits an element works on."""
        return min(form.weights, self.design.precision), min(form.inputs, self.design.precision)

    def _array_j(self, layer: LayerWork, form: Form) -> Band:
        if layer.is_float:
            return self._floats.energy_j(layer)
        product_j = mac_energy(self.technology, *self._element_bits(form))
        if self.design.zero_gating:
            multiplier = (
                multiplier_energy(self.technology, *self._element_bits(form)).nominal / product_j.nominal
            )
            product_j = product_j * (1.0 - min(multiplier, 1.0) * self._zeros(layer))
        return product_j * (layer.macs * form.terms * form.passes * 1e-12)

    def _zeros(self, layer: LayerWork) -> float:
        """Share of products with a weight or an input that is zero; a code of several digits counts by its fullest."""
        weights = layer.weights[self.encodings[0]]
        widest = max(weights.nonzero)
        planes = weights.nonzero[widest].sum(1).reshape(weights.terms, -1).max(1)
        density = float(planes.mean()) / (layer.outputs * layer.reduction)
        return 1.0 - density * float(layer.input.nonzero[widest].max())

    def _area(self, has_float: bool) -> tuple[dict[str, Band], Band]:
        tech, machine = self.technology, self.design.machine
        elements = machine.positions * 1e-6
        area = {"pe array": tech[f"pe_area.{self._kind}"].band * elements}
        leakage = tech[f"pe_leakage.{self._kind}"].band * elements
        if has_float:
            area["pe array"] += self._floats.area_mm2
            leakage += self._floats.leakage_w
        units = machine.axes[-1].size * 1e-6
        area["post-processing"] = tech["pe_area.16/16"].band * units
        leakage += tech["pe_leakage.16/16"].band * units
        for name, capacity_kb, number in self.design.bank_kb():
            area[name] = tech.sram.area_mm2(capacity_kb) * number
            leakage += tech.sram.leakage_w(capacity_kb) * number
        return area, leakage

    def _notes(
        self, workload: Workload, forms: list[Form], stays: list[frozenset[str]]
    ) -> tuple[tuple[str, ...], bool]:
        notes = []
        if any(layer.is_float for layer in workload.layers):
            notes.append(NOTE)
        for name, capacity_kb, _ in self.design.bank_kb():
            if self.technology.sram.extrapolates(capacity_kb):
                notes.append(f"{name}: {capacity_kb:.3g} KB lie outside the SRAM table")
        if any(form.weights * form.inputs < 4 for form in forms):
            notes.append("operands of less than 2 bits: elements are extrapolated, not synthesised")
        extrapolated = bool(notes)
        if "weights" not in stays[0]:
            notes.append(
                "the network's weights do not stay on the chip: they come from DRAM for every image or batch"
            )
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return tuple(notes), extrapolated
