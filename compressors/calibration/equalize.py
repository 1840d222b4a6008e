"""Cross-layer equalisation: even out the channels between layers without changing what is computed.

A channel may be divided by any positive factor where it is made, and multiplied by it where it is read, if what lies
between passes factors through (Nagel et al., arXiv 1906.04721, section 4.1). The factor that makes both ranges equal,
``sqrt(made / read)``, is the one under which the grids before and after it lose least to channels of other ranges.

The range of a channel where it is read is its largest weight there. Where a layer makes it that is its largest weight
or bias. Where a batch norm does, the weights in front may have any range, so what it puts out counts: its mean and
three deviations, as the authors take them to be for the biases (section 4.2), and the batch norm is what is divided.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn

from compressors.channels import BATCH_NORMS, Stop, fixed_modules, follow, is_depthwise
from compressors.graph import COMPRESSIBLE, shaped

_SWEEPS = 1000
_SETTLED = 1e-4  # the largest change of a factor in one sweep, as a logarithm
_DEAD = 1e-6  # of the largest range of a layer: less is as good as nothing


@dataclass(frozen=True)
class Equalization:
    """A network with even channels.

    Attributes:
        network: an equalised copy.
        scales: layer or batch norm that makes channels -> ``float64 [channels]``, what they are divided by.
        readers: the same -> the layers whose weights are multiplied.
        before, after: the same -> the largest ratio of the two ranges of a channel; 1 where all are equal.
        sweeps: over all pairs, until nothing changed any more.
    """

    network: nn.Module
    scales: Mapping[str, np.ndarray]
    readers: Mapping[str, tuple[str, ...]]
    before: Mapping[str, float]
    after: Mapping[str, float]
    sweeps: int


@torch.no_grad()
def equalize(network: nn.Module, example: torch.Tensor, float_layers: Collection[str] = ()) -> Equalization:
    """Equalise every pair of layers that are connected through ReLU, pooling, padding and reshaping alone.

    Depthwise convolutions are layers like others: they read as well as make channels. Residual adds, ReLU6 and batch
    norms without an affine part end a pair; channels that nothing comes through are left alone.

    Args:
        network: left as it is; shares nothing with the copy.
        example: a batch of inputs, used for shapes alone.
        float_layers: paths that must stay as they are.

    Raises:
        UnsupportedLayer: the network cannot be traced, or does not accept ``example``.
    """
    graph = shaped(network, example, float_layers)
    fixed = fixed_modules(graph, float_layers)
    pairs = {str(node.target): stops for node in graph.graph.nodes if (stops := _readers(graph, node, fixed))}
    ranges = _Ranges(graph, pairs)
    before = {point: ranges.mismatch(point) for point in pairs}
    sweeps = 0
    while sweeps < _SWEEPS:
        sweeps += 1
        if max((ranges.even_out(point) for point in pairs), default=0.0) < _SETTLED:
            break
    even = copy.deepcopy(network)
    for point, stops in pairs.items():
        _apply(even, point, stops, ranges.scales[point])
    return Equalization(
        even,
        {point: scale.numpy() for point, scale in ranges.scales.items()},
        {point: tuple(stop.name for stop in stops) for point, stops in pairs.items()},
        before,
        {point: ranges.mismatch(point) for point in pairs},
        sweeps,
    )


def _readers(graph: fx.GraphModule, node: fx.Node, fixed: Mapping[str, str]) -> tuple[Stop, ...]:
    """What reads the channels that a node makes; empty if they cannot be scaled."""
    if node.op != "call_module" or str(node.target) in fixed:
        return ()
    module = graph.get_submodule(str(node.target))
    if not isinstance(module, COMPRESSIBLE) and not (isinstance(module, BATCH_NORMS) and module.affine):
        return ()
    way = follow(graph, node, fixed, scaled=True)
    return () if way.obstacle else tuple(way.readers)


class _Ranges:
    """Ranges of all channels under the factors so far; float64, as small as the channels are many."""

    def __init__(self, graph: fx.GraphModule, pairs: Mapping[str, tuple[Stop, ...]]) -> None:
        self.graph, self.pairs = graph, pairs
        names = {*pairs, *(stop.name for stops in pairs.values() for stop in stops)}
        modules = {name: graph.get_submodule(name) for name in names}
        # largest weights between each output and input, [N, C]; batch norms make channels of nothing but their own
        self._weights = {n: _largest(m.weight) for n, m in modules.items() if isinstance(m, COMPRESSIBLE)}
        self._offsets = {n: _offset(modules[n]) for n in pairs}
        self.scales = {n: torch.ones(len(offset), dtype=torch.float64) for n, offset in self._offsets.items()}

    def made(self, point: str) -> torch.Tensor:
        offset = self._offsets[point] / self.scales[point]
        return torch.maximum(self._weights[point].amax(1), offset) if point in self._weights else offset

    def read(self, point: str) -> torch.Tensor:
        """Largest weight over all readers, ``[channels]``."""
        parts = []
        for stop in self.pairs[point]:
            weights = self._weights[stop.name]
            depthwise = is_depthwise(self.graph.get_submodule(stop.name))
            parts.append((weights.T if depthwise else weights).amax(0).reshape(-1, stop.run).amax(1))
        return torch.stack(parts).amax(0)

    def mismatch(self, point: str) -> float:
        return math.exp(2.0 * float(self._change(point).log().abs().max()))

    def even_out(self, point: str) -> float:
        """Make the two ranges of each channel equal; returns the largest logarithm of a change."""
        change = self._change(point)
        self.scales[point] *= change
        if point in self._weights:
            self._weights[point] /= change[:, None]
        for stop in self.pairs[point]:
            depthwise = is_depthwise(self.graph.get_submodule(stop.name))
            self._weights[stop.name] *= change[:, None] if depthwise else change.repeat_interleave(stop.run)
        return float(change.log().abs().max())

    def _change(self, point: str) -> torch.Tensor:
        made, read = self.made(point), self.read(point)
        alive = (made > _DEAD * made.max()) & (read > _DEAD * read.max())
        return torch.where(alive, (made / read).sqrt(), 1.0)


def _largest(weight: torch.Tensor) -> torch.Tensor:
    return weight.double().abs().flatten(2).amax(2) if weight.ndim > 2 else weight.double().abs()


def _offset(module: nn.Module) -> torch.Tensor:
    """What counts as the range of each channel beside the weights of a layer."""
    if isinstance(module, BATCH_NORMS):
        return module.bias.double().abs() + 3.0 * module.weight.double().abs()
    outputs = len(module.weight)
    return torch.zeros(outputs, dtype=torch.float64) if module.bias is None else module.bias.double().abs()


def _apply(network: nn.Module, point: str, stops: tuple[Stop, ...], scale: torch.Tensor) -> None:
    for parameter in network.get_submodule(point).parameters(recurse=False):
        parameter.copy_(parameter.double() / scale.reshape(-1, *[1] * (parameter.ndim - 1)))
    for stop in stops:
        module = network.get_submodule(stop.name)
        axis = 0 if is_depthwise(module) else 1
        shape = [-1 if i == axis else 1 for i in range(module.weight.ndim)]
        module.weight.copy_(module.weight.double() * scale.repeat_interleave(stop.run).reshape(shape))
