"""What a machine that runs loop nests is, which formats a layer has on it, what stays on the chip between layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from energy.accelerators.tiling import residual_width
from energy.cost import Band
from energy.mapping.machine import Dataflow, Level, Machine
from energy.mapping.problem import INPUTS, OUTPUTS, WEIGHTS, Problem
from energy.workload import LayerWork


@dataclass(frozen=True)
class Design:
    """What the frame needs to know of a machine.

    Attributes:
        machine, flows: its memories, and how layers may be mapped.
        precision: bits of an element's multiplier.
        accumulator_bits: of a partial sum wherever it lies.
        zero_gating: multipliers rest on zeros.
        keep_activations: layers hand over on the chip where that is possible.
        residual_bits: of a value of the residual stream.
        batch: images that share one reading of the weights.
        overhead_j: of every element in every cycle, used or not: clock, control.
        banks: of each memory but the outermost.
    """

    machine: Machine
    flows: tuple[Dataflow, ...]
    precision: int
    accumulator_bits: int
    zero_gating: bool
    keep_activations: bool
    residual_bits: int
    batch: int = 1
    overhead_j: Band = Band(0.0, 0.0, 0.0)
    banks: tuple[int, ...] = ()

    def bank_kb(self) -> Iterator[tuple[str, float, int]]:
        """Memory, capacity of a bank and number of them, of all but the outermost memory."""
        levels = self.machine.levels[:-1]
        for i, (level, banks) in enumerate(zip(levels, self.banks or (1,) * len(levels), strict=True)):
            yield level.name, level.capacity_bits / (8 * 1024) / banks, banks * self.machine.instances(i)


@dataclass(frozen=True)
class Form:
    """Formats of a layer: bits of a weight, an input, a partial sum, an output; digits of a weight and an input."""

    weights: int
    inputs: int
    sums: int
    outputs: int
    digits: tuple[int, int] = (1, 1)
    terms: int = 1

    @property
    def bits(self) -> tuple[float, float, float, float]:
        return self.weights, self.inputs, self.sums, self.outputs

    @property
    def passes(self) -> int:
        return math.prod(self.digits)


def staying(
    design: Design, layers: Sequence[LayerWork], problems: Sequence[Problem], forms: Sequence[Form]
) -> list[frozenset[str]]:
    """Operands of each layer that are on the chip before and after it, in the order of ``layers``."""
    machine = design.machine
    weights = [problem.words(WEIGHTS) * form.weights for problem, form in zip(problems, forms, strict=True)]
    live = [_live_bits(design, *of) for of in zip(layers, problems, forms, strict=True)]
    stays: list[set[str]] = [set() for _ in layers]
    store, home = machine.on_chip("weights"), machine.on_chip("inputs")
    if store is not None:
        shared = store in (home, machine.on_chip("outputs"))
        if _holds(machine.levels[store], sum(weights) + shared * max(live)):
            stays = [{"weights"} for _ in layers]
    if design.keep_activations and home is not None and home == machine.on_chip("outputs"):
        level = machine.levels[home]
        beside = "weights" in level.operands
        room = [_holds(level, bits + beside * stored) for bits, stored in zip(live, weights, strict=True)]
        for i in range(len(layers) - 1):
            if room[i] and room[i + 1]:
                stays[i].add("outputs")
                stays[i + 1].add("inputs")
    return [frozenset(kept) for kept in stays]


def _live_bits(design: Design, layer: LayerWork, problem: Problem, form: Form) -> float:
    """Bits of a layer's input, its sums and the residual stream beside them."""
    stream = residual_width(layer, design.residual_bits) if layer.added or layer.kept else 0
    sums = problem.words(OUTPUTS) * max(form.sums, form.outputs)
    return problem.words(INPUTS) * form.inputs + sums + problem.words(OUTPUTS) / form.terms * stream


def _holds(level: Level, bits: float) -> bool:
    return bits * (2 if level.buffering == "double" else 1) <= (level.capacity_bits or math.inf)
