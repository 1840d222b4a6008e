"""The Bit Fusion chip: a systolic array of elements that split into narrower multipliers, and three buffers.

The machine (Sharma et al., "Bit Fusion", ISCA 2018). Each of ``rows`` by ``columns`` elements multiplies ``widest``-bit
operands, or several pairs of narrower ones, down to ``narrowest`` bits, and adds up their products; every row has a
bank of inputs, every element one of weights, every column one of sums. A layer runs for a whole ``batch`` in loop tiles
that a search chooses (``energy.accelerators.fused_tiling`` says how; its answer equals the cycles and bits that the
authors' simulator gives). The array switches as a whole in every cycle of computation, zeros or not. Operands wider
than an element go through it digit by digit. The terms of a sum of scaled planes are filters of their own.

All operands of every layer come from DRAM. As in the published figures, sums leave the chip, and come back, at 32 bits;
with ``requantise`` finished sums leave at the bits that the next layer reads, except those of several terms, which are
scaled and added outside. Where a residual stream is added, it is read too. The first layer reads its patches one by
one, as the host lays them out (``gather_image``).

Buffers cost what CACTI gave the authors, scaled by the technology's SRAM table where their banks have another size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compressors.errors import ConfigError
from compressors.registry import check_range
from energy.accelerators import register_accelerator
from energy.accelerators.float_unit import NOTE, FloatUnits
from energy.accelerators.fused_buffers import chip_buffers, within_table
from energy.accelerators.fused_tiling import FusedArray, FusedLayer, Tiling, fastest_tiling
from energy.cost import Band, Cost, Ledger, Peak
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

_KB = 8 * 1024
_BUFFERS = {"weights": "weight buffer", "inputs": "input buffer", "outputs": "output buffer"}


@dataclass(frozen=True)
class FusedSystolicConfig:
    """Shape of the array, capacity of its buffers, bits of DRAM per cycle, and the images that run together."""

    rows: int = 16
    columns: int = 32
    widest: int = 8
    narrowest: int = 2
    weight_kb: float = 64.0
    input_kb: float = 32.0
    output_kb: float = 16.0
    dram_bits: int = 192
    batch: int = 16
    requantise: bool = False
    gather_image: bool = True
    residual_bits: int = 16

    def __post_init__(self) -> None:
        ranges = {
            "rows": (1, 4096),
            "columns": (1, 4096),
            "dram_bits": (1, 1 << 20),
            "batch": (1, 4096),
            "residual_bits": (1, 32),
        }
        for name, (low, high) in ranges.items():
            check_range(f"accelerator.{name}", getattr(self, name), low, high)
        for name in ("weight_kb", "input_kb", "output_kb"):
            if not 0 < getattr(self, name) <= 1 << 20:
                raise ConfigError(f"accelerator.{name}", getattr(self, name), "a capacity up to 1 GB")
        if self.widest not in (2, 4, 8):
            raise ConfigError("accelerator.widest", self.widest, "2, 4 or 8 bits")
        if self.narrowest not in (1, 2, 4, 8) or self.narrowest > self.widest:
            raise ConfigError(
                "accelerator.narrowest", self.narrowest, f"1, 2, 4 or 8 bits, up to widest = {self.widest}"
            )


@register_accelerator("bitfusion_chip", FusedSystolicConfig)
class FusedSystolic:
    """See the module's text. Figures are per image of a batch."""

    encodings = ("sign_magnitude",)  # any: only the packed size is looked at

    def __init__(self, config: FusedSystolicConfig, technology: Technology) -> None:
        self.config, self.technology = config, technology
        self._clock_hz = technology["clock_hz"].value
        elements = config.rows * config.columns
        self._element = f"{config.widest}/{config.narrowest}"
        self._core_j = technology[f"pe_energy.{self._element}"].band * (elements * 1e-12)
        self._dram_j = technology["dram_energy"].band * 1e-12
        self._floats = FloatUnits(elements, self._clock_hz, technology)
        self._buffers = chip_buffers(
            technology,
            weights=(config.weight_kb, elements),
            inputs=(config.input_kb, config.rows),
            outputs=(config.output_kb, config.columns),
        )
        accesses = (f for o in self._buffers.values() for f in (o.read_j, o.write_j))
        energies = tuple(band.nominal * 1e12 for band in (self._core_j, *accesses, self._dram_j))
        self.array = FusedArray(
            config.rows,
            config.columns,
            config.widest,
            config.narrowest,
            int(config.input_kb * _KB),
            int(config.weight_kb * _KB),
            int(config.output_kb * _KB),
            config.dram_bits,
            energies,
        )
        """What the search of tilings sees of the chip."""

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; the granularity means nothing here.

        Raises:
            ConfigError: buffers too small for the smallest tile of a layer.
        """
        has_float = any(layer.is_float for layer in workload.layers)
        area, leakage_w = self._area(has_float)
        ledger, latency, bound, busy = Ledger(), {}, {}, {}
        for index, layer in enumerate(workload.layers):
            array, shape = self._shape(layer, gathered=index == 0 and self.config.gather_image)
            tiling = fastest_tiling(shape, array)
            if tiling is None:
                sizes = f"{self.config.weight_kb}, {self.config.input_kb} and {self.config.output_kb} KB"
                expected = f"buffers of which half holds one output of layer {layer.name}"
                raise ConfigError("accelerator.weight_kb, input_kb, output_kb", sizes, expected)
            share = layer.groups / self.config.batch
            stream = self._residual(layer, array)
            cycles = tiling.cycles * share + stream / self.config.dram_bits
            latency[layer.name] = cycles / self._clock_hz
            waits = tiling.wait > tiling.ends or tiling.ends > tiling.compute
            bound[layer.name] = "dram" if waits else "compute"
            multipliers = array.rows * array.columns * array.fused(shape.input_bits, shape.weight_bits)
            passes = array.passes(shape.input_bits, shape.weight_bits)
            terms = shape.filters * layer.groups // layer.outputs
            busy[layer.name] = layer.macs * terms * passes / (cycles * multipliers)
            self._book(ledger, layer, tiling, share, stream, terms)
            ledger.add(layer.name, "leakage", leakage_w * latency[layer.name])
        notes, extrapolated = self._notes(workload)
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
        """All multipliers fed from the buffers, which give every product its operands anew; DRAM is left out."""
        passes = self.array.passes(input_bits, weight_bits)
        products = self.array.fused(input_bits, weight_bits) * self.config.rows * self.config.columns
        per_cycle = products / passes
        fed = self._buffers["weights"].read_j * weight_bits + self._buffers["inputs"].read_j * input_bits
        area, leakage_w = self._area(has_float=False)
        power = (self._core_j + fed * per_cycle) * self._clock_hz + leakage_w
        notes = ("array and its buffers; DRAM, sums and post-processing are left out",)
        return Peak(2 * per_cycle * self._clock_hz, power, sum(area.values(), Band.zero()), notes)

    def energy_j(self, layer: FusedLayer) -> Band:
        """Array, buffers and DRAM for a whole batch of one layer, as the published comparison counts it."""
        tiling = fastest_tiling(layer, self.array)
        assert tiling is not None, f"no tile of {layer} fits"
        return sum((energy for _, _, energy in self._entries(tiling)), self._core_j * tiling.compute)

    def _entries(self, tiling: Tiling) -> list[tuple[str, str, Band]]:
        """Component, operand and energy of what a tiling moves."""
        bits = {
            "weights": (tiling.weight_read, tiling.weight_written, tiling.weight_written),
            "inputs": (tiling.input_read, tiling.input_written, tiling.input_written),
            "outputs": (
                tiling.sum_read,
                tiling.sum_written,
                tiling.dram_read - tiling.weight_written - tiling.input_written + tiling.dram_written,
            ),
        }
        entries = []
        for operand, (read, written, dram) in bits.items():
            buffer = self._buffers[operand]
            moved = buffer.read_j * read + buffer.write_j * written
            entries += [(_BUFFERS[operand], operand, moved), ("dram", operand, self._dram_j * dram)]
        return entries

    def _book(
        self, ledger: Ledger, layer: LayerWork, tiling: Tiling, share: float, stream: float, terms: int
    ) -> None:
        array_j = self._floats.energy_j(layer) if layer.is_float else self._core_j * (tiling.compute * share)
        ledger.add(layer.name, "pe array", array_j)
        for component, operand, energy in self._entries(tiling):
            ledger.add(layer.name, component, energy * share, operand)
        ledger.add(layer.name, "dram", self._dram_j * stream, "inputs")
        rescale = self.technology["fp32_mac_energy" if layer.is_float else "pe_energy.16/16"].band
        scalings = (terms + layer.added) * layer.outputs * layer.pixels
        ledger.add(layer.name, "post-processing", rescale * (scalings * 1e-12))

    def _shape(self, layer: LayerWork, gathered: bool) -> tuple[FusedArray, FusedLayer]:
        """One channel group of the layer, and the array as it meets it."""
        array, terms = self.array, 1
        input_bits = weight_bits = FLOAT_BITS
        if layer.is_float:
            array = replace(array, widest=FLOAT_BITS, narrowest=FLOAT_BITS)
        else:
            weights = layer.weights[self.encodings[0]]
            terms = weights.terms
            weight_bits = -(-weights.dense_bits // (layer.outputs * layer.reduction * terms))
            input_bits = layer.input_bits
        if self.config.requantise and terms == 1:
            kept = layer.kept * (FLOAT_BITS if layer.is_float else self.config.residual_bits)
            array = replace(array, result_bits=layer.output_bits + kept)
        shape = FusedLayer(
            images=self.config.batch,
            kernel=layer.kernel,
            output=layer.output_size,
            stride=layer.stride,
            dilation=layer.dilation,
            channels=layer.inputs // layer.groups,
            filters=layer.outputs // layer.groups * terms,
            input_bits=input_bits,
            weight_bits=weight_bits,
            gathered=gathered,
        )
        return array, shape

    def _residual(self, layer: LayerWork, array: FusedArray) -> float:
        """Bits of the residual stream that an image's layer reads, kept as sums or as results are."""
        if not layer.added:
            return 0.0
        short = array.result_bits and not layer.is_float
        return float(layer.outputs * layer.pixels * (self.config.residual_bits if short else array.sum_bits))

    def _area(self, has_float: bool) -> tuple[dict[str, Band], Band]:
        tech, elements = self.technology, self.config.rows * self.config.columns * 1e-6
        area = {"pe array": tech[f"pe_area.{self._element}"].band * elements}
        leakage = tech[f"pe_leakage.{self._element}"].band * elements
        if has_float:
            area["pe array"] += self._floats.area_mm2
            leakage += self._floats.leakage_w
        area["post-processing"] = tech["pe_area.16/16"].band * (self.config.columns * 1e-6)
        leakage += tech["pe_leakage.16/16"].band * (self.config.columns * 1e-6)
        for operand, buffer in self._buffers.items():
            area[_BUFFERS[operand]] = buffer.area_mm2
            leakage += buffer.leakage_w
        return area, leakage

    def _notes(self, workload: Workload) -> tuple[tuple[str, ...], bool]:
        c, notes = self.config, []
        element = self.technology[f"pe_energy.{self._element}"]
        if element.status not in ("published", "user"):
            notes.append(
                f"elements of {c.narrowest} to {c.widest} bits are {element.status}, not synthesised"
            )
        if any(layer.is_float for layer in workload.layers):
            notes.append(NOTE)
        for operand, buffer in self._buffers.items():
            if not within_table(operand, buffer.bank_kb, self.technology):
                notes.append(
                    f"{_BUFFERS[operand]}: banks of {buffer.bank_kb:.3g} KB lie outside the SRAM table"
                )
        formats = [self._shape(layer, False)[1] for layer in workload.layers if not layer.is_float]
        if any(self.array.passes(f.input_bits, f.weight_bits) > 1 for f in formats):
            notes.append(
                f"operands wider than {c.widest} bits go through digit by digit: not in the published chip"
            )
        extrapolated = bool(notes)
        if not c.requantise:
            notes.append("sums leave the chip and come back at 32 bits, as in the published figures")
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return tuple(notes), extrapolated
