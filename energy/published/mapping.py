"""Loop-nest mappers beside ours, at their own machines and costs: Timeloop's Eyeriss and ZigZag's TPU.

Timeloop leaves out reading a memory for what goes outwards; where its own mapping is priced, so do we, and where ours
is, we do not. ZigZag reads partial sums that are still zero; we do not. Nothing is fitted.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from energy.cost import OPERANDS, Band
from energy.mapping import kernel, layout
from energy.mapping.machine import Axis, Dataflow, Level, Machine, Network
from energy.mapping.problem import FX, FY, OUTPUTS, C, K, Problem, X, Y
from energy.mapping.search import Mapping, best_mapping
from energy.published import Check, register_target

_TIMELOOP = "timeloop-accelergy-exercises, eyeriss_like"
_ZIGZAG = "zigzag-dse 3.9.1, tpu_like"


@cache
def figures() -> dict[str, Any]:
    """What ``mapping.yaml`` says."""
    text = resources.files(__package__).joinpath("mapping.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def problem(
    outputs: int, inputs: int, size: int, taps: int, stride: int, batch: int = 1, groups: int = 1
) -> Problem:
    """A square convolution."""
    step = stride if size > 1 else 1
    return Problem((batch, groups, outputs, inputs, size, size, taps, taps), (step, step))


def per_bit(access: dict[str, float], width: float) -> tuple[Band, Band]:
    """Energies of a bit read and written, where ``access`` gives those of ``width`` bits in pJ."""
    return tuple(Band(pj, pj, pj) * (1e-12 / width) for pj in (access["read"], access["write"]))  # type: ignore[return-value]


# Timeloop


def timeloop_machine() -> tuple[Machine, Dataflow]:
    """Words of 8 bits; a sum's access is one of 16 bits there, which is priced per word."""
    access = figures()["timeloop"]["access_pj"]

    def level(name: str, *operands: str, order: str = "outputs") -> Level:
        at = access[name]
        capacity = at["capacity"] * 8 if "capacity" in at else None
        return Level(name, operands, *per_bit(at, 8 * at["words"]), capacity, buffering="stream", order=order)

    levels = (
        level("psum_spad", "outputs"),
        level("weights_spad", "weights"),
        level("ifmap_spad", "inputs"),
        level("shared_glb", "inputs", "outputs"),
        level("DRAM", *OPERANDS),
    )
    axes = (Axis("rows", 12, "shared_glb"), Axis("columns", 14, "shared_glb"))
    machine = Machine(levels, axes, (("shared_glb", Network(halo=False)),))
    flow = Dataflow(
        "eyeriss_like",
        spatial=(("columns", ("Y", "K")), ("rows", ("C", "FY", "K"))),
        loops=(("weights_spad", ("C", "FX")), ("psum_spad", ("K",))),
        ragged=False,
    )
    return machine, flow


_STORED = {(4, K): 4, (4, Y): 2, (4, X): 8, (3, Y): 4, (3, X): 14, (1, FX): 3, (0, K): 8}
"""Turns by level and loop. timeloop-mapper.map.txt: DRAM P8 Q2 M4, buffer P14 Q4, columns Q14, rows C3 S3, weights R3,
sums M8."""


def stored_counts() -> tuple[np.ndarray, np.ndarray, float]:
    """Words of the stored mapping ``[3, L, 4]``, those that elements exchange alone, and its cycles."""
    machine, _ = timeloop_machine()
    table = layout.nest(problem(32, 3, 112, 3, 2), machine)
    temporal, spatial = np.ones((5, 8), np.int64), np.ones((2, 8), np.int64)
    for at, turns in _STORED.items():
        temporal[at] = turns
    spatial[0, C], spatial[0, FY], spatial[1, Y] = 3, 3, 14
    perms = layout.orders(("outputs", "outputs", "outputs", "weights-rows", "inputs-rows"))
    counts = [np.zeros((3, 5, 4)) for _ in range(2)]
    for nest, counted in zip((table, layout.elements(table)), counts, strict=True):
        kernel.count(nest, temporal, spatial, perms, np.ones(4), counted)
    return counts[0], counts[1], float(temporal.prod())


@register_target("timeloop", "Timeloop's Eyeriss: energy of its stored mapping by memory", blind=0.02)
def timeloop() -> list[Check]:
    """The mapping that is stored with the example, priced with its table."""
    data, (machine, _) = figures()["timeloop"], timeloop_machine()
    counts, elements, cycles = stored_counts()
    macs = problem(32, 3, 112, 3, 2).macs
    # no reading for what goes outwards: sums are read by elements alone, and by nobody in the buffer
    counts[0, :, OUTPUTS:] = elements[0, :, OUTPUTS:]
    energy = {"mac": data["product_pj"]}
    for i, level in enumerate(machine.levels):
        read, written = (8e12 * float(counts[kind, i].sum()) / macs for kind in (0, 1))
        energy[level.name] = read * level.read_j.nominal + written * level.write_j.nominal
    checks = [
        Check(
            f"stored mapping, {name}",
            "pJ/MAC",
            published,
            energy[name],
            "blind",
            f"{_TIMELOOP}, stored statistics",
        )
        for name, published in data["stored"].items()
    ]
    total = sum(energy.values()) * macs * 1e-6
    source = f"{_TIMELOOP}, stored statistics"
    checks.append(Check("stored mapping, energy", "uJ", data["stored_total_uj"], total, "blind", source))
    return [
        *checks,
        Check("stored mapping, cycles", "cycles", data["stored_cycles"], cycles, "blind", source),
    ]


def timeloop_search(name: str) -> tuple[Mapping, float]:
    """Our best mapping of a layer of ``searched`` on Timeloop's machine, and its energy in uJ."""
    data, (machine, flow) = figures()["timeloop"], timeloop_machine()
    layer = problem(*data["searched"][name]["layer"])
    mapping = best_mapping(layer, machine, (flow,), (8, 8, 8, 8), anew=True)
    return mapping, mapping.energy_j * 1e6 + layer.macs * data["product_pj"] * 1e-6


@register_target("timeloop-search", "Timeloop's Eyeriss: energy of the best mapping found, less is better")
def searched() -> list[Check]:
    """Its searches are random and stop; what they found, beside ours, which reads memories for what goes outwards."""
    source = "NVlabs/timeloop, March 2025, timeloop-mapper for energy, with the stored table"
    return [
        Check(f"searched mapping, {name}", "uJ", entry["uj"], timeloop_search(name)[1], "blind", source)
        for name, entry in figures()["timeloop"]["searched"].items()
    ]


# ZigZag


def zigzag_machine() -> tuple[Machine, Dataflow]:
    """Registers of weights hold the next while they use these; sums stream through theirs."""
    access = figures()["zigzag"]["access_pj"]

    def level(name: str, *operands: str, buffering: str = "double", shared_port: bool = False) -> Level:
        at = access[name]
        ports = {"read_bits": at.get("port"), "write_bits": at.get("port"), "shared_port": shared_port}
        return Level(
            name, operands, *per_bit(at, at["bits"]), at.get("capacity"), **ports, buffering=buffering
        )

    levels = (
        level("rf_2B", "outputs", buffering="stream"),
        level("rf_128B", "weights"),
        level("sram_2MB", "inputs", "outputs"),
        level("dram", *OPERANDS, shared_port=True),
    )
    axes = (Axis("rows", 32, "sram_2MB"), Axis("columns", 32, "sram_2MB"))
    machine = Machine(levels, axes, (("sram_2MB", Network("systolic")),))
    flow = Dataflow(
        "tpu_like",
        spatial=(("rows", ("C",)), ("columns", ("K",))),
        loops=(("rf_128B", ("K", "C", "FY", "FX")),),
    )
    return machine, flow


def zigzag_layer(layer: Problem) -> tuple[float, float]:
    """Energy in uJ and cycles of the best mapping on ZigZag's machine at its costs, in 8 bits."""
    machine, flow = zigzag_machine()
    mapping = best_mapping(layer, machine, (flow,), (8, 8, 16, 8), anew=True)
    product_uj = figures()["zigzag"]["product_pj"] * 1e-6
    return mapping.energy_j * 1e6 + layer.macs * product_uj, mapping.cycles


@cache
def _zigzag() -> dict[str, tuple[float, float]]:
    """Layer -> energy in uJ and cycles."""
    layers = figures()["zigzag"]["layers"]
    return {name: zigzag_layer(problem(*entry["layer"])) for name, entry in layers.items()}


@register_target("zigzag-energy", "ZigZag's TPU: energy per layer at its costs", blind=0.05)
def zigzag_energy() -> list[Check]:
    """Of the mapping that each finds best."""
    layers = figures()["zigzag"]["layers"]
    return [
        Check(name, "uJ", layers[name]["uj"], uj, "blind", _ZIGZAG) for name, (uj, _) in _zigzag().items()
    ]


@register_target("zigzag-latency", "ZigZag's TPU: cycles per layer", blind=0.10)
def zigzag_latency() -> list[Check]:
    """Of the same mappings."""
    layers = figures()["zigzag"]["layers"]
    return [
        Check(name, "cycles", layers[name]["cycles"], cycles, "blind", _ZIGZAG)
        for name, (_, cycles) in _zigzag().items()
    ]
