"""One layer that the images stand before, and what the network does if that layer is changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import fx, nn

from compressors.calibration.activation import ActivationGrid
from compressors.calibration.second_order import (
    InputMoments,
    input_moments,
    round_second_order,
    target_weights,
)
from compressors.registry import MethodConfig, compress
from compressors.tensor import SlicedTensor

if TYPE_CHECKING:
    from dse.analysis.branches import Branches


@dataclass(frozen=True)
class Effect:
    """What a changed layer does: see ``dse.analysis.records.Sensitivity``."""

    output_error: float | None
    kl_nats: float
    accuracy: float


class Site:
    """One layer of the network, about to run."""

    def __init__(self, branches: Branches, node: fx.Node, module: nn.Module) -> None:
        self._branches, self._node, self._module = branches, node, module
        self.weight = module.weight.detach().numpy().astype(np.float64)
        self._moments_s = 0.0
        with torch.no_grad():
            self._output = branches.lanes.map(module, branches.inputs(node))

    def compress(self, config: MethodConfig, rounding: str) -> tuple[SlicedTensor, float]:
        """The layer's weights by ``config``, and the seconds it took, those to observe its input included."""
        before = time.perf_counter()
        if rounding == "nearest":
            return compress(self.weight, config), time.perf_counter() - before
        moments = self._moments  # observed once for all methods, which a conversion would not share
        before = time.perf_counter()
        rows = self.weight.reshape(len(self.weight), -1)
        target = target_weights(rows, moments).reshape(self.weight.shape)
        keep = np.ones(target.shape, bool)
        tensor = round_second_order(target, config, keep, moments, self._branches.lanes)
        return tensor, self._moments_s + time.perf_counter() - before

    def with_weights(self, dense: np.ndarray) -> Effect:
        """What the network does with these weights ``float32 [N, ...]`` instead of the layer's own."""
        own = self._module.weight.detach().clone()
        with torch.no_grad():
            try:
                self._module.weight.copy_(torch.from_numpy(dense))
                return self._effect()
            finally:
                self._module.weight.copy_(own)

    def with_input(self, grid: ActivationGrid) -> Effect:
        """What the network does if this layer alone reads its input rounded to ``grid``."""
        handle = self._module.register_forward_pre_hook(lambda _, args: (grid.round(args[0]), *args[1:]))
        try:
            return self._effect()
        finally:
            handle.remove()

    def input_error(self, grid: ActivationGrid) -> float | None:
        """Squared error of the input on ``grid``, relative to its energy, on the calibration images."""
        error = energy = 0.0
        for chunk in self._branches.inputs(self._node):
            energy += float(chunk.double().square().sum())
            error += float((grid.round(chunk) - chunk).double().square().sum())
        return error / energy if energy > 0 else None

    def _effect(self) -> Effect:
        output, kl, accuracy = self._branches.run(self._node)
        axis = 1 if isinstance(self._module, nn.Conv2d) else -1
        free = self._branches.repairs.free_mean(self._node)
        energy = _spread(self._output, axis, free)
        error = _spread([a - b for a, b in zip(output, self._output, strict=True)], axis, free)
        return Effect(error / energy if energy > 0 else None, kl, accuracy)

    @cached_property
    def _moments(self) -> InputMoments:
        before = time.perf_counter()
        read = self._branches.inputs(self._node)
        free = self._branches.repairs.free_mean(self._node)
        with torch.no_grad():
            moments = input_moments(self._module, read, read, centred=free, lanes=self._branches.lanes)
        self._moments_s = time.perf_counter() - before
        return moments


def _spread(chunks: Sequence[torch.Tensor], axis: int, centred: bool) -> float:
    """Sum of squares, about the mean of each channel if ``centred``."""
    rows = [chunk.movedim(axis, 0).flatten(1).double() for chunk in chunks]
    squares = sum(r.square().sum(1) for r in rows)
    if centred:
        total, count = sum(r.sum(1) for r in rows), sum(r.shape[1] for r in rows)
        squares = (squares - total.square() / count).clamp_min(0.0)
    return float(squares.sum())
