"""Eyeriss: the shares of its energy that nn-dataflow finds, and the chip as measured.

Shares. The machine is that of nn-dataflow (its own costs, nothing fitted). It tiles neither the columns of an output
nor the filter outside the array, lets the rows of an output take what filter rows leave of a column, and keeps the
partial sums of an output row in the elements without counting the room they take; so does the machine here.

Chip. ``energy.accelerators.rowstationary`` at 65 nm, with what depends on the data fitted: energy of clock and control
per element and cycle, and what run-length coding leaves of activations in DRAM. Each of the two networks that the chip
was measured with is compared with the constant fitted to the other one. The frame rate is the measured one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from energy.accelerators.rowstationary import RowStationaryConfig, design
from energy.accelerators.systolic import mac_energy
from energy.cost import OPERANDS, Band
from energy.mapping.machine import Axis, Dataflow, Level, Machine, Network
from energy.mapping.problem import INPUTS, OUTPUTS, WEIGHTS, Problem
from energy.mapping.search import best_mapping
from energy.published import Check, register_target
from energy.published.mapping import figures, problem
from energy.technology import load_technology
from energy.technology.scaling import energy_factor, usual_vdd

_WORD = 16
_BATCH = 16
_PARTS = ("registers", "arithmetic", "DRAM", "array", "buffer")
_COSTS = {"registers": 1, "arithmetic": 1, "DRAM": 200, "array": 2, "buffer": 6}
"""Per word of 16 bits, and per product."""


def _machine() -> Machine:
    def cost(part: str) -> Band:
        return Band(1, 1, 1) * (_COSTS[part] / _WORD)

    none, register, buffer = Band.zero(), cost("registers"), cost("buffer")
    levels = (
        Level("registers", ("weights", "inputs"), register, none, 512 * 8, buffering="stream"),
        Level("sums", ("outputs",), register, register, 1 << 40, buffering="stream", order="weights"),
        Level("buffer", ("inputs", "outputs"), buffer, none, 108 * 8192, buffering="stream"),
        Level("DRAM", OPERANDS, cost("DRAM"), cost("DRAM")),
    )
    axes = (Axis("rows", 12, "buffer"), Axis("columns", 14, "buffer"))
    return Machine(levels, axes, (("buffer", Network("bus", cost("array"))),))


_FLOW = Dataflow(
    "row_stationary",
    spatial=(("rows", ("FY", "Y", "C", "K")), ("columns", ("Y", "K", "G"))),
    loops=(("registers", ("K", "C", "FX")), ("sums", ("X", "C"))),
    first=(("rows", "FY"), ("columns", "Y"), ("rows", "Y")),
    fixed=("X", "FY", "FX"),
    slack=1.1,
)


@cache
def _layer_energy(layer: tuple[int, ...], batch: int = _BATCH) -> np.ndarray:
    """Energy of ``_PARTS`` for one layer, as published: output and input channels, size, filter, stride."""
    outputs, inputs, size, taps, stride = layer
    pools = inputs == 0
    work = problem(1 if pools else outputs, inputs or 1, size, taps, stride, batch, outputs if pools else 1)
    bits = (0 if pools else _WORD, _WORD, _WORD, _WORD)
    found = best_mapping(work, _machine(), (_FLOW,), bits, anew=True)
    kept = np.array(bits) > 0
    registers = found.reads[:2, kept].sum() + found.writes[1, OUTPUTS:].sum()
    buffer = found.reads[2].sum() + found.writes[2, OUTPUTS:].sum()
    words = {
        "registers": registers,
        "arithmetic": work.macs,
        "DRAM": (found.reads[3] + found.writes[3])[kept].sum(),
        "array": found.moves[:, kept].sum(),
        "buffer": buffer,
    }
    return np.array([_COSTS[part] * float(words[part]) for part in _PARTS])


def network_energy(network: str, batch: int) -> np.ndarray:
    """Energy of ``_PARTS`` for a batch of a network of ``eyeriss_shares``, a multiply-accumulate being 1."""
    entry = figures()["eyeriss_shares"][network]
    return sum(times * _layer_energy(tuple(layer), batch) for *layer, times in entry["layers"])


@register_target("eyeriss-shares", "Eyeriss by nn-dataflow: shares of the energy, in points", blind=0.03)
def shares() -> list[Check]:
    """Nothing is fitted: the machine's costs are nn-dataflow's own."""
    source = "Bit Fusion repository, results/eyeriss_results.csv"
    checks = []
    for network, entry in figures()["eyeriss_shares"].items():
        energy = network_energy(network, _BATCH)
        for part, published, share in zip(_PARTS, entry["shares"], energy / energy.sum(), strict=True):
            checks.append(
                Check(f"{network}: {part}", "points", published, 100 * float(share), "blind", source)
            )
    return checks


@dataclass(frozen=True)
class ChipRun:
    """One network on the chip, per multiply-accumulate.

    Attributes:
        measured_pj, measured_dram: energy on the chip, and words moved to and from DRAM.
        switching_pj: what arithmetic, memories and wires take.
        cycles: of all elements, the idle ones too, at the measured frame rate.
        weights, activations: words moved to and from DRAM, uncoded.
    """

    measured_pj: float
    measured_dram: float
    switching_pj: float
    cycles: float
    weights: float
    activations: float


_CLOCK_HZ, _NODE_NM, _VDD_V = 200e6, 65, 1.0


@cache
def chip_runs() -> dict[str, ChipRun]:
    """Every network that the chip was measured with."""
    return {name: _chip_run(entry) for name, entry in figures()["eyeriss_chip"].items()}


def _chip_run(entry: dict[str, Any]) -> ChipRun:
    technology, batch = load_technology("cmos45"), entry["batch"]
    machine = design(RowStationaryConfig(batch=batch), technology)
    macs, energy, words = 0, 0.0, np.zeros(3)
    for groups, outputs, inputs, size, taps, stride, times in entry["layers"]:
        work = problem(outputs, inputs, size, taps, stride, batch, groups)
        macs += times * work.macs
        on_chip, moved = _moves(machine.machine, machine.flows, work)
        energy += times * on_chip
        words += times * moved
    at_65 = energy_factor(technology.node_nm, usual_vdd(technology.node_nm), _NODE_NM, _VDD_V).nominal
    rate = entry["frames_per_s"] * macs / batch
    product_pj = mac_energy(technology, _WORD, _WORD).nominal
    return ChipRun(
        measured_pj=entry["power_w"] / rate * 1e12,
        measured_dram=entry["dram_per_mac"],
        switching_pj=(energy / macs * 1e12 + product_pj) * at_65,
        cycles=machine.machine.positions * _CLOCK_HZ / rate,
        weights=float(words[WEIGHTS]) / macs,
        activations=float(words[INPUTS] + words[OUTPUTS]) / macs,
    )


def _moves(machine: Machine, flows: tuple[Dataflow, ...], work: Problem) -> tuple[float, np.ndarray]:
    """Energy of memories and wires on the chip, and words moved to and from DRAM by operand."""
    found = best_mapping(work, machine, flows, (_WORD,) * 4)
    networks = dict(machine.networks)
    energy = 0.0
    for i, level in enumerate(machine.levels[:-1]):
        hop_j = networks[level.name].hop_j.nominal if level.name in networks else 0.0
        energy += float(found.reads[i].sum()) * level.read_j.nominal
        energy += float(found.writes[i].sum()) * level.write_j.nominal + float(found.moves[i].sum()) * hop_j
    outside = found.reads[-1] + found.writes[-1]
    return energy * _WORD, np.array([outside[WEIGHTS], outside[INPUTS], outside[OUTPUTS:].sum()])


def _others() -> list[tuple[str, ChipRun, ChipRun, str]]:
    """Network, its run, the run of the other one, and that one's name."""
    (first, one), (second, two) = chip_runs().items()
    return [(first, one, two, second), (second, two, one, first)]


def clock_pj(run: ChipRun) -> float:
    """Energy of clock and control per element and cycle that a run leaves room for."""
    return (run.measured_pj - run.switching_pj) / run.cycles


_SOURCE = "Chen, Krishna, Emer, Sze, JSSC 2017, abstract"


@register_target("eyeriss-energy", "Eyeriss chip: energy per multiply-accumulate", calibrated=0.15)
def chip_energy() -> list[Check]:
    """Clock and control are fitted to the other network on the same chip."""
    return [
        Check(
            f"{name}, clock fitted to {other}",
            "pJ/MAC",
            run.measured_pj,
            run.switching_pj + clock_pj(fitted) * run.cycles,
            "calibrated",
            _SOURCE,
        )
        for name, run, fitted, other in _others()
    ]


@register_target("eyeriss-dram", "Eyeriss chip: DRAM accesses per multiply-accumulate", calibrated=0.10)
def chip_dram() -> list[Check]:
    """What run-length coding leaves of activations is fitted to the other network."""
    return [
        Check(
            f"{name}, coding fitted to {other}",
            "words/MAC",
            run.measured_dram,
            run.weights + (fitted.measured_dram - fitted.weights) / fitted.activations * run.activations,
            "calibrated",
            _SOURCE,
        )
        for name, run, fitted, other in _others()
    ]
