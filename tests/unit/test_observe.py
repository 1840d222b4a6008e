"""One pass over the calibration images: ranges, samples, moments, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import images, residual, settled
from torch import nn

from compressors.calibration.observe import calibrate, channel_moments
from compressors.errors import BadTensor, UnsupportedLayer


def test_what_each_layer_reads() -> None:
    model, batch = residual(), images()
    calibration = calibrate(model, batch)
    assert [layer.name for layer in calibration.layers] == list(calibration.inputs)
    first = calibration.inputs["conv1"]
    assert (first.minimum, first.maximum) == (batch.min().item(), batch.max().item())
    assert np.array_equal(
        first.sample, np.sort(batch.numpy().ravel())
    )  # fewer than 32,768 values: all of them
    with torch.no_grad():
        second = model.relu(model.bn1(model.conv1(batch)))
    assert calibration.inputs["conv2"].minimum == 0.0
    assert calibration.inputs["conv2"].maximum == second.max().item()


def test_large_inputs_are_sampled_and_the_range_is_not() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4000, 2)).eval()
    batch = torch.rand(20, 4000, generator=torch.Generator().manual_seed(0))
    batch[7, 11] = 50.0
    seen = calibrate(model, batch).inputs["1"]
    assert seen.maximum == 50.0
    assert len(seen.sample) == 2**15
    assert np.isin(seen.sample, batch.numpy()).all()
    assert np.quantile(seen.sample, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.02)
    assert np.array_equal(calibrate(model, batch).inputs["1"].sample, seen.sample)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5), (7, 3, 4, 5), (1, 3)], ids=str)
def test_moments_per_channel(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, shape).astype(np.float32)
    mean, variance = channel_moments(torch.from_numpy(values))
    by_channel = np.moveaxis(values.astype(np.float64), 1, 0).reshape(shape[1], -1)
    assert mean.numpy() == pytest.approx(by_channel.mean(1), rel=1e-5)
    assert variance.numpy() == pytest.approx(by_channel.var(1), rel=1e-4, abs=1e-9)


def test_moments_of_every_batch_norm() -> None:
    model, batch = residual(), images()
    calibration = calibrate(model, batch)
    assert set(calibration.moments) == {"bn1", "bn2", "bn3"}
    with torch.no_grad():
        read = model.conv1(batch)
    mean, variance = calibration.moments["bn1"]
    assert torch.allclose(mean, read.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(variance, read.var((0, 2, 3), correction=0), rtol=1e-4)


def test_a_batch_norm_at_two_places_has_no_one_moment() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(self.b(self.norm(self.a(x)))))

    assert set(calibrate(settled(Twice(), images()), images()).moments) == {"last"}


def test_the_model_is_left_as_it_was() -> None:
    model = residual()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calibrate(model, images())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_float_layers_are_not_observed() -> None:
    calibration = calibrate(residual(), images(), ["conv2"])
    assert "conv2" not in calibration.inputs
    assert calibration.float_layers == ("conv2",)


def test_one_image_is_enough() -> None:
    assert calibrate(residual(), images(1)).inputs["linear"].sample.shape == (6,)


def test_no_image() -> None:
    with pytest.raises(BadTensor, match="at least one image"):
        calibrate(residual(), images(0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_images(bad: float) -> None:
    batch = images()
    batch[3, 1, 2, 2] = bad
    with pytest.raises(BadTensor, match="conv1 reads NaN or infinity"):
        calibrate(residual(), batch)


@pytest.mark.parametrize(
    ("layer", "reader"), [("conv1", "bn1 reads NaN, infinity"), ("linear", "network answers NaN or infinity")]
)
def test_bad_weights_show_where_they_arrive(layer: str, reader: str) -> None:
    model = residual()
    with torch.no_grad():
        getattr(model, layer).weight[0, 0] = float("nan")
    with pytest.raises(BadTensor, match=reader):
        calibrate(model, images())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_bad_bias_of_the_last_layer_is_not_missed() -> None:
    model = residual()
    with torch.no_grad():
        model.linear.bias[2] = float("inf")
    with pytest.raises(BadTensor, match="network answers NaN or infinity"):
        calibrate(model, images())


def test_unsupported_layers_are_refused_before_anything_runs() -> None:
    with pytest.raises(UnsupportedLayer, match="^1: Tanh"):
        calibrate(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()), images())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.float16], ids=str)
def test_images_of_another_type(dtype: torch.dtype) -> None:
    with pytest.raises(BadTensor, match=f"type {dtype}; expected torch.float32"):
        calibrate(residual(), images().to(dtype))


def test_images_whose_moments_are_beyond_float32() -> None:
    with pytest.raises(
        BadTensor, match="bn1 reads NaN, infinity or numbers whose variance is beyond float32"
    ):
        calibrate(residual(), images() * 1e25)
