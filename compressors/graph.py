"""What a network is made of: its layers with their shapes, in the order they run.

A model is traced once with ``torch.fx``. Everything that is not a convolution or a linear layer must be one of
the operations that leave a layer's integers meaningful (batch norm, ReLU, pooling, residual adds, reshaping);
anything else is named with its path and refused unless the user declares it float.
"""

from __future__ import annotations

import contextlib
import copy
import io
import operator
from collections.abc import Collection, Hashable
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from compressors.errors import UnknownName, UnsupportedLayer
from compressors.hypervectors import Encoder

COMPRESSIBLE = (nn.Conv2d, nn.Linear)
TRANSPARENT_MODULES = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.ZeroPad2d,
    Encoder,
)
TRANSPARENT_FUNCTIONS = {
    operator.add,
    operator.iadd,
    operator.getitem,
    torch.add,
    torch.cat,
    torch.flatten,
    torch.mean,
    torch.relu,
    nn.functional.relu,
    nn.functional.relu6,
    nn.functional.pad,
    nn.functional.max_pool2d,
    nn.functional.avg_pool2d,
    nn.functional.adaptive_avg_pool2d,
    nn.functional.dropout,
    getattr,
}
TRANSPARENT_METHODS = {
    "add",
    "add_",
    "amax",
    "relu",
    "relu_",
    "flatten",
    "view",
    "reshape",
    "mean",
    "size",
    "squeeze",
    "unflatten",
}


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        name: path of the module in the network.
        kind: ``conv2d`` or ``linear``.
        weight_shape: ``[out, in / groups, kh, kw]`` or ``[out, in]``.
        input_shape, output_shape: without the batch axis.
        consumers: the compressible layers that read this layer's output first; where it goes into a residual add
            alone, those that read the sum.
        added: the output goes straight into a residual add.
        kept: a later residual add needs the output (or the sum it went into) once more.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    consumers: tuple[str, ...] = ()
    added: bool = False
    kept: bool = False


class _Tracer(fx.Tracer):
    """Traces down to ``torch.nn`` modules, and no further than encoders and modules declared float."""

    def __init__(self, opaque: Collection[str]) -> None:
        super().__init__()
        self._opaque = opaque

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        opaque = isinstance(module, Encoder) or is_float(path, self._opaque)
        return opaque or super().is_leaf_module(module, path)


def is_float(path: str, float_layers: Collection[str]) -> bool:
    """Whether ``path`` is one of ``float_layers`` or lies below one."""
    return any(path == name or path.startswith(f"{name}.") for name in float_layers)


def find_layers(
    model: nn.Module, example: torch.Tensor, float_layers: Collection[str] = ()
) -> tuple[Layer, ...]:
    """The compressible layers of ``model`` in the order they run.

    Args:
        model: any module of supported operations, in evaluation mode.
        example: one input batch, used for shapes alone.
        float_layers: paths (a layer or a whole block) that stay in floating point.

    Raises:
        UnsupportedLayer: an operation that is neither supported nor declared float, or a model whose
            control flow cannot be traced.
        UnknownName: a path in ``float_layers`` that does not exist.
    """
    graph_module = _trace(model, float_layers)
    modules = dict(graph_module.named_modules())
    known = {name for name, _ in model.named_modules()} | {_where(node) for node in graph_module.graph.nodes}
    for name in float_layers:
        if name not in known:
            raise UnknownName("layer", name, known - {""}, key="model.float_layers")
    for node in graph_module.graph.nodes:
        _check_supported(node, modules, float_layers)
    _propagate_shapes(graph_module, example)
    nodes = {
        node: str(node.target)
        for node in graph_module.graph.nodes
        if _is_layer(node, modules) and not is_float(str(node.target), float_layers)
    }
    return tuple(_describe(node, modules[name], nodes) for node, name in nodes.items())


_OUT_OF_PLACE = {operator.iadd: operator.add, "add_": "add", "relu_": "relu"}


def trace(model: nn.Module, float_layers: Collection[str] = ()) -> fx.GraphModule:
    """``model`` as a graph over its own modules in which nothing writes into its input.

    The modules are shared with ``model``, and their ``inplace`` is switched off there: hand over a copy where that
    matters. What the network computes is the same.

    Raises:
        UnsupportedLayer: the control flow of the model cannot be traced.
    """
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    graph_module = _trace(model, float_layers)
    for node in graph_module.graph.nodes:
        node.target = (
            _OUT_OF_PLACE.get(node.target, node.target) if isinstance(node.target, Hashable) else node.target
        )
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    graph_module.recompile()
    return graph_module


def shaped(model: nn.Module, example: torch.Tensor, float_layers: Collection[str] = ()) -> fx.GraphModule:
    """A traced copy of ``model`` whose nodes know the shape of their value (``meta["tensor_meta"]``).

    Raises:
        UnsupportedLayer: the model cannot be traced, or does not accept ``example``, a batch of inputs.
    """
    graph_module = trace(copy.deepcopy(model).eval(), float_layers)
    _propagate_shapes(graph_module, example)
    return graph_module


@dataclass(frozen=True)
class Unit:
    """A stretch of the network between two places where a single value carries everything (a residual block, say).

    Attributes:
        start, end: names of the nodes whose value goes in and comes out.
        nodes: names of what runs between them, ``end`` included, in order.
        layers: paths of the compressible layers among them.
        whole: no other value of the unit is read behind it (one is where the network has several outputs).
    """

    start: str
    end: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]
    whole: bool = True


def find_units(graph: fx.GraphModule, layers: Collection[str]) -> tuple[Unit, ...]:
    """Cut a traced network into the smallest units that each hold at least one layer, in the order they run."""
    nodes = [node for node in graph.graph.nodes if node.op != "output"]
    last = {source: i for i, node in enumerate(graph.graph.nodes) for source in node.all_input_nodes}
    cuts = [i for i in range(len(nodes)) if all(last.get(n, -1) <= i for n in nodes[:i])]
    cuts += [len(nodes) - 1] if cuts[-1] != len(nodes) - 1 else []
    units: list[Unit] = []
    start = cuts[0]
    for position, cut in enumerate(cuts[1:], 1):
        inside = nodes[start + 1 : cut + 1]
        own = tuple(str(n.target) for n in inside if n.op == "call_module" and str(n.target) in layers)
        following = nodes[cut + 1 : cuts[position + 1] + 1] if position + 1 < len(cuts) else []
        # a unit takes along all that follows its layers, up to the unit of the next one
        if own and (
            not following or any(n.op == "call_module" and str(n.target) in layers for n in following)
        ):
            whole = all(last.get(n, -1) <= cut for n in nodes[:cut])
            units.append(Unit(nodes[start].name, nodes[cut].name, tuple(n.name for n in inside), own, whole))
            start = cut
    return tuple(units)


def _trace(model: nn.Module, float_layers: Collection[str]) -> fx.GraphModule:
    try:
        return fx.GraphModule(model, _Tracer(float_layers).trace(model))
    except Exception as error:  # forward() is the user's code: it may fail on a proxy in any way
        raise UnsupportedLayer(
            f"{type(model).__name__} cannot be traced: {error}; its forward() must not branch on tensor values "
            "(declare the offending block in model.float_layers to leave it as it is)"
        ) from error


def _propagate_shapes(graph_module: fx.GraphModule, example: torch.Tensor) -> None:
    try:
        # ShapeProp prints the traceback of what it raises
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            ShapeProp(graph_module).propagate(example)
    except RuntimeError as error:
        reason = str(error.__cause__ or error).split("\n")[0]
        raise UnsupportedLayer(
            f"the network does not accept an input of shape {tuple(example.shape)} and type {example.dtype}: {reason}"
        ) from error


def _is_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], COMPRESSIBLE)


def _check_supported(node: fx.Node, modules: dict[str, nn.Module], float_layers: Collection[str]) -> None:
    where = _where(node)
    if node.op == "call_module":
        what = _obstacle(node, modules[str(node.target)])
        supported = not what
    elif node.op == "call_function":
        supported = node.target in TRANSPARENT_FUNCTIONS
        what = getattr(node.target, "__name__", str(node.target))
    elif node.op == "call_method":
        supported, what = node.target in TRANSPARENT_METHODS, f".{node.target}()"
    else:
        return
    if not supported and not is_float(where, float_layers):
        raise UnsupportedLayer(
            f"{where}: {what} is not supported (supported: convolution, linear, batch norm, ReLU, pooling, adds, "
            "reshaping); to leave it in floating point, unpriced by the hardware models, add "
            f"model.float_layers=[{where}]"
        )


def _obstacle(node: fx.Node, module: nn.Module) -> str:
    """What stands against the call of a module; empty if nothing does."""
    if not isinstance(module, COMPRESSIBLE):
        return "" if isinstance(module, TRANSPARENT_MODULES) else type(module).__name__
    kind = "Conv2d" if isinstance(module, nn.Conv2d) else "Linear"
    if "weight" not in dict(module.named_parameters(recurse=False)):
        return f"{kind} with a parametrized weight (remove the parametrization first)"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"Conv2d with padding_mode={module.padding_mode!r}"
    if not node.args:
        return f"{kind} called with keyword arguments"
    calls = sum(n.op == "call_module" and n.target == node.target for n in node.graph.nodes)
    # one grid and one activity per layer could not stand for inputs of different places
    return f"{kind} called {calls} times in one forward pass" if calls > 1 else ""


def _where(node: fx.Node) -> str:
    """Path of a module call; for a function, its node's name behind the module whose forward() contains it."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack") or {})
    return f"{stack[-1]}.{node.name}" if stack and stack[-1] else node.name


def _readers(node: fx.Node, nodes: dict[fx.Node, str]) -> tuple[set[str], set[fx.Node]]:
    """Layers and residual adds reached from ``node`` without passing through either."""
    layers: set[str] = set()
    adds: set[fx.Node] = set()
    pending, seen = list(node.users), set()
    while pending:
        user = pending.pop()
        if user in seen:
            continue
        seen.add(user)
        if user in nodes:
            layers.add(nodes[user])
        elif _is_add(user):
            adds.add(user)
        else:
            pending += list(user.users)
    return layers, adds


def _is_add(node: fx.Node) -> bool:
    """An add of two tensors (not of a constant)."""
    is_add = node.target in (operator.add, operator.iadd, torch.add, "add", "add_")
    return is_add and all(isinstance(operand, fx.Node) for operand in node.args[:2])


def _fate(node: fx.Node, nodes: dict[fx.Node, str]) -> dict[str, object]:
    """Where a layer's output goes: see ``Layer.consumers``, ``added`` and ``kept``."""
    layers, adds = _readers(node, nodes)
    added = bool(adds) and not layers
    elsewhere = False
    while adds and not layers:
        first = next(user for user in node.graph.nodes if user in adds)
        elsewhere = elsewhere or len(adds) > 1
        layers, adds = _readers(first, nodes)
    return {"consumers": tuple(sorted(layers)), "added": added, "kept": bool(adds) or elsewhere}


def _pair(value: object) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple) else (value, value)
    return int(first), int(second)


def _describe(node: fx.Node, module: nn.Module, nodes: dict[fx.Node, str]) -> Layer:
    incoming = tuple(node.args[0].meta["tensor_meta"].shape[1:])  # type: ignore[union-attr]
    outgoing = tuple(node.meta["tensor_meta"].shape[1:])
    common = {
        "name": str(node.target),
        "weight_shape": tuple(module.weight.shape),
        "input_shape": incoming,
        "output_shape": outgoing,
        **_fate(node, nodes),
    }
    if isinstance(module, nn.Linear):
        return Layer(kind="linear", **common)
    padding = module.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(_pair(module.dilation), _pair(module.kernel_size), strict=True)]
        padding = (0, 0) if padding == "valid" else (reach[0] // 2, reach[1] // 2)
    return Layer(
        kind="conv2d",
        stride=_pair(module.stride),
        padding=_pair(padding),
        dilation=_pair(module.dilation),
        groups=module.groups,
        **common,
    )
