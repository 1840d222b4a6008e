"""Search in content-addressable memory: memories of hyperdimensional models, and layers as searches of their weights.

Memories are priced by ``searches`` (``energy.associative.searching``). A layer is a search too: weights written in
digits of -1, 0 and 1 are words of a ternary CAM, in which a zero is a cell that always matches, a plane of them per
memory. One bit of all inputs is a query: where the input bit is one, the column is compared with 0 and then with 1, and
the distances are the numbers of positive and of negative digits it meets. Their difference, shifted and added up over
planes of weights and bits of inputs, is the product, exactly, if an array tells all its distances apart; so layers take
as many looks at the match lines as an array has columns, which no array here has shown. All weights stay in the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range
from energy.accelerators import register_accelerator
from energy.accelerators.float_unit import NOTE, FloatUnits
from energy.associative.circuits import CELLS
from energy.associative.layers import ENCODING
from energy.associative.searching import SUBARRAYS, Layout, Searcher, SearchWork, make_array, search_cost
from energy.cost import Band, Cost, Ledger
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

_KB = 8 * 1024
_SEARCHES = 2
"""Searches per bit of the inputs: for ones and for zeros among the digits."""


@dataclass(frozen=True)
class CamSearchConfig:
    """``rows`` by ``columns`` of ``cell`` per array; ``levels`` distances that a search of a memory tells apart."""

    cell: str = "fefet"
    rows: int = 64
    columns: int = 64
    levels: int = 16
    residual_bits: int = 16
    float_units: int = 16

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rows", 1, 1 << 16),
            ("columns", 1, 1 << 16),
            ("levels", 1, 1 << 16),
            ("residual_bits", 1, 32),
            ("float_units", 1, 1 << 20),
        ):
            check_range(f"accelerator.{name}", getattr(self, name), low, high)
        if self.cell not in (*CELLS, *SUBARRAYS):
            raise UnknownName("cell", self.cell, (*CELLS, *SUBARRAYS), key="accelerator.cell")


@register_accelerator("cam_search", CamSearchConfig)
class CamSearch:
    """See the module's text. All energies are per inference of one image."""

    encodings = (ENCODING,)

    def __init__(self, config: CamSearchConfig, technology: Technology) -> None:
        self.config, self.technology = config, technology
        array = make_array(config.rows, config.columns, config.cell, technology)
        self.searcher = Searcher(array, min(config.levels, config.columns))
        self._exact = Searcher(array, config.columns)
        self._float = FloatUnits(config.float_units, technology["clock_hz"].value, technology)

    def searches(self, works: list[SearchWork]) -> Cost:
        """Price the searches of one inference in memories of their own."""
        return search_cost(works, self.searcher)

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price the layers of ``workload`` as searches; granularities are of no matter.

        Raises:
            ConfigError: cells of several bits, which hold no ternary digits.
        """
        if SUBARRAYS.get(self.config.cell, 1) > 1 and any(not w.is_float for w in workload.layers):
            raise ConfigError(
                "accelerator.cell", self.config.cell, "a cell of one bit, such as fefet, where layers run"
            )
        layouts = {layer.name: self._layout(layer) for layer in workload.layers}
        arrays = sum(layout.arrays for layout in layouts.values() if layout)
        weights_kb = sum(
            layer.outputs * layer.reduction * FLOAT_BITS for layer in workload.layers if layer.is_float
        )
        activation_kb = max(self._live_bits(layer) for layer in workload.layers) / _KB
        area, leakage_w = self._area(arrays, weights_kb / _KB, activation_kb)
        ledger, latency, utilisation = Ledger(), {}, {}
        for layer in workload.layers:
            name, layout = layer.name, layouts[layer.name]
            self._move(ledger, layer, layout, activation_kb)
            if layout is None:
                latency[name], utilisation[name] = self._float.latency_s(layer), 1.0
                ledger.add(name, "float units", self._float.energy_j(layer))
                read = self.technology.sram.read_j_per_bit(weights_kb / _KB)
                ledger.add(
                    name, "weight buffer", read * (layer.outputs * layer.reduction * FLOAT_BITS), "weights"
                )
            else:
                latency[name] = self._search(ledger, layer, layout)
                size = layout.arrays * self.config.rows * self.config.columns
                utilisation[name] = layout.cells / size if size else 1.0
            ledger.add(name, "leakage", leakage_w * latency[name])
        dram = self.technology["dram_energy"].band
        ledger.add(workload.layers[0].name, "dram", dram * (workload.image_bits * 1e-12), "inputs")
        return Cost(
            ledger.energy_j,
            latency,
            area,
            utilisation,
            self._notes(workload, activation_kb),
            ledger.operand_j,
            dict.fromkeys(latency, "compute"),
            leakage_w,
            extrapolated=True,
        )

    def _layout(self, layer: LayerWork) -> Layout | None:
        """Arrays of a layer's weights, each group's on its own; None for float weights."""
        if layer.is_float:
            return None
        planes = int((layer.weights[ENCODING].nonzero[1].sum(1) > 0).sum())
        one = self._exact.layout(layer.outputs // layer.groups, layer.reduction)
        return Layout(one.horizontal, one.vertical * planes * layer.groups, one.cells * planes * layer.groups)

    def _search(self, ledger: Ledger, layer: LayerWork, layout: Layout) -> float:
        """Book a layer's searches and sums; the time they take."""
        ones = layer.input.nonzero[1]
        if not layout.arrays:
            return 0.0
        searches = _SEARCHES * len(ones) * layer.pixels
        for share in ones:
            once = self._exact.search_j(layout, float(share))
            ledger.add(layer.name, "search", once * (_SEARCHES * layer.pixels))
        words = layout.cells // layer.reduction
        merged = self._exact.merge_j(layout, words, "threshold")
        weights = layer.weights[ENCODING]
        unit = (
            self.technology["cam.merge_energy.adder"].band + self.technology["cam.merge_energy.register"].band
        )
        width = self._exact.distance_bits(layout) + len(ones) + len(weights.nonzero[1])
        accumulated = unit * (1e-15 * words * width)  # one sum per word, shifted by the places of both planes
        ledger.add(layer.name, "merge", (merged + accumulated) * searches)
        scaling = self.technology["pe_energy.16/16"].band
        sums = (weights.terms + layer.added) * layer.outputs * layer.pixels
        ledger.add(layer.name, "post-processing", scaling * (sums * 1e-12), "outputs")
        return searches * self._exact.array.search_s + self._exact.merge_s(layout, words, "threshold")

    def _move(self, ledger: Ledger, layer: LayerWork, layout: Layout | None, activation_kb: float) -> None:
        """Book queries on their way from the buffer to the arrays, and outputs on their way back."""
        name, sram, tech = layer.name, self.technology.sram, self.technology
        elements = layer.outputs * layer.pixels
        residual = (FLOAT_BITS if layer.is_float else self.config.residual_bits) * elements
        idle = layout is not None and not layout.arrays
        query = 0 if idle else layer.reduction * layer.groups * layer.input_bits * layer.pixels
        written = elements * layer.output_bits + layer.kept * residual
        read_j = sram.read_j_per_bit(activation_kb) * (query + layer.added * residual)
        ledger.add(name, "activation buffer", read_j, "inputs")
        ledger.add(name, "activation buffer", sram.write_j_per_bit(activation_kb) * written, "outputs")
        move = tech["cam.router_energy"].band * 1e-12
        copies = layout.vertical // layer.groups * _SEARCHES if layout else 1
        bus = tech["cam.bus_energy"].band * 1e-12
        ledger.add(name, "interconnect", move * query + bus * (query * copies), "inputs")
        ledger.add(name, "interconnect", move * written, "outputs")

    def _live_bits(self, layer: LayerWork) -> float:
        """Bits the activation buffer holds while a layer runs: its input, its output, the residual stream."""
        elements = layer.outputs * layer.pixels
        consumed = layer.inputs * layer.pixels * layer.stride[0] * layer.stride[1]
        residual_bits = FLOAT_BITS if layer.is_float else self.config.residual_bits
        stream = elements * residual_bits if layer.added or layer.kept else 0
        return float(consumed * layer.input_bits + elements * layer.output_bits + stream)

    def _area(self, arrays: int, weights_kb: float, activation_kb: float) -> tuple[dict[str, Band], Band]:
        tech, array = self.technology, self._exact.array
        area = {
            "cam arrays": array.area_mm2 * arrays,
            "post-processing": tech["pe_area.16/16"].band * 1e-6,
            "activation buffer": tech.sram.area_mm2(activation_kb),
        }
        leakage = array.leakage_w * arrays + tech["pe_leakage.16/16"].band * 1e-6
        leakage += tech.sram.leakage_w(activation_kb)
        if weights_kb:
            area["float units"] = self._float.area_mm2
            area["weight buffer"] = tech.sram.area_mm2(weights_kb)
            leakage += self._float.leakage_w + tech.sram.leakage_w(weights_kb)
        return area, leakage

    def _notes(self, workload: Workload, activation_kb: float) -> tuple[str, ...]:
        notes = ["weights stay in the arrays; loading them is not part of an inference"]
        notes.append("every look at a match line is taken to tell one more differing bit apart")
        if any(layer.is_float for layer in workload.layers):
            notes.append(NOTE)
        if self.config.cell == "rram":
            notes.append("RRAM cells at the nodes they were published for (180 and 90 nm), not rescaled")
        if self.technology.sram.extrapolates(activation_kb):
            notes.append(f"activation buffer of {activation_kb:.2f} KB lies outside the SRAM table")
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return tuple(notes)
