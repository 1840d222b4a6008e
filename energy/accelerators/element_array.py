"""The frame of machines whose elements differ and whose arrays do not: filters by lanes by pixels, fed from buffers.

A family says what one element is built of (:mod:`energy.datapath.parts`), what stands below the elements of a filter
and a pixel, and what a layer makes them do; the frame adds floats, memories, DRAM, leakage and what binds.

Weights lie in the weight buffer as the family stores them, index bits included, and are read once per image into
local buffers, which feed the array: once per tile of pixels, held while all digits of their inputs come by. Those that
do not fit come from DRAM for every image; a layer's traffic and its
computation overlap, the longer of the two is its time. Inputs are read once per tile of pixels and group of filters,
with the halo of the kernel. The image comes from DRAM while the one before it is computed. Layers in floating point
run on ``float_units`` beside the array.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from compressors.errors import ConfigError
from compressors.registry import check_range
from energy.accelerators.buffers import KB, LEAST_KB, Buffers
from energy.accelerators.float_unit import NOTE, FloatUnits
from energy.accelerators.tiling import Tiling, live_bits
from energy.activity import WeightActivity
from energy.cost import Band, Cost, Ledger, Peak
from energy.datapath.parts import PartLaw, Parts
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload


@dataclass(frozen=True)
class ArrayConfig:
    """Shape of the array and of what is around it.

    ``weight_buffer_kb`` of 0 is as large as the network's weights; ``dram_bits`` come in per cycle.
    """

    filters: int = 16
    lanes: int = 16
    pixels: int = 1
    weight_buffer_kb: float = 0.0
    local_buffer_kb: float = 0.5
    dram_bits: int = 192
    float_units: int = 256
    residual_bits: int = 16

    def __post_init__(self) -> None:
        for name in ("filters", "lanes", "pixels"):
            check_range(f"accelerator.{name}", getattr(self, name), 1, 4096)
        check_range("accelerator.dram_bits", self.dram_bits, 1, 1 << 20)
        check_range("accelerator.float_units", self.float_units, 1, 1 << 20)
        check_range("accelerator.residual_bits", self.residual_bits, 1, 32)
        if not 0 <= self.weight_buffer_kb <= 1 << 20:
            raise ConfigError(
                "accelerator.weight_buffer_kb", self.weight_buffer_kb, "a capacity up to 1 GB, or 0"
            )
        if not LEAST_KB <= self.local_buffer_kb <= 64:
            raise ConfigError(
                "accelerator.local_buffer_kb", self.local_buffer_kb, "a capacity of a byte to 64 KB"
            )


@dataclass(frozen=True)
class Work:
    """What a layer makes the array do.

    Attributes:
        cycles: of the whole array.
        busy: cycles of single elements that do something useful.
        parts: what works in them, added up over all elements and cycles; columns included.
        weight_bits: as stored, with all that finding them takes.
        weight_reads, fed_bits: weights and inputs that local buffers give, in bits.
        rescalings: multiplications and additions per output behind the array.
        factor: on what the law says about the energy of ``parts``.
        waiting: share of the slots in which a filter waits for a slower one.
        notes: what was assumed for this layer.
    """

    cycles: float
    busy: float
    parts: Parts
    weight_bits: float
    weight_reads: float
    fed_bits: float
    rescalings: float
    factor: float = 1.0
    waiting: float = 0.0
    notes: tuple[str, ...] = ()


class ElementArray(ABC):
    """See the module's text. All figures are per inference of one image."""

    encodings: tuple[str, ...]
    area_factor = 1.0
    """On what the law says about the elements."""

    def __init__(self, config: ArrayConfig, technology: Technology) -> None:
        self.frame, self.technology = config, technology
        self.law = PartLaw(technology)
        self.tiling = Tiling(config.filters, config.lanes, config.pixels)
        self._clock_hz = technology["clock_hz"].value
        self._floats = FloatUnits(config.float_units, self._clock_hz, technology)

    @property
    @abstractmethod
    def element(self) -> Parts:
        """What one element is built of."""

    @property
    @abstractmethod
    def column(self) -> Parts:
        """What stands below the elements of one filter and one pixel."""

    @property
    @abstractmethod
    def extrapolation(self) -> str:
        """Why the law of the parts goes beyond what it was fitted to; empty where it does not."""

    @abstractmethod
    def work(self, layer: LayerWork) -> Work:
        """What a layer of integers makes the array do."""

    @abstractmethod
    def full(self, weight_bits: int, input_bits: int) -> tuple[float, Parts]:
        """Multiply-accumulates of one element per cycle, and what works in it, with operands of these widths."""

    def below(self, weight_bits: int, input_bits: int) -> Parts:
        """What works below the elements of a filter and a pixel in a cycle, with operands of these widths."""
        return self.column

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; the granularity means nothing here, the machine cuts operands its own way."""
        works = {w.name: self._float_work(w) if w.is_float else self.work(w) for w in workload.layers}
        stored = sum(work.weight_bits for work in works.values())
        buffers = self._buffers(workload, stored)
        absent = max(1.0 - buffers.weight_kb * KB / stored, 0.0) if stored else 0.0
        area, leakage_w = self._area(any(w.is_float for w in workload.layers))
        leakage_w += buffers.leakage_w()
        ledger, latency, busy, bound = Ledger(), {}, {}, {}
        dram_j = self.technology["dram_energy"].band * 1e-12
        for index, layer in enumerate(workload.layers):
            work, name = works[layer.name], layer.name
            waited = absent * work.weight_bits / self.frame.dram_bits
            cycles = max(work.cycles, waited)
            bound[name] = "compute" if work.cycles >= waited else "dram"
            latency[name] = cycles / self._clock_hz
            units = self._floats.units if layer.is_float else self._elements
            busy[name] = work.busy / (cycles * units) if cycles else 1.0
            array_j = self._floats.energy_j(layer) if layer.is_float else self.law.energy_j(work.parts)
            ledger.add(name, "pe array", array_j * work.factor)
            buffers.book_local(ledger, name, work.weight_reads, work.fed_bits)
            buffers.book_shared(ledger, layer, work.weight_bits, self.tiling.input_bits(layer))
            buffers.book_rescaling(ledger, layer, work.rescalings)
            if absent:
                ledger.add(name, "dram", dram_j * (absent * work.weight_bits), "weights")
            if index == 0:
                ledger.add(name, "dram", dram_j * workload.image_bits, "inputs")
            ledger.add(name, "leakage", leakage_w * latency[name])
        notes, extrapolated = self._notes(workload, works, buffers, absent)
        return Cost(
            ledger.energy_j,
            latency,
            {"pe array": area, **buffers.area_mm2()},
            busy,
            notes,
            operand_j=ledger.operand_j,
            bound=bound,
            leakage_w=leakage_w,
            extrapolated=extrapolated,
        )

    def peak(self, weight_bits: int, input_bits: int) -> Peak:
        """Every element busy on operands without a zero."""
        rate, parts = self.full(weight_bits, input_bits)
        area, leakage_w = self._area(has_float=False)
        below = self.below(weight_bits, input_bits)
        cycle_j = self.law.energy_j(parts * self._elements + below * self._columns)
        return Peak(
            2 * rate * self._elements * self._clock_hz,
            cycle_j * self._clock_hz + leakage_w,
            area,
            ("elements and what stands below them; memories are left out",),
        )

    @property
    def _elements(self) -> int:
        return self.frame.filters * self.frame.lanes * self.frame.pixels

    @property
    def _columns(self) -> int:
        return self.frame.filters * self.frame.pixels

    def _float_work(self, layer: LayerWork) -> Work:
        passes, tiles = self.tiling.passes(layer), self.tiling.tiles(layer)
        bits = float(layer.outputs * layer.reduction * FLOAT_BITS)
        fed = float(passes * layer.reduction * layer.pixels * FLOAT_BITS)
        cycles = self._floats.latency_s(layer) * self._clock_hz
        return Work(cycles, layer.macs, Parts(), bits, bits * tiles, fed, 1.0)

    def _buffers(self, workload: Workload, stored: float) -> Buffers:
        f = self.frame
        live = max(live_bits(layer, f.residual_bits) for layer in workload.layers)
        weight_kb = f.weight_buffer_kb or stored / KB
        return Buffers(self.technology, weight_kb, live / KB, f.local_buffer_kb, f.filters, f.residual_bits)

    def _area(self, has_float: bool) -> tuple[Band, Band]:
        """Area in mm2 and leakage in W of elements, what is below them, and units of floating point."""
        elements, columns = self.element * self._elements, self.column * self._columns
        area = self.law.area_mm2(elements) * self.area_factor + self.law.area_mm2(columns)
        leakage = self.law.leakage_w(elements) * self.area_factor + self.law.leakage_w(columns)
        if has_float:
            area += self._floats.area_mm2
            leakage += self._floats.leakage_w
        return area, leakage

    def _notes(
        self, workload: Workload, works: Mapping[str, Work], buffers: Buffers, absent: float
    ) -> tuple[tuple[str, ...], bool]:
        notes = [self.extrapolation] if self.extrapolation else []
        if self.technology.node_nm != self.law.node_nm:
            notes.append(f"elements are those of {self.law.node_nm:g} nm")
        if any(layer.is_float for layer in workload.layers):
            notes.append(NOTE)
        notes += buffers.notes()
        assumed = list(dict.fromkeys(note for work in works.values() for note in work.notes))
        extrapolated = bool(notes or assumed)
        notes += assumed
        if absent:
            notes.append(
                f"{absent:.0%} of the weights do not fit on the chip: they come from DRAM for every image"
            )
        slots = sum(work.cycles for work in works.values())
        waiting = sum(work.waiting * work.cycles for work in works.values())
        if waiting:
            notes.append(f"filters wait for slower ones in {waiting / slots:.0%} of the array's time")
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return tuple(notes), extrapolated


def weight_width(layer: LayerWork, weights: WeightActivity) -> int:
    """Bits of one code as it is stored densely, sign included."""
    return -(-weights.dense_bits // (layer.outputs * layer.reduction * weights.terms))


def weight_planes(bits: int, encoding: str) -> int:
    """Planes of one-bit digits that integers of ``bits`` bits take, their sign aside where it is one.

    Canonical signed digits go one place beyond the magnitude (3 is 4 - 1); integers of 2 bits are -1, 0 and 1 already.
    """
    if encoding == "twos_complement" or (encoding == "csd" and bits > 2):
        return bits
    return max(bits - 1, 1)


def densities(layer: LayerWork, weights: WeightActivity) -> tuple[float, float]:
    """Share of weights, and of inputs, that are not zero; a code of several digits counts by its fullest."""
    widest = max(weights.nonzero)
    planes = weights.nonzero[widest].sum(1).reshape(weights.terms, -1).max(1)
    return float(planes.mean()) / (layer.outputs * layer.reduction), float(layer.input.nonzero[widest].max())
