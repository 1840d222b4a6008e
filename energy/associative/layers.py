"""A layer as the associative processor sees it: its passes, and the arrays it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from energy.associative.counts import PassCounts
from energy.workload import LayerWork

ENCODING = "csd"


@dataclass(frozen=True)
class Program:
    """What a layer's weights, folded into a program, do in every row.

    Attributes:
        counts: passes and words.
        scalings, combining: multiplications of sums by scales, and additions of the scaled sums, per pixel.
        shared: whether rows share sums; otherwise every row adds up its own inputs.
    """

    counts: PassCounts
    scalings: int
    combining: int
    shared: bool


def program(layer: LayerWork) -> Program:
    """The program of an integer layer, from its adder graph, or from its digits where sharing was not counted."""
    reuse = layer.reuse
    if reuse is not None and reuse.passes is not None:
        return Program(reuse.passes, reuse.scalings, reuse.combining, shared=True)
    weights = layer.weights[ENCODING]
    digits = weights.nonzero[1].reshape(weights.terms, -1, layer.outputs)
    sums = digits.sum(1)
    filled = sums > 0
    counts = tree_counts(sums[filled], layer.input_bits, digits.shape[1], layer.reduction)
    return Program(counts, int(filled.sum()), int(np.maximum(filled.sum(0) - 1, 0).sum()), shared=False)


def tree_counts(digits: np.ndarray, bits: int, planes: int, inputs: int) -> PassCounts:
    """Passes of balanced trees that share nothing, one per entry of ``digits``, to within the widths of their sums.

    Sums of inputs go to new columns, as other rows need the inputs too; sums of sums are in place. A sum of level
    ``l``, with as many terms added as subtracted, has ``l`` bits more than its inputs, and the shifts of ``planes``.
    """
    n = digits.astype(float)
    base = bits + planes - 1
    levels = np.log2(np.maximum(n, 1))
    sums = np.floor(n / 2)
    additions, new = int((n - 1).sum()), int(sums.sum())
    bit_steps = float(((n - 1) * base + 2 * n - levels - 2).clip(0).sum())
    new_bits = new * (base + 1)
    kept_bits = max(bit_steps - new_bits, 0.0)
    compares = 5 * new_bits + 4 * kept_bits
    cleared = additions + new_bits
    outputs = int((base + np.ceil(levels)).sum())
    return PassCounts(
        additions=additions,
        in_place=additions - new,
        compares=round(compares),
        compared_cells=round(3 * compares),
        writes=round(compares + cleared),
        written_cells=0.75 * bit_steps + cleared,
        bit_steps=round(bit_steps),
        track_steps=round(3 * new_bits + 2 * kept_bits),
        output_bits=outputs,
        peak_bits=(inputs * bits + outputs) if len(n) else 0,
    )


@dataclass(frozen=True)
class Placement:
    """How a layer lies in the arrays.

    Attributes:
        row_groups: arrays side by side that hold all output pixels, a pixel per row.
        splits: arrays in a row that hold the words of a pixel between them.
        spread: copies of the inputs, among which the outputs are divided.
        rounds: times that the machine is filled.
        time_share: of the program's own time that the layer takes; the fullest array sets it.
    """

    row_groups: int
    splits: int
    spread: int
    rounds: int
    time_share: float


def place(
    pixels: int, outputs: int, peak_bits: int, rows: int, row_bits: int, arrays: int, least_outputs: int
) -> Placement:
    """Fill arrays of ``rows`` rows with ``row_bits`` bits each; idle ones take over outputs, ``least_outputs`` each."""
    row_groups = -(-pixels // rows)
    splits = max(-(-peak_bits // row_bits), 1)
    needed = row_groups * splits
    rounds, parts = -(-needed // arrays), -(-outputs // least_outputs)
    spread = max(min(arrays // needed, parts), 1)
    part_share = min(-(-parts // spread) * least_outputs / outputs, 1.0)
    # over several rounds arrays share out evenly; otherwise the fullest of a pixel's arrays sets the time
    split_share = 1 / splits if rounds > 1 or not peak_bits else min(row_bits / peak_bits, 1.0)
    return Placement(row_groups, splits, spread, rounds, rounds * split_share * part_share)


def patch_bits(layer: LayerWork, pixels: int) -> float:
    """Bits of the input that tiles of ``pixels`` output pixels read from a buffer, each with its halo, once."""
    height, width = layer.output_size
    tile_w = min(pixels, width)
    tile_h = min(max(pixels // tile_w, 1), height)
    patch_h = layer.stride[0] * (tile_h - 1) + layer.dilation[0] * (layer.kernel[0] - 1) + 1
    patch_w = layer.stride[1] * (tile_w - 1) + layer.dilation[1] * (layer.kernel[1] - 1) + 1
    tiles = math.ceil(height / tile_h) * math.ceil(width / tile_w)
    return float(layer.inputs * patch_h * patch_w * tiles * layer.input_bits)
