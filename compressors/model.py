"""The compressed network: a float network whose planned layers hold sliced weights and read rounded inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from compressors.calibration.activation import ActivationGrid
from compressors.calibration.observe import BATCH_NORMS
from compressors.graph import Layer
from compressors.tensor import SlicedTensor

if TYPE_CHECKING:
    from compressors.operators.lowered import LoweredModel


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        seconds: wall time by step.
        layer_errors: layer -> squared error of its output relative to the float output's energy, for layers rounded
            by second order.
        unit_errors: unit -> the same of the unit's output before and after its reconstruction, on images held out.
        kept: ``as planned``, or ``without repairs`` where that was nearer to the float network.
        divergence: mean Kullback-Leibler divergence from the float network's answers on the calibration images, in
            nats, of both; empty where there was nothing to compare.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    layer_errors: Mapping[str, float] = field(default_factory=dict)
    unit_errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kept: str = "as planned"
    divergence: Mapping[str, float] = field(default_factory=dict)


class CompressedModel(nn.Module):
    """A network whose planned layers hold sliced weights and read inputs rounded to integer grids.

    It computes in floating point exactly what the integers and scales stand for.

    Attributes:
        network: the converted copy of the float network.
        layers: its compressible layers in the order they run.
        tensors: layer -> sliced weights, for layers with compressed weights.
        grids: layer -> grid of its input, for layers with rounded inputs.
        report: how the conversion went; empty for a network read from a file.
        kept: layer -> booleans ``[outputs]`` of the float network's layer, False for channels taken out.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: tuple[Layer, ...],
        tensors: Mapping[str, SlicedTensor],
        grids: Mapping[str, ActivationGrid],
        report: ConversionReport | None = None,
        kept: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval()
        self.layers = layers
        self.tensors = dict(tensors)
        self.grids = dict(grids)
        self.report = ConversionReport() if report is None else report
        self.kept = dict(kept or {})
        modules = dict(network.named_modules())
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                modules[name].weight.copy_(torch.from_numpy(tensor.to_dense()))
        for name, grid in self.grids.items():
            modules[name].register_forward_pre_hook(
                lambda _, args, grid=grid: (grid.round(args[0]), *args[1:])
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, classes]`` of float32 images ``[n, channels, height, width]``."""
        return self.network(images)

    @torch.no_grad()
    def input_codes(self, images: torch.Tensor) -> dict[str, np.ndarray]:
        """The integers each layer with a grid reads for ``images``: layer -> ``int64 [n, channels, ...]``."""
        codes: dict[str, np.ndarray] = {}
        modules = dict(self.network.named_modules())

        def watch(name: str, grid: ActivationGrid):  # type: ignore[no-untyped-def]
            def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                codes[name] = grid.codes(args[0])

            return hook

        # registered after the rounding hooks, hence sees rounded inputs
        handles = [modules[n].register_forward_pre_hook(watch(n, g)) for n, g in self.grids.items()]
        try:
            self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        return codes

    def lower(self, **settings: Any) -> LoweredModel:
        """The network on integers alone; ``settings`` are those of ``compressors.operators.lowering.Lowering``.

        Raises:
            UnsupportedLayer: once it is called, if a layer has float weights or a float input.
        """
        # these import this module
        from compressors.operators.lowered import LoweredModel
        from compressors.operators.lowering import Lowering

        threads = settings.pop("threads", 1)
        return LoweredModel(self, Lowering(**settings), threads)

    def size_bytes(self) -> float:
        """Bytes to store the network: sliced weights without padding, the rest as float32.

        A batch norm counts as the one scale and shift per channel it folds into.
        """
        bits = float(sum(tensor.storage_bits for tensor in self.tensors.values()))
        for name, module in self.network.named_modules():
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if not (parameter_name == "weight" and name in self.tensors):
                    bits += 32 * parameter.numel()
            if isinstance(module, BATCH_NORMS) and not module.affine:
                bits += 64 * module.num_features
        return bits / 8
