"""Dense products in floating point: cuDNN and cuBLAS on a GPU.

Where weights and inputs are integers of one scale, 16-bit kernels multiply the integers themselves, which they hold
exactly, and scale the results; only the rounding of a result to 16 bits is left as an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.kernel import DeviceKernel, Rounding, finish

EXACT = {torch.bfloat16: 256, torch.float16: 2048}
"""Integers up to this magnitude are exact."""
_LARGEST_HALF = 65504


class Dense(DeviceKernel):
    """One convolution or matrix product of the library, in ``kind``."""

    kind: ClassVar[torch.dtype] = torch.float32
    tensor_float: ClassVar[bool] = False

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        return ""

    def __init__(self, layer: LayerFormat, device: torch.device) -> None:
        super().__init__(layer, device)
        self.rounding = None if layer.grid is None else Rounding(layer.grid, device)
        gain = layer.after.gain[:, None, None, None]
        self._in_codes = self.kind != torch.float32 and exact_integers(layer, self.kind)
        if self._in_codes:
            assert layer.codes is not None and layer.scales is not None
            self._lay_out(layer.codes[0].astype(np.float64))
            self.keep("scale", layer.scales[0], torch.float32)
        else:
            self._lay_out(layer.weight * (gain * layer.step))
        self.keep("shift", layer.after.shift, torch.float32)
        # with 16-bit values around the layer, the library adds the shift itself
        self._inside = not self._in_codes and self.kind in (torch.float32, layer.values)
        self.keep("bias", layer.after.shift, self.kind)

    def _lay_out(self, weight: np.ndarray) -> None:
        if self.layer.linear:
            self.keep("weight", weight[:, :, 0, 0], self.kind)
        else:
            dense = torch.from_numpy(weight).to(memory_format=torch.channels_last)
            self.register_buffer("weight", dense.to(self.device, self.kind), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = (x if self.rounding is None else self.rounding(x)).to(self.kind)
        out = self._multiply(read, self.bias if self._inside else None)
        if self._inside:
            return (out.relu_() if self.layer.after.relu else out).to(self.layer.values)
        return self._finished(out)

    def _multiply(self, read: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        with arithmetic(self.device, self.tensor_float):
            if self.layer.linear:
                return functional.linear(read, self.weight, bias)
            w = self.layer.window
            return functional.conv2d(read, self.weight, bias, w.stride, w.padding, w.dilation, w.groups)

    def _finished(self, out: torch.Tensor) -> torch.Tensor:
        shape = (-1,) if self.layer.linear else (-1, 1, 1)
        scale = self.scale.view(shape) if self._in_codes else torch.ones_like(self.shift).view(shape)
        after = self.layer.after
        return finish(out, scale, self.shift.view(shape), after.relu, self.layer.values)


class Float32(Dense):
    """IEEE single precision."""

    name = "fp32"
    tolerance = 5e-5


class TensorFloat32(Dense):
    """Single precision whose products are of 10 bits behind the point, on tensor cores."""

    name = "tf32"
    tolerance = 3e-3
    tensor_float = True

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        return tensor_core_obstacle(device, (8, 0))


class BFloat16(Dense):
    name = "bf16"
    tolerance = 1e-2
    kind = torch.bfloat16


class Float16(Dense):
    name = "fp16"
    tolerance = 2e-3
    kind = torch.float16

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        return half_obstacle(layer)


def exact_integers(layer: LayerFormat, kind: torch.dtype) -> bool:
    """Whether a 16-bit type holds weights and inputs as integers, with one scale per output."""
    if not layer.integers:
        return False
    assert layer.codes is not None
    largest = max(int(np.abs(layer.codes).max(initial=0)), layer.largest_input)
    return len(layer.codes) == 1 and largest <= EXACT[kind]


def half_obstacle(layer: LayerFormat) -> str:
    """Sums of integers beyond what half precision holds."""
    if exact_integers(layer, torch.float16) and layer.largest_sum > _LARGEST_HALF:
        return f"sums of up to {layer.largest_sum} are beyond {_LARGEST_HALF}"
    return ""


def tensor_core_obstacle(device: torch.device, least: tuple[int, int]) -> str:
    """Where the device is no GPU of that compute capability or a later one."""
    if device.type != "cuda":
        return "the device is no GPU"
    found = torch.cuda.get_device_capability(device)
    return "" if found >= least else f"compute capability {found[0]}.{found[1]}, below {least[0]}.{least[1]}"


@contextmanager
def arithmetic(device: torch.device, tensor_float: bool) -> Iterator[None]:
    """How a GPU multiplies numbers in single precision, and cuDNN choosing its algorithm by trial."""
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = tensor_float, tensor_float, True
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before
