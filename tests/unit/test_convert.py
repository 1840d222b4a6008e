"""Conversion: what is exact stays exact, what is integer is integer, and the float network stays as it was."""

from __future__ import annotations

import copy

import naive
import numpy as np
import pytest
import torch
from networks import images, residual, settled
from torch import nn

from compressors.calibration.observe import Calibration, calibrate
from compressors.conversion import weight_digest
from compressors.convert import convert
from compressors.errors import BadTensor, UnknownName, UnsupportedLayer
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan

MIXED = CompressionPlan(
    (
        ("conv1", LayerPlan(UniformConfig(8), ActivationConfig(8))),
        ("conv2", LayerPlan(TernaryConfig(2), ActivationConfig(3), 0.4)),
        ("conv3", LayerPlan(BinaryConfig(2), None, 0.2)),
        ("depthwise", LayerPlan(None, ActivationConfig(4))),
    )
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return residual()


@pytest.fixture(scope="module")
def calibration(model: nn.Module) -> Calibration:
    return calibrate(model, images())


def everywhere(calibration: Calibration, plan: LayerPlan, repair: str = "match") -> CompressionPlan:
    return CompressionPlan(tuple((layer.name, plan) for layer in calibration.layers), repair)


def seen_by(network: nn.Module, name: str, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the layer reads and puts out."""
    seen: list[torch.Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(
        lambda _, args, out: seen.extend((args[0], out))
    )
    with torch.no_grad():
        network(batch)
    handle.remove()
    return seen[0], seen[1]


def test_an_empty_plan_changes_nothing(model: nn.Module, calibration: Calibration) -> None:
    batch = images(5, seed=3)
    for plan in (CompressionPlan(), everywhere(calibration, LayerPlan())):
        assert torch.equal(convert(model, plan, calibration)(batch), model(batch))


def test_the_float_network_stays_as_it_was(model: nn.Module, calibration: Calibration) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits = model(images(5)).detach()
    compressed = convert(model, MIXED, calibration)
    compressed.input_codes(images(5))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(images(5)), logits)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not torch.equal(compressed(images(5)), logits)


def test_weights_are_those_of_the_slices_and_the_rest_is_untouched(
    model: nn.Module, calibration: Calibration
) -> None:
    compressed = convert(model, MIXED, calibration)
    assert set(compressed.tensors) == {"conv1", "conv2", "conv3"}
    assert set(compressed.grids) == {"conv1", "conv2", "depthwise"}
    for name, tensor in compressed.tensors.items():
        weight = compressed.network.get_submodule(name).weight.detach().numpy()
        assert np.array_equal(weight, tensor.to_dense())
        assert tensor.shape == weight.shape
    for name in ("depthwise", "linear"):
        own, old = compressed.network.get_submodule(name), model.get_submodule(name)
        assert torch.equal(own.weight, old.weight) and torch.equal(own.bias, old.bias)
    assert compressed.tensors["conv2"].sparsity >= 0.4
    assert compressed.tensors["conv3"].sparsity == pytest.approx(round(0.2 * 324) / 324)


def test_eight_bits_are_close_to_float(model: nn.Module, calibration: Calibration) -> None:
    plan = everywhere(calibration, LayerPlan(UniformConfig(8), ActivationConfig(8)))
    batch = images(32, seed=3)
    with torch.no_grad():
        expected, got = model(batch), convert(model, plan, calibration)(batch)
    assert (got - expected).norm() < 0.03 * expected.norm()


def test_more_bits_come_closer(model: nn.Module, calibration: Calibration) -> None:
    batch, errors = images(32, seed=3), []
    for bits in (2, 4, 8):
        plan = everywhere(calibration, LayerPlan(UniformConfig(bits), ActivationConfig(bits)))
        with torch.no_grad():
            errors.append((convert(model, plan, calibration)(batch) - model(batch)).norm().item())
    assert errors == sorted(errors, reverse=True)


def test_input_codes_are_what_the_layers_read(model: nn.Module, calibration: Calibration) -> None:
    batch = images(3, seed=5)
    compressed = convert(model, MIXED, calibration)
    codes = compressed.input_codes(batch)
    assert set(codes) == set(compressed.grids)
    for name, grid in compressed.grids.items():
        read, _ = seen_by(compressed.network, name, batch)
        assert codes[name].shape == read.shape and codes[name].dtype == np.int64
        assert grid.low <= codes[name].min() and codes[name].max() <= grid.high
        assert read.numpy() == pytest.approx(codes[name] * np.float32(grid.scale), rel=1e-6)
    assert compressed.grids["conv1"].signed and not compressed.grids["conv2"].signed


@pytest.mark.parametrize("method", [TernaryConfig(2), BinaryConfig(3), UniformConfig(3)], ids=str)
def test_the_network_computes_what_the_integers_stand_for(
    model: nn.Module, calibration: Calibration, method: object
) -> None:
    batch = images(1, seed=5)
    plan = CompressionPlan((("conv2", LayerPlan(method, ActivationConfig(3))),))
    compressed = convert(model, plan, calibration)
    _, output = seen_by(compressed.network, "conv2", batch)
    codes = compressed.input_codes(batch)["conv2"][0]
    tensor, grid = compressed.tensors["conv2"], compressed.grids["conv2"]
    expected = np.zeros(output.shape[1:])
    for term in range(tensor.terms):
        integers = naive.convolution(codes, tensor.codes()[term].reshape(tensor.shape), padding=1)
        expected += tensor.scale[term, :, 0].astype(float)[:, None, None] * integers * grid.scale
    assert output[0].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    patch = codes[:, 2:5, 3:6].ravel()  # around pixel (3, 4)
    products = naive.sliced_product(
        tensor.magnitude, tensor.sign, tensor.term, tensor.factor, tensor.terms, patch, grid.bits
    )
    pixel = (tensor.scale[..., 0].astype(float) * products).sum(0) * grid.scale
    assert output[0, :, 3, 4].numpy() == pytest.approx(pixel, rel=1e-4, abs=1e-5)


def test_a_depthwise_layer(model: nn.Module, calibration: Calibration) -> None:
    batch = images(1, seed=5)
    plan = CompressionPlan((("depthwise", LayerPlan(UniformConfig(4), ActivationConfig(4))),))
    compressed = convert(model, plan, calibration)
    read, output = seen_by(compressed.network, "depthwise", batch)
    layer = compressed.network.depthwise
    kernel = compressed.tensors["depthwise"].to_dense().astype(float)
    expected = naive.convolution(read[0].numpy().astype(float), kernel, stride=2, groups=6)
    assert output[0].detach().numpy() == pytest.approx(
        expected + layer.bias.detach().numpy()[:, None, None], rel=1e-4, abs=1e-5
    )


def test_deterministic(model: nn.Module, calibration: Calibration) -> None:
    first, second = (convert(model, MIXED, calibrate(model, images())) for _ in range(2))
    assert torch.equal(first(images(4)), second(images(4)))
    assert {n: t.digest() for n, t in first.tensors.items()} == {
        n: t.digest() for n, t in second.tensors.items()
    }
    assert first.grids == second.grids


def test_layers_compressed_before_are_taken_from_the_cache(
    model: nn.Module, calibration: Calibration
) -> None:
    cache: dict = {}
    fresh = convert(model, MIXED, calibration, cache)
    assert len(cache) == 3
    stored = {key: layer.tensor.digest() for key, layer in cache.items()}
    again = convert(model, MIXED, calibration, cache)
    assert {key: layer.tensor.digest() for key, layer in cache.items()} == stored
    assert all(again.tensors[name] is fresh.tensors[name] for name in fresh.tensors)
    assert torch.equal(again(images(4)), convert(model, MIXED, calibration)(images(4)))


def test_the_cache_tells_contents_and_plans_apart(model: nn.Module, calibration: Calibration) -> None:
    cache: dict = {}

    def first_layer(plan: LayerPlan, network: nn.Module = model, own: Calibration = calibration) -> None:
        convert(network, CompressionPlan((("conv1", plan),)), own, cache)

    first_layer(LayerPlan(TernaryConfig(1), ActivationConfig(4)))
    first_layer(
        LayerPlan(TernaryConfig(1), ActivationConfig(2))
    )  # the input's grid does not touch the weights
    assert len(cache) == 1
    first_layer(LayerPlan(TernaryConfig(2)))
    first_layer(LayerPlan(TernaryConfig(1), None, 0.5))
    other = residual(seed=1)
    first_layer(LayerPlan(TernaryConfig(1)), other, calibrate(other, images()))
    assert len(cache) == 4


def test_a_calibration_of_another_network(model: nn.Module, calibration: Calibration) -> None:
    with pytest.raises(BadTensor, match="gathered from another network"):
        convert(residual(seed=1), CompressionPlan(), calibration)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.bn2.running_mean[3] += 1e-3
    with pytest.raises(BadTensor, match="or its weights have changed; calibrate anew"):
        convert(changed, CompressionPlan(), calibration)


def test_weight_digest_is_of_shape_and_content() -> None:
    a, b, c = nn.Linear(4, 3, bias=False), nn.Linear(4, 3), nn.Linear(6, 2)
    with torch.no_grad():
        b.weight.copy_(a.weight)
        c.weight.copy_(a.weight.reshape(2, 6))
    assert weight_digest(a) == weight_digest(b) != weight_digest(c)


def test_unknown_layers(model: nn.Module, calibration: Calibration) -> None:
    plan = CompressionPlan((("conv4", LayerPlan(TernaryConfig())),))
    with pytest.raises(UnknownName, match="plan.layers: unknown layer 'conv4'; did you mean 'conv"):
        convert(model, plan, calibration)
    left_float = calibrate(model, images(), ["conv2"])
    with pytest.raises(UnknownName, match="unknown layer 'conv2'"):
        convert(model, MIXED, left_float)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_name_the_layer(calibration: Calibration, bad: float) -> None:
    broken = residual()
    with torch.no_grad():
        broken.conv2.weight[0, 0, 0, :2] = bad
    with pytest.raises(BadTensor, match="layer conv2: 2 of 324 weights are NaN, infinite"):
        convert(broken, MIXED, calibration)


def test_a_network_in_training_mode_is_evaluated(calibration: Calibration) -> None:
    model = residual().train()
    compressed = convert(model, CompressionPlan((), "keep"), calibration)
    assert model.training and not any(module.training for module in compressed.network.modules())
    assert torch.equal(compressed(images(3)), residual()(images(3)))


@pytest.mark.parametrize("sparsity", [0.0, 0.99])
@pytest.mark.parametrize("method", [TernaryConfig(1), BinaryConfig(1), UniformConfig(2)], ids=str)
def test_the_coarsest_corner_stays_finite(
    model: nn.Module, calibration: Calibration, method: object, sparsity: float
) -> None:
    plan = everywhere(calibration, LayerPlan(method, ActivationConfig(1), sparsity))
    assert torch.isfinite(convert(model, plan, calibration)(images(4))).all()


def tiny() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 9.0).reshape(2, 1, 2, 2) - 4.5)
        model[4].weight.copy_(torch.arange(24.0).reshape(3, 8) + 1)
    return settled(model, torch.randn(8, 1, 3, 3, generator=torch.Generator().manual_seed(0)))


def test_size_by_hand() -> None:
    batch = torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    model = tiny()
    calibration = calibrate(model, batch)
    batch_norm, bias = 2 * 2 * 32, 3 * 32  # a scale and a shift per channel

    def size_bits(**plans: LayerPlan) -> float:
        layers = tuple((name[1:], plan) for name, plan in plans.items())
        return 8 * convert(model, CompressionPlan(layers), calibration).size_bytes()

    assert size_bits() == 8 * 32 + batch_norm + 24 * 32 + bias
    assert size_bits(_0=LayerPlan(None, ActivationConfig(2))) == size_bits()
    eight = LayerPlan(UniformConfig(8, "minmax"))
    assert size_bits(_4=eight) == 8 * 32 + batch_norm + (24 * 8 + 3 * 32) + bias
    # half of the 8 weights pruned: a bitmap, 4 signs, and a scale for each of 2 channels
    binary = LayerPlan(BinaryConfig(1), None, 0.5)
    assert size_bits(_0=binary, _4=eight) == (8 + 4 + 2 * 32) + batch_norm + (24 * 8 + 3 * 32) + bias


def test_size_counts_what_a_plain_batch_norm_folds_into() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False)).eval()
    assert convert(model, CompressionPlan(), calibrate(model, images())).size_bytes() == 4 * (12 + 8)


def test_layers_that_share_their_weights_are_refused_by_name() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4)).eval()
    model[2].weight = model[0].weight
    plan = CompressionPlan((("2", LayerPlan(TernaryConfig(1))),))
    with pytest.raises(UnsupportedLayer, match="layers 0 and 2 share their weights"):
        convert(model, plan, calibrate(model, torch.rand(5, 4)))
