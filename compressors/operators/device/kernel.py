"""What every kernel of a layer is, and the steps that several of them share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from compressors.calibration.activation import ActivationGrid
from compressors.operators.device.formats import LayerFormat
from compressors.operators.product import Window

MOST_TERMS = 4
"""Integer products of one layer, each as large as the layer; with more of them other kernels are always faster."""


class DeviceKernel(nn.Module):
    """A layer, and the batch norm and ReLU behind it, on a device.

    Attributes:
        name: in records.
        tolerance: error of the output, at most: root mean square over that of the reference in front of a ReLU.
        layer: what it computes.
    """

    name: ClassVar[str]
    tolerance: ClassVar[float]

    def __init__(self, layer: LayerFormat, device: torch.device) -> None:
        """Lay out the weights on the device.

        Raises:
            Exception: of any kind, where a library refuses; :meth:`obstacle` says beforehand what is known to fail.
        """
        super().__init__()
        self.layer, self.device = layer, device

    @classmethod
    @abstractmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        """Why the kernel cannot run a layer on a device; "" where it can."""

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output in ``layer.values``, of an input in that type: ``[n, C, h, w]`` or ``[..., C]``."""

    def sums(self, x: torch.Tensor) -> torch.Tensor | None:
        """Exact integer sums ``[terms, rows, N]``, pixel by pixel; None where the kernel is not one of integers."""
        return None

    def keep(self, name: str, values: np.ndarray | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Values on the device that belong to the kernel."""
        tensor = torch.as_tensor(values).to(device=self.device, dtype=dtype).contiguous()
        self.register_buffer(name, tensor, persistent=False)
        return tensor


class Rounding(nn.Module):
    """From values to the codes of a grid, to the same ones on every device."""

    def __init__(self, grid: ActivationGrid, device: torch.device) -> None:
        super().__init__()
        self.low, self.high = grid.low, grid.high
        # a Python number would be turned into its reciprocal on a GPU, and codes at thresholds would differ
        self.register_buffer(
            "step", torch.tensor([grid.scale], dtype=torch.float32, device=device), persistent=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes as float32 of values of any floating type."""
        return (x.float() / self.step).round_().clamp_(self.low, self.high)


def finish(
    sums: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, relu: bool, values: torch.dtype
) -> torch.Tensor:
    """``scale * sums + shift`` with a ReLU or none; ``sums`` of any type, the others float32 that broadcast to it."""
    out = torch.addcmul(shift, sums, scale)
    return (out.relu_() if relu else out).to(values)


def finish_terms(
    sums: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, relu: bool, values: torch.dtype
) -> torch.Tensor:
    """The same of ``[rows, terms, N]``, added up over the terms; ``scale [terms, N]`` and ``shift [N]``."""
    if sums.shape[1] == 1:
        return finish(sums[:, 0], scale[0], shift, relu, values)
    out = (sums * scale).sum(1).add_(shift)
    return (out.relu_() if relu else out).to(values)


def patches(
    values: torch.Tensor,
    window: Window,
    out_size: tuple[int, int],
    *,
    border: int = 0,
    multiple: tuple[int, int] = (1, 1),
    least_rows: int = 1,
) -> torch.Tensor:
    """What each filter position reads: ``[rows, kh * kw * C]``, the channels of a tap side by side.

    Args:
        values: ``[n, C, h, w]`` of any type, best in the channels-last layout.
        border: what lies around the images.
        multiple: rows and columns are padded with zeros to multiples of these.
        least_rows: at least so many rows.

    Returns:
        ``values`` themselves, seen otherwise, where nothing has to be copied.
    """
    x = values.permute(0, 2, 3, 1)
    if any(window.padding):
        top, left = window.padding
        x = functional.pad(x, (0, 0, left, left, top, top), value=border)
    batch, _, _, channels = x.shape
    rows, columns = batch * out_size[0] * out_size[1], window.kernel[0] * window.kernel[1] * channels
    padded = (round_up(max(rows, least_rows), multiple[0]), round_up(columns, multiple[1]))
    seen = _windows(x.contiguous(), window, out_size)
    if padded == (rows, columns):
        return seen.reshape(rows, columns)
    out = values.new_zeros(padded)
    out[:rows, :columns].view(seen.shape).copy_(seen)
    return out


def _windows(x: torch.Tensor, window: Window, out_size: tuple[int, int]) -> torch.Tensor:
    """A view ``[n, oh, ow, kh, kw, C]`` of ``[n, h, w, C]``."""
    image, row, pixel, _ = x.stride()
    (down, right), (dilation_y, dilation_x) = window.stride, window.dilation
    strides = (image, row * down, pixel * right, row * dilation_y, pixel * dilation_x, 1)
    return x.as_strided((x.shape[0], *out_size, *window.kernel, x.shape[3]), strides)


def rows_of(weight: np.ndarray) -> np.ndarray:
    """Filters ``[..., C, kh, kw]`` as rows ``[..., kh * kw * C]``, ordered as :func:`patches` orders inputs."""
    moved = np.moveaxis(weight, -3, -1)
    return np.ascontiguousarray(moved.reshape(*weight.shape[:-3], -1))


def round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def integer_obstacle(layer: LayerFormat) -> str:
    """What stands against integer products of any kind."""
    if layer.tensor is None:
        return "the weights are in floating point"
    if layer.grid is None:
        return "the input is in floating point"
    assert layer.codes is not None
    if len(layer.codes) > MOST_TERMS:
        return f"{len(layer.codes)} terms and runs of inputs with scales of their own: more than {MOST_TERMS} products"
    if 2 * layer.largest_sum >= 1 << 31:
        return f"sums of up to {layer.largest_sum} do not fit 32 bits"
    return ""
