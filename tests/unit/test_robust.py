"""Conversions that have little to go by: few images, nothing that varies, dead channels, odd weights and networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import NETWORKS, images, network, settled, smooth_images
from torch import nn

from compressors.calibration import second_order
from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.errors import BadTensor
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan, Reconstruction
from compressors.registry import make_config, method_names
from dse.models.resnet import CifarResNet

TERNARY = LayerPlan(TernaryConfig(1), ActivationConfig(8), rounding="second_order")
EVERYTHING = {"reconstruct": Reconstruction(2, 16), "bias": "match", "equalize": True, "augment": 2}


def converted(
    model: nn.Module, batch: torch.Tensor, layer: LayerPlan = TERNARY, **options: object
) -> CompressedModel:
    """Every layer as ``layer`` says; the result is checked to be usable on other images."""
    calibration = calibrate(model, batch)
    plans = tuple((known.name, layer) for known in calibration.layers)
    made = convert(model, CompressionPlan(plans, **options), calibration)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.isfinite(made(torch.randn_like(batch[:1]).expand(5, *batch.shape[1:]))).all()
    assert all(np.isfinite(value) for value in made.report.layer_errors.values())
    assert all(np.isfinite(pair).all() for pair in made.report.unit_errors.values())
    assert all(np.isfinite(value) for value in made.report.divergence.values())
    return made


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["second order", "everything"])
@pytest.mark.parametrize("count", [1, 2, 63, 65, 130])
@pytest.mark.parametrize("name", ["residual", "flattened"])
def test_few_images_and_numbers_that_do_not_divide(name: str, count: int, options: dict) -> None:  # type: ignore[type-arg]
    made = converted(network(name), smooth_images(count), **options)
    assert made.report.kept in ("as planned", "without repairs")
    if options:
        assert made.report.unit_errors


@pytest.mark.parametrize("value", [0.0, 0.1, -30.0, 1000.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_images_without_any_content(name: str, value: float) -> None:
    batch = torch.full((9, 3, 8, 8), value) * torch.tensor([1.0, 0.7, -0.4])[:, None, None]
    converted(network(name), batch, bias="match", reconstruct=Reconstruction(2, 8))


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
@pytest.mark.parametrize("name", ["residual", "separable", "vgg", "perceptron"])
def test_dead_channels(name: str, sparsity: float) -> None:
    model = network(name)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for layer in layers[:-1]:
            layer.weight[1] = 0.0  # nothing comes out
            if layer.bias is not None:
                layer.bias[1] = -1.0
        for norm in norms:
            norm.weight[2], norm.bias[2] = 0.0, -1.0  # nothing gets through the ReLU
    made = converted(model, smooth_images(20), replace(TERNARY, sparsity=sparsity), **EVERYTHING)
    for tensor in list(made.tensors.values())[:-1]:
        assert not tensor.to_dense()[1].any() and not tensor.digits()[:, 1].any()


@pytest.mark.parametrize("method", method_names())
def test_layers_with_one_input_and_weights_all_equal(method: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1), nn.Linear(1, 3)
    ).eval()
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.fill_(0.37)
    layer = LayerPlan(make_config(method, {}), rounding="second_order")
    made = converted(model, images(20), layer, bias="match", reconstruct=Reconstruction(2, 8))
    with torch.no_grad():
        error = (made(images(9, 1)) - model(images(9, 1))).norm() / model(images(9, 1)).norm()
    assert error < 0.05  # one value per row is on every grid


@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1e12])
def test_weights_of_extreme_size(magnitude: float) -> None:
    model = network("residual")
    with torch.no_grad():
        model.conv2.weight *= magnitude
    made = converted(model, smooth_images(20), reconstruct=Reconstruction(2, 8))
    assert made.tensors["conv2"].to_dense().any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize(
    "layer",
    [TERNARY, replace(TERNARY, sparsity=0.5), replace(TERNARY, rounding="nearest")],
    ids=["second order", "pruned", "nearest"],
)
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["alone", "everything"])
def test_bad_weights_are_refused_by_the_name_of_their_layer(
    layer: LayerPlan,
    bad: float,
    options: dict,  # type: ignore[type-arg]
) -> None:
    model = network("residual")
    calibration = calibrate(model, images(8))
    with torch.no_grad():
        model.conv3.weight[4, 1, 0, :2] = bad
    plans = tuple((known.name, layer) for known in calibration.layers)
    with pytest.raises(BadTensor, match="layer conv3: 2 of 324 weights are NaN, infinite or beyond"):
        convert(model, CompressionPlan(plans, **options), calibration)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["residual", "vgg", "perceptron"])
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    """A checkpoint of another precision is what its weights are in single precision."""
    model, batch = network(name).to(dtype), smooth_images(20)
    made = converted(model, batch, **EVERYTHING)
    assert all(p.dtype == torch.float32 for p in made.network.parameters())
    assert all(p.dtype == dtype for p in model.parameters())
    single = converted(network(name).to(dtype).float(), batch, **EVERYTHING)
    assert {n: t.digest() for n, t in made.tensors.items()} == {
        n: t.digest() for n, t in single.tensors.items()
    }


@pytest.mark.parametrize("pattern", ["element", "2:4", "2x2"])
@pytest.mark.parametrize("name", ["separable", "vgg"])
def test_grouped_and_depthwise_layers_in_every_pattern(name: str, pattern: str) -> None:
    layer = replace(TERNARY, weight=UniformConfig(4), sparsity=0.5, pattern=pattern)
    made = converted(network(name), smooth_images(30), layer)
    for tensor in made.tensors.values():
        if pattern != "2:4" or tensor.shape[1] % 4 == 0:
            assert tensor.sparsity >= 0.5 - 1 / tensor.columns
    assert made.report.kept == "as planned"


def far(model: nn.Module, made: nn.Module, batch: torch.Tensor) -> float:
    with torch.no_grad():
        expected, got = model(batch), made(batch)
    centre = expected.mean(0)  # what every image gets tells nothing
    return float((got - expected).norm() / (expected - centre).norm())


def small_resnet(blocks: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CifarResNet(blocks, 10, 3)
    generator = torch.Generator().manual_seed(5)
    return settled(model, torch.randn(16, 3, 16, 16, generator=generator))


@pytest.mark.parametrize("blocks", [5, 9])
def test_deep_networks_with_the_same_settings(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-32 and ResNet-56 with random weights. The search behind the rounding is cut short for the time."""
    monkeypatch.setattr(second_order, "_effort", lambda *_: (np.ones(1), 1, 0))
    model = small_resnet(blocks)
    batch, unseen = (torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(n)) for n in (24, 16))
    nearest = LayerPlan(UniformConfig(4), ActivationConfig(8))
    second = replace(nearest, rounding="second_order")
    calibration = calibrate(model, batch)
    # the deeper one's wide layers to nearest, for the time as well
    plans = tuple(
        (known.name, nearest if blocks == 9 and known.name.startswith("layer3") else second)
        for known in calibration.layers
    )
    made = convert(model, CompressionPlan(plans), calibration)
    assert len(made.tensors) == 6 * blocks + 2
    assert made.report.layer_errors and far(model, made, unseen) < 0.7


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks_with_the_same_settings(name: str) -> None:
    model, unseen = network(name), smooth_images(64, seed=4)
    layer = LayerPlan(UniformConfig(4), ActivationConfig(8), rounding="second_order")
    made = converted(model, smooth_images(64), layer, reconstruct=Reconstruction(20, 32))
    assert far(model, made, unseen) < 0.3
