"""Integer matrix products of bytes: ``torch._int_mm`` over what each filter position reads.

On a GPU that function wants more than 16 rows, and columns of both matrices in multiples of 8; rows and columns are
padded with zeros up to what tensor cores like. Unsigned codes of 8 bits are moved by 128 to fit, and what that changes
is a constant per output.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.kernel import (
    DeviceKernel,
    Rounding,
    finish_terms,
    integer_obstacle,
    patches,
    round_up,
    rows_of,
)

ROWS, LEAST_ROWS, _COLUMNS, _OUTPUTS = 8, 32, 16, 16
_TOP = 127


class Int8Product(DeviceKernel):
    """Bytes in, sums of 32 bits out, then scales."""

    name = "int8"
    tolerance = 1e-5

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        return byte_obstacle(layer)

    def __init__(self, layer: LayerFormat, device: torch.device) -> None:
        super().__init__(layer, device)
        assert layer.grid is not None and layer.codes is not None and layer.scales is not None
        self.rounding = Rounding(layer.grid, device)
        self.moved = moved_by(layer)
        rows = rows_of(layer.codes).reshape(-1, layer.depth)  # [terms * N, K]
        self._lay_out(rows)
        self.constant = self.keep(
            "constant", (self.moved * rows.sum(1)).reshape(-1, layer.outputs), torch.int32
        )
        shift = layer.after.shift + (layer.scales * self.constant.cpu().numpy()).sum(0)
        self.keep("scale", layer.scales, torch.float32)
        self.keep("shift", shift, torch.float32)

    def _lay_out(self, rows: np.ndarray) -> None:
        self.keep("weight", padded(rows, _OUTPUTS, _COLUMNS), torch.int8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        relu, values = self.layer.after.relu, self.layer.values
        return self.layer.shaped(finish_terms(self._raw(x), self.scale, self.shift, relu, values), x)

    def sums(self, x: torch.Tensor) -> torch.Tensor:
        return (self._raw(x) + self.constant).transpose(0, 1)

    def _raw(self, x: torch.Tensor) -> torch.Tensor:
        """Sums ``int32 [rows, terms, N]`` of moved codes."""
        images = self.layer.as_images(x)
        size = self.layer.out_size((images.shape[2], images.shape[3]))
        rows = len(images) * size[0] * size[1]
        terms, outputs = self.scale.shape
        found = self._product(self._read(images, size))
        return found[:rows, : terms * outputs].unflatten(1, (terms, outputs))

    def _read(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Moved codes ``int8 [rows, K]``, padded."""
        codes = (self.rounding(images) - self.moved).to(torch.int8)
        return patches(
            codes,
            self.layer.window,
            size,
            border=-self.moved,
            multiple=(ROWS, self.weight.shape[1]),
            least_rows=LEAST_ROWS,
        )

    def _product(self, read: torch.Tensor) -> torch.Tensor:
        # the second matrix column by column, which is the layout of integer tensor cores
        return torch._int_mm(read, self.weight.t())


def byte_obstacle(layer: LayerFormat) -> str:
    """What stands against products of bytes."""
    if layer.window.groups > 1:
        return f"{layer.window.groups} groups of channels: each would be a matrix product of its own"
    found = integer_obstacle(layer)
    if found:
        return found
    assert layer.codes is not None and layer.grid is not None
    if layer.codes.min(initial=0) < -_TOP - 1 or layer.codes.max(initial=0) > _TOP:
        return f"weights from {layer.codes.min()} to {layer.codes.max()} do not fit 8 bits"
    if layer.grid.high - layer.grid.low > 255:
        return f"inputs of {layer.grid.bits} bits do not fit 8"
    return ""


def moved_by(layer: LayerFormat) -> int:
    """What is taken off the input's codes so that they are signed bytes."""
    assert layer.grid is not None
    return _TOP + 1 if layer.grid.high > _TOP else 0


def padded(rows: np.ndarray, outputs: int, columns: int) -> np.ndarray:
    """A matrix with zeros behind it, up to multiples of these."""
    tall, wide = round_up(rows.shape[0], outputs), round_up(rows.shape[1], columns)
    return np.pad(rows, ((0, tall - rows.shape[0]), (0, wide - rows.shape[1])))


def padded_channels(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """``[n, C, h, w]`` with channels of zeros behind the others."""
    missing = -x.shape[1] % multiple
    return functional.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
