"""Whole networks on integers: exactly the arithmetic they are said to do, and next to the floating-point network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import network, smooth_images
from torch import nn
from torch.nn import functional

from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.errors import BadTensor, ConfigError, UnsupportedLayer
from compressors.graph import find_layers
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.operators.fixed import FRACTION
from compressors.operators.lowered import LoweredModel, SlicedLayer
from compressors.operators.lowering import RESCALES, LayerStep
from compressors.operators.product import Window
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from compressors.registry import MethodConfig
from compressors.serialize import load, to_bytes

METHODS: dict[str, MethodConfig] = {
    "ternary": TernaryConfig(1),
    "two planes": TernaryConfig(2),
    "binary": BinaryConfig(2),
    "groups": TernaryConfig(1, group=9),
    "int4": UniformConfig(4),
    "zero point": UniformConfig(4, symmetric=False),
}


def converted(name: str, weight: MethodConfig, bits: int = 4) -> CompressedModel:
    model = network(name)
    batch = smooth_images(24)
    layers = find_layers(model, batch[:1])
    plans = tuple((layer.name, LayerPlan(weight, ActivationConfig(bits))) for layer in layers)
    plan = CompressionPlan(plans, batch_norm="match", bias="match")
    return convert(model, plan, calibrate(model, batch))


def exact_convolution(codes: np.ndarray, weights: np.ndarray, module: nn.Module) -> np.ndarray:
    """``[terms, batch, N, h, w]``, by torch in float64."""
    x = torch.from_numpy(codes).double()
    found = []
    for term in torch.from_numpy(weights).double():
        if isinstance(module, nn.Conv2d):
            options = (module.stride, module.padding, module.dilation, module.groups)
            found.append(functional.conv2d(x, term.reshape(module.weight.shape), None, *options))
        else:
            found.append((x.flatten(1) @ term.reshape(module.weight.shape).T)[..., None, None])
    return torch.stack(found).long().numpy()


class Simulation:
    """The integer arithmetic of ``networks.Residual``, written out with whole arrays."""

    def __init__(self, model: CompressedModel, lowered: LoweredModel, images: torch.Tensor) -> None:
        self.model = model
        steps = lowered.program(tuple(images.shape)).steps
        self.layers: dict[str, LayerStep] = {s.name: s.layer for s in steps if s.layer is not None}
        self.modules = dict(model.network.named_modules())
        self.images = images

    def codes(self, stream: np.ndarray, layer: str) -> np.ndarray:
        """Codes of a stream on the grid of a layer that reads it."""
        grid = self.model.grids[layer]
        bits = self.layers[layer].bound.product.inputs
        factor = round(2.0**-FRACTION / grid.scale * 2**60)
        return np.array([
            min(max((int(v) * factor + (1 << 59)) >> 60, bits.low), bits.high) for v in stream.reshape(-1)
        ]).reshape(stream.shape)  # fmt: skip

    def layer(self, name: str, codes: np.ndarray, shortcut: np.ndarray | int = 0) -> np.ndarray:
        """A layer's step up to its stream, or to its codes where it ends in them."""
        step = self.layers[name]
        product, finish = step.bound.product, step.finish
        sums = exact_convolution(codes, product.codes, self.modules[name])
        scaled = (sums * finish.factors[:, None, :, None, None]).sum(0)
        values = ((scaled + finish.constants[:, None, None]) >> finish.shift) + shortcut
        values = np.clip(values, finish.low, finish.high)
        if step.sheet is not None and finish.again is None:
            return np.clip(values, 0, step.sheet.format.largest) + step.sheet.format.low
        return values

    def logits(self) -> np.ndarray:
        grid = self.model.grids["conv1"]
        codes = np.clip(np.rint(self.images.numpy() / np.float32(grid.scale)), grid.low, grid.high).astype(
            np.int64
        )
        first = self.layer("conv1", codes)
        inner = self.layer("conv2", self.codes(first, "conv2"))
        total = self.layer("conv3", inner, shortcut=first)
        deep = self.layer("depthwise", self.codes(total, "depthwise"))
        count = deep.shape[2] * deep.shape[3]
        pooled = (deep.sum((2, 3)) * round(2**30 / count) + (1 << 29)) >> 30
        return self.layer("linear", self.codes(pooled[..., None, None], "linear"))[..., 0, 0]


@pytest.mark.parametrize("weight", METHODS.values(), ids=METHODS)
def test_logits_are_those_of_plain_integer_arithmetic(weight: MethodConfig) -> None:
    model, images = converted("residual", weight), smooth_images(9, seed=5)
    lowered = model.lower()
    got = lowered(images).numpy().astype(np.float64)
    expected = Simulation(model, lowered, images).logits() * 2.0**-FRACTION
    assert np.array_equal(got.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("name", ["residual", "separable", "vgg", "perceptron"])
@pytest.mark.parametrize("weight", [METHODS["two planes"], METHODS["int4"]], ids=["two planes", "int4"])
def test_next_to_the_floating_point_network(name: str, weight: MethodConfig) -> None:
    model, images = converted(name, weight, bits=8), smooth_images(40, seed=3)
    with torch.no_grad():
        wanted = model(images)
    got = model.lower()(images)
    assert got.shape == wanted.shape
    # most images agree to rounding; where a code falls on a tie it may be another, a 255th of the range away
    close = (got - wanted).abs().amax(1) <= 1e-4 * wanted.abs().max()
    assert close.float().mean() >= 0.5
    assert (got - wanted).abs().max() <= 0.03 * wanted.abs().max()


@pytest.mark.parametrize("name", ["residual", "separable", "vgg"])
def test_the_same_to_the_last_bit_whatever_computes_it(name: str) -> None:
    model, images = converted(name, METHODS["ternary"]), smooth_images(5, seed=1)
    expected = model.lower()(images)
    choices = [{"rescale": r} for r in RESCALES] + [{"method": m} for m in ("popcount", "bytes")]
    for choice in [*choices, {"family": "portable"}, {"family": "plain"}, {"threads": 2}]:
        assert torch.equal(model.lower(**choice)(images), expected), choice
    one_by_one = torch.cat([model.lower()(image[None]) for image in images])
    assert torch.equal(one_by_one, expected)


def test_again_with_other_images_and_sizes_of_batches() -> None:
    model = converted("residual", METHODS["ternary"])
    lowered = model.lower()
    first, second = smooth_images(3, seed=1), smooth_images(3, seed=2)
    both = lowered(torch.cat([first, second]))
    assert torch.equal(torch.cat([lowered(first), lowered(second)]), both)
    assert torch.equal(lowered(first), both[:3])


def test_threads_share_large_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressors.operators.lowered._WORTH_SPLITTING", 1)
    model, images = converted("vgg", METHODS["ternary"]), smooth_images(6)
    assert torch.equal(model.lower(threads=3)(images), model.lower()(images))


def test_a_network_from_a_file_computes_the_same(tmp_path: Path) -> None:
    model, images = converted("residual", METHODS["int4"]), smooth_images(4)
    (tmp_path / "network.safetensors").write_bytes(to_bytes(model))
    other = network("residual", seed=1)
    again = load(tmp_path / "network.safetensors", other, find_layers(other, images[:1]))
    assert torch.equal(again.lower()(images), model.lower()(images))


def test_float_layers_are_named() -> None:
    model = network("residual")
    plan = CompressionPlan((("conv1", LayerPlan(TernaryConfig(1), ActivationConfig(4))),))
    with pytest.raises(UnsupportedLayer, match="layer conv2: its weights stayed in floating point"):
        convert(model, plan, calibrate(model, smooth_images(4))).lower()(smooth_images(1))
    layers = [layer.name for layer in find_layers(model, smooth_images(1))]
    plan = CompressionPlan(tuple((n, LayerPlan(TernaryConfig(1))) for n in layers))
    with pytest.raises(UnsupportedLayer, match="layer conv1: its input stayed in floating point"):
        convert(model, plan, calibrate(model, smooth_images(4))).lower()(smooth_images(1))


def test_images_beyond_the_grid_and_what_is_none() -> None:
    """The ends of the input's grid stand for all that lies beyond, infinity too."""
    model, batch = converted("residual", METHODS["ternary"]), smooth_images(4)
    lowered, grid = model.lower(), next(iter(model.grids.values()))
    ends = torch.sign(batch) * max(abs(grid.low), abs(grid.high)) * grid.scale
    for far in (1e6, 1e30, float("inf")):
        assert torch.equal(lowered(torch.sign(batch) * far), lowered(ends))
    batch[1, 2, 3, 3] = float("nan")
    with pytest.raises(BadTensor, match="NaN in the images"):
        lowered(batch)
    with pytest.raises(BadTensor, match="no image"):
        lowered(batch[:0])


@pytest.mark.parametrize(
    "settings", [{"rescale": "divide"}, {"precision": 2}, {"method": "x"}, {"threads": 0}]
)
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="lowering"):
        converted("perceptron", METHODS["ternary"]).lower(**settings)


def test_operations_are_counted_per_layer() -> None:
    model, shape = converted("residual", METHODS["ternary"]), (1, 3, 8, 8)
    multiplied = model.lower(method="popcount").executed(shape)
    compared = model.lower(method="popcount", rescale="thresholds").executed(shape)
    assert multiplied["conv2"].multiplications == 6 * 64  # one for each result: it becomes codes at once
    assert compared["conv2"].multiplications == 0
    assert compared["conv2"].popcounts == multiplied["conv2"].popcounts == 64 * 6 * 4 * 3 * 2
    assert compared["conv2"].additions == compared["conv2"].popcounts + 15 * 6 * 64


@pytest.mark.parametrize("bias", [False, True])
def test_layers_as_modules(bias: bool) -> None:
    model = converted("residual", METHODS["two planes"])
    modules = dict(model.network.named_modules())
    conv, linear = modules["conv2"], modules["linear"]
    offsets = torch.arange(6.0) if bias else None
    x = torch.rand(2, 6, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    grid = model.grids["conv2"]
    got = SlicedLayer(model.tensors["conv2"], grid, Window((3, 3), padding=(1, 1)), offsets)(x)
    assert torch.allclose(got, functional.conv2d(grid.round(x), conv.weight, offsets, padding=1), atol=1e-4)
    grid = model.grids["linear"]
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    got = SlicedLayer(model.tensors["linear"], grid, bias=linear.bias)(x)
    assert torch.allclose(got, functional.linear(grid.round(x), linear.weight, linear.bias), atol=1e-4)


def test_coarser_factors_cost_little() -> None:
    model, images = converted("vgg", METHODS["int4"], bits=8), smooth_images(20)
    fine, coarse = model.lower()(images), model.lower(precision=10)(images)
    assert not torch.equal(fine, coarse)
    assert (fine - coarse).abs().max() <= 0.1 * fine.abs().max()
