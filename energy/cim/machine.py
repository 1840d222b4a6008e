"""What analog and digital compute-in-memory machines have in common: placing, time, memories, and the roll-up.

Weights lie on arrays of ``Shape``; those of the whole network stay there if they fit, with ``duplicates`` copies of
each layer for as many pixels at once. Otherwise every layer's weights come from DRAM and are written before it runs,
for every image. Layers run one after the other; a layer that needs more arrays than there are takes turns on them.
Outputs whose weights are all zero are not placed. Inputs are read from the activation buffer, a patch per output pixel;
results of arrays one above the other are added up behind them. The image comes from DRAM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from energy.accelerators.float_unit import NOTE, FloatUnits
from energy.accelerators.tiling import live_bits, residual_width
from energy.cim.placement import Placement, Shape, place
from energy.cim.process import Process
from energy.cost import Band, Cost, Ledger
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

KB = 8 * 1024
"""Bits."""


class Arrays(Protocol):
    """What ``price`` asks a kind of array. ``config`` has the settings that both kinds share."""

    config: Any
    process: Process
    shape: Shape
    count: int
    encodings: tuple[str, ...]
    write_j: Band | None
    write_s: float
    area_mm2: Mapping[str, Band]
    leakage_w: Band

    def used(self, layer: LayerWork) -> np.ndarray:
        """``bool [units per output, N]``: what of the layer is placed."""
        ...

    def step_s(self, layer: LayerWork) -> float:
        """Time for one output pixel on arrays of its own."""
        ...

    def book(self, ledger: Ledger, layer: LayerWork, placement: Placement, used: np.ndarray) -> None:
        """Book what the arrays do for all pixels of an integer layer."""
        ...

    def cells(self, layer: LayerWork, used: np.ndarray) -> float:
        """Cells that hold the placed weights, one copy."""
        ...


@dataclass(frozen=True)
class _Plan:
    layer: LayerWork
    used: np.ndarray | None
    placement: Placement | None

    @property
    def idle(self) -> bool:
        return self.placement is not None and self.placement.idle


@dataclass(frozen=True)
class _Chip:
    """The arrays and what surrounds them, for one workload."""

    arrays: Arrays
    floats: FloatUnits
    activation_kb: float
    resident: bool
    has_float: bool


def price(arrays: Arrays, workload: Workload, notes: list[str], extrapolated: bool) -> Cost:
    """Cost of one inference of one image; ``notes`` of the kind of array come first."""
    config, process = arrays.config, arrays.process
    plans = [_plan(arrays, layer) for layer in workload.layers]
    placed = sum(p.placement.tiles for p in plans if p.placement) * config.duplicates
    live_kb = max(live_bits(layer, config.residual_bits) for layer in workload.layers) / KB
    floats = FloatUnits(config.float_units, process.value("clock_hz"), process.technology)
    has_float = any(p.placement is None for p in plans)
    chip = _Chip(arrays, floats, live_kb, placed <= arrays.count * config.depth, has_float)
    area, leakage_w = _area(chip)
    ledger, latency, bound, utilisation = Ledger(), {}, {}, {}
    for plan in plans:
        name = plan.layer.name
        times = _times(chip, plan)
        bound[name], latency[name] = max(times.items(), key=lambda item: item[1])
        latency[name] += _loading_s(chip, plan)
        utilisation[name] = _utilisation(chip, plan, latency[name])
        _book(chip, ledger, plan)
        ledger.add(name, "leakage", leakage_w * latency[name])
    dram_j = process.technology["dram_energy"].band * 1e-12
    ledger.add(workload.layers[0].name, "dram", dram_j * workload.image_bits, "inputs")
    return Cost(
        ledger.energy_j,
        latency,
        area,
        utilisation,
        (*notes, *_notes(chip, workload)),
        ledger.operand_j,
        bound,
        leakage_w,
        extrapolated or has_float,
    )


def _plan(arrays: Arrays, layer: LayerWork) -> _Plan:
    if layer.is_float:
        return _Plan(layer, None, None)
    used = arrays.used(layer)
    return _Plan(layer, used, place(layer, used, arrays.shape))


def _weight_bits(plan: _Plan, encoding: str) -> float:
    if plan.placement is None:
        return float(plan.layer.outputs * plan.layer.reduction * FLOAT_BITS)
    return 0.0 if plan.idle else float(plan.layer.weights[encoding].dense_bits)


def _dram_bits(chip: _Chip, plan: _Plan) -> float:
    """Weights that come from DRAM for every image: all, or those in floating point, which have no place in arrays."""
    if chip.resident and plan.placement is not None:
        return 0.0
    return _weight_bits(plan, chip.arrays.encodings[0])


def _times(chip: _Chip, plan: _Plan) -> dict[str, float]:
    """Seconds of computation and of the DRAM; computation first, so that it wins a tie."""
    config = chip.arrays.config
    if plan.placement is None:
        compute = chip.floats.latency_s(plan.layer)
    else:
        turns = -(-plan.placement.tiles * config.duplicates // chip.arrays.count)
        pixels = -(-plan.layer.pixels // config.duplicates)
        compute = pixels * turns * chip.arrays.step_s(plan.layer)
    return {"compute": compute, "dram": _dram_bits(chip, plan) / (config.dram_gb_s * 8e9)}


def _loading_s(chip: _Chip, plan: _Plan) -> float:
    """Writing rows one after the other, all arrays at once."""
    if chip.resident or plan.placement is None:
        return 0.0
    turns = -(-plan.placement.tiles * chip.arrays.config.duplicates // chip.arrays.count)
    return turns * min(chip.arrays.shape.rows, plan.layer.reduction) * chip.arrays.write_s


def _utilisation(chip: _Chip, plan: _Plan, latency_s: float) -> float:
    """Cells times time in use, of all that work at once."""
    if plan.placement is None or plan.idle:
        return 1.0
    shape = chip.arrays.shape
    units = plan.placement.units / (chip.arrays.count * shape.units)
    used_s = chip.arrays.step_s(plan.layer) * plan.layer.pixels * plan.layer.reduction / shape.rows
    return min(units * used_s / latency_s, 1.0)


def _book(chip: _Chip, ledger: Ledger, plan: _Plan) -> None:
    layer, name, process = plan.layer, plan.layer.name, chip.arrays.process
    if plan.placement is None:
        ledger.add(name, "float units", process.own_j(chip.floats.energy_j(layer)))
    elif not plan.idle:
        chip.arrays.book(ledger, layer, plan.placement, plan.used)
        if not chip.resident and chip.arrays.write_j is not None:
            cells = chip.arrays.cells(layer, plan.used) * chip.arrays.config.duplicates
            ledger.add(name, "cell writes", chip.arrays.write_j * cells, "weights")
    dram_j = process.technology["dram_energy"].band * 1e-12
    ledger.add(name, "dram", dram_j * _dram_bits(chip, plan), "weights")
    _book_movement(chip, ledger, plan)


def _book_movement(chip: _Chip, ledger: Ledger, plan: _Plan) -> None:
    layer, name, process = plan.layer, plan.layer.name, chip.arrays.process
    config, elements = chip.arrays.config, plan.layer.outputs * plan.layer.pixels
    stream = residual_width(layer, config.residual_bits)
    patches = layer.reduction * layer.groups * layer.pixels * layer.input_bits
    sent = patches
    if plan.placement is not None:
        patches *= not plan.idle
        sent = plan.placement.driven * layer.pixels * layer.input_bits
    written = elements * (layer.output_bits + layer.kept * stream)
    sram = process.technology.sram
    read_j = process.own_j(sram.read_j_per_bit(chip.activation_kb))
    write_j = process.own_j(sram.write_j_per_bit(chip.activation_kb))
    ledger.add(name, "activation buffer", read_j * patches, "inputs")
    ledger.add(name, "activation buffer", read_j * (layer.added * elements * stream), "outputs")
    ledger.add(name, "activation buffer", write_j * written, "outputs")
    bus_j = process.energy_j("cam.bus_energy")
    ledger.add(name, "interconnect", bus_j * sent, "inputs")
    ledger.add(name, "interconnect", bus_j * written, "outputs")
    terms = 1 if layer.is_float else layer.weights[chip.arrays.encodings[0]].terms
    unit_j = process.band("fp32_mac_energy" if layer.is_float else "pe_energy.16/16") * 1e-12
    ledger.add(name, "post-processing", process.own_j(unit_j) * ((terms + layer.added) * elements), "outputs")


def _area(chip: _Chip) -> tuple[dict[str, Band], Band]:
    process = chip.arrays.process
    area, leakage = dict(chip.arrays.area_mm2), chip.arrays.leakage_w
    if chip.has_float:
        area["float units"] = process.own_mm2(chip.floats.area_mm2)
        leakage += process.own_leakage_w(chip.floats.leakage_w)
    area["post-processing"] = process.own_mm2(process.band("pe_area.16/16") * 1e-6)
    leakage += process.own_leakage_w(process.band("pe_leakage.16/16") * 1e-6)
    sram = process.technology.sram
    area["activation buffer"] = process.own_mm2(sram.area_mm2(chip.activation_kb))
    leakage += process.own_leakage_w(sram.leakage_w(chip.activation_kb))
    return area, leakage


def _notes(chip: _Chip, workload: Workload) -> list[str]:
    technology: Technology = chip.arrays.process.technology
    notes = ["inputs are read from the activation buffer once per output pixel, without reuse of the halo"]
    if not chip.resident:
        notes.append("the network's weights do not fit on the arrays: they are written anew for every image")
        if chip.arrays.write_j is None:
            notes.append("the energy of these writes is not known, and not priced")
    if chip.has_float:
        notes.append(NOTE)
    if technology.sram.extrapolates(chip.activation_kb):
        notes.append(f"activation buffer of {chip.activation_kb:.2f} KB lies outside the SRAM table")
    if workload.unpriced:
        notes.append(f"not priced: {', '.join(workload.unpriced)}")
    return notes
