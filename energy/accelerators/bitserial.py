"""A bit-sliced array: digits of weights times digits of activations, one pair a cycle, zeros skipped.

The machine. ``filters`` output channels by ``lanes`` inputs by a number of output pixels work in parallel. An
element multiplies a ``g``-bit weight digit with a ``g``-bit input digit, so a product of ``w`` by ``a`` digits
takes ``w * a`` cycles (Stripes, Loom; with spatial fusion as in Bit Fusion where a layer uses wider digits than the
narrowest the array was built for). Arrays of every granularity are compared at the same throughput for the
widest product: ``bit_products`` one-bit products per cycle make ``bit_products / g**2`` elements in mode ``g``.
The pixels share the weights, the filters share the inputs.

Skipping. Weights lie in the buffer either densely, code by code, or plane by plane as a bitmap of their non-zero
digits followed by those and the signs; then zero digits cost neither cycles nor products, but the ``filters`` of
a group finish together, so the slowest sets the cycles. Each layer takes the cheaper of the two. A zero input
digit leaves the multiplier of its element at rest and saves its energy alone.

Memory. Weights stay on the chip; each layer loads its share once into local buffers beside the filters, which
feed the array every cycle. Inputs are read once per tile of pixels and group of filters, with the halo of the
kernel. Outputs are written at the bits the next layer reads, plus a copy at ``residual_bits`` where a residual
add needs it. The image comes from DRAM. Sums are rescaled once per term and output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range
from compressors.slicing import ENCODINGS, GRANULARITIES
from energy.accelerators import register_accelerator
from energy.cost import Band, Cost
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

_KB = 8 * 1024


@dataclass(frozen=True)
class BitSerialConfig:
    """Shape of the array and how it skips.

    ``encoding`` writes the weights' digits; ``skip`` is ``weights`` or ``none``; ``local_buffer_kb`` is the
    buffer beside each filter.
    """

    bit_products: int = 16384
    filters: int = 16
    lanes: int = 16
    encoding: str = "sign_magnitude"
    skip: str = "weights"
    residual_bits: int = 16
    local_buffer_kb: float = 0.5

    def __post_init__(self) -> None:
        check_range("accelerator.filters", self.filters, 1, 4096)
        check_range("accelerator.lanes", self.lanes, 1, 4096)
        check_range("accelerator.residual_bits", self.residual_bits, 1, 32)
        smallest = self.filters * self.lanes * max(GRANULARITIES) ** 2
        if self.bit_products % smallest or self.bit_products <= 0:
            raise ConfigError(
                "accelerator.bit_products",
                self.bit_products,
                f"a multiple of filters * lanes * 64 = {smallest}",
            )
        if self.encoding not in ENCODINGS:
            raise UnknownName("encoding", self.encoding, ENCODINGS, key="accelerator.encoding")
        if self.skip not in ("none", "weights"):
            raise UnknownName("skipping", self.skip, ("none", "weights"), key="accelerator.skip")
        if not 0 < self.local_buffer_kb <= 64:
            raise ConfigError("accelerator.local_buffer_kb", self.local_buffer_kb, "a capacity up to 64 KB")


@dataclass(frozen=True)
class _Counts:
    """What one layer does in one mode: cycles, products, and bits moved."""

    cycles: float
    products: float
    resting: float
    """Fraction of the products whose input digit is zero."""
    slots: float
    weight_bits: float
    local_bits: float
    input_bits: float


@register_accelerator("bitserial", BitSerialConfig)
class BitSerial:
    """See the module's text. All energies are per inference of one image."""

    def __init__(self, config: BitSerialConfig, technology: Technology) -> None:
        self.config = config
        self.technology = technology
        self.encodings = (config.encoding,)
        self._clock_hz = technology["clock_hz"].value

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload`` with layer ``l`` in mode ``granularity[l]``.

        Raises:
            ConfigError: a layer without a granularity, or with one that is not one of 1, 2, 4, 8.
        """
        for layer in workload.layers:
            g = granularity.get(layer.name)
            if not layer.is_float and g not in GRANULARITIES:
                allowed = ", ".join(map(str, GRANULARITIES))
                raise ConfigError(f"granularity of {layer.name}", g, f"one of {allowed}")
        modes = {layer.name: 0 if layer.is_float else granularity[layer.name] for layer in workload.layers}
        widths = [g for g in modes.values() if g]
        design = (max(widths, default=0), min(widths, default=0))
        chosen = {layer.name: self._choose(layer, modes[layer.name], design) for layer in workload.layers}
        weight_kb = sum(c.weight_bits for c in chosen.values()) / _KB
        activation_kb = max(self._live_bits(layer) for layer in workload.layers) / _KB
        area, leakage_w = self._area(design, 0 in modes.values(), weight_kb, activation_kb)
        energy, latency, utilisation = {}, {}, {}
        for layer in workload.layers:
            counts = chosen[layer.name]
            latency[layer.name] = counts.cycles / self._clock_hz
            # a layer of zeros that skips them all takes no time: none of its slots, of none, is wasted
            utilisation[layer.name] = counts.products / counts.slots if counts.slots else 1.0
            energy[layer.name] = {
                **self._array_energy(counts, modes[layer.name], design),
                **self._traffic_energy(layer, counts, weight_kb, activation_kb),
                "leakage": leakage_w * latency[layer.name],
            }
        first = workload.layers[0].name
        energy[first]["dram"] = self.technology["dram_energy"].band * (workload.image_bits * 1e-12)
        notes = self._notes(workload, design, modes, weight_kb, activation_kb)
        return Cost(energy, latency, area, utilisation, notes, leakage_w=leakage_w)

    def _pixels(self, mode: int) -> int:
        return self.config.bit_products // (self.config.filters * self.config.lanes * mode**2)

    def _passes(self, layer: LayerWork) -> int:
        """How often the array is filled with filters that read the same inputs."""
        return layer.groups * -(-(layer.outputs // layer.groups) // self.config.filters)

    def _choose(self, layer: LayerWork, mode: int, design: tuple[int, int]) -> _Counts:
        """Counts of the layer, dense or skipping, whichever takes less array and weight buffer energy."""
        if layer.is_float:
            return self._float_counts(layer)
        options = [self._counts(layer, mode, skip=False)]
        if self.config.skip == "weights":
            options.append(self._counts(layer, mode, skip=True))

        def energy(counts: _Counts) -> float:
            # the buffer all layers share is not known yet: one for this layer alone stands in for it
            loading = self.technology.sram.read_j_per_bit(counts.weight_bits / _KB) * counts.weight_bits
            array = self._array_energy(counts, mode, design).values()
            return sum((band.nominal for band in array), loading.nominal)

        return min(options, key=energy)

    def _counts(self, layer: LayerWork, mode: int, *, skip: bool) -> _Counts:
        c = self.config
        weights, inputs = layer.weights[c.encoding], layer.input
        nonzero = weights.nonzero[mode]
        planes = nonzero.shape[0]
        reduction = layer.reduction
        digits = nonzero.sum(0) if skip else np.full(layer.outputs, planes * reduction)
        passes = self._passes(layer)
        # filters of one pass read the same inputs, so those of different channel groups never share a pass
        padded = np.zeros((layer.groups, passes // layer.groups * c.filters), np.int64)
        padded[:, : layer.outputs // layer.groups] = digits.reshape(layer.groups, -1)
        steps = np.ceil(padded.reshape(passes, c.filters).max(1) / c.lanes).sum()
        input_digits = len(inputs.nonzero[mode])
        tiles = -(-layer.pixels // self._pixels(mode))
        cycles = steps * input_digits * tiles
        weight_bits = weights.dense_bits
        if skip:
            weight_bits = weights.sparse_bits(mode, layer.outputs * reduction)
        zero = 1.0 - float(np.mean(inputs.nonzero[mode]))
        fed = digits.mean() * passes * input_digits * layer.pixels * mode
        local = weight_bits * input_digits * tiles + fed
        return _Counts(
            cycles=float(cycles),
            products=float(digits.sum() * input_digits * layer.pixels),
            resting=zero,
            slots=float(cycles * c.lanes * c.filters * self._pixels(mode)),
            weight_bits=float(weight_bits),
            local_bits=float(local),
            input_bits=self._input_bits(layer, self._pixels(mode)),
        )

    def _float_counts(self, layer: LayerWork) -> _Counts:
        """One fp32 unit for every 64 one-bit products, as many as 8-bit elements."""
        c = self.config
        pixels = self._pixels(8)
        tiles = -(-layer.pixels // pixels)
        passes = self._passes(layer)
        cycles = float(passes * -(-layer.reduction // c.lanes) * tiles)
        weight_bits = float(layer.outputs * layer.reduction * FLOAT_BITS)
        local = weight_bits * tiles + passes * layer.reduction * layer.pixels * FLOAT_BITS
        slots = cycles * c.lanes * c.filters * pixels
        return _Counts(cycles, layer.macs, 0.0, slots, weight_bits, local, self._input_bits(layer, pixels))

    def _input_bits(self, layer: LayerWork, pixels: int) -> float:
        """Bits read from the activation buffer: every tile's patch with its halo, once per group of filters."""
        height, width = layer.output_size
        tile_w = min(pixels, width)
        tile_h = min(max(pixels // tile_w, 1), height)
        patch_h = layer.stride[0] * (tile_h - 1) + layer.dilation[0] * (layer.kernel[0] - 1) + 1
        patch_w = layer.stride[1] * (tile_w - 1) + layer.dilation[1] * (layer.kernel[1] - 1) + 1
        tiles = -(-height // tile_h) * -(-width // tile_w)
        patches = tiles * self._passes(layer)
        return float(layer.inputs // layer.groups * patch_h * patch_w * patches * layer.input_bits)

    def _array_energy(self, counts: _Counts, mode: int, design: tuple[int, int]) -> dict[str, Band]:
        local = self.technology.sram.read_j_per_bit(self.config.local_buffer_kb) * counts.local_bits
        if mode == 0:
            per_product = self.technology["fp32_mac_energy"].band
        else:
            widest, narrowest = design
            # an element of `widest` bits does (widest / mode)**2 products a cycle at about the same power
            element = self.technology[f"pe_energy.{widest}/{narrowest}"].band * (mode / widest) ** 2
            rest = min(self.technology[f"multiplier_energy.{mode}"].value, element.nominal) * counts.resting
            per_product = element * (1.0 - rest / element.nominal)
        return {"pe array": per_product * (counts.products * 1e-12), "local buffers": local}

    def _traffic_energy(
        self, layer: LayerWork, counts: _Counts, weight_kb: float, activation_kb: float
    ) -> dict[str, Band]:
        sram = self.technology.sram
        elements = layer.outputs * layer.pixels
        residual_bits = FLOAT_BITS if layer.is_float else self.config.residual_bits
        read = counts.input_bits + layer.added * elements * residual_bits
        written = elements * (layer.output_bits + layer.kept * residual_bits)
        terms = 1 if layer.is_float else layer.weights[self.config.encoding].terms
        rescale = self.technology["fp32_mac_energy" if layer.is_float else "pe_energy.16/16"].band
        return {
            "weight buffer": sram.read_j_per_bit(weight_kb) * counts.weight_bits,
            "activation buffer": sram.read_j_per_bit(activation_kb) * read
            + sram.write_j_per_bit(activation_kb) * written,
            "post-processing": rescale * ((terms + layer.added) * elements * 1e-12),
        }

    def _live_bits(self, layer: LayerWork) -> float:
        """Bits the activation buffer holds while a layer runs: its input, its output, the residual stream."""
        elements = layer.outputs * layer.pixels
        consumed = layer.inputs * layer.pixels * layer.stride[0] * layer.stride[1]
        residual_bits = FLOAT_BITS if layer.is_float else self.config.residual_bits
        stream = elements * residual_bits if layer.added or layer.kept else 0
        return consumed * layer.input_bits + elements * layer.output_bits + stream

    def _area(
        self, design: tuple[int, int], has_float: bool, weight_kb: float, activation_kb: float
    ) -> tuple[dict[str, Band], Band]:
        c, tech = self.config, self.technology
        area, leakage = {}, Band.zero()
        widest, narrowest = design
        array = Band.zero()
        if widest:
            elements = c.bit_products // widest**2
            array += tech[f"pe_area.{widest}/{narrowest}"].band * (elements * 1e-6)
            leakage += tech[f"pe_leakage.{widest}/{narrowest}"].band * (elements * 1e-6)
        if has_float:
            units = c.bit_products // 64
            array += tech["fp32_mac_area"].band * (units * 1e-6)
            leakage += tech["fp32_mac_leakage"].band * (units * 1e-6)
        area["pe array"] = array
        area["post-processing"] = tech["pe_area.16/16"].band * (c.filters * 1e-6)
        leakage += tech["pe_leakage.16/16"].band * (c.filters * 1e-6)
        buffers = {
            "local buffers": (c.filters, c.local_buffer_kb),
            "weight buffer": (1, weight_kb),
            "activation buffer": (1, activation_kb),
        }
        for name, (count, capacity_kb) in buffers.items():
            area[name] = tech.sram.area_mm2(capacity_kb) * count
            leakage += tech.sram.leakage_w(capacity_kb) * count
        return area, leakage

    def _notes(
        self,
        workload: Workload,
        design: tuple[int, int],
        modes: Mapping[str, int],
        weight_kb: float,
        activation_kb: float,
    ) -> tuple[str, ...]:
        notes = []
        widest, narrowest = design
        if widest and self.technology[f"pe_energy.{widest}/{narrowest}"].status != "published":
            status = self.technology[f"pe_energy.{widest}/{narrowest}"].status
            notes.append(f"elements of {narrowest} to {widest} bits are {status}, not synthesised")
        if 0 in modes.values():
            notes.append("fp32 units: area and leakage extrapolated from integer elements, a lower bound")
        for name, capacity_kb in (("weight", weight_kb), ("activation", activation_kb)):
            if self.technology.sram.extrapolates(capacity_kb):
                notes.append(f"{name} buffer of {capacity_kb:.2f} KB lies outside the SRAM table")
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return tuple(notes)
