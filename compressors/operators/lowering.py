"""From a converted network to steps on integers.

Every value between the input's quantizer and the logits is one of two things: the codes a layer reads, packed as its
kernel wants them, or a stream of integers in units of ``2**-FRACTION`` where values are added, pooled or answered.
A layer, the batch norm behind it, a residual add and a ReLU become one step; where a layer alone reads the result, the
step ends in that layer's codes and nothing else is kept.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from compressors.calibration.observe import BATCH_NORMS
from compressors.errors import BadTensor, ConfigError, UnsupportedLayer
from compressors.graph import shaped
from compressors.hypervectors import Encoder, Outline
from compressors.kernels import popcount
from compressors.kernels.layout import InputFormat, Sheet
from compressors.model import CompressedModel
from compressors.operators.fixed import FRACTION, fixed, half, scaled
from compressors.operators.product import (
    FEW_LEVELS,
    UNBOUNDED,
    Bound,
    Executed,
    Finish,
    Product,
    Window,
    code_settings,
    factor_digits,
)
from compressors.operators.streams import PASSED, Stream, channels_last, is_reshape, stream_operation

RESCALES = ("auto", "multiply", "shift_add", "thresholds")
ADDS = (operator.add, torch.add, "add")
RELUS = (functional.relu, torch.relu, "relu", functional.relu6)
_SIX = (nn.ReLU6, functional.relu6)
_UNIT = 2.0**-FRACTION


@dataclass(frozen=True)
class Lowering:
    """How a network is lowered.

    Attributes:
        family, method: of kernels, see ``compressors.operators.product.Product``.
        rescale: how sums are scaled: ``multiply``, or to the same numbers ``shift_add`` or ``thresholds`` (the latter
            where a result becomes codes at once, and by signed digits elsewhere); ``auto`` compares with thresholds
            where these are few, and multiplies elsewhere.
        precision: bits of the factors.
    """

    family: str | None = None
    method: str | None = None
    rescale: str = "auto"
    precision: int = 24

    def __post_init__(self) -> None:
        if self.rescale not in RESCALES:
            raise ConfigError("lowering.rescale", self.rescale, " or ".join(RESCALES))
        if self.method not in (None, "popcount", "bytes"):
            raise ConfigError("lowering.method", self.method, "popcount, bytes, or None for the faster one")
        if not 4 <= self.precision <= 30:
            raise ConfigError("lowering.precision", self.precision, "4 to 30 bits")


@dataclass(eq=False)
class Step:
    """One kernel call, or a short function of arrays.

    Attributes:
        name: of the layer or operation.
        run: called with the first and last tile, or with nothing where ``tiles`` is 0.
        tiles: pieces it may be split into.
        executed: operations of one run.
        layer: what a layer's step was made of, for those who check it; None for others.
    """

    name: str
    run: Callable[..., None]
    tiles: int = 0
    executed: Executed = field(default_factory=Executed)
    layer: LayerStep | None = None


@dataclass(frozen=True, eq=False)
class LayerStep:
    """A layer in integers: ``finish`` follows the sums of ``bound``, then what it names."""

    bound: Bound
    finish: Finish
    shortcut: Stream | None
    stream: Stream | None
    sheet: Sheet | None


@dataclass(eq=False)
class _Tail:
    """What goes into a layer's step behind its sums: ``scale * sums + offset``, an add, and bounds."""

    node: fx.Node
    scale: np.ndarray
    offset: np.ndarray
    shortcut: Stream | None = None
    low: float = -math.inf
    high: float = math.inf

    @property
    def linear(self) -> bool:
        return self.shortcut is None and self.low == -math.inf


class Program:
    """A network's steps for batches of one shape, with the memory they work in: one run at a time."""

    def __init__(self, model: CompressedModel, shape: tuple[int, ...], lowering: Lowering) -> None:
        """``shape`` is that of a batch, ``[batch, channels, height, width]`` or ``[batch, features]``.

        Raises:
            UnsupportedLayer: a layer with weights or inputs in floating point, or an operation that has no meaning on
                integers; it is named.
            BadTensor: numbers that do not fit, see ``Product``.
        """
        self.model, self.shape, self.lowering = model, shape, lowering
        self.graph = shaped(_bare(model), torch.zeros(shape))
        self.steps: list[Step] = []
        self.streams: dict[fx.Node, Stream] = {}
        self.buffers: dict[tuple[fx.Node, str], tuple[Sheet, np.ndarray]] = {}
        self.images = np.zeros(shape, np.float32)
        self._samples = self.images  # of the run under way, as they came
        self._scales: dict[str, np.ndarray] = {}
        self._products = {layer.name: self._product(layer.name) for layer in model.layers}
        self._done: set[fx.Node] = set()
        for node in self.graph.graph.nodes:
            if node not in self._done:
                self._lower(node)

    def run(self, images: np.ndarray, split: Callable[[Step], None] | None = None) -> np.ndarray:
        """Logits ``float32`` of ``float32`` images; ``split`` runs a step in pieces."""
        self._samples = images
        np.copyto(self.images, images)
        for step in self.steps:
            if not step.tiles:
                step.run()
            elif split is None:
                step.run(0, step.tiles)
            else:
                split(step)
        logits = np.ldexp(self._answer.view.astype(np.float64), -FRACTION).astype(np.float32)
        return logits.transpose(0, 3, 1, 2).reshape(self._answer_shape)

    def _product(self, name: str) -> Product:
        tensor, grid = self.model.tensors.get(name), self.model.grids.get(name)
        if tensor is None or grid is None:
            what, remedy = ("weights", "a weight method") if tensor is None else ("input", "activation bits")
            raise UnsupportedLayer(
                f"layer {name}: its {what} stayed in floating point, and only integers can be lowered; give it {remedy}"
            )
        module = self.graph.get_submodule(name)
        window = Window()
        if isinstance(module, nn.Conv2d):
            window = Window(
                module.kernel_size, module.stride, _padding(module), module.dilation, module.groups
            )
        terms, outputs, groups = tensor.scale.shape
        # a scale for each run of inputs makes each run a term of its own
        runs = tensor.codes().reshape(terms, 1, outputs, groups, -1)
        codes = runs * np.eye(groups, dtype=np.int64).reshape(groups, 1, groups, 1)
        shape = (*tensor.shape, 1, 1)[:4]
        self._scales[name] = (
            tensor.scale.astype(np.float64).transpose(0, 2, 1).reshape(-1, outputs) * grid.scale
        )
        fmt = InputFormat.binary() if grid.signs else InputFormat.integers(grid.bits, grid.signed)
        return Product(codes.reshape(-1, *shape), fmt, window, self.lowering.family, self.lowering.method)

    def _lower(self, node: fx.Node) -> None:
        self._done.add(node)
        if node.op == "placeholder":
            self._quantize_images(node)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise UnsupportedLayer("a network with several outputs cannot be lowered")
            self._answer = self._stream(node.args[0])
            self._answer_shape = tuple(node.args[0].meta["tensor_meta"].shape)
        elif self._is_layer(node):
            self._layer(node)
        elif node.op == "call_module" and isinstance(self._target(node), Encoder):
            self._encode(node)
        elif _is_tensor(node):
            self._operation(node)

    def _operation(self, node: fx.Node) -> None:
        """An operation of its own: on streams."""
        target = self._target(node)
        sources = [self._stream(n) for n in node.all_input_nodes if _is_tensor(n)]
        if not sources:  # sizes and the like
            return
        stream, run = stream_operation(node, target, sources)
        self.streams[node] = stream
        if run is not None:
            self._add(node.name, run)
        self._requantize(node)

    def _stream(self, node: fx.Node) -> Stream:
        if node not in self.streams:
            raise UnsupportedLayer(
                f"{node.name}: only layers with an integer input can read what the images are in a lowered network"
            )
        return self.streams[node]

    def _target(self, node: fx.Node) -> Any:
        """The module, function or name of a method that a node calls."""
        return self.graph.get_submodule(str(node.target)) if node.op == "call_module" else node.target

    def _is_layer(self, node: fx.Node) -> bool:
        return node.op == "call_module" and str(node.target) in self._products

    # What reads a value

    def _readers(self, node: fx.Node) -> dict[str, list[str]]:
        """Kinds of codes that layers read of a value -> those layers."""
        found: dict[str, list[str]] = {}
        for user in node.users:
            if self._is_layer(user):
                found.setdefault(self._kind(str(user.target)), []).append(str(user.target))
        return found

    def _kind(self, layer: str) -> str:
        grid = self.model.grids[layer]
        return f"{grid.bits} {grid.signed} {grid.scale!r} {self._products[layer].bytewise}"

    def _codes(
        self, node: fx.Node, layers: list[str], shape: tuple[int, int, int, int]
    ) -> tuple[Sheet, np.ndarray]:
        """Memory for the codes of a value, with a border wide enough for all that read it."""
        product = self._products[layers[0]]
        if product.channels != shape[3]:
            raise BadTensor(f"layer {layers[0]} reads {product.channels} channels and gets {shape[3]}")
        paddings = [self._products[name].window.padding for name in layers]
        border = (max(p[0] for p in paddings), max(p[1] for p in paddings))
        sheet = Sheet(product.inputs, product.bytewise, shape, border)
        self.buffers[node, self._kind(layers[0])] = sheet, sheet.empty()
        return self.buffers[node, self._kind(layers[0])]

    def _requantize(self, node: fx.Node, but: str | None = None) -> None:
        """Codes of a stream for the layers that read it, but for one kind that is there already."""
        stream = self.streams[node]
        for kind, layers in self._readers(node).items():
            if kind == but:
                continue
            sheet, buffer = self._codes(node, layers, stream.shape)
            again = np.array(self._again(layers[0], stream.bound), np.int64)
            settings = code_settings(sheet, stream.shape[3])
            arguments = (stream.data, again, buffer, sheet.places, settings)
            count = stream.data.shape[0] * stream.shape[3]
            executed = Executed(additions=count, multiplications=count)
            self._add(f"{node.name} in codes", lambda a=arguments: popcount.requantize(*a), executed)

    def _again(self, layer: str, bound: int) -> tuple[int, int, int]:
        """Factor, constant and shift from a stream to a layer's codes."""
        grid = self.model.grids[layer]
        factors, shift = fixed(
            np.array([_UNIT / grid.scale]), self.lowering.precision, np.array(bound, object)
        )
        return int(factors[0]), (-grid.low << shift) + half(shift), shift

    def _quantize_images(self, node: fx.Node) -> None:
        """Codes of the images for the layers that read them, flattened or not."""
        shape = channels_last(tuple(node.meta["tensor_meta"].shape))
        batch, _, _, channels = shape
        if batch != self.shape[0]:
            raise UnsupportedLayer(
                f"{node.name}: images cannot be reshaped across the batch in a lowered network"
            )
        flat = self.images.reshape(batch, channels, -1)
        for user in node.users:
            target = self._target(user)
            if isinstance(target, PASSED) or is_reshape(target):
                self._done.add(user)
                self._quantize_images(user)
        for layers in self._readers(node).values():
            grid = self.model.grids[layers[0]]
            sheet, buffer = self._codes(node, layers, shape)
            settings = code_settings(sheet, channels)
            arguments = (flat, np.float32(grid.scale), grid.low, buffer, sheet.places, settings)
            self._add(f"{node.name} in codes", lambda a=arguments: popcount.quantize(*a))

    def _encode(self, node: fx.Node) -> None:
        """Hypervectors of the samples, as the layers that search with them read them."""
        encoder = self.model.network.get_submodule(str(node.target))
        if node.all_input_nodes[0].op != "placeholder":
            raise UnsupportedLayer(
                f"{node.target}: an encoder that does not read the samples themselves cannot be lowered"
            )
        if len(self._readers(node)) != 1 or len(node.users) != 1:
            raise UnsupportedLayer(
                f"{node.target}: hypervectors that not one layer alone reads cannot be lowered"
            )
        (layers,) = self._readers(node).values()
        sheet, buffer = self._codes(node, layers, channels_last(tuple(node.meta["tensor_meta"].shape)))
        work = encoder.work()
        executed = Executed(additions=self.shape[0] * encoder.dimensions * work.terms)
        self._add(str(node.target), lambda: write_vectors(encoder, self._samples, sheet, buffer), executed)

    def _add(self, name: str, run: Callable[..., None], executed: Executed | None = None) -> None:
        self.steps.append(Step(name, run, executed=executed or Executed()))

    # Layers

    def _layer(self, node: fx.Node) -> None:
        name = str(node.target)
        source = node.all_input_nodes[0]
        if (source, self._kind(name)) not in self.buffers:
            raise UnsupportedLayer(f"layer {name} reads what no integer step makes")
        sheet, buffer = self.buffers[source, self._kind(name)]
        bias = self.graph.get_submodule(name).bias
        offset = 0.0 if bias is None else bias.detach().double().numpy()
        tail = self._tail(node, self._scales[name], np.zeros(self._products[name].outputs) + offset)
        product = self._products[name]
        compared = self.lowering.rescale in ("auto", "thresholds") and product.terms == 1
        if compared and (tail.scale < 0).any() and product.codes.min(initial=0) > -128:
            sign = np.where(tail.scale[0] < 0, -1, 1)  # comparisons want sums that grow with the result
            product = replace(product, codes=product.codes * sign[:, None, None, None])
            tail.scale = tail.scale * sign
        self._emit(name, product.bind(sheet), buffer, tail)

    def _tail(self, node: fx.Node, scale: np.ndarray, offset: np.ndarray) -> _Tail:
        """Follow what comes behind a layer for as long as nothing else reads it."""
        tail = _Tail(node, scale, offset)
        while len(tail.node.users) == 1:
            user = next(iter(tail.node.users))
            target = self._target(user)
            if isinstance(target, BATCH_NORMS) and tail.linear:
                gain, shift = affine(target)
                tail.scale, tail.offset = tail.scale * gain, tail.offset * gain + shift
            elif target in ADDS and tail.linear and (beside := self._beside(user, tail.node)) is not None:
                tail.shortcut = beside
            elif isinstance(target, nn.ReLU | nn.ReLU6) or target in RELUS:
                tail.low = 0.0
                tail.high = 6.0 if isinstance(target, nn.ReLU6) or target in _SIX else tail.high
            elif not isinstance(target, PASSED):
                break
            tail.node = user
            self._done.add(user)
        return tail

    def _beside(self, add: fx.Node, own: fx.Node) -> Stream | None:
        """The other operand of an add, if it is there already and has the same shape."""
        others = [n for n in add.args[:2] if n is not own]
        if len(others) != 1 or not isinstance(others[0], fx.Node) or not self._early(others[0]):
            return None
        alike = others[0].meta["tensor_meta"].shape == own.meta["tensor_meta"].shape
        return self.streams[others[0]] if alike and not add.kwargs else None

    def _early(self, node: fx.Node) -> bool:
        """Whether a value is there, or can be: operations alone lie between it and streams that are."""
        if node in self.streams:
            return True
        sources = [n for n in node.all_input_nodes if _is_tensor(n)]
        if node in self._done or self._is_layer(node) or not sources or not all(map(self._early, sources)):
            return False
        self._lower(node)
        return node in self.streams

    def _emit(self, name: str, bound: Bound, buffer: np.ndarray, tail: _Tail) -> None:
        """The step of a layer and of all that goes with it."""
        product, node = bound.product, tail.node
        readers = self._readers(node)
        plain = product.direct or product.window.groups > 1  # sums first, then the rest
        streamed = plain or len(readers) != 1 or sum(map(len, readers.values())) < len(node.users)
        first = None if plain or not readers else next(iter(readers))
        grid = None if first is None else self.model.grids[readers[first][0]]
        at_once = grid is not None and not streamed and tail.shortcut is None and tail.high == math.inf
        at_once = at_once and (tail.low == -math.inf or grid.low == 0)
        finish, largest = self._finish(name, product, tail, grid if at_once else None)
        if grid is not None and not at_once:
            finish = replace(finish, again=self._again(readers[first][0], largest))
        shape = (bound.sheet.shape[0], *bound.out_size, product.outputs)
        stream, sheet, codes = None, None, None
        if streamed:
            width = -(-product.outputs // popcount.LANES) * popcount.LANES if plain else bound.width
            stream = self.streams[node] = Stream(np.zeros((bound.rows, width), np.int64), shape, largest)
        if first is not None:
            sheet, codes = self._codes(node, readers[first], shape)
        layer = LayerStep(bound, finish, tail.shortcut, stream, sheet)
        if plain:
            self.steps.append(Step(name, lambda: _run_plain(layer, buffer), 0, self._count(layer), layer))
        else:
            arguments = bound.arguments(
                finish,
                **({} if tail.shortcut is None else {"shortcut": tail.shortcut.data}),
                **({} if stream is None else {"stream": stream.data}),
                **({} if codes is None else {"codes": codes}),
                out=sheet,
            )
            kernel = bound.kernel
            run = lambda first, last: kernel(buffer, *arguments, first, last)  # noqa: E731
            self.steps.append(Step(name, run, bound.tiles, self._count(layer), layer))
        if streamed:
            self._requantize(node, but=first)

    def _finish(self, name: str, product: Product, tail: _Tail, grid: Any) -> tuple[Finish, int]:
        """What follows the sums, ending in codes of ``grid`` or, without one, in a stream, and its bound."""
        unit = _UNIT if grid is None else grid.scale
        raw = product.bounds().astype(object)
        factors, shift = fixed(tail.scale / unit, self.lowering.precision, raw)
        offset = tail.offset / unit - (0 if grid is None else grid.low)
        constants = [scaled(value, shift) + half(shift) for value in offset.tolist()]
        largest = max(
            ((np.abs(factors).astype(object) * raw).sum(0) + np.abs(np.array(constants, object))).tolist()
        )
        if largest.bit_length() > 62:
            raise BadTensor(f"layer {name}: results of up to 2**{largest.bit_length()} do not fit 64 bits")
        largest = (largest >> shift) + 1 + (0 if tail.shortcut is None else tail.shortcut.bound)
        rescale = self.lowering.rescale
        able = grid is not None and product.terms == 1 and not (factors < 0).any()
        if rescale == "thresholds" and not able:
            rescale = "shift_add"
        elif rescale == "auto":
            few = able and (1 << grid.bits) - 1 <= FEW_LEVELS
            rescale = "thresholds" if few else "multiply"
        low = -UNBOUNDED if tail.low == -math.inf else 0
        high = UNBOUNDED if tail.high == math.inf else scaled(tail.high, FRACTION)
        return Finish(factors, np.array(constants, np.int64), shift, low, high, None, rescale), largest

    def _count(self, layer: LayerStep) -> Executed:
        """Operations of a layer's step: its sums and what follows them."""
        bound, finish = layer.bound, layer.finish
        results = bound.rows * bound.product.outputs
        again = results if finish.again is not None else 0
        added = results if layer.shortcut is not None else 0
        scaled_sums = results * bound.product.terms
        if finish.rescale == "thresholds":
            compared = results * (layer.sheet.format.largest if layer.sheet else 0)
            return bound.executed() + Executed(additions=compared)
        if finish.rescale == "shift_add":
            digits = int(-factor_digits(finish.factors)[:, :, 2].sum()) * bound.rows
            return bound.executed() + Executed(0, 0, digits + added + again, digits, again)
        return bound.executed() + Executed(0, 0, scaled_sums + added + again, 0, scaled_sums + again)


def affine(norm: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The factor and the offset per channel that a batch norm is, float64."""
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    gain = (1.0 if norm.weight is None else norm.weight.detach().double()) / deviation
    shift = (0.0 if norm.bias is None else norm.bias.detach().double()) - norm.running_mean.double() * gain
    return gain.numpy(), shift.numpy()


def _run_plain(layer: LayerStep, buffer: np.ndarray) -> None:
    """A layer in whole arrays: grouped and depthwise convolutions."""
    finish, stream = layer.finish, layer.stream
    assert stream is not None
    sums = layer.bound.sums(buffer)
    values = (sums * finish.factors[:, None]).sum(0) + finish.constants >> finish.shift
    if layer.shortcut is not None:
        values += layer.shortcut.data[:, : values.shape[1]]
    np.clip(values, finish.low, finish.high, out=stream.data[:, : values.shape[1]])


def _bare(model: CompressedModel) -> nn.Module:
    """A copy of the network without the hooks that round inputs."""
    network = copy.deepcopy(model.network).float().eval()
    for name in model.grids:
        network.get_submodule(name)._forward_pre_hooks.clear()
    for name, module in model.network.named_modules():
        if isinstance(module, Encoder):
            network.set_submodule(name, Outline(module))
    return network


def write_vectors(encoder: Encoder, samples: np.ndarray, sheet: Sheet, buffer: np.ndarray) -> None:
    """Encode samples and write their hypervectors into a buffer of ``sheet``."""
    vectors = encoder.packed(torch.from_numpy(samples))
    if sheet.bytewise or sheet.format != InputFormat.binary() or vectors.nonzero is not None:
        sheet.fill(buffer, vectors.dense()[:, :, None, None])
        return
    used = np.zeros(vectors.negative.shape[1] * 64, bool)
    used[: vectors.dimensions] = True
    ones = ~vectors.negative & np.packbits(used, bitorder="little").view(np.uint64)
    sheet.interior(buffer)[0, :, 0, 0] = ones.view(np.uint8)[:, : sheet.pixel_bytes]


def _is_tensor(node: fx.Node) -> bool:
    return hasattr(node.meta.get("tensor_meta"), "shape")


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    if not isinstance(module.padding, str):
        return module.padding
    if module.padding == "valid":
        return (0, 0)
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if any(r % 2 for r in reach):
        raise UnsupportedLayer("padding='same' that differs on two sides cannot be lowered")
    return reach[0] // 2, reach[1] // 2
