"""A systolic array as in the TPU: operands are passed from element to element; one of them stays.

The machine. ``rows`` by ``columns`` elements, each a multiplier of ``precision`` bits, an adder and registers, run one
layer after the other as a matrix product (``energy.accelerators.systolic_counts`` says how it is laid out, and counts
cycles, words and steps). Operands wider than an element take one pass per pair of digits; of narrower ones the upper
part of the multiplier does not switch, and the element takes what one of their geometric mean width takes. With
``zero_gating`` the multiplier also rests where a weight or an input is zero. Zeros never save time. The terms of a sum
of scaled planes are filters of their own, added up when they are scaled. Every step to the next element costs a wire
of the element's pitch; its registers are part of the synthesised element.

Memory. Weights, inputs and partial sums have a memory each, cut into ``banks``; half of it holds what the array works
on, the other half what comes next. Weights stay on the chip where those of the whole network fit, and come from DRAM
once per image or more often otherwise. A layer's input and its result stay where they fit; partial sums that do not
fit go to DRAM and come back. Which folds follow each other, along rows or along columns, and into how many chunks the
stream is cut, is chosen for the least product of energy and time. The image comes from DRAM. A port or a DRAM that
cannot keep up stretches the layer: memories fetch ahead, so a layer takes the longest of its computation and of each
memory's traffic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range
from energy.accelerators import register_accelerator
from energy.accelerators.float_unit import NOTE, FloatUnits
from energy.accelerators.systolic_counts import DATAFLOWS, Folds, Product
from energy.accelerators.systolic_traffic import Formats, Memories, Traffic
from energy.cost import OPERANDS, Band, Cost, Ledger, Peak
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

_MEMORIES = {"weights": "weight buffer", "inputs": "input buffer", "outputs": "output buffer"}


@dataclass(frozen=True)
class SystolicConfig:
    """Shape of the array and of its memories.

    ``preload`` is ``exposed`` where a fold waits for the operand that stays, ``hidden`` where a second register takes
    it in meanwhile. ``*_port_bits`` and ``dram_bits`` are per cycle; a port of 0 bits is as wide as the array asks for.
    """

    rows: int = 32
    columns: int = 32
    dataflow: str = "weight_stationary"
    precision: int = 8
    accumulator_bits: int = 32
    preload: str = "exposed"
    zero_gating: bool = False
    weight_kb: float = 256.0
    input_kb: float = 256.0
    output_kb: float = 128.0
    banks: int = 8
    weight_port_bits: int = 0
    input_port_bits: int = 0
    output_port_bits: int = 0
    dram_bits: int = 192
    residual_bits: int = 16

    def __post_init__(self) -> None:
        ranges = {
            "rows": (1, 4096),
            "columns": (1, 4096),
            "accumulator_bits": (8, 64),
            "banks": (1, 4096),
            "weight_port_bits": (0, 1 << 20),
            "input_port_bits": (0, 1 << 20),
            "output_port_bits": (0, 1 << 20),
            "dram_bits": (1, 1 << 20),
            "residual_bits": (1, 32),
        }
        for name, (low, high) in ranges.items():
            check_range(f"accelerator.{name}", getattr(self, name), low, high)
        for name in ("weight_kb", "input_kb", "output_kb"):
            if not 0 < getattr(self, name) <= 1 << 20:
                raise ConfigError(f"accelerator.{name}", getattr(self, name), "a capacity up to 1 GB")
        choices = {"dataflow": DATAFLOWS, "precision": (2, 4, 8, 16), "preload": ("exposed", "hidden")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                value = str(getattr(self, name))
                raise UnknownName(name, value, [str(a) for a in allowed], key=f"accelerator.{name}")


def mac_energy(technology: Technology, weight_bits: int, input_bits: int) -> Band:
    """Energy in pJ of one multiply-accumulate in an element that is at least as wide as its operands.

    Between the widths that were synthesised, a power law in the geometric mean of the operands' widths.
    """
    return _by_width(technology, "pe_energy.{0}/{0}", (1, 2, 4, 8, 16), weight_bits, input_bits)


def multiplier_energy(technology: Technology, weight_bits: int, input_bits: int) -> Band:
    """Energy in pJ of the element's multiplier alone, by the same rule."""
    return _by_width(technology, "multiplier_energy.{0}", (1, 2, 4, 8), weight_bits, input_bits)


def _by_width(technology: Technology, name: str, widths: tuple[int, ...], weights: int, inputs: int) -> Band:
    at = math.log2(math.sqrt(weights * inputs))
    lower = min(int(at), len(widths) - 2)
    below, above = (technology[name.format(w)].band for w in widths[lower : lower + 2])
    ends = zip((below.low, below.nominal, below.high), (above.low, above.nominal, above.high), strict=True)
    return Band(*(one * (other / one) ** (at - lower) for one, other in ends))


@register_accelerator("systolic", SystolicConfig)
class Systolic:
    """See the module's text. All figures are per inference of one image."""

    encodings = ("sign_magnitude",)  # any: only packed sizes and whole zeros are looked at

    def __init__(self, config: SystolicConfig, technology: Technology) -> None:
        self.config, self.technology = config, technology
        self._clock_hz = technology["clock_hz"].value
        self._floats = FloatUnits(config.rows * config.columns, self._clock_hz, technology)
        self._memories = Memories(config.weight_kb, config.input_kb, config.output_kb, config.residual_bits)
        self._kind = f"{config.precision}/{config.precision}"
        pitch_mm = math.sqrt(technology[f"pe_area.{self._kind}"].value) * 1e-3
        self._step_j = technology["wire.energy"].band * (pitch_mm * 1e-12)
        self._dram_j = technology["dram_energy"].band * 1e-12
        self._bank_kb = {o: getattr(self._memories, o) / config.banks for o in OPERANDS}
        sram = technology.sram
        self._access = {
            o: (sram.read_j_per_bit(kb), sram.write_j_per_bit(kb)) for o, kb in self._bank_kb.items()
        }
        """Operand -> energy per bit read from and written to its memory."""

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; the granularity means nothing here."""
        formats = {layer.name: self._formats(layer) for layer in workload.layers}
        has_float = any(layer.is_float for layer in workload.layers)
        area, leakage_w = self._area(has_float)
        stored = (self._memories.stored(layer, formats[layer.name])["weights"] for layer in workload.layers)
        resident = self._memories.hold(sum(stored))
        ledger, latency, bound, busy = Ledger(), {}, {}, {}
        for index, layer in enumerate(workload.layers):
            form = formats[layer.name]
            image_bits = workload.image_bits if index == 0 else 0
            traffic, cycles = self._best(layer, form, resident, image_bits, leakage_w.nominal)
            bound[layer.name], longest = max(cycles.items(), key=lambda item: item[1])
            latency[layer.name] = longest / self._clock_hz
            products = layer.macs * form.terms * form.passes
            busy[layer.name] = products / (longest * self.config.rows * self.config.columns)
            self._book(ledger, layer, form, traffic)
            ledger.add(layer.name, "leakage", leakage_w * latency[layer.name])
        notes, extrapolated = self._notes(workload, formats, resident)
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
        """An endless stream through a full array, the operand that stays being there already."""
        c = self.config
        digits = [-(-bits // c.precision) for bits in (weight_bits, input_bits)]
        area, leakage_w = self._area(has_float=False)
        _, crosses, falls = Folds(c.dataflow, Product(1, 1, 1), c.rows, c.columns).roles
        bits = {"weights": min(weight_bits, c.precision), "inputs": min(input_bits, c.precision)}
        cycle_j = mac_energy(self.technology, *bits.values()) * (c.rows * c.columns * 1e-12)
        bits["outputs"] = c.accumulator_bits
        cycle_j += self._step_j * (c.rows * c.columns * (bits[crosses] + bits[falls]))
        cycle_j += self._access[crosses][0] * (c.rows * bits[crosses])
        cycle_j += self._access[falls][falls == "outputs"] * (c.columns * bits[falls])
        notes = ("array and its memories; DRAM, loading and post-processing are left out",)
        return Peak(
            2 * c.rows * c.columns * self._clock_hz / math.prod(digits),
            cycle_j * self._clock_hz + leakage_w,
            sum(area.values(), Band.zero()),
            notes,
        )

    def _formats(self, layer: LayerWork) -> Formats:
        if layer.is_float:
            return Formats(FLOAT_BITS, FLOAT_BITS, FLOAT_BITS)
        c, weights = self.config, layer.weights[self.encodings[0]]
        weight_bits = -(-weights.dense_bits // (layer.outputs * layer.reduction * weights.terms))
        digits = (-(-bits // c.precision) for bits in (weight_bits, layer.input_bits))
        return Formats(weight_bits, layer.input_bits, c.accumulator_bits, *digits, terms=weights.terms)

    def _folds(self, layer: LayerWork, terms: int) -> Folds:
        """How the product of one channel group is laid out; groups run one after the other."""
        product = Product(layer.pixels, layer.reduction, layer.outputs // layer.groups * terms)
        return Folds(self.config.dataflow, product, self.config.rows, self.config.columns)

    def _best(
        self, layer: LayerWork, form: Formats, resident: bool, image_bits: int, leakage_w: float
    ) -> tuple[Traffic, dict[str, float]]:
        """Traffic and cycles of the order and the cut of the stream with the least product of energy and time."""
        whole = self._folds(layer, form.terms)
        array_j = self._array_j(layer, form).nominal
        options = []
        for chunks in self._memories.chunkings(layer, form, whole):
            folds = replace(whole, chunks=chunks)
            for columns_first in (True, False):
                traffic = self._memories.traffic(layer, form, folds, columns_first, resident, image_bits)
                cycles = self._cycles(folds, form, layer.groups, traffic)
                time_s = max(cycles.values()) / self._clock_hz
                energy_j = array_j + self._moved_j(traffic) + leakage_w * time_s
                options.append((energy_j * time_s, traffic, cycles))
        return min(options, key=lambda option: option[0])[1:]

    def _moved_j(self, traffic: Traffic) -> float:
        dram_j, step_j = self._dram_j.nominal, self._step_j.nominal
        return sum(
            traffic.read[o] * read.nominal
            + traffic.written[o] * write.nominal
            + traffic.steps[o] * step_j
            + traffic.dram[o] * dram_j
            for o, (read, write) in self._access.items()
        )

    def _cycles(self, folds: Folds, form: Formats, groups: int, traffic: Traffic) -> dict[str, float]:
        """Cycles that the array, each port and the DRAM need; the array first, so that it wins a tie."""
        c = self.config
        cycles = {"compute": float(folds.cycles(c.preload == "exposed") * form.passes * groups)}
        ports = (c.weight_port_bits, c.input_port_bits, c.output_port_bits)
        for (operand, memory), port in zip(_MEMORIES.items(), ports, strict=True):
            if port:
                cycles[memory] = (traffic.read[operand] + traffic.written[operand]) / port
        cycles["dram"] = sum(traffic.dram.values()) / c.dram_bits
        return cycles

    def _book(self, ledger: Ledger, layer: LayerWork, form: Formats, traffic: Traffic) -> None:
        tech, name = self.technology, layer.name
        ledger.add(name, "pe array", self._array_j(layer, form))
        for operand, memory in _MEMORIES.items():
            read_j, write_j = self._access[operand]
            moved = read_j * traffic.read[operand] + write_j * traffic.written[operand]
            ledger.add(name, memory, moved, operand)
            ledger.add(name, "interconnect", self._step_j * traffic.steps[operand], operand)
            ledger.add(name, "dram", self._dram_j * traffic.dram[operand], operand)
        rescale = tech["fp32_mac_energy" if layer.is_float else "pe_energy.16/16"].band
        scalings = (form.terms + layer.added) * layer.outputs * layer.pixels
        ledger.add(name, "post-processing", rescale * (scalings * 1e-12))

    def _array_j(self, layer: LayerWork, form: Formats) -> Band:
        if layer.is_float:
            return self._floats.energy_j(layer)
        widths = [min(bits, self.config.precision) for bits in (form.weight_bits, form.input_bits)]
        product_j = mac_energy(self.technology, *widths)
        if self.config.zero_gating:
            multiplier = multiplier_energy(self.technology, *widths).nominal / product_j.nominal
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
        c, tech = self.config, self.technology
        elements = c.rows * c.columns * 1e-6
        area = {"pe array": tech[f"pe_area.{self._kind}"].band * elements}
        leakage = tech[f"pe_leakage.{self._kind}"].band * elements
        if has_float:
            area["pe array"] += self._floats.area_mm2
            leakage += self._floats.leakage_w
        area["post-processing"] = tech["pe_area.16/16"].band * (c.columns * 1e-6)
        leakage += tech["pe_leakage.16/16"].band * (c.columns * 1e-6)
        for operand, memory in _MEMORIES.items():
            bank_kb = self._bank_kb[operand]
            area[memory] = tech.sram.area_mm2(bank_kb) * c.banks
            leakage += tech.sram.leakage_w(bank_kb) * c.banks
        return area, leakage

    def _notes(
        self, workload: Workload, formats: Mapping[str, Formats], resident: bool
    ) -> tuple[tuple[str, ...], bool]:
        notes = []
        if any(layer.is_float for layer in workload.layers):
            notes.append(NOTE)
        for operand, memory in _MEMORIES.items():
            bank_kb = self._bank_kb[operand]
            if self.technology.sram.extrapolates(bank_kb):
                notes.append(f"{memory}: banks of {bank_kb:.3g} KB lie outside the SRAM table")
        if any(f.weight_bits * f.input_bits < 4 for f in formats.values()):
            notes.append("operands of less than 2 bits: elements are extrapolated, not synthesised")
        extrapolated = bool(notes)
        if not resident:
            notes.append("the network's weights do not fit on the chip: they come from DRAM for every image")
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return tuple(notes), extrapolated
