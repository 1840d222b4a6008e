"""Which batch norms and biases a plan repairs, read off the traced network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from compressors.calibration.observe import BATCH_NORMS, Calibration, output_means
from compressors.plan import CompressionPlan


class Repairs:
    """The repairs of ``plan`` in the network ``graph``, towards the float network that ``calibration`` saw."""

    def __init__(self, graph: fx.GraphModule, plan: CompressionPlan, calibration: Calibration) -> None:
        self._graph, self._plan, self._calibration = graph, plan, calibration

    def of_norm(self, node: fx.Node) -> bool:
        """Whether ``node`` is a batch norm that is repaired."""
        norm = self._norm(node)
        known = norm is not None and norm.running_mean is not None
        return known and self._plan.batch_norm != "keep" and str(node.target) in self._calibration.moments

    def of_bias(self, node: fx.Node) -> bool:
        """Whether ``node`` is a layer whose bias is matched: it has one, and no batch norm behind it."""
        if self._plan.bias != "match" or node.op != "call_module":
            return False
        biased = str(node.target) in self._calibration.output_means
        return biased and all(self._norm(user) is None for user in node.users)

    def free_mean(self, node: fx.Node) -> bool:
        """Whether what follows the layer ``node`` takes up the mean of its output."""
        norms = [str(user.target) for user in node.users if user.op == "call_module"]
        normed = len(norms) == len(node.users) and all(n in self._calibration.moments for n in norms)
        return (normed and self._plan.batch_norm != "keep") or self.of_bias(node)

    def bias_shift(self, node: fx.Node, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the layer ``node``, which puts out these chunks, lacks to the float network's means; ``[outputs]``."""
        module = self._graph.get_submodule(str(node.target))
        return self._calibration.output_means[str(node.target)] - output_means(module, outputs)

    def along_outputs(self, node: fx.Node, values: torch.Tensor) -> torch.Tensor:
        """``values [outputs]`` in a shape that adds to the output of the layer ``node``."""
        module = self._graph.get_submodule(str(node.target))
        return values[:, None, None] if isinstance(module, nn.Conv2d) else values

    def _norm(self, node: fx.Node) -> nn.Module | None:
        module = self._graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        return module if isinstance(module, BATCH_NORMS) else None
