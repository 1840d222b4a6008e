"""A network as FINN streams it: a matrix-vector unit of its own for every layer, folded until all fit a device.

A unit works on ``pe`` rows and ``simd`` columns of its matrix per cycle; more of either is faster and larger. All units
run at once on different parts of an image, so the slowest one sets the rate, and each of the others is folded as far as
it may be without being slower. In front of a convolution the rows that its kernel spans are kept, with those that
arrive meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from energy.fpga.device import Device, Resources
from energy.fpga.finn import Unit
from energy.mapping.problem import divisors
from energy.workload import LayerWork


@dataclass(frozen=True)
class Stage:
    """One layer between its neighbours.

    Attributes:
        unit: its matrix-vector unit.
        vectors: input vectors of an image: positions of the output.
        channels: input channels of a group, of which ``simd`` arrive together.
        rows: of the output.
        spans: rows of the input that a window spans; advance: rows that arrive for the next row of the output.
        width: values of a channel in a row that is kept for the window; 0 where none is.
        rescale: sums are scaled by a multiplier, not compared with thresholds.
    """

    unit: Unit
    vectors: int
    channels: int
    rows: int
    spans: int
    advance: int
    width: int
    rescale: bool


@dataclass(frozen=True)
class Folding:
    """A choice for one stage."""

    pe: int
    simd: int
    cycles: int
    taken: Resources


def stage(layer: LayerWork, encoding: str, threshold_bits: int, dsp: bool) -> Stage:
    """The stage of a layer; each term of its weights is a matrix of its own.

    Outputs of up to ``threshold_bits`` come from comparing sums with thresholds, as FINN does it, where there is one
    scale and no residual to add.
    """
    weights = layer.weights[encoding]
    bits = max(math.ceil(weights.dense_bits / (layer.outputs * layer.reduction * weights.terms)), 1)
    compared = weights.terms == 1 and not layer.added and layer.output_bits <= threshold_bits
    unit = Unit(
        rows=layer.outputs * weights.terms,
        columns=layer.reduction,
        weight_bits=bits,
        input_bits=layer.input_bits,
        signed=layer.input.signed,
        output_bits=layer.output_bits if compared else None,
        dsp=dsp,
    )
    return Stage(
        unit,
        vectors=layer.pixels,
        channels=layer.inputs // layer.groups,
        rows=layer.output_size[0],
        spans=layer.dilation[0] * (layer.kernel[0] - 1) + 1,
        advance=layer.stride[0],
        width=0 if layer.kernel == (1, 1) else layer.output_size[1] * layer.stride[1],
        rescale=not compared,
    )


@lru_cache(maxsize=4096)
def foldings(stage: Stage, device: Device) -> tuple[Folding, ...]:
    """The choices worth making, slowest first: each takes a larger share of the device than all slower ones."""
    pe, simd = np.meshgrid(divisors(stage.unit.rows), _widths(stage), indexing="ij")
    pe, simd = pe.ravel(), simd.ravel()
    cycles = stage.unit.cycles(pe, simd, stage.vectors)
    parts = np.stack(
        [
            stage.unit.luts(pe, simd),
            stage.unit.bram18(pe, simd),
            stage.unit.dsps(pe, simd) + pe * stage.rescale,
        ],
        axis=1,
    ).astype(float)
    for column in np.unique(simd):
        line = _line_buffer(stage, device, int(column))
        parts[simd == column] += (line.luts, line.blocks, line.dsps)
    there = np.maximum([device.holds.luts, device.holds.blocks, device.holds.dsps], 1e-9)
    size = (parts / there).sum(1)
    chosen: list[int] = []
    for i in np.lexsort((cycles, size)):  # smallest first: keep what is faster than all that is smaller
        if not chosen or cycles[i] < cycles[chosen[-1]]:
            chosen.append(int(i))
    return tuple(
        Folding(int(pe[i]), int(simd[i]), int(cycles[i]), Resources(*(float(v) for v in parts[i])))
        for i in chosen
    )


def fold(stages: Sequence[Stage], device: Device, share: float, cycles: float | None) -> list[Folding]:
    """A folding of every stage: the fastest that takes at most ``share`` of the device, or one of ``cycles`` per image.

    Where nothing fits, or nothing is as fast, the nearest there is: all stages folded as far as they go, or not at all.
    """
    choices = [foldings(s, device) for s in stages]

    def at(bound: float) -> list[Folding]:
        return [next((f for f in folds if f.cycles <= bound), folds[-1]) for folds in choices]

    if cycles is not None:
        return at(cycles)
    bounds = sorted({f.cycles for folds in choices for f in folds} | {max(f[0].cycles for f in choices)})
    bounds = [b for b in bounds if b >= max(f[-1].cycles for f in choices)]
    low, high = 0, len(bounds) - 1
    while low < high:  # less time takes more of the device
        middle = (low + high) // 2
        if device.share(total(at(bounds[middle]))) <= share:
            high = middle
        else:
            low = middle + 1
    return at(bounds[low])


def total(folded: Sequence[Folding]) -> Resources:
    return sum((f.taken for f in folded), Resources())


def end_cycles(stages: Sequence[Stage], folded: Sequence[Folding]) -> list[float]:
    """Cycle at which each stage is done with one image.

    A stage starts when the rows that its first window spans are there, and ends no earlier than one row of its own
    after the stage before it; branches are taken as one chain.
    """
    start = end = before = 0.0
    ends = []
    for s, f in zip(stages, folded, strict=True):
        start += before * min(s.spans / (s.rows * s.advance), 1.0)
        end = max(start + f.cycles, end + f.cycles / s.rows)
        ends.append(end)
        before = float(f.cycles)
    return ends


def _line_buffer(stage: Stage, device: Device, simd: int) -> Resources:
    if not stage.width:
        return Resources()
    together = min(simd, stage.channels)
    words = stage.width * (stage.spans + stage.advance) * (stage.channels // together)
    return device.memory(words, together * stage.unit.input_bits)


def _widths(stage: Stage) -> list[int]:
    """SIMD widths: parts of the channels, or all channels of some positions of the window."""
    channels, columns = stage.channels, stage.unit.columns
    return [d for d in divisors(columns) if channels % d == 0 or d % channels == 0]
