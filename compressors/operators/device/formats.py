"""What a layer is to the kernels that may run it: its weights in every form, its input's grid, and what follows it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from compressors.calibration.activation import ActivationGrid
from compressors.graph import Layer
from compressors.kernels.layout import output_size
from compressors.operators.product import Window
from compressors.tensor import SlicedTensor


@dataclass(frozen=True, eq=False)
class Affine:
    """What follows a layer's sums, per output channel: ``gain * sum + shift``, and a ReLU or none.

    Attributes:
        gain, shift: ``float64 [N]``; a bias and a batch norm behind the layer are in them.
        relu: whether negative results become zero.
    """

    gain: np.ndarray
    shift: np.ndarray
    relu: bool = False


@dataclass(frozen=True, eq=False)
class LayerFormat:
    """A layer as kernels see it; a linear one is a convolution of one pixel.

    Attributes:
        name: path of the layer's module.
        linear: it reads ``[..., C]`` instead of ``[n, C, h, w]``.
        weight: dense weights ``float64 [N, C / groups, kh, kw]``.
        window: how the filter moves.
        after: what follows the sums.
        tensor: the sliced weights; None where they stayed in floating point.
        grid: of the input; None where it stayed in floating point.
        values: type of what is read and written.
    """

    name: str
    linear: bool
    weight: np.ndarray
    window: Window
    after: Affine
    tensor: SlicedTensor | None = None
    grid: ActivationGrid | None = None
    values: torch.dtype = torch.float32

    @classmethod
    def of(
        cls,
        layer: Layer,
        module: nn.Module,
        tensor: SlicedTensor | None,
        grid: ActivationGrid | None,
        after: Affine,
        values: torch.dtype = torch.float32,
    ) -> LayerFormat:
        """The format of one layer of a compressed network; ``module`` holds its weights."""
        weight = module.weight.detach().double().cpu().numpy()
        window = Window(
            tuple(weight.shape[2:]) or (1, 1), layer.stride, layer.padding, layer.dilation, layer.groups
        )
        dense = weight.reshape(*weight.shape, *[1] * (4 - weight.ndim))
        return cls(layer.name, layer.kind == "linear", dense, window, after, tensor, grid, values)

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def channels(self) -> int:
        """Of the input."""
        return self.weight.shape[1] * self.window.groups

    @property
    def depth(self) -> int:
        """Inputs of one output."""
        return int(np.prod(self.weight.shape[1:]))

    @cached_property
    def codes(self) -> np.ndarray | None:
        """Integer weights ``int64 [terms, N, C / groups, kh, kw]``; None where they stayed in floating point.

        A scale for each run of inputs makes each run a term of its own, zero outside it.
        """
        if self.tensor is None:
            return None
        terms, outputs, runs = self.tensor.scale.shape
        codes = self.tensor.codes().reshape(terms, 1, outputs, runs, -1)
        codes = codes * np.eye(runs, dtype=np.int64).reshape(runs, 1, runs, 1)
        return codes.reshape(-1, *self.weight.shape)

    @cached_property
    def scales(self) -> np.ndarray | None:
        """``float64 [terms, N]``, from products of :attr:`codes` with the input's codes to ``gain * sum``.

        With an input in floating point, from products with that. None where the weights are no integers.
        """
        if self.tensor is None:
            return None
        scale = self.tensor.scale.astype(np.float64).transpose(0, 2, 1).reshape(-1, self.outputs)
        return scale * self.step * self.after.gain

    @property
    def step(self) -> float:
        """Of the input's grid; 1 without one."""
        return 1.0 if self.grid is None else self.grid.scale

    @property
    def integers(self) -> bool:
        """Whether weights and inputs are both integers times scales."""
        return self.tensor is not None and self.grid is not None

    @property
    def largest_input(self) -> int:
        """Magnitude of the largest code of the input; 0 without a grid."""
        return 0 if self.grid is None else max(-self.grid.low, self.grid.high)

    @cached_property
    def largest_sum(self) -> int:
        """No sum of one term is larger in magnitude; needs both kinds of integers."""
        assert self.codes is not None
        return int(np.abs(self.codes).sum((2, 3, 4)).max(initial=0)) * self.largest_input

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output."""
        w = self.window
        return output_size(size, w.kernel, w.stride, w.padding, w.dilation)

    def as_images(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer reads as ``[n, C, h, w]``: the rows of a linear layer's input are images of one pixel."""
        return x.reshape(-1, x.shape[-1], 1, 1) if self.linear else x

    def shaped(self, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Results ``[rows, N]``, pixel by pixel, in the shape that belongs to the input ``x``; not copied."""
        if self.linear:
            return rows.view(*x.shape[:-1], rows.shape[-1])
        height, width = self.out_size((x.shape[2], x.shape[3]))
        return rows.view(x.shape[0], height, width, -1).permute(0, 3, 1, 2)
