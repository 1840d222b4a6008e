"""Block-wise reconstruction: a unit of the network is fitted to what it computes in floating point.

The weights of a unit's layers stand behind latent real ones; each step rounds these to the layer's grid, runs the unit
on images as the compressed network in front of it gives them, and moves latent weights, scales, batch-norm affine
parameters and biases against the squared distance to the float unit's output. Rounding passes gradients straight
through, for any grid: a latent weight gets the gradient of the level it is rounded to, a scale that of every level it
scales. No labels, and no other unit, take part.

Sources: BRECQ (Li et al., arXiv 2102.05426) for the unit; the straight-through estimator (Bengio et al., arXiv
1308.3432) in place of BRECQ's soft rounding, as it serves grids of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from compressors.calibration.activation import ActivationGrid
from compressors.calibration.observe import BATCH_NORMS
from compressors.graph import Unit
from compressors.grid import LevelGrid
from compressors.parallel import Lanes
from compressors.plan import Reconstruction
from compressors.tensor import SlicedTensor

_SHARDS = 4  # pieces of a batch, fixed so that sums do not depend on the machine
_RATE = 1e-3  # of batch-norm parameters and biases; of weights and scales relative to their size:
_TYPICAL_WEIGHT = 0.05
_WARM_UP = 10
_HELD_OUT = 8  # every eighth image judges and does not train
_INSIDE = (
    0.04  # how far inside its cell a latent weight starts at least, of the way from the edge to the level
)


class LatentWeight:
    """Real weights and scales behind a layer's sliced tensor.

    Attributes:
        weight: ``float32 [N, K]``; scale: ``float32 [terms, N, groups]``; both are trained.
    """

    def __init__(self, tensor: SlicedTensor, grid: LevelGrid, target: np.ndarray, keep: np.ndarray) -> None:
        """Latent weights are ``target [N, K]``, moved into the cells that ``tensor`` chose."""
        self._grid = grid
        self._codes = torch.from_numpy(grid.codes).float()
        self._keep = torch.from_numpy(keep)
        self._groups = tensor.scale.shape[2]
        self.scale = torch.from_numpy(tensor.scale.copy())
        chosen = torch.from_numpy(tensor.to_dense().reshape(target.shape))
        wanted = torch.from_numpy(target).float()
        levels, _ = self._levels()
        middles = 0.5 * (levels[..., 1:] + levels[..., :-1])
        place = self._place(middles, chosen)
        edge = torch.full_like(levels[..., :1], math.inf)
        edges = torch.cat([-edge, middles, edge], 2)
        level = torch.gather(levels, 2, place)
        low, high = (torch.gather(edges, 2, place + side) for side in (0, 1))
        low = torch.where(torch.isfinite(low), low + _INSIDE * (level - low), low)
        high = torch.where(torch.isfinite(high), high - _INSIDE * (high - level), high)
        inside = torch.minimum(torch.maximum(self._grouped(wanted), low), high)
        self.weight = inside.reshape(target.shape)

    def parameters(self) -> list[dict[str, object]]:
        """Groups for an optimiser, with rates relative to the size of the weights."""
        rate = _RATE / _TYPICAL_WEIGHT
        return [
            {"params": [p], "lr": rate * float(p.abs().mean())}
            for p in (self.weight, self.scale)
            if p.numel()
        ]

    def snap(self) -> torch.Tensor:
        """The levels next to the latent weights, ``float32 [N, K]``; remembered for :meth:`pull`."""
        levels, order = self._levels()
        middles = 0.5 * (levels[..., 1:] + levels[..., :-1])
        place = self._place(middles, self.weight)
        self._choice = torch.gather(order, 2, place)
        first, last = levels[..., :1], levels[..., -1:]
        grouped = self._grouped(self.weight)
        reach = (last - first) / max(levels.shape[2] - 1, 1)
        self._free = ((grouped > first - reach) & (grouped < last + reach)).reshape(self.weight.shape)
        values = torch.gather(levels, 2, place).reshape(self.weight.shape)
        return torch.where(self._keep, values, 0.0)

    def pull(self, gradient: torch.Tensor) -> None:
        """Set the gradients of weight and scale from that of the snapped weights, ``[N, K]``."""
        kept = torch.where(self._keep, gradient, 0.0)
        self.weight.grad = torch.where(self._free, kept, 0.0)
        codes = self._codes.expand(self.scale.shape[0], *self._choice.shape[:2], -1)
        own = torch.gather(codes, 3, self._choice.expand(self.scale.shape[0], *self._choice.shape))
        self.scale.grad = (own * self._grouped(kept)).sum(3)
        if self._grid.shared:
            self.scale.grad = self.scale.grad.mean(1, keepdim=True).expand_as(self.scale).clone()

    def tensor(self) -> SlicedTensor:
        """The sliced tensor of the snapped weights."""
        self.snap()
        choice = self._choice.reshape(self.weight.shape).numpy()
        return self._grid.tensor(choice, self.scale.numpy().copy(), self._keep.numpy())

    def _grouped(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(len(values), self._groups, -1)

    def _levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        values = (self.scale[..., None] * self._codes).sum(0)
        return torch.sort(values, dim=2, stable=True)

    def _place(self, middles: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(middles.contiguous(), self._grouped(values).contiguous())


@dataclass(frozen=True)
class UnitFit:
    """What a reconstruction did: relative squared error of the unit's output on images held out of it."""

    before: float
    after: float

    @property
    def kept(self) -> bool:
        """Whether the fitted unit is better and was kept."""
        return self.after < self.before


class _UnitRun(fx.Interpreter):
    """Runs the nodes of a unit with other weights in its layers."""

    def __init__(self, graph: fx.GraphModule, unit: Unit, grids: Mapping[str, ActivationGrid]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        nodes = {node.name: node for node in graph.graph.nodes}
        self._start, self._nodes = nodes[unit.start], [nodes[name] for name in unit.nodes]
        self._grids = grids
        self._weights: Mapping[str, torch.Tensor] = {}

    def output(self, inputs: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self._weights = weights
        self.env = {self._start: inputs}
        for node in self._nodes:
            self.env[node] = self.run_node(node)
        value = self.env[self._nodes[-1]]
        self.env = {}
        return value

    def call_module(self, target, args, kwargs):  # type: ignore[no-untyped-def]
        module = self.fetch_attr(target)
        if target not in self._weights:
            return module(*args, **kwargs)
        # the module itself is shared by all shards, so its weight cannot be exchanged for a while
        x = self._grids[target].round(args[0]) if target in self._grids else args[0]
        weight = self._weights[target].reshape(module.weight.shape)
        if isinstance(module, nn.Linear):
            return functional.linear(x, weight, module.bias)
        shape = (module.stride, module.padding, module.dilation, module.groups)
        return functional.conv2d(x, weight, module.bias, *shape)


def reconstruct(
    graph: fx.GraphModule,
    unit: Unit,
    latents: Mapping[str, LatentWeight],
    grids: Mapping[str, ActivationGrid],
    inputs: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    settings: Reconstruction,
    lanes: Lanes,
    images: int = 0,
) -> UnitFit:
    """Fit a unit of the compressed network; changes the latents and, in place, batch norms and biases.

    Args:
        graph: the compressed network.
        unit: the stretch to fit.
        latents: layer -> latent weights, for the layers of the unit with compressed weights.
        grids: layer -> grid of its input.
        inputs: what the unit reads in the compressed network, in chunks.
        targets: what it should answer, in chunks.
        settings: steps and batch.
        images: how many there are, of which the inputs hold several versions (see ``variants.augmented``); 0: one.

    Where the fitted unit is not better on the images held out, everything but the latents is put back.
    """
    read, wanted = torch.cat(list(inputs)), torch.cat(list(targets))
    runs = [_UnitRun(graph, unit, grids) for _ in range(_SHARDS)]
    affine = _affine_parameters(graph, unit)
    saved = [p.detach().clone() for p in affine]
    training, judging = _split(len(read), images or len(read))
    energy = wanted.square().mean().clamp_min(1e-30)

    def error(weights: Mapping[str, torch.Tensor]) -> float:
        def piece(run: _UnitRun, index: torch.Tensor) -> torch.Tensor:
            return (run.output(read[index], weights) - wanted[index]).square().double().sum()

        with torch.no_grad():
            parts = lanes.map(piece, runs, _shards(judging))
        return float(torch.stack(parts).sum() / wanted[judging].numel() / energy)

    # of the weights as they are: a grid may leave out levels that its method's own tensor has
    before = error({name: graph.get_submodule(name).weight.detach() for name in latents})
    groups = [group for latent in latents.values() for group in latent.parameters()]
    optimiser = torch.optim.Adam([*groups, {"params": affine, "lr": _RATE}])
    rates = [group["lr"] for group in optimiser.param_groups]
    generator = torch.Generator().manual_seed(0)
    queue = training[:0]
    for step in range(settings.steps):
        share = 0.5 * (1 + math.cos(math.pi * step / settings.steps)) * min(1.0, (step + 1) / _WARM_UP)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * share
        while len(queue) < min(settings.batch, len(training)):
            queue = torch.cat([queue, training[torch.randperm(len(training), generator=generator)]])
        batch, queue = queue[: settings.batch], queue[settings.batch :]
        _step(runs, latents, affine, read[batch], wanted[batch], energy, lanes)
        optimiser.step()
    fit = UnitFit(before, error({name: latent.snap() for name, latent in latents.items()}))
    if not fit.kept:
        with torch.no_grad():
            for parameter, value in zip(affine, saved, strict=True):
                parameter.copy_(value)
    return fit


def _step(
    runs: Sequence[_UnitRun],
    latents: Mapping[str, LatentWeight],
    affine: Sequence[nn.Parameter],
    read: torch.Tensor,
    wanted: torch.Tensor,
    energy: torch.Tensor,
    lanes: Lanes,
) -> None:
    """Set all gradients for one batch, shard by shard."""
    weights = {name: latent.snap().requires_grad_() for name, latent in latents.items()}
    leaves = [*weights.values(), *affine]

    def piece(run: _UnitRun, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loss = (run.output(x, weights) - y).square().sum() / (wanted.numel() * energy)
        if not loss.requires_grad:  # nothing of the unit's layers is read
            return tuple(torch.zeros_like(leaf) for leaf in leaves)
        return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    with torch.enable_grad():
        parts = lanes.map(piece, runs, _shards(read), _shards(wanted))
    gradients = [torch.stack(shards).sum(0) for shards in zip(*parts, strict=True)]
    for latent, gradient in zip(latents.values(), gradients, strict=False):
        latent.pull(gradient)
    for parameter, gradient in zip(affine, gradients[len(latents) :], strict=True):
        parameter.grad = gradient


def _shards(values: torch.Tensor) -> list[torch.Tensor]:
    """At most ``_SHARDS`` pieces, none empty: not every network takes no images."""
    return [piece for piece in values.tensor_split(_SHARDS) if len(piece)]


def _affine_parameters(graph: fx.GraphModule, unit: Unit) -> list[nn.Parameter]:
    """Batch-norm weights and biases and layer biases of a unit, made trainable."""
    found: list[nn.Parameter] = []
    for node in graph.graph.nodes:
        if node.name not in unit.nodes or node.op != "call_module":
            continue
        module = graph.get_submodule(str(node.target))
        names = ("weight", "bias") if isinstance(module, BATCH_NORMS) else ("bias",)
        if isinstance(module, BATCH_NORMS) or str(node.target) in unit.layers:
            found += [p for name in names if isinstance(p := getattr(module, name, None), nn.Parameter)]
    unique = list(dict.fromkeys(found))
    return [p.requires_grad_() for p in unique]


def _split(count: int, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices that train and indices that judge; all do both where there are too few images to hold any out.

    Of an image held out all versions are: ``i``, ``images + i``, ...
    """
    every = torch.arange(count)
    if images < 2 * _HELD_OUT:
        return every, every
    held = every % images % _HELD_OUT == _HELD_OUT - 1
    return every[~held], every[held]
