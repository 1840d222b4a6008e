"""Products whose weights keep two of every four inputs, on sparse tensor cores.

The four are channels side by side at one position of the filter, as ``compressors.methods.prune`` drops them and as
``kernel.patches`` lays them out; channels are padded to a multiple of four.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional
from torch.sparse import to_sparse_semi_structured

from compressors.operators.device.dense import exact_integers, half_obstacle, tensor_core_obstacle
from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.int8 import (
    Int8Product,
    byte_obstacle,
    moved_by,
    padded,
    padded_channels,
)
from compressors.operators.device.kernel import DeviceKernel, Rounding, finish, patches, rows_of

_RUN, _KEPT = 4, 2
_ROWS, _OUTPUTS, _COLUMNS = 16, 32, 64  # multiples that both libraries behind torch accept for 16 bits
_LEAST = (8, 0)  # the first GPUs with sparse tensor cores


class Sparse16(DeviceKernel):
    """Two of four weights times 16-bit inputs."""

    kind: ClassVar[torch.dtype]

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        return (
            sparse_obstacle(layer)
            or (half_obstacle(layer) if cls.kind == torch.float16 else "")
            or tensor_core_obstacle(device, _LEAST)
        )

    def __init__(self, layer: LayerFormat, device: torch.device) -> None:
        super().__init__(layer, device)
        self.rounding = None if layer.grid is None else Rounding(layer.grid, device)
        if exact_integers(layer, self.kind):
            assert layer.codes is not None and layer.scales is not None
            weight, scale = layer.codes[0].astype(np.float64), layer.scales[0]
        else:
            weight, scale = layer.weight, layer.after.gain * layer.step
        rows = padded(sparse_rows(weight), _OUTPUTS, _COLUMNS)
        self.weight = compressed(torch.from_numpy(rows).to(device, self.kind))
        self.columns = rows.shape[1]
        self.keep("scale", scale, torch.float32)
        self.keep("shift", layer.after.shift, torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images = self.layer.as_images(x if self.rounding is None else self.rounding(x)).to(self.kind)
        size = self.layer.out_size((images.shape[2], images.shape[3]))
        read = patches(padded_channels(images, _RUN), self.layer.window, size, multiple=(_ROWS, self.columns))
        rows, after = len(images) * size[0] * size[1], self.layer.after
        sums = functional.linear(read, self.weight)[:rows, : self.layer.outputs]
        return self.layer.shaped(finish(sums, self.scale, self.shift, after.relu, self.layer.values), x)


class SparseBFloat16(Sparse16):
    name = "bf16_sparse"
    tolerance = 1e-2
    kind = torch.bfloat16


class SparseFloat16(Sparse16):
    name = "fp16_sparse"
    tolerance = 2e-3
    kind = torch.float16


class SparseInt8(Int8Product):
    """Two of four bytes times bytes, with sums of 32 bits, by cuSPARSELt."""

    name = "int8_sparse"

    @classmethod
    def obstacle(cls, layer: LayerFormat, device: torch.device) -> str:
        found = byte_obstacle(layer) or sparse_obstacle(layer, integers=True)
        return found or tensor_core_obstacle(device, _LEAST) or _library_obstacle()

    def _lay_out(self, rows: np.ndarray) -> None:
        codes = self.layer.codes
        assert codes is not None
        wide = padded(sparse_rows(codes).reshape(len(rows), -1), _OUTPUTS, _COLUMNS)
        self.columns = wide.shape[1]
        self.packed = torch._cslt_compress(torch.from_numpy(wide).to(self.device, torch.int8))

    def _read(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        moved = moved_by(self.layer)
        codes = padded_channels((self.rounding(images) - moved).to(torch.int8), _RUN)
        multiple = (_OUTPUTS, self.columns)
        return patches(codes, self.layer.window, size, border=-moved, multiple=multiple)

    def _product(self, read: torch.Tensor) -> torch.Tensor:
        found = torch._cslt_sparse_mm(self.packed, read.t(), out_dtype=torch.int32, transpose_result=True)
        return found if found.shape[0] == len(read) else found.t()


def sparse_obstacle(layer: LayerFormat, integers: bool = False) -> str:
    """Weights without the pattern, or in groups of channels."""
    if layer.window.groups > 1:
        return f"{layer.window.groups} groups of channels: each would be a matrix product of its own"
    weight: Any = layer.codes if integers else layer.weight
    runs = sparse_rows(weight).reshape(-1, _RUN)
    full = int(np.count_nonzero(np.count_nonzero(runs, axis=1) > _KEPT))
    return f"{full} of {len(runs)} runs of four inputs keep more than two weights" if full else ""


def sparse_rows(weight: np.ndarray) -> np.ndarray:
    """Filters ``[..., C, kh, kw]`` as rows ``[..., kh * kw * C]`` with the channels padded to runs of four."""
    missing = -weight.shape[-3] % _RUN
    sides = [(0, 0)] * (weight.ndim - 3) + [(0, missing), (0, 0), (0, 0)]
    return rows_of(np.pad(weight, sides))


def compressed(weight: torch.Tensor) -> torch.Tensor:
    """A matrix with the pattern, as sparse tensor cores read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the interface of torch may still change
        return to_sparse_semi_structured(weight)


def _library_obstacle() -> str:
    available = torch.backends.cusparselt.is_available()
    return "" if available else "this torch was built without cuSPARSELt"
