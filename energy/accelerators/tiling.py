"""How a layer is laid out on an array of filters by inputs by pixels, and what of its input is read for that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from energy.workload import FLOAT_BITS, LayerWork


@dataclass(frozen=True)
class Tiling:
    """``filters`` output channels by ``lanes`` inputs by ``pixels`` output pixels work in parallel.

    The pixels share the weights, the filters share the inputs.
    """

    filters: int
    lanes: int
    pixels: int

    def passes(self, layer: LayerWork) -> int:
        """How often the array is filled with filters that read the same inputs."""
        return layer.groups * -(-(layer.outputs // layer.groups) // self.filters)

    def tiles(self, layer: LayerWork) -> int:
        """How often it is filled with pixels."""
        return -(-layer.pixels // self.pixels)

    def slowest(self, layer: LayerWork, counts: np.ndarray) -> np.ndarray:
        """The largest of ``counts [N]`` in every pass, ``[passes]``: filters of a pass finish together.

        Those of different channel groups read different inputs, so they never share a pass.
        """
        passes = self.passes(layer)
        padded = np.zeros((layer.groups, passes // layer.groups * self.filters), np.int64)
        padded[:, : layer.outputs // layer.groups] = counts.reshape(layer.groups, -1)
        return padded.reshape(passes, self.filters).max(1)

    def input_bits(self, layer: LayerWork) -> float:
        """Bits read from the activation buffer: every tile's patch with its halo, once per group of filters."""
        height, width = layer.output_size
        tile_w = min(self.pixels, width)
        tile_h = min(max(self.pixels // tile_w, 1), height)
        patch_h = layer.stride[0] * (tile_h - 1) + layer.dilation[0] * (layer.kernel[0] - 1) + 1
        patch_w = layer.stride[1] * (tile_w - 1) + layer.dilation[1] * (layer.kernel[1] - 1) + 1
        tiles = -(-height // tile_h) * -(-width // tile_w)
        patches = tiles * self.passes(layer)
        return float(layer.inputs // layer.groups * patch_h * patch_w * patches * layer.input_bits)


def live_bits(layer: LayerWork, residual_bits: int) -> float:
    """Bits the activation buffer holds while a layer runs: its input, its output, the residual stream."""
    elements = layer.outputs * layer.pixels
    consumed = layer.inputs * layer.pixels * layer.stride[0] * layer.stride[1]
    stream = elements * residual_width(layer, residual_bits) if layer.added or layer.kept else 0
    return consumed * layer.input_bits + elements * layer.output_bits + stream


def residual_width(layer: LayerWork, residual_bits: int) -> int:
    """Bits of a value of the residual stream beside ``layer``."""
    return FLOAT_BITS if layer.is_float else residual_bits
