"""One pass of the calibration images through a network that is compressed on the way; see ``compressors.convert``."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from compressors.calibration.activation import ActivationGrid, exact_grid
from compressors.calibration.batch_norm import repair_batch_norm
from compressors.calibration.observe import Calibration, pooled_moments
from compressors.calibration.reconstruct import LatentWeight, reconstruct
from compressors.calibration.repairs import Repairs
from compressors.calibration.second_order import (
    fitted_grid,
    input_moments,
    output_error,
    prune_second_order,
    round_second_order,
    target_weights,
)
from compressors.calibration.stream import CHUNK, Stream
from compressors.calibration.structured import kept_channels
from compressors.calibration.variants import augmented
from compressors.errors import BadTensor
from compressors.graph import Unit, find_layers, find_units, trace
from compressors.grid import LevelGrid
from compressors.methods.prune import keep_mask
from compressors.model import CompressedModel, ConversionReport
from compressors.parallel import Lanes
from compressors.plan import CompressionPlan, LayerPlan
from compressors.registry import compress
from compressors.shrink import shrink, silent_inputs, silent_outputs, zero_channels
from compressors.slicing import narrowed
from compressors.tensor import SlicedTensor

_COARSE_BITS = 6  # with more, an input's grid hardly matters

LayerCache = MutableMapping[tuple[str, ...], Any]


@dataclass(frozen=True, eq=False)
class CompressedLayer:
    """A layer's sliced weights and what they were made from.

    Attributes:
        tensor: the weights.
        keep: booleans of their shape, False where pruned.
        target: float64 of their shape, the real weights that were rounded.
        error: squared error of the layer's output relative to the float output's energy; None if not looked at.
    """

    tensor: SlicedTensor
    keep: np.ndarray
    target: np.ndarray
    error: float | None = None


@dataclass(frozen=True, eq=False)
class FittedUnit:
    """A reconstructed unit: its layers, its other parameters, and its output's error before and after."""

    layers: dict[str, SlicedTensor]
    affine: dict[str, torch.Tensor]
    errors: tuple[float, float]


def weight_digest(module: nn.Module) -> str:
    """SHA-256 of a layer's float weights: the part of a cache key that names the layer by content."""
    weight = module.weight.detach().contiguous()
    return hashlib.sha256(f"{tuple(weight.shape)}".encode() + weight.numpy().tobytes()).hexdigest()


class Conversion:
    """One pass of the calibration images."""

    def __init__(
        self,
        model: nn.Module,
        plan: CompressionPlan,
        calibration: Calibration,
        cache: LayerCache,
        pool: Lanes,
    ) -> None:
        self.model, self.plan, self.calibration, self.cache, self.pool = model, plan, calibration, cache, pool
        self.network = copy.deepcopy(model).float().eval()
        self.plans = dict(plan.layers)
        self.graph = trace(self.network, calibration.float_layers)
        self.silent: dict[str, np.ndarray] = {}
        self.gone: dict[str, np.ndarray] = {}
        self.kept = self._silence_channels()
        self.repairs = Repairs(self.graph, plan, calibration)
        self.nodes = {node.name: node for node in self.graph.graph.nodes}
        versions = plan.augment if plan.reconstruct is not None else 1
        self.images = augmented(calibration.images, versions)
        self.stream = Stream(self.graph, self.images, pool)
        self._floats: Stream | None = None
        self.layers: dict[str, CompressedLayer] = {}
        self.tensors: dict[str, SlicedTensor] = {}
        self.grids: dict[str, ActivationGrid] = {}
        self.seconds: dict[str, float] = {}
        self.unit_fits: dict[str, tuple[float, float]] = {}
        vectors = [] if plan.hypervectors is None else [asdict(plan.hypervectors)]
        self.upstream = json.dumps([plan.batch_norm, plan.bias, plan.equalize, plan.augment, *vectors])
        self.upstream = _digest(self.upstream, "channels", {n: k.tolist() for n, k in self.kept.items()})
        self._touched = False
        self._handles: list[Any] = []

    def run(self) -> CompressedModel:
        names = {layer.name for layer in self.calibration.layers}
        for unit in find_units(self.graph, names):
            self.stream.hold(unit.start)
            for name in unit.nodes:
                self._pass(self.nodes[name], names)
            fitted = unit.whole and any(name in self.tensors for name in unit.layers)
            if self.plan.reconstruct is not None and fitted:
                with self._timed("reconstruction"):
                    self._reconstruct(unit)
        for handle in self._handles:  # the compressed model brings its own
            handle.remove()
        report = ConversionReport(
            seconds=self.seconds,
            layer_errors={n: layer.error for n, layer in self.layers.items() if layer.error is not None},
            unit_errors=self.unit_fits,
        )
        return self._finished(report)

    def _finished(self, report: ConversionReport) -> CompressedModel:
        """The compressed network, without the channels that were silenced."""
        network, layers, tensors = self.network, self.calibration.layers, self.tensors
        if self.kept:
            example, floats = self.calibration.images[:1], self.calibration.float_layers
            network = shrink(self.network, self.kept, example, floats)
            layers = find_layers(network, example, floats)
            tensors = {name: self._narrowed(name, tensor) for name, tensor in tensors.items()}
        return CompressedModel(network, layers, tensors, self.grids, report, self.kept)

    def _narrowed(self, name: str, tensor: SlicedTensor) -> SlicedTensor:
        gone = self.gone.get(name, np.zeros(tensor.shape[0], bool))
        silent = self.silent.get(name, np.zeros(tensor.shape[1], bool))
        return narrowed(tensor, ~gone, ~silent)

    def _alive(self, name: str, weight: np.ndarray) -> np.ndarray:
        """Booleans of the weight's shape, False in channels that are silenced."""
        alive = np.ones(weight.shape, bool)
        if name in self.gone:
            alive[self.gone[name]] = False
        if name in self.silent:
            alive[:, self.silent[name]] = False
        return alive

    def _silence_channels(self) -> dict[str, np.ndarray]:
        """Zero the channels that the plan gives up; they stay in place until all else is done."""
        kept = kept_channels(self.graph, self.plans, self.calibration, self.network, self.pool)
        if kept:
            example, floats = self.calibration.images[:1], self.calibration.float_layers
            self.silent = silent_inputs(self.network, kept, example, floats)
            self.gone = silent_outputs(self.network, kept, example, floats)
            zero_channels(self.network, kept, example, floats)
        return kept

    def _pass(self, node: fx.Node, layers: set[str]) -> None:
        """Let the images through one operation, after compressing or repairing what runs it."""
        target = str(node.target)
        module = self.graph.get_submodule(target) if node.op == "call_module" else None
        if module is not None and target in layers and target in self.plans:
            self._compress_layer(target, node, module)
        elif self._touched and self.repairs.of_norm(node):
            with self._timed("batch norm"):
                own = pooled_moments(self._read(self.stream, node), self.pool)
                repair_batch_norm(module, self.plan.batch_norm, own, self.calibration.moments[target])
        self.stream.advance(node.name)
        if self._touched and self.repairs.of_bias(node):
            with self._timed("bias"):
                self._match_bias(node, module)

    def _compress_layer(self, name: str, node: fx.Node, module: nn.Module) -> None:
        plan = self.plans[name]
        if plan.activation is not None:
            grid = self.grids[name] = self._grid(name, plan, node, module)
            self._handles.append(
                module.register_forward_pre_hook(lambda _, args, grid=grid: (grid.round(args[0]), *args[1:]))
            )
        if plan.weight is not None:
            try:
                layer = self.layers[name] = self._layer(name, plan, node, module)
            except BadTensor as error:
                raise BadTensor(f"layer {name}: {error}") from error
            self.tensors[name] = layer.tensor
            module.weight.copy_(torch.from_numpy(layer.tensor.to_dense()))
        self._touched = self._touched or plan.weight is not None or plan.activation is not None
        self.upstream = _digest(self.upstream, name, plan.to_dict())

    def _grid(self, name: str, plan: LayerPlan, node: fx.Node, module: nn.Module) -> ActivationGrid:
        """The grid of the layer's input, from the cache if nothing that matters changed."""
        assert plan.activation is not None
        grid = self.calibration.grid(name, plan.activation)
        exact = exact_grid(self.calibration.inputs[name], plan.activation.bits) is not None
        searched = plan.activation.clip == "mse" and grid.bits <= _COARSE_BITS and not exact
        if plan.weight is None or plan.rounding != "second_order" or not searched:
            return grid
        key = ("grid", weight_digest(module), _digest(self.upstream, name, plan.to_dict()))
        if key not in self.cache:
            with self._timed("activation grids"):
                self.floats.advance(node.all_input_nodes[0].name)
                self.cache[key] = fitted_grid(
                    grid,
                    module,
                    self._read(self.floats, node),
                    self._read(self.stream, node),
                    centred=self.repairs.free_mean(node),
                    lanes=self.pool,
                )
        return self.cache[key]

    def _layer(self, name: str, plan: LayerPlan, node: fx.Node, module: nn.Module) -> CompressedLayer:
        """The layer's weights as the plan wants them, from the cache if nothing that matters changed."""
        weight = module.weight.detach().numpy().astype(np.float64)
        second = plan.rounding == "second_order"
        own = replace(plan, activation=None)
        key = (
            "layer",
            weight_digest(module),
            _digest("", name, own.to_dict()) if not second else _digest(self.upstream, name, plan.to_dict()),
        )
        if key not in self.cache:
            with self._timed("second order" if second else "nearest"):
                if second:
                    self.cache[key] = self._second_order(name, plan, node, module, weight)
                else:
                    self.cache[key] = _nearest(plan, weight, self._alive(name, weight))
        return self.cache[key]

    def _second_order(
        self, name: str, plan: LayerPlan, node: fx.Node, module: nn.Module, weight: np.ndarray
    ) -> CompressedLayer:
        self.floats.advance(node.all_input_nodes[0].name)
        read = self._read(self.stream, node)
        if name in self.grids:
            read = self.pool.map(self.grids[name].round, read)
        moments = input_moments(
            module,
            self._read(self.floats, node),
            read,
            centred=self.repairs.free_mean(node),
            lanes=self.pool,
        )
        rows = weight.reshape(len(weight), -1)
        target = target_weights(rows, moments)
        alive = self._alive(name, weight)
        target = np.where(alive, target.reshape(weight.shape), 0.0)
        keep = alive
        if plan.pattern != "channel":
            keep, target = prune_second_order(target, plan.sparsity, plan.pattern, moments, self.pool)
            keep = keep & alive
        tensor = round_second_order(target, plan.weight, keep, moments, self.pool)
        error = output_error(rows, tensor.to_dense().reshape(rows.shape), moments)
        return CompressedLayer(tensor, keep, target, error)

    def _read(self, stream: Stream, node: fx.Node) -> list[torch.Tensor]:
        """What a node reads for the calibration images as they are: their further versions only train."""
        return self._own(stream[node.all_input_nodes[0].name])

    def _own(self, chunks: list[torch.Tensor]) -> list[torch.Tensor]:
        count = len(self.calibration.images)
        return [chunk[: count - i * CHUNK] for i, chunk in enumerate(chunks[: -(-count // CHUNK)])]

    def _reconstruct(self, unit: Unit) -> None:
        """Fit the unit, and let the images through it once more."""
        settings = self.plan.reconstruct
        assert settings is not None
        self.upstream = _digest(self.upstream, unit.end, asdict(settings))
        key = ("unit", self.upstream)
        modules = {name: self.graph.get_submodule(name) for name in unit.layers}
        if key not in self.cache:
            self.floats.advance(unit.end)
            latents = {name: self._latent(name) for name in unit.layers if name in self.layers}
            fit = reconstruct(
                self.graph,
                unit,
                latents,
                self.grids,
                self.stream[unit.start],
                self.floats[unit.end],
                settings,
                self.pool,
                len(self.calibration.images),
            )
            tensors = {n: latent.tensor() if fit.kept else self.tensors[n] for n, latent in latents.items()}
            self.cache[key] = FittedUnit(tensors, self._affine(unit), (fit.before, fit.after))
        fitted = self.cache[key]
        self.unit_fits[unit.end] = fitted.errors
        for name, tensor in fitted.layers.items():
            self.tensors[name] = tensor
            modules[name].weight.copy_(torch.from_numpy(tensor.to_dense()))
        for name, value in fitted.affine.items():
            self.network.get_parameter(name).copy_(value)
        again = Stream(self.graph, torch.cat(self.stream[unit.start]), self.pool, unit.start)
        again.advance(unit.end)
        self.stream.replace(unit.end, again[unit.end])

    def _latent(self, name: str) -> LatentWeight:
        layer, config = self.layers[name], self.plans[name].weight
        assert config is not None
        rows = len(layer.keep)
        grid = LevelGrid.of(layer.tensor, config)
        return LatentWeight(layer.tensor, grid, layer.target.reshape(rows, -1), layer.keep.reshape(rows, -1))

    def _affine(self, unit: Unit) -> dict[str, torch.Tensor]:
        """Copies of the trained parameters of a unit beside its sliced weights."""
        found: dict[str, torch.Tensor] = {}
        for name in unit.nodes:
            node = self.nodes[name]
            if node.op == "call_module":
                for parameter_name, parameter in self.graph.get_submodule(
                    str(node.target)
                ).named_parameters():
                    if not (str(node.target) in unit.layers and parameter_name == "weight"):
                        found[f"{node.target}.{parameter_name}"] = parameter.detach().clone()
        return found

    @property
    def floats(self) -> Stream:
        """The float network's values, for what asks for them."""
        if self._floats is None:
            graph = trace(copy.deepcopy(self.model).float().eval(), self.calibration.float_layers)
            self._floats = Stream(graph, self.images, self.pool)
        return self._floats

    def _match_bias(self, node: fx.Node, module: nn.Module) -> None:
        chunks = self.stream[node.name]
        shift = self.repairs.bias_shift(node, self._own(chunks))
        module.bias.add_(shift)
        along = self.repairs.along_outputs(node, shift)
        self.stream.replace(node.name, [chunk + along for chunk in chunks])

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def _nearest(plan: LayerPlan, weight: np.ndarray, alive: np.ndarray) -> CompressedLayer:
    keep = alive
    if plan.pattern != "channel":
        keep = alive & keep_mask(np.where(alive, np.abs(weight), 0.0), plan.sparsity, plan.pattern)
    assert plan.weight is not None
    return CompressedLayer(compress(weight, plan.weight, keep), keep, weight)


def _digest(upstream: str, name: str, settings: dict[str, Any]) -> str:
    """A key for what is done to ``name`` behind everything that ``upstream`` stands for."""
    return hashlib.sha256(json.dumps([upstream, name, settings], sort_keys=True).encode()).hexdigest()
