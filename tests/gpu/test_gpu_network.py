"""Whole networks on a GPU: the candidate's answers, and a CUDA graph that replays them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import network, smooth_images

from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.graph import find_layers
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.operators.device import DeviceSettings, lower_for_device
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from compressors.registry import MethodConfig


def compressed(name: str, weight: MethodConfig, bits: int | None) -> CompressedModel:
    model, batch = network(name), smooth_images(24)
    activation = None if bits is None else ActivationConfig(bits)
    layers = find_layers(model, batch[:1])
    plans = tuple((layer.name, LayerPlan(weight, activation)) for layer in layers)
    return convert(model, CompressionPlan(plans, batch_norm="match"), calibrate(model, batch))


@pytest.mark.parametrize("name", ["residual", "separable", "vgg", "perceptron", "flattened"])
@pytest.mark.parametrize(
    ("weight", "bits"), [(TernaryConfig(1), 4), (UniformConfig(8), 8), (UniformConfig(4), None)]
)
def test_networks_answer_as_the_candidate_does(
    name: str, weight: MethodConfig, bits: int | None, device: torch.device
) -> None:
    model, images = compressed(name, weight, bits), smooth_images(32, seed=5)
    lowered = lower_for_device(model, images, device)
    with torch.no_grad():
        expected = model(images)
    found = lowered(images.to(device)).cpu()
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert error < 0.05 and lowered.relative_error < 0.05
    assert lowered.record()["device"] == torch.cuda.get_device_name(device)


@pytest.mark.parametrize("name", ["residual", "vgg"])
def test_the_graph_replays_what_the_kernels_compute(name: str, device: torch.device) -> None:
    model, images = compressed(name, UniformConfig(4), 8), smooth_images(32, seed=5)
    lowered = lower_for_device(model, images, device)
    assert lowered.graph is True, lowered.graph
    eager = lower_for_device(model, images, device, DeviceSettings(graph=False))
    assert eager.graph == "not asked for"
    for seed in range(5):
        others = smooth_images(32, seed=seed).to(device)
        replayed = lowered(others).clone()
        assert torch.allclose(replayed, lowered._run(lowered._laid_out(others)), rtol=1e-4, atol=1e-4)
    assert lowered(smooth_images(7).to(device)).shape == (7, 5)


@pytest.mark.parametrize("values", ["float32", "bfloat16"])
def test_baselines_in_floating_point(values: str, device: torch.device) -> None:
    model, images = network("residual"), smooth_images(64, seed=1)
    floats = CompressedModel(model, find_layers(model, images[:1]), {}, {})
    kernel = "fp32" if values == "float32" else "bf16"
    lowered = lower_for_device(floats, images, device, DeviceSettings(kernels=(kernel,), values=values))
    with torch.no_grad():
        expected = model(images).numpy()
    error = np.abs(lowered(images).cpu().numpy() - expected).max() / np.abs(expected).max()
    assert error < (1e-4 if values == "float32" else 0.05)
