"""One pass of the float network over the calibration images, and what is remembered of it."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from compressors.calibration.activation import ActivationGrid, InputStatistics, choose_grid
from compressors.calibration.stream import Stream
from compressors.errors import BadTensor
from compressors.graph import Layer, find_layers, trace
from compressors.parallel import Lanes, lanes
from compressors.plan import ActivationConfig, HypervectorPlan

_SAMPLES = 1 << 15
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Moments = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Calibration:
    """Everything of the calibration images that conversions need, gathered once per network.

    Attributes:
        images: float32 ``[n, channels, height, width]``; labels are never seen.
        layers: the compressible layers in the order they run.
        float_layers: paths the user leaves in floating point.
        inputs: layer -> statistics of its input in the float network.
        moments: batch norm -> mean and (biased) variance per channel of its input in the float network; a batch
            norm called at several places is left out, as one repair could not serve them all.
        output_means: layer with a bias -> mean of each of its outputs in the float network.
        network: digest of the float network, see :func:`network_digest`.
        equalized: the equalised network and its calibration (see ``compressors.calibration.variants``), once made.
        narrowed: plan of a hyperdimensional classifier -> the one with fewer dimensions, its calibration, and which
            dimensions these are, once made.
    """

    images: torch.Tensor
    layers: tuple[Layer, ...]
    float_layers: tuple[str, ...]
    inputs: Mapping[str, InputStatistics]
    moments: Mapping[str, Moments]
    output_means: Mapping[str, torch.Tensor]
    network: str
    equalized: list[tuple[nn.Module, Calibration]] = field(default_factory=list, repr=False)
    narrowed: dict[HypervectorPlan, tuple[nn.Module, Calibration, np.ndarray]] = field(
        default_factory=dict, repr=False
    )
    _grids: dict[tuple[str, ActivationConfig], ActivationGrid] = field(default_factory=dict, repr=False)

    def grid(self, layer: str, config: ActivationConfig) -> ActivationGrid:
        """The grid of a layer's input, chosen once per layer and config."""
        if (layer, config) not in self._grids:
            self._grids[layer, config] = choose_grid(self.inputs[layer], config)
        return self._grids[layer, config]


def network_digest(model: nn.Module) -> str:
    """What a network computes with, as one string: a digest of the names, types and values of its state."""
    digest = hashlib.blake2b()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def channel_moments(values: torch.Tensor) -> Moments:
    """Mean and biased variance per channel (axis 1), float32 ``[channels]`` each."""
    # Row by row first: eight times as fast as torch.var_mean over all axes.
    rows = values.reshape(*values.shape[:2], -1)
    means = rows.mean(2)
    variances = (rows - means[..., None]).square_().mean(2)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square_().mean(0)


def pooled_moments(chunks: Sequence[torch.Tensor], lanes: Lanes) -> Moments:
    """:func:`channel_moments` of all chunks together."""
    counts = torch.tensor([len(chunk) for chunk in chunks], dtype=torch.float32)[:, None] / sum(
        map(len, chunks)
    )
    means, variances = (torch.stack(parts) for parts in zip(*lanes.map(channel_moments, chunks), strict=True))
    mean = (counts * means).sum(0)
    return mean, (counts * (variances + (means - mean).square())).sum(0)


def _sample(values: torch.Tensor) -> np.ndarray:
    flat = values.reshape(-1)
    if flat.numel() > _SAMPLES:
        generator = torch.Generator().manual_seed(0)
        flat = flat[torch.randint(flat.numel(), (_SAMPLES,), generator=generator)]
    return np.sort(flat.numpy())


@torch.no_grad()
def calibrate(model: nn.Module, images: torch.Tensor, float_layers: Sequence[str] = ()) -> Calibration:
    """Run the float ``model`` on ``images`` and remember what its layers and batch norms read.

    Raises:
        UnsupportedLayer: see ``compressors.graph.find_layers``.
        BadTensor: no image, images of another type, NaN or infinity in the images or in what a layer computes from
            them.
    """
    if len(images) == 0:
        raise BadTensor("calibration needs at least one image")
    if images.dtype != torch.float32:
        raise BadTensor(
            f"calibration images of type {images.dtype}; expected torch.float32, as in images.float()"
        )
    layers = find_layers(copy.deepcopy(model).float(), images[:1], float_layers)
    graph = trace(copy.deepcopy(model).float().eval(), float_layers)
    names = {layer.name for layer in layers}
    calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    inputs: dict[str, InputStatistics] = {}
    moments: dict[str, Moments] = {}
    means: dict[str, torch.Tensor] = {}
    with lanes() as pool:
        stream = Stream(graph, images, pool)
        for node in graph.graph.nodes:
            module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            source = node.all_input_nodes[0].name if node.all_input_nodes else ""
            if isinstance(module, BATCH_NORMS) and calls[str(node.target)] == 1:
                moments[str(node.target)] = _finite(str(node.target), pooled_moments(stream[source], pool))
            layer = str(node.target) if str(node.target) in names else None
            if layer:
                inputs[layer] = _observe(layer, stream[source])
            stream.advance(node.name)
            if layer and module is not None and module.bias is not None:
                means[layer] = output_means(module, stream[node.name])
            last = stream[node.name]
    if isinstance(last[0], torch.Tensor) and not all(torch.isfinite(chunk).all() for chunk in last):
        raise BadTensor("the float network answers NaN or infinity on the calibration images")
    digest = network_digest(model)
    return Calibration(images, layers, tuple(float_layers), inputs, moments, means, digest)


def _finite(name: str, moments: Moments) -> Moments:
    if not all(torch.isfinite(values).all() for values in moments):
        raise BadTensor(
            f"{name} reads NaN, infinity or numbers whose variance is beyond float32 in the float network on the "
            "calibration images"
        )
    return moments


def output_means(layer: nn.Module, chunks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean of each output of a convolution or linear layer, float32 ``[outputs]``."""
    axes = (0, 2, 3) if isinstance(layer, nn.Conv2d) else tuple(range(chunks[0].ndim - 1))
    total = torch.stack([chunk.double().sum(axes) for chunk in chunks]).sum(0)
    count = sum(chunk.numel() for chunk in chunks) / len(total)
    return (total / count).float()


def _observe(name: str, chunks: Sequence[torch.Tensor]) -> InputStatistics:
    values = torch.cat(list(chunks))
    low, high = torch.aminmax(values)
    if not torch.isfinite(low) or not torch.isfinite(high):
        raise BadTensor(f"{name} reads NaN or infinity in the float network on the calibration images")
    return InputStatistics(low.item(), high.item(), _sample(values))
