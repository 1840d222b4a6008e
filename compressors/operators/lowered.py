"""A whole network on integers, and single layers, as modules."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from compressors.calibration.activation import ActivationGrid
from compressors.errors import BadTensor, ConfigError
from compressors.kernels.layout import InputFormat
from compressors.model import CompressedModel
from compressors.operators.lowering import Lowering, Program, Step
from compressors.operators.product import Executed, Product, Window
from compressors.tensor import SlicedTensor

_WORTH_SPLITTING = 200_000  # popcounts or byte products: fewer take less time than handing them out
_PROGRAMS = 8  # shapes of batches remembered


class LoweredModel(nn.Module):
    """A converted network that computes with integers alone between the input's quantizer and the logits.

    Programs are made when a batch of a new shape comes, and kept. One call at a time.
    """

    def __init__(self, model: CompressedModel, lowering: Lowering | None = None, threads: int = 1) -> None:
        """
        Args:
            model: all its layers must have sliced weights and rounded inputs.
            lowering: which kernels; the best by default.
            threads: that share a layer's work where there is enough.
        """
        super().__init__()
        if threads < 1:
            raise ConfigError("lowering.threads", threads, "at least 1")
        self._model, self.lowering, self.threads = model, lowering or Lowering(), threads
        self._programs: dict[tuple[int, ...], Program] = {}
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``float32`` of ``float32`` images ``[n, channels, height, width]``.

        Raises:
            UnsupportedLayer, BadTensor: see ``compressors.operators.lowering.Program``; or no image, or NaN in one.
        """
        if len(images) == 0 or torch.isnan(images).any():
            raise BadTensor("no image" if len(images) == 0 else "NaN in the images")
        program = self.program(tuple(images.shape))
        split = None if self._pool is None else self._split
        return torch.from_numpy(np.ascontiguousarray(program.run(images.detach().numpy(), split)))

    def program(self, shape: tuple[int, ...]) -> Program:
        """The steps for batches of one shape."""
        if shape not in self._programs:
            while len(self._programs) >= _PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            self._programs[shape] = Program(self._model, shape, self.lowering)
        return self._programs[shape]

    def executed(self, shape: tuple[int, ...]) -> dict[str, Executed]:
        """Step -> operations that a batch of that shape takes."""
        return {step.name: step.executed for step in self.program(shape).steps}

    def _split(self, step: Step) -> None:
        work = step.executed.popcounts + step.executed.byte_products // 4
        pieces = min(self.threads, step.tiles) if work >= _WORTH_SPLITTING else 1
        if pieces == 1:
            step.run(0, step.tiles)
            return
        # pieces end where tiles do; the last tile may overlap the one before it and writes the same there
        edges = [step.tiles * i // pieces for i in range(pieces + 1)]
        assert self._pool is not None
        list(self._pool.map(step.run, edges[:-1], edges[1:]))


class SlicedLayer(nn.Module):
    """A convolution or linear layer that computes with packed planes: float in, float out, integers between.

    Attributes:
        product: the integer product.
        grid: of the input.
    """

    def __init__(
        self,
        tensor: SlicedTensor,
        grid: ActivationGrid,
        window: Window | None = None,
        bias: torch.Tensor | None = None,
        family: str | None = None,
        method: str | None = None,
    ) -> None:
        """
        Args:
            tensor: ``[N, C / groups, kh, kw]``, or ``[N, C]`` for a linear layer.
            grid: the input is rounded to it.
            window: how the filter moves; None for a linear layer.
            bias: float32 ``[N]``.
            family, method: of kernels, see ``compressors.operators.product.Product``.
        """
        super().__init__()
        self.grid, self._linear = grid, window is None
        if tensor.scale.shape[2] != 1:
            raise BadTensor("scales for groups of inputs are lowered with the whole network only")
        codes = tensor.codes().reshape(tensor.terms, *(*tensor.shape, 1, 1)[:4])
        fmt = InputFormat.integers(grid.bits, grid.signed)
        self.product = Product(codes, fmt, window or Window(), family, method)
        self.register_buffer("scale", torch.from_numpy(tensor.scale[:, :, 0].astype(np.float64) * grid.scale))
        self.register_buffer("bias", None if bias is None else bias.detach().double())

    @torch.no_grad()
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``float32 [n, N, oh, ow]`` of ``[n, C, h, w]``, or ``[..., N]`` of ``[..., C]`` for a linear layer."""
        codes = self.grid.codes(self.grid.round(inputs))
        lead = codes.shape[:-1]
        if self._linear:
            codes = codes.reshape(-1, codes.shape[-1], 1, 1)
        sums = torch.from_numpy(self.product.sums(codes)).double()
        out = (sums * self.scale[:, None, :, None, None]).sum(0)
        if self.bias is not None:
            out = out + self.bias[:, None, None]
        out = out.float()
        return out.reshape(*lead, -1) if self._linear else out
