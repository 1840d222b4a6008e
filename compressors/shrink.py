"""Take whole channels out of a network: fewer weights and multiply-accumulates, the same answers.

A channel whose weights, bias and batch-norm affine part are zero puts out zeros, so nothing changes when it is gone
from the layer and from the inputs of those that read it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn

from compressors.channels import BATCH_NORMS, Stop, Way, fixed_modules, follow
from compressors.errors import ConfigError, UnknownName, UnsupportedLayer
from compressors.graph import COMPRESSIBLE, shaped


def removable(
    network: nn.Module, example: torch.Tensor, float_layers: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The layers whose output channels may be dropped, with the layers that read them.

    In between there may be batch norms, ReLU, ReLU6, pooling, dropout, zero padding, flattening and depthwise
    convolutions, whose channels go along. Adds, concatenations and the network's output keep all channels; so do
    grouped convolutions, and depthwise ones by themselves: drop the channels of the layer in front.

    Args:
        network: left as it is.
        example: a batch of inputs, used for shapes alone.
        float_layers: paths that must stay as they are.

    Raises:
        UnsupportedLayer: the network cannot be traced, or does not accept ``example``.
    """
    ways = _ways(network, example, float_layers)
    return {name: tuple(stop.name for stop in way.readers) for name, way in ways.items() if not way.obstacle}


@torch.no_grad()
def zero_channels(
    network: nn.Module,
    kept: Mapping[str, np.ndarray],
    example: torch.Tensor,
    float_layers: Collection[str] = (),
) -> None:
    """Silence channels in place, so that what reads them reads exact zeros.

    Args:
        network: in evaluation mode.
        kept: layer -> booleans ``[outputs]``, False for channels to silence.
        example: a batch of inputs, used for shapes alone.
        float_layers: paths that must stay as they are.

    Raises:
        UnknownName: a layer that is not in the network.
        ConfigError: a mask that does not fit, or keeps no channel.
        UnsupportedLayer: a layer whose channels cannot be dropped, and why.
    """
    for name, cut in _cuts(network, kept, example, float_layers).items():
        for stop in (Stop(name, 1), *cut.way.passed):
            module, gone = network.get_submodule(stop.name), cut.gone(stop)
            for parameter in module.parameters(recurse=False):
                parameter[gone] = 0.0
            if isinstance(module, BATCH_NORMS) and module.running_mean is not None:
                # without an affine part it is the mean that has to be zero, as the input is
                module.running_mean[gone] = 0.0
                module.running_var[gone] = 1.0


def silent_inputs(
    network: nn.Module,
    kept: Mapping[str, np.ndarray],
    example: torch.Tensor,
    float_layers: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Layer -> booleans ``[inputs]``, True where it reads a channel that :func:`zero_channels` silences.

    Args and raises: see :func:`zero_channels`; ``network`` is left as it is.
    """
    silent: dict[str, np.ndarray] = {}
    for cut in _cuts(network, kept, example, float_layers).values():
        for stop in cut.way.readers:
            gone = cut.gone(stop).numpy()
            silent[stop.name] = silent.get(stop.name, np.zeros_like(gone)) | gone
    return silent


def silent_outputs(
    network: nn.Module,
    kept: Mapping[str, np.ndarray],
    example: torch.Tensor,
    float_layers: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Layer -> booleans ``[outputs]``, True where :func:`zero_channels` silences it; depthwise layers go along.

    Args and raises: see :func:`zero_channels`; ``network`` is left as it is.
    """
    return {
        stop.name: cut.gone(stop).numpy()
        for name, cut in _cuts(network, kept, example, float_layers).items()
        for stop in (Stop(name, 1), *cut.way.passed)
        if isinstance(network.get_submodule(stop.name), COMPRESSIBLE)
    }


@torch.no_grad()
def shrink(
    network: nn.Module,
    kept: Mapping[str, np.ndarray],
    example: torch.Tensor,
    float_layers: Collection[str] = (),
) -> nn.Module:
    """A copy of ``network`` without some channels; computes what :func:`zero_channels` makes it compute.

    Args and raises: see :func:`zero_channels`; ``network`` is left as it is and shares nothing with the copy.
    """
    cuts = _cuts(network, kept, example, float_layers)
    small = copy.deepcopy(network)
    for name, cut in cuts.items():
        for stop in (Stop(name, 1), *cut.way.passed):
            _narrow_outputs(small.get_submodule(stop.name), cut.rest(stop))
        for stop in cut.way.readers:
            _narrow_inputs(small.get_submodule(stop.name), cut.rest(stop))
    return small


@dataclass(frozen=True)
class _Cut:
    """What stays of a layer's channels, and where they go."""

    way: Way
    kept: torch.Tensor

    def gone(self, stop: Stop) -> torch.Tensor:
        return (~self.kept).repeat_interleave(stop.run)

    def rest(self, stop: Stop) -> torch.Tensor:
        """Which outputs, features or inputs stay at a stop: ``int64``."""
        return self.kept.repeat_interleave(stop.run).nonzero().flatten()


def _ways(network: nn.Module, example: torch.Tensor, float_layers: Collection[str]) -> dict[str, Way]:
    graph = shaped(network, example, float_layers)
    fixed = fixed_modules(graph, float_layers)
    return {
        str(node.target): _way(graph, node, fixed)
        for node in graph.graph.nodes
        if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), COMPRESSIBLE)
    }


def _way(graph: fx.GraphModule, node: fx.Node, fixed: Mapping[str, str]) -> Way:
    name = str(node.target)
    if name in fixed:
        return Way(obstacle=f"a layer that {fixed[name]}")
    if getattr(graph.get_submodule(name), "groups", 1) > 1:
        return Way(obstacle="the groups of their own convolution")
    return follow(graph, node, fixed)


def _cuts(
    network: nn.Module, kept: Mapping[str, np.ndarray], example: torch.Tensor, float_layers: Collection[str]
) -> dict[str, _Cut]:
    ways = _ways(network, example, float_layers)
    cuts: dict[str, _Cut] = {}
    for name, mask in kept.items():
        if name not in ways:
            raise UnknownName("layer", name, ways, key="channels")
        outputs = len(network.get_submodule(name).weight)
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (outputs,) or not mask.any():
            got = f"{mask.dtype} {list(mask.shape)} with {int(mask.astype(bool).sum())} kept"
            raise ConfigError(f"channels.{name}", got, f"booleans [{outputs}], at least one of them true")
        if mask.all():
            continue
        if ways[name].obstacle:
            allowed = ", ".join(n for n, way in ways.items() if not way.obstacle) or "none"
            raise UnsupportedLayer(
                f"{name}: its channels cannot be dropped, for they meet {ways[name].obstacle}; "
                f"layers whose channels can: {allowed}"
            )
        cuts[name] = _Cut(ways[name], torch.from_numpy(mask))
    return cuts


def _narrow_outputs(module: nn.Module, rest: torch.Tensor) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        _replace(module, name, parameter[rest])
    if isinstance(module, BATCH_NORMS):
        for name in ("running_mean", "running_var"):
            buffer = getattr(module, name)
            if buffer is not None:
                setattr(module, name, buffer[rest].clone())
        module.num_features = len(rest)
    elif isinstance(module, nn.Linear):
        module.out_features = len(rest)
    else:
        module.out_channels = len(rest)
        if module.groups > 1:  # depthwise
            module.groups = module.in_channels = len(rest)


def _narrow_inputs(module: nn.Module, rest: torch.Tensor) -> None:
    _replace(module, "weight", module.weight[:, rest])
    if isinstance(module, nn.Linear):
        module.in_features = len(rest)
    else:
        module.in_channels = len(rest)


def _replace(module: nn.Module, name: str, value: torch.Tensor) -> None:
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(value.contiguous().clone(), requires_grad=old.requires_grad))
