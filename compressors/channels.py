"""What the channels that an operation puts out meet on their way to the layers that read them.

Between two layers a channel keeps to itself through batch norms, activations, pooling and reshaping. As long as nothing
else happens, it may be dropped in all of them at once (``compressors.shrink``) or, where scaling passes through,
scaled in the first and scaled back in the last (``compressors.calibration.equalize``).
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from compressors.graph import is_float

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

_F = nn.functional
# of these the first group treats every element alike, the second every pixel map; zero stays zero in both, and all but
# ReLU6 pass a positive factor through
_ELEMENTWISE = {nn.ReLU, nn.Dropout, nn.Dropout2d, nn.Identity, torch.relu, _F.relu, _F.dropout, "relu"}
_CLIPPED = {nn.ReLU6, _F.relu6}
_SPATIAL = {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d}
_SPATIAL |= {_F.max_pool2d, _F.avg_pool2d, _F.adaptive_avg_pool2d}
_FLATTEN = {nn.Flatten, torch.flatten, "flatten"}
_VIEW = {"view", "reshape"}
_MEANS = {torch.mean, "mean"}


@dataclass(frozen=True)
class Stop:
    """A module on the way, and how many of its inputs (or features) each channel is, next to one another."""

    name: str
    run: int


@dataclass
class Way:
    """See :func:`follow`.

    Attributes:
        readers: layers at which the way ends, in the order they run.
        passed: batch norms and depthwise convolutions in between.
        obstacle: what keeps the channels from being told apart; empty if nothing does.
    """

    readers: list[Stop] = field(default_factory=list)
    passed: list[Stop] = field(default_factory=list)
    obstacle: str = ""


@dataclass(frozen=True)
class _Place:
    """Where the channels lie in a value: the axis, and how many neighbours along it each one is."""

    axis: int
    run: int


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution of one filter per channel, several channels."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def fixed_modules(graph: fx.GraphModule, float_layers: Collection[str] = ()) -> dict[str, str]:
    """Paths of modules that must stay as they are, with the reason.

    These run more than once, share a parameter with another, have parameters that are read elsewhere, or are declared
    float.
    """
    every = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    # a ReLU may serve many places
    calls = {path: count for path, count in every.items() if graph.get_submodule(path).state_dict()}
    owners: dict[int, set[str]] = {}
    for path in calls:
        module = graph.get_submodule(path)
        for part in (module, *module.parameters()):
            owners.setdefault(id(part), set()).add(path)
    tied = {path for paths in owners.values() if len(paths) > 1 for path in paths}
    read = {str(node.target).rpartition(".")[0] for node in graph.graph.nodes if node.op == "get_attr"}
    used = tied | read | {path for path, count in calls.items() if count > 1}
    floats = {path: "stays float" for path in every if is_float(path, float_layers)}
    return {**{path: "is used in several places" for path in used}, **floats}


def follow(graph: fx.GraphModule, start: fx.Node, fixed: Mapping[str, str], *, scaled: bool = False) -> Way:
    """Follow the output channels of a layer or batch norm.

    Args:
        graph: a network from ``compressors.graph.shaped``.
        start: a call of a convolution, linear layer or batch norm.
        fixed: from :func:`fixed_modules`.
        scaled: whether the channels carry a factor: then the way ends at depthwise convolutions as well, and must not
            lead through batch norms and ReLU6. Otherwise it leads through all of them.
    """
    module = graph.get_submodule(str(start.target))
    axis = len(_shape(start)) - 1 if isinstance(module, nn.Linear) else 1
    way, pending = Way(), [(user, start, _Place(axis, 1)) for user in start.users]
    while pending and not way.obstacle:
        node, source, place = pending.pop(0)
        if _asks_for_batch_size(node):
            continue
        after = _step(graph, node, source, place, way, scaled)
        if node.op == "call_module" and not way.obstacle and str(node.target) in fixed:
            way.obstacle = f"{node.target}, which {fixed[str(node.target)]}"
        if after is not None:
            pending += [(user, node, after) for user in node.users]
    if not way.readers and not way.obstacle:
        way.obstacle = "no layer that reads them"
    return way


def _step(
    graph: fx.GraphModule, node: fx.Node, source: fx.Node, place: _Place, way: Way, scaled: bool
) -> _Place | None:
    """Where the channels lie behind ``node``; None where the way ends."""
    module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Conv2d | nn.Linear):
        return _enter(str(node.target), module, len(_shape(source)), place, way, scaled)
    if isinstance(module, BATCH_NORMS) and not scaled and place.axis == 1:
        way.passed.append(Stop(str(node.target), place.run))
        return place
    after = _carry(node, module, source, place, scaled)
    if after is None:
        way.obstacle = _name(node, module)
    return after


def _enter(name: str, module: nn.Module, rank: int, place: _Place, way: Way, scaled: bool) -> _Place | None:
    """A layer on the way: a reader, or a depthwise convolution to pass."""
    if isinstance(module, nn.Linear):
        fits = place.axis == rank - 1
    else:
        fits = place == _Place(1, 1) and (module.groups == 1 or is_depthwise(module))
    if not fits:
        grouped = isinstance(module, nn.Conv2d) and module.groups > 1
        way.obstacle = f"{name} ({'a grouped convolution' if grouped else 'reads along another axis'})"
        return None
    if is_depthwise(module) and not scaled:
        way.passed.append(Stop(name, 1))
        return place
    way.readers.append(Stop(name, place.run))
    return None


def _carry(
    node: fx.Node, module: nn.Module | None, source: fx.Node, place: _Place, scaled: bool
) -> _Place | None:
    """Where the channels lie behind an operation without parameters; None if it may mix them."""
    kind = node.target if module is None else type(module)
    if node.op == "output" or not node.args or node.args[0] is not source:
        return None
    if kind in _ELEMENTWISE or (kind in _CLIPPED and not scaled):
        return place
    shape = _shape(source)
    if place.axis != 1:
        return None
    if kind in _FLATTEN or kind in _VIEW:
        flat = _flattens(node, module, len(shape))
        return _Place(1, place.run * math.prod(shape[2:])) if flat else None
    spatial = (kind in _SPATIAL and len(shape) == 4) or _is_spatial(node, len(shape))
    return place if spatial else None


def _flattens(node: fx.Node, module: nn.Module | None, rank: int) -> bool:
    """Whether a call makes ``[n, features]`` of its input however many channels that has."""
    if node.target in _VIEW:
        # view(n, -1) with n asked from a tensor; written-out numbers would not fit other widths
        sizes = node.args[1] if len(node.args) == 2 else node.args[1:]
        return (
            isinstance(sizes, tuple | list)
            and len(sizes) == 2
            and isinstance(sizes[0], fx.Node)
            and sizes[1] == -1
        )
    if isinstance(module, nn.Flatten):
        start, end = module.start_dim, module.end_dim
    else:
        start, end = _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
    return start == 1 and end in (-1, rank - 1)


def _is_spatial(node: fx.Node, rank: int) -> bool:
    """Whether a mean, squeeze or padding leaves images and channels alone."""
    if node.target in _MEANS or node.target == "squeeze":
        dims = _argument(node, 1, "dim", None)
        dims = dims if isinstance(dims, tuple | list) else (dims,)
        return all(isinstance(dim, int) and dim % rank >= 2 for dim in dims)
    if node.target is _F.pad:
        filled = _argument(node, 2, "mode", "constant") != "constant" or _argument(node, 3, "value", None)
        amounts = _argument(node, 1, "pad", ())
        return not filled and isinstance(amounts, tuple | list) and len(amounts) <= 2 * (rank - 2)
    return False


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _asks_for_batch_size(node: fx.Node) -> bool:
    """``x.size(0)``, ``x.size()[0]`` and ``x.shape[0]``."""
    if node.target == "size" and len(node.args) == 2:
        return node.args[1] == 0
    shape = node.target is getattr and node.args[1:2] == ("shape",)
    if not shape and node.target != "size":
        return False
    return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)


def _name(node: fx.Node, module: nn.Module | None) -> str:
    if node.op == "output":
        return "the network's output"
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    return f"{node.name} ({getattr(node.target, '__name__', node.target)})"


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's value; empty for anything but a tensor."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))
