"""Kernels written in Numba: products of packed planes by popcount, and bytes whose codes and results take one pass.

Memory is PyTorch's, so that a CUDA graph can own it; Numba sees it through the CUDA array interface and launches on
PyTorch's current stream.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numba import config, cuda

from compressors.kernels import cuda_layers
from compressors.kernels.bits import words_for
from compressors.kernels.cuda import MAX_BITS, BoundProduct, NoCudaDevice, PlaneWeights, require_device
from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.int8 import LEAST_ROWS, ROWS, Int8Product
from compressors.operators.device.kernel import DeviceKernel, integer_obstacle, patches
from compressors.slicing import from_codes
from compressors.tensor import SlicedTensor


class Popcount(DeviceKernel):
    """Bit-planes of weights and inputs: AND, XOR and popcount instead of products."""

    name = "popcount"
    tolerance = 1e-5

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        found = integer_obstacle(layer) or numba_obstacle(layer, device)
        if found:
            return found
        assert layer.grid is not None
        return f"inputs of {layer.grid.bits} bits, above {MAX_BITS}" if layer.grid.bits > MAX_BITS else ""

    def __init__(self, layer: LayerFormat, device: torch.device) -> None:
        super().__init__(layer, device)
        assert layer.grid is not None and layer.scales is not None
        w, self.grid = layer.window, layer.grid
        self.product = BoundProduct(
            plane_weights(layer),
            self.grid.bits,
            stride=w.stride,
            padding=w.padding,
            dilation=w.dilation,
            signed=self.grid.signed,
        )
        self.keep("scale", layer.scales, torch.float32)
        self.keep("shift", layer.after.shift, torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums = self.sums(x).transpose(0, 1)
        return self.layer.shaped(finished(sums, self.scale, self.shift, self.layer.after.relu), x)

    def sums(self, x: torch.Tensor) -> torch.Tensor:
        images = self.layer.as_images(x)
        batch, channels, *size = images.shape
        groups = self.layer.window.groups
        words = words_for(channels // groups)
        planes = torch.empty(
            (self.grid.bits, batch, *size, groups, words), dtype=torch.int64, device=x.device
        )
        stream, seen = stream_of(x.device), shared(planes).view(np.uint64)
        bounds = (self.grid.low, self.grid.high)
        cuda_layers.quantize_planes(shared(images), self.grid.scale, bounds, seen, stream)
        height, width = self.layer.out_size((size[0], size[1]))
        shape = (len(self.scale), batch * height * width, self.layer.outputs)
        out = torch.empty(shape, dtype=torch.int32, device=x.device)
        self.product.launch(seen, shared(out), stream)
        return out


class FusedInt8(Int8Product):
    """``int8`` with one pass from values to codes and one from sums to values."""

    name = "int8_fused"

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        return super().obstacle(layer, device) or numba_obstacle(layer, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = finished(self._raw(x), self.scale, self.shift, self.layer.after.relu)
        return self.layer.shaped(values, x)

    def _read(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        grid, window = self.layer.grid, self.layer.window
        assert grid is not None
        batch, channels, height, width = images.shape
        top, left = window.padding
        codes = torch.empty(
            (batch, height + 2 * top, width + 2 * left, channels), dtype=torch.int8, device=images.device
        )
        bounds, stream = (grid.low, grid.high), stream_of(images.device)
        arguments = (shared(images), grid.scale, bounds, self.moved, window.padding, shared(codes), stream)
        cuda_layers.quantize_bytes(*arguments)
        return patches(
            codes.permute(0, 3, 1, 2),
            replace(window, padding=(0, 0)),
            size,
            multiple=(ROWS, self.weight.shape[1]),
            least_rows=LEAST_ROWS,
        )


def finished(sums: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, relu: bool) -> torch.Tensor:
    """``float32 [rows, N]`` of sums ``int32 [rows, terms, N]``, in one pass."""
    out = torch.empty((sums.shape[0], sums.shape[2]), dtype=torch.float32, device=sums.device)
    arguments = (shared(sums), shared(scale), shared(shift), relu, shared(out), stream_of(sums.device))
    cuda_layers.finish(*arguments)
    return out


def plane_weights(layer: LayerFormat) -> PlaneWeights:
    """A layer's integer weights in the digits that make the fewest planes."""
    assert layer.codes is not None and layer.tensor is not None
    terms, outputs = layer.codes.shape[:2]
    codes = layer.codes.reshape(terms, outputs, -1)
    ones = np.ones((terms, outputs, 1), np.float32)
    if layer.tensor.encoding in ("ternary", "binary"):
        tensor = SlicedTensor.from_terms(codes, ones, layer.weight.shape, layer.tensor.encoding)
    else:
        encoding = "sign_magnitude"
        tensor = from_codes(codes, ones, shape=layer.weight.shape, bits=layer.tensor.bits, encoding=encoding)
    return PlaneWeights.sliced(tensor)


def shared(tensor: torch.Tensor) -> Any:
    """A tensor's memory as Numba takes it; the simulator wants it without gaps, and reads a copy of others."""
    return cuda.as_cuda_array(tensor) if tensor.is_cuda else tensor.contiguous().numpy()


def stream_of(device: torch.device) -> Any:
    """PyTorch's current stream as Numba takes it."""
    if device.type != "cuda":
        return 0
    handle = torch.cuda.current_stream(device).cuda_stream
    return cuda.external_stream(handle) if handle else 0


def numba_obstacle(layer: LayerFormat, device: torch.device) -> str:
    """Why Numba's kernels cannot run on a device, or on its values."""
    if layer.values != torch.float32:
        return (
            f"it reads and writes float32, and {str(layer.values).removeprefix('torch.')} lies between layers"
        )
    if device.type != "cuda":
        return (
            "" if config.ENABLE_CUDASIM else "the device is no GPU, and Numba's simulator is not switched on"
        )
    if config.ENABLE_CUDASIM:
        return "Numba's simulator is switched on, which cannot see a GPU's memory"
    try:
        require_device()
    except NoCudaDevice as error:
        return str(error)
    return ""
