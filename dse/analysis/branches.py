"""One layer compressed alone: the network is run from there on, on what the layers before left unchanged.

All images stand before the same layer, as in a conversion, and what lies behind it is repaired as a conversion of
this layer alone would do. The layers in front run once, whatever is tried on those behind.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from compressors.calibration.batch_norm import repair_batch_norm
from compressors.calibration.observe import Calibration, pooled_moments
from compressors.calibration.repairs import Repairs
from compressors.calibration.stream import CHUNK
from compressors.graph import trace
from compressors.parallel import Lanes
from compressors.plan import CompressionPlan
from dse.analysis.site import Site


class Branches:
    """A float network that is run from any of its layers on, with that layer changed.

    Layers are to be asked for in the order they run.

    Args:
        model: the float network that ``calibration`` was gathered from.
        search: images ``[n, ...]`` that accuracy is measured on, and their ``labels`` ``int64 [n]``.
        repairs: a plan of no layers: its repairs of batch norms and biases are those behind the layer.
        lanes: what several chunks of images are run by.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        calibration: Calibration,
        search: torch.Tensor,
        labels: np.ndarray,
        repairs: CompressionPlan,
        lanes: Lanes,
    ) -> None:
        self.graph = trace(copy.deepcopy(model).float().eval(), calibration.float_layers)
        self.calibration, self.labels, self.plan, self.lanes = calibration, labels, repairs, lanes
        self.repairs = Repairs(self.graph, repairs, calibration)
        chunks = [*calibration.images.split(CHUNK), *search.split(CHUNK)]
        self._seen = len(calibration.images.split(CHUNK))  # chunks that calibration may look at
        self._nodes = list(self.graph.graph.nodes)
        self._place = {node: i for i, node in enumerate(self._nodes)}
        self._last = {
            node: max((self._place[user] for user in node.users), default=len(self._nodes))
            for node in self._nodes
        }
        self._interpreters = [fx.Interpreter(self.graph, garbage_collect_values=False) for _ in chunks]
        self._trunk = [{self._nodes[0]: chunk} for chunk in chunks]
        self._at = 1
        answers = self._run(self._trunk, 1, len(self._nodes))
        self._log_p = self._log_probabilities(answers)
        self.float_accuracy = self._accuracy(answers)

    @torch.no_grad()
    def layer(self, name: str) -> Site:
        """Stand before the first use of the layer called ``name``."""
        place = next(i for i, n in enumerate(self._nodes) if n.op == "call_module" and str(n.target) == name)
        if place < self._at:
            raise ValueError(f"{name} lies behind: ask for layers in the order they run")
        self._trunk = self._run(self._trunk, self._at, place)
        self._at = place
        return Site(self, self._nodes[place], self.graph.get_submodule(name))

    def inputs(self, node: fx.Node) -> list[torch.Tensor]:
        """What the layer that the trunk stands before reads, for the chunks of calibration images."""
        return [env[node.all_input_nodes[0]] for env in self._trunk[: self._seen]]

    @torch.no_grad()
    def run(self, node: fx.Node) -> tuple[list[torch.Tensor], float, float]:
        """The changed network from ``node`` on: the layer's output, divergence in nats, and accuracy."""
        at = self._place[node]
        envs = self._run(self._trunk, at, at + 1)
        output = [env[node] for env in envs[: self._seen]]
        envs, at = self._match_bias(node, envs), at + 1
        norms = [n for n in self._nodes[at:] if self.repairs.of_norm(n)]
        with _statistics_kept([self._module(norm) for norm in norms]):
            for stop in self._nodes[at:]:
                if stop in norms:
                    envs, at = self._run(envs, at, self._place[stop]), self._place[stop]
                    self._match_norm(stop, envs)
                elif self.repairs.of_bias(stop):
                    envs, at = self._run(envs, at, self._place[stop] + 1), self._place[stop] + 1
                    envs = self._match_bias(stop, envs)
            envs = self._run(envs, at, len(self._nodes))
        log_q = self._log_probabilities(envs)
        kl = float((self._log_p.exp() * (self._log_p - log_q)).sum(1).mean())
        return output, max(kl, 0.0) if np.isfinite(kl) else float("inf"), self._accuracy(envs)

    def _module(self, node: fx.Node) -> nn.Module:
        return self.graph.get_submodule(str(node.target))

    def _match_norm(self, norm: fx.Node, envs: Sequence[dict]) -> None:
        """Repair a batch norm that the images stand before."""
        own = pooled_moments([env[norm.all_input_nodes[0]] for env in envs[: self._seen]], self.lanes)
        moments = self.calibration.moments[str(norm.target)]
        repair_batch_norm(self._module(norm), self.plan.batch_norm, own, moments)

    def _match_bias(self, node: fx.Node, envs: Sequence[dict]) -> list[dict]:
        """Values after the bias of a layer that the images have just passed was repaired, where it is."""
        if not self.repairs.of_bias(node):
            return list(envs)
        shift = self.repairs.bias_shift(node, [env[node] for env in envs[: self._seen]])
        along = self.repairs.along_outputs(node, shift)
        return [{**env, node: env[node] + along} for env in envs]

    def _run(self, envs: Sequence[dict], start: int, stop: int) -> list[dict]:
        """Values after the nodes from ``start`` up to, not including, ``stop``; those given stay as they are."""
        nodes = self._nodes[start:stop]

        def run(interpreter: fx.Interpreter, before: dict) -> dict:
            env = interpreter.env = dict(before)
            for node in nodes:
                env[node] = interpreter.run_node(node)
                for old in [n for n in env if self._last[n] <= self._place[node] and n is not node]:
                    del env[old]
            return env

        return self.lanes.map(run, self._interpreters, envs)

    def _logits(self, envs: Sequence[dict]) -> list[torch.Tensor]:
        answer = self._nodes[-1]
        return [env[answer].flatten(1) for env in envs]

    def _log_probabilities(self, envs: Sequence[dict]) -> torch.Tensor:
        return functional.log_softmax(torch.cat(self._logits(envs[: self._seen])).double(), 1)

    def _accuracy(self, envs: Sequence[dict]) -> float:
        predicted = torch.cat(self._logits(envs[self._seen :])).argmax(1).numpy()
        return float((predicted == self.labels).mean())


@contextmanager
def _statistics_kept(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Put the running statistics of batch norms back when the block ends."""
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    try:
        yield
    finally:
        for norm, (mean, variance) in zip(norms, before, strict=True):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
