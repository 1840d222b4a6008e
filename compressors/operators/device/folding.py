"""The network around its layers: batch norms and ReLUs that follow a layer alone become part of it."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from compressors.calibration.observe import BATCH_NORMS
from compressors.errors import UnsupportedLayer
from compressors.graph import trace
from compressors.model import CompressedModel
from compressors.operators.device.formats import Affine
from compressors.operators.lowering import affine

_RELUS = (functional.relu, torch.relu, "relu")


@dataclass(frozen=True, eq=False)
class Folded:
    """A copy of a network whose layers wait to be replaced.

    Attributes:
        network: the copy.
        after: layer -> what follows its sums; its bias is in there.
        obstacle: why batch norms and ReLUs stayed on their own; "" where they were folded.
    """

    network: nn.Module
    after: dict[str, Affine]
    obstacle: str = ""

    def put(self, name: str, kernel: nn.Module) -> None:
        """Let a kernel run a layer, with what was folded into it."""
        # code that cannot be traced may look at memory that it takes for plain rows
        self.network.set_submodule(name, nn.Sequential(kernel, _Plain()) if self.obstacle else kernel)


class _Plain(nn.Module):
    """The same values, row by row in memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.contiguous()


def fold(model: CompressedModel) -> Folded:
    """The network of a compressed one, with what follows each layer folded where the network can be traced."""
    network = copy.deepcopy(model.network).eval()
    names = [layer.name for layer in model.layers]
    after = {name: _own(network.get_submodule(name)) for name in names}
    try:
        graph = trace(network)
    except UnsupportedLayer as error:  # a block that was declared float may be of any kind
        return Folded(copy.deepcopy(model.network).eval(), after, str(error))
    calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and node.target in after:
            after[node.target] = _followed(graph, node, after[node.target], calls)
        elif node.op == "call_method" and node.target == "view":
            node.target = "reshape"  # kernels answer with the channels last
    graph.recompile()
    return Folded(graph, after)


def _own(module: nn.Module) -> Affine:
    outputs = module.weight.shape[0]
    shift = np.zeros(outputs) if module.bias is None else module.bias.detach().double().cpu().numpy()
    return Affine(np.ones(outputs), shift)


def _followed(graph: fx.GraphModule, node: fx.Node, after: Affine, calls: Counter[str]) -> Affine:
    """Take a batch norm and then a ReLU out of the graph where nothing else reads what is in front of them."""
    user = _only_user(node)
    norm = _module(graph, user)
    if isinstance(norm, BATCH_NORMS) and calls[str(user.target)] == 1 and norm.running_var is not None:
        gain, shift = affine(norm)
        after = Affine(after.gain * gain, after.shift * gain + shift)
        _drop(graph, user, node)
        user = _only_user(node)
    if user is not None and (isinstance(_module(graph, user), nn.ReLU) or user.target in _RELUS):
        after = Affine(after.gain, after.shift, relu=True)
        _drop(graph, user, node)
    return after


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(graph: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def _drop(graph: fx.GraphModule, node: fx.Node, source: fx.Node) -> None:
    node.replace_all_uses_with(source)
    graph.graph.erase_node(node)
