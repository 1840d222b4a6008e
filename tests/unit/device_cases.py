"""The device kernels in Numba against integers counted plainly; ``test_device_fused.py`` runs this."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from device_layers import drawn, plain_output, plain_sums, read
from numba import config
from torch import nn

from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.graph import find_layers
from compressors.kernels import cuda_layers
from compressors.methods.ternary import TernaryConfig
from compressors.operators.device import DeviceSettings, lower_for_device
from compressors.operators.device.fused import FusedInt8, Popcount
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

LAYERS = {
    "linear": (drawn((5, 13)), (3, 13)),
    "tokens": (drawn((3, 5), low=-1, high=1, bits=2, signed=True), (2, 2, 5)),
    "3x3": (drawn((3, 5, 3, 3), window={"padding": (1, 1)}, relu=True), (1, 5, 4, 3)),
    "strided": (drawn((3, 2, 3, 3), window={"stride": (2, 2), "padding": (1, 1)}), (1, 2, 5, 4)),
    "dilated": (drawn((2, 2, 2, 2), window={"dilation": (2, 2)}, signed=True), (1, 2, 4, 5)),
    "8 bits": (
        drawn((2, 3, 2, 2), low=-128, high=127, bits=8, window={"padding": (1, 1)}),
        (1, 3, 2, 2),
    ),
    "binary": (drawn((4, 2, 1, 2), low=-1, high=1, bits=2, seed=3), (1, 2, 3, 3)),
    "two terms": (drawn((3, 70), low=-1, high=1, bits=3, terms=2, relu=True), (2, 70)),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of the simulator is one of Python: none should be started for nothing."""
    if config.ENABLE_CUDASIM:
        monkeypatch.setattr(cuda_layers, "THREADS", 8)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", [Popcount, FusedInt8])
def test_layers(name: str, kind: type[Popcount] | type[FusedInt8]) -> None:
    layer, shape = LAYERS[name]
    assert kind.obstacle(layer, DEVICE) == ""
    x = read(layer, *shape)
    kernel = kind(layer, DEVICE)
    sums = kernel.sums(x.to(DEVICE))
    assert np.array_equal(sums.cpu().numpy(), plain_sums(layer, x))
    got, expected = kernel(x.to(DEVICE)).cpu().numpy(), plain_output(layer, x)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()


def test_groups_of_channels_by_popcount() -> None:
    layer = drawn((4, 2, 2, 2), low=-1, high=1, bits=2, window={"groups": 2, "padding": (1, 1)})
    x = read(layer, 1, 4, 3, 3)
    kernel = Popcount(layer, DEVICE)
    assert np.array_equal(kernel.sums(x.to(DEVICE)).cpu().numpy(), plain_sums(layer, x))
    assert "2 groups of channels" in FusedInt8.obstacle(layer, DEVICE)


def test_inputs_of_more_bits_than_planes() -> None:
    assert Popcount.obstacle(drawn((2, 3), bits=9), DEVICE) == "inputs of 9 bits, above 8"


@pytest.mark.parametrize("kernel", ["popcount", "int8_fused"])
def test_a_network(kernel: str) -> None:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    batch = torch.randn(16, 3, 2, 2, generator=generator)
    plans = tuple(
        (layer.name, LayerPlan(TernaryConfig(1), ActivationConfig(2)))
        for layer in find_layers(network, batch[:1])
    )
    model = convert(network, CompressionPlan(plans), calibrate(network, batch))
    settings = DeviceSettings(kernels=(kernel,), rounds=1, round_s=0.0)
    lowered = lower_for_device(model, batch[:3], DEVICE, settings)
    assert lowered.summary == f"{kernel} x 2"
    with torch.no_grad():
        assert torch.allclose(lowered(batch[:3]).cpu(), model(batch[:3]), atol=1e-4)
        assert torch.allclose(lowered(batch[3:5]).cpu(), model(batch[3:5]), atol=1e-4)
