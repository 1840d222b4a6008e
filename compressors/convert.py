"""(float network, plan, calibration) -> compressed network. No labels, no retraining."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, MutableMapping

import numpy as np
import torch
from torch import nn

from compressors.calibration.activation import ActivationGrid
from compressors.calibration.batch_norm import repair_batch_norms
from compressors.calibration.observe import BATCH_NORMS, Calibration
from compressors.errors import BadTensor, UnknownName
from compressors.graph import Layer
from compressors.methods.prune import magnitude_mask
from compressors.plan import CompressionPlan, LayerPlan
from compressors.registry import compress
from compressors.tensor import SlicedTensor

TensorCache = MutableMapping[tuple[str, LayerPlan], SlicedTensor]


class CompressedModel(nn.Module):
    """A network whose planned layers hold sliced weights and read inputs rounded to integer grids.

    It computes in floating point exactly what the integers and scales stand for.

    Attributes:
        network: the converted copy of the float network.
        layers: its compressible layers in the order they run.
        tensors: layer -> sliced weights, for layers with compressed weights.
        grids: layer -> grid of its input, for layers with rounded inputs.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: tuple[Layer, ...],
        tensors: Mapping[str, SlicedTensor],
        grids: Mapping[str, ActivationGrid],
    ) -> None:
        super().__init__()
        self.network = network.eval()
        self.layers = layers
        self.tensors = dict(tensors)
        self.grids = dict(grids)
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


def weight_digest(module: nn.Module) -> str:
    """SHA-256 of a layer's float weights: the part of a cache key that names the layer by content."""
    weight = module.weight.detach().contiguous()
    return hashlib.sha256(f"{tuple(weight.shape)}".encode() + weight.numpy().tobytes()).hexdigest()


def _compress_layer(name: str, module: nn.Module, plan: LayerPlan, cache: TensorCache) -> SlicedTensor:
    key = (weight_digest(module), LayerPlan(plan.weight, None, plan.sparsity))
    if key not in cache:
        weight = module.weight.detach().numpy()
        try:
            cache[key] = compress(weight, plan.weight, magnitude_mask(weight, plan.sparsity))
        except BadTensor as error:
            raise BadTensor(f"layer {name}: {error}") from error
    return cache[key]


@torch.no_grad()
def convert(
    model: nn.Module, plan: CompressionPlan, calibration: Calibration, cache: TensorCache | None = None
) -> CompressedModel:
    """Compress ``model`` as ``plan`` says; the model itself stays as it is.

    Args:
        model: the float network that ``calibration`` was gathered from.
        plan: what to do with each layer.
        calibration: see ``compressors.calibration.observe.calibrate``.
        cache: layers compressed before, by content and plan; filled as a side effect.

    Raises:
        UnknownName: the plan names a layer the network does not have.
        BadTensor: NaN or infinity in a layer's weights (the layer is named).
    """
    cache = {} if cache is None else cache
    known = {layer.name for layer in calibration.layers}
    for name, _ in plan.layers:
        if name not in known:
            raise UnknownName("layer", name, known, key="plan.layers")
    network = copy.deepcopy(model).eval()
    modules = dict(network.named_modules())
    tensors: dict[str, SlicedTensor] = {}
    grids: dict[str, ActivationGrid] = {}
    for name, layer_plan in plan.layers:
        if layer_plan.weight is not None:
            tensors[name] = _compress_layer(name, modules[name], layer_plan, cache)
        if layer_plan.activation is not None:
            grids[name] = calibration.grid(name, layer_plan.activation)
    compressed = CompressedModel(network, calibration.layers, tensors, grids)
    if plan.batch_norm != "keep" and (tensors or grids):
        with repair_batch_norms(network, calibration.moments, plan.batch_norm):
            network(calibration.images)
    return compressed
