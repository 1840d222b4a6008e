"""Weights of a few bits that lie packed on the device and are unpacked to bfloat16 in front of every product.

Memory moves only the packed form. A code is the distance from the least one, in steps of what all distances have in
common: one bit for -1 and 1, two for -1, 0 and 1, four for a nibble; several codes share a byte.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from compressors.operators.device.dense import EXACT
from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.kernel import DeviceKernel, Rounding, finish, rows_of

_WIDTHS = (1, 2, 4)


class Unpacked(DeviceKernel):
    """Packed weights times bfloat16, with sums in single precision."""

    name = "unpacked_bf16"
    tolerance = 1e-2

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        if layer.tensor is None:
            return "the weights are in floating point"
        low, step, width = code_range(layer.tensor.codes())
        if width > _WIDTHS[-1]:
            return f"weights of {width} bits: from five on, a code takes a byte and nothing is packed"
        span = step * ((1 << width) - 1)
        largest = max(abs(low), abs(low + span), span)
        if largest > EXACT[torch.bfloat16]:
            return f"weights up to {largest} are not exact in bfloat16"
        return ""

    def __init__(self, layer: LayerFormat, device: torch.device) -> None:
        super().__init__(layer, device)
        assert layer.tensor is not None and layer.scales is not None
        self.rounding = None if layer.grid is None else Rounding(layer.grid, device)
        codes = layer.tensor.codes()  # one term per scale, not per run of inputs
        self.low, self.unit, self.width = code_range(codes)
        self.count = codes[0].size
        self.single = layer.tensor.scale.shape[0] * layer.tensor.scale.shape[2] == 1
        if self.single:  # channels of a tap side by side
            codes = rows_of(codes.reshape(1, *layer.weight.shape))
        self.keep("packed", pack_codes(codes, self.low, self.unit, self.width), torch.uint8)
        self.keep("places", np.arange(0, 8, self.width), torch.uint8)
        runs = layer.tensor.scale.astype(np.float64)
        self.keep("runs", runs[..., None], torch.float32)  # [terms, N, runs, 1]
        scale = layer.scales[0] if self.single else layer.after.gain * layer.step
        self.keep("scale", scale, torch.float32)
        self.keep("shift", layer.after.shift, torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = (x if self.rounding is None else self.rounding(x)).to(torch.bfloat16)
        layer, weight = self.layer, self.weight()
        if layer.linear:
            out, shape = functional.linear(read, weight.flatten(1)), (-1,)
        else:
            w = layer.window
            out = functional.conv2d(read, weight, None, w.stride, w.padding, w.dilation, w.groups)
            shape = (-1, 1, 1)
        return finish(out, self.scale.view(shape), self.shift.view(shape), layer.after.relu, layer.values)

    def weight(self) -> torch.Tensor:
        """``bfloat16 [N, C / groups, kh, kw]``: codes where there is one scale per output, else what they stand for."""
        mask = (1 << self.width) - 1
        digits = (self.packed.unsqueeze(-1) >> self.places).bitwise_and_(mask).flatten(1)[:, : self.count]
        codes = digits.to(torch.bfloat16)
        codes = codes.mul_(self.unit).add_(self.low) if self.unit != 1 else codes.add_(self.low)
        outputs, depth, *kernel = self.layer.weight.shape
        if self.single:
            return codes.view(outputs, *kernel, depth).permute(0, 3, 1, 2)
        terms, outputs, runs, _ = self.runs.shape
        weight = (codes.view(terms, outputs, runs, -1) * self.runs).sum(0)
        return weight.to(torch.bfloat16).view(self.layer.weight.shape).to(memory_format=torch.channels_last)


def code_range(codes: np.ndarray) -> tuple[int, int, int]:
    """The least code, the step between codes, and the bits that the number of steps takes: 1, 2, 4, or more."""
    low = int(codes.min(initial=0)) if codes.size == 0 else int(codes.min())
    distances = np.unique(codes - low)
    step = math.gcd(*distances.tolist()) or 1
    bits = max(1, (int(distances.max(initial=0)) // step).bit_length())
    return low, step, next((w for w in _WIDTHS if bits <= w), bits)


def pack_codes(codes: np.ndarray, low: int, step: int, width: int) -> np.ndarray:
    """Codes ``int [terms, ...]`` as ``uint8 [terms, bytes]``, the first one in the lowest bits of a byte."""
    each = 8 // width
    digits = ((codes - low) // step).reshape(len(codes), -1)
    digits = np.pad(digits, ((0, 0), (0, -digits.shape[1] % each))).reshape(len(codes), -1, each)
    return (digits << np.arange(0, 8, width)).sum(2).astype(np.uint8)
