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
from energy.accelerators.buffers import KB, LEAST_KB, Buffers
from energy.accelerators.float_unit import NOTE
from energy.accelerators.tiling import Tiling, live_bits
from energy.cost import Band, Cost, Ledger
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload


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
        if not LEAST_KB <= self.local_buffer_kb <= 64:
            raise ConfigError(
                "accelerator.local_buffer_kb", self.local_buffer_kb, "a capacity of a byte to 64 KB"
            )


@dataclass(frozen=True)
class _Counts:
    """What one layer does in one mode: cycles, products, and bits moved."""

    cycles: float
    products: float
    resting: float
    """Fraction of the products whose input digit is zero."""
    slots: float
    weight_bits: float
    local_weight_bits: float
    local_input_bits: float
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
        buffers = self._buffers(workload, sum(c.weight_bits for c in chosen.values()))
        array, leakage_w = self._array(design, 0 in modes.values())
        leakage_w += buffers.leakage_w()
        ledger, latency, utilisation = Ledger(), {}, {}
        for layer in workload.layers:
            counts, name = chosen[layer.name], layer.name
            latency[name] = counts.cycles / self._clock_hz
            # a layer of zeros that skips them all takes no time: none of its slots, of none, is wasted
            utilisation[name] = counts.products / counts.slots if counts.slots else 1.0
            ledger.add(name, "pe array", self._array_energy(counts, modes[name], design))
            buffers.book_local(ledger, name, counts.local_weight_bits, counts.local_input_bits)
            buffers.book_shared(ledger, layer, counts.weight_bits, counts.input_bits)
            terms = 1 if layer.is_float else layer.weights[self.config.encoding].terms
            buffers.book_rescaling(ledger, layer, terms)
            ledger.add(name, "leakage", leakage_w * latency[name])
        image_j = self.technology["dram_energy"].band * (workload.image_bits * 1e-12)
        ledger.add(workload.layers[0].name, "dram", image_j, "inputs")
        notes, extrapolated = self._notes(workload, design, modes, buffers)
        return Cost(
            ledger.energy_j,
            latency,
            {"pe array": array, **buffers.area_mm2()},
            utilisation,
            notes,
            operand_j=ledger.operand_j,
            # weights are on the chip and buffers are as wide as the array asks for
            bound=dict.fromkeys(latency, "compute"),
            leakage_w=leakage_w,
            extrapolated=extrapolated,
        )

    def _tiling(self, mode: int) -> Tiling:
        c = self.config
        return Tiling(c.filters, c.lanes, c.bit_products // (c.filters * c.lanes * mode**2))

    def _choose(self, layer: LayerWork, mode: int, design: tuple[int, int]) -> _Counts:
        """Counts of the layer, dense or skipping, whichever takes less array and weight buffer energy."""
        if layer.is_float:
            return self._float_counts(layer)
        options = [self._counts(layer, mode, skip=False)]
        if self.config.skip == "weights":
            options.append(self._counts(layer, mode, skip=True))

        def energy(counts: _Counts) -> float:
            sram, local_kb = self.technology.sram, self.config.local_buffer_kb
            # the buffer all layers share is not known yet: one for this layer alone stands in for it
            loading = sram.read_j_per_bit(counts.weight_bits / KB) * counts.weight_bits
            feeding = sram.read_j_per_bit(local_kb) * (counts.local_weight_bits + counts.local_input_bits)
            return (self._array_energy(counts, mode, design) + feeding + loading).nominal

        return min(options, key=energy)

    def _counts(self, layer: LayerWork, mode: int, *, skip: bool) -> _Counts:
        c = self.config
        weights, inputs = layer.weights[c.encoding], layer.input
        nonzero = weights.nonzero[mode]
        tiling = self._tiling(mode)
        planes = nonzero.shape[0]
        reduction = layer.reduction
        digits = nonzero.sum(0) if skip else np.full(layer.outputs, planes * reduction)
        passes, tiles = tiling.passes(layer), tiling.tiles(layer)
        steps = np.ceil(tiling.slowest(layer, digits) / c.lanes).sum()
        input_digits = len(inputs.nonzero[mode])
        cycles = steps * input_digits * tiles
        weight_bits = weights.dense_bits
        if skip:
            weight_bits = weights.sparse_bits(mode, layer.outputs * reduction)
        return _Counts(
            cycles=float(cycles),
            products=float(digits.sum() * input_digits * layer.pixels),
            resting=1.0 - float(np.mean(inputs.nonzero[mode])),
            slots=float(cycles * c.lanes * c.filters * tiling.pixels),
            weight_bits=float(weight_bits),
            local_weight_bits=float(weight_bits * input_digits * tiles),
            local_input_bits=float(digits.mean() * passes * input_digits * layer.pixels * mode),
            input_bits=tiling.input_bits(layer),
        )

    def _float_counts(self, layer: LayerWork) -> _Counts:
        """One fp32 unit for every 64 one-bit products, as many as 8-bit elements."""
        c, tiling = self.config, self._tiling(8)
        passes, tiles = tiling.passes(layer), tiling.tiles(layer)
        cycles = float(passes * -(-layer.reduction // c.lanes) * tiles)
        weight_bits = float(layer.outputs * layer.reduction * FLOAT_BITS)
        return _Counts(
            cycles=cycles,
            products=layer.macs,
            resting=0.0,
            slots=cycles * c.lanes * c.filters * tiling.pixels,
            weight_bits=weight_bits,
            local_weight_bits=weight_bits * tiles,
            local_input_bits=float(passes * layer.reduction * layer.pixels * FLOAT_BITS),
            input_bits=tiling.input_bits(layer),
        )

    def _buffers(self, workload: Workload, weight_bits: float) -> Buffers:
        c = self.config
        activation_bits = max(live_bits(layer, c.residual_bits) for layer in workload.layers)
        return Buffers(
            self.technology,
            weight_bits / KB,
            activation_bits / KB,
            c.local_buffer_kb,
            c.filters,
            c.residual_bits,
        )

    def _array_energy(self, counts: _Counts, mode: int, design: tuple[int, int]) -> Band:
        if mode == 0:
            per_product = self.technology["fp32_mac_energy"].band
        else:
            widest, narrowest = design
            # an element of `widest` bits does (widest / mode)**2 products a cycle at about the same power
            element = self.technology[f"pe_energy.{widest}/{narrowest}"].band * (mode / widest) ** 2
            rest = min(self.technology[f"multiplier_energy.{mode}"].value, element.nominal) * counts.resting
            per_product = element * (1.0 - rest / element.nominal)
        return per_product * (counts.products * 1e-12)

    def _array(self, design: tuple[int, int], has_float: bool) -> tuple[Band, Band]:
        """Area in mm2 and leakage in W of the elements."""
        c, tech = self.config, self.technology
        widest, narrowest = design
        area, leakage = Band.zero(), Band.zero()
        if widest:
            elements = c.bit_products // widest**2
            area += tech[f"pe_area.{widest}/{narrowest}"].band * (elements * 1e-6)
            leakage += tech[f"pe_leakage.{widest}/{narrowest}"].band * (elements * 1e-6)
        if has_float:
            units = c.bit_products // 64
            area += tech["fp32_mac_area"].band * (units * 1e-6)
            leakage += tech["fp32_mac_leakage"].band * (units * 1e-6)
        return area, leakage

    def _notes(
        self, workload: Workload, design: tuple[int, int], modes: Mapping[str, int], buffers: Buffers
    ) -> tuple[tuple[str, ...], bool]:
        notes = []
        widest, narrowest = design
        if widest and self.technology[f"pe_energy.{widest}/{narrowest}"].status != "published":
            status = self.technology[f"pe_energy.{widest}/{narrowest}"].status
            notes.append(f"elements of {narrowest} to {widest} bits are {status}, not synthesised")
        if 0 in modes.values():
            notes.append(NOTE)
        notes += buffers.notes()
        extrapolated = bool(notes)
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return tuple(notes), extrapolated
