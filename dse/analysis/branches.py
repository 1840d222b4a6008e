"""One layer compressed alone: the network is run from there on, on what the layers before left unchanged.

All images stand before the same layer, as in a conversion, and what lies behind it is repaired as a conversion of
this layer alone would do. The layers in front run once, whatever is tried on those behind.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from compressors.calibration.activation import ActivationGrid
from compressors.calibration.batch_norm import repair_batch_norm
from compressors.calibration.observe import BATCH_NORMS, Calibration, pooled_moments
from compressors.calibration.second_order import (
    InputMoments,
    input_moments,
    round_second_order,
    target_weights,
)
from compressors.calibration.stream import CHUNK
from compressors.graph import trace
from compressors.parallel import Lanes
from compressors.registry import MethodConfig, compress
from compressors.tensor import SlicedTensor


@dataclass(frozen=True)
class Effect:
    """What a changed layer does: see ``dse.analysis.records.Sensitivity``."""

    output_error: float | None
    kl_nats: float
    accuracy: float


class Branches:
    """A float network that is run from any of its layers on, with that layer changed.

    Layers are to be asked for in the order they run.

    Args:
        model: the float network that ``calibration`` was gathered from.
        search: images ``[n, ...]`` that accuracy is measured on, and their ``labels`` ``int64 [n]``.
        batch_norm: repair of the batch norms behind the layer, see ``compressors.plan``.
        lanes: what several chunks of images are run by.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        calibration: Calibration,
        search: torch.Tensor,
        labels: np.ndarray,
        batch_norm: str,
        lanes: Lanes,
    ) -> None:
        self.graph = trace(copy.deepcopy(model).float().eval(), calibration.float_layers)
        self.calibration, self.labels, self.batch_norm, self.lanes = calibration, labels, batch_norm, lanes
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

    def mean_is_free(self, node: fx.Node) -> bool:
        """Whether a repair takes up the mean of what ``node`` computes."""
        return self.batch_norm != "keep" and all(self._repairable(user) for user in node.users)

    @torch.no_grad()
    def run(self, node: fx.Node) -> tuple[list[torch.Tensor], float, float]:
        """The changed network from ``node`` on: the layer's output, divergence in nats, and accuracy."""
        start = self._place[node]
        envs = self._run(self._trunk, start, start + 1)
        output = [env[node] for env in envs[: self._seen]]
        norms = (
            [n for n in self._nodes[start + 1 :] if self._repairable(n)] if self.batch_norm != "keep" else []
        )
        with _statistics_kept([self.graph.get_submodule(str(n.target)) for n in norms]):
            at = start + 1
            for norm in norms:
                envs = self._run(envs, at, self._place[norm])
                at = self._place[norm]
                read = [env[norm.all_input_nodes[0]] for env in envs[: self._seen]]
                target = str(norm.target)
                own = pooled_moments(read, self.lanes)
                repair_batch_norm(
                    self.graph.get_submodule(target), self.batch_norm, own, self.calibration.moments[target]
                )
            envs = self._run(envs, at, len(self._nodes))
        log_q = self._log_probabilities(envs)
        kl = float((self._log_p.exp() * (self._log_p - log_q)).sum(1).mean())
        return output, max(kl, 0.0) if np.isfinite(kl) else float("inf"), self._accuracy(envs)

    def _repairable(self, node: fx.Node) -> bool:
        if node.op != "call_module" or str(node.target) not in self.calibration.moments:
            return False
        module = self.graph.get_submodule(str(node.target))
        return isinstance(module, BATCH_NORMS) and module.running_mean is not None

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


class Site:
    """One layer of the network, about to run."""

    def __init__(self, branches: Branches, node: fx.Node, module: nn.Module) -> None:
        self._branches, self._node, self._module = branches, node, module
        self.weight = module.weight.detach().numpy().astype(np.float64)
        self._moments_s = 0.0
        with torch.no_grad():
            self._output = branches.lanes.map(module, branches.inputs(node))

    def compress(self, config: MethodConfig, rounding: str) -> tuple[SlicedTensor, float]:
        """The layer's weights by ``config``, and the seconds it took, those to observe its input included."""
        before = time.perf_counter()
        if rounding == "nearest":
            return compress(self.weight, config), time.perf_counter() - before
        moments = self._moments  # observed once for all methods, which a conversion would not share
        before = time.perf_counter()
        rows = self.weight.reshape(len(self.weight), -1)
        target = target_weights(rows, moments).reshape(self.weight.shape)
        keep = np.ones(target.shape, bool)
        tensor = round_second_order(target, config, keep, moments, self._branches.lanes)
        return tensor, self._moments_s + time.perf_counter() - before

    def with_weights(self, dense: np.ndarray) -> Effect:
        """What the network does with these weights ``float32 [N, ...]`` instead of the layer's own."""
        own = self._module.weight.detach().clone()
        with torch.no_grad():
            try:
                self._module.weight.copy_(torch.from_numpy(dense))
                return self._effect()
            finally:
                self._module.weight.copy_(own)

    def with_input(self, grid: ActivationGrid) -> Effect:
        """What the network does if this layer alone reads its input rounded to ``grid``."""
        handle = self._module.register_forward_pre_hook(lambda _, args: (grid.round(args[0]), *args[1:]))
        try:
            return self._effect()
        finally:
            handle.remove()

    def input_error(self, grid: ActivationGrid) -> float | None:
        """Squared error of the input on ``grid``, relative to its energy, on the calibration images."""
        error = energy = 0.0
        for chunk in self._branches.inputs(self._node):
            energy += float(chunk.double().square().sum())
            error += float((grid.round(chunk) - chunk).double().square().sum())
        return error / energy if energy > 0 else None

    def _effect(self) -> Effect:
        output, kl, accuracy = self._branches.run(self._node)
        axis = 1 if isinstance(self._module, nn.Conv2d) else -1
        free = self._branches.mean_is_free(self._node)
        energy = _spread(self._output, axis, free)
        error = _spread([a - b for a, b in zip(output, self._output, strict=True)], axis, free)
        return Effect(error / energy if energy > 0 else None, kl, accuracy)

    @cached_property
    def _moments(self) -> InputMoments:
        before = time.perf_counter()
        read = self._branches.inputs(self._node)
        free = self._branches.mean_is_free(self._node)
        with torch.no_grad():
            moments = input_moments(self._module, read, read, centred=free, lanes=self._branches.lanes)
        self._moments_s = time.perf_counter() - before
        return moments


def _spread(chunks: Sequence[torch.Tensor], axis: int, centred: bool) -> float:
    """Sum of squares, about the mean of each channel if ``centred``."""
    rows = [chunk.movedim(axis, 0).flatten(1).double() for chunk in chunks]
    squares = sum(r.square().sum(1) for r in rows)
    if centred:
        total, count = sum(r.sum(1) for r in rows), sum(r.shape[1] for r in rows)
        squares = (squares - total.square() / count).clamp_min(0.0)
    return float(squares.sum())


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
