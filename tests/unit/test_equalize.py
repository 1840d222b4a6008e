"""Equalised networks compute the same with even channels."""

from __future__ import annotations

import copy

import networks
import numpy as np
import pytest
import torch
from torch import nn

from compressors.calibration.equalize import equalize
from compressors.methods.uniform import UniformConfig
from compressors.registry import compress
from dse.models.resnet import CifarResNet


def plain() -> nn.Module:
    """No batch norm; one convolution behind a pooling, one linear layer behind 2 by 2 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 4)),
    )


def normed() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)),
    )


def mobile(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), activation()),
        *(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(144, 3)),
    )


def uneven(network: nn.Module, seed: int = 0) -> nn.Module:
    """Settled, with channels of all layers and batch norms up to a hundredfold apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = networks.settled(copy.deepcopy(network), networks.images(32, seed=9), seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= 10.0 ** (2 * torch.rand(len(parameter)) - 1).reshape(
                    -1, *[1] * (parameter.ndim - 1)
                )
    return network


def largest(weight: torch.Tensor, channel: int) -> np.ndarray:
    """Largest weight per index of axis ``channel``, row by row."""
    parts = weight.detach().double().abs().unbind(channel)
    return np.array([part.max().item() for part in parts])


NETWORKS = {
    "plain": (plain, {"0": ("3",), "3": ("6",), "6": ("8",)}),
    "normed": (normed, {"1": ("4",), "5": ("8",)}),
    "mobile": (mobile, {"1": ("3",), "3": ("5",), "5": ("7",)}),
    "relu6": (lambda: mobile(nn.ReLU6), {"3": ("5",), "5": ("7",)}),
    # the batch norm behind the add is none of a pair, and neither are those in front of it
    "residual": (networks.Residual, {"bn2": ("conv3",), "depthwise": ("linear",)}),
    "resnet8": (
        lambda: CifarResNet(1, 10, 3),
        {f"layer{i}.0.bn1": (f"layer{i}.0.conv2",) for i in (1, 2, 3)},
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays(name: str, seed: int) -> None:
    make, readers = NETWORKS[name]
    network, images = uneven(make(), seed), networks.images(8, seed=seed)
    before = copy.deepcopy(network.state_dict())
    result = equalize(network, images[:1])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert result.readers == readers and set(result.scales) == set(readers)
    with torch.no_grad():
        expected = network(images)
        assert torch.allclose(
            result.network(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )
    for point in readers:
        assert result.before[point] > 1.5
        assert result.after[point] == pytest.approx(1.0, abs=1e-3)
    own = {p.data_ptr() for p in network.parameters()}
    assert not own & {p.data_ptr() for p in result.network.parameters()}


def test_ranges_of_plain_layers_meet() -> None:
    network = equalize(uneven(plain()), networks.images(1)).network
    for made, read in (
        (network[0], largest(network[3].weight, 1)),
        (network[6], largest(network[8].weight, 1)),
    ):
        own = np.maximum(largest(made.weight, 0), np.abs(made.bias.detach().numpy()))
        assert own == pytest.approx(read, rel=1e-3)
    by_channel = largest(network[6].weight.reshape(10, 6, 4), 1)
    own = np.maximum(largest(network[3].weight, 0), np.abs(network[3].bias.detach().numpy()))
    assert own == pytest.approx(by_channel, rel=1e-3)


def test_batch_norms_carry_the_factor() -> None:
    network = uneven(normed())
    result = equalize(network, networks.images(1))
    even = result.network
    assert torch.equal(even[0].weight, network[0].weight)
    for part in ("running_mean", "running_var"):
        assert torch.equal(getattr(even[1], part), getattr(network[1], part))
    scale = torch.from_numpy(result.scales["1"])
    assert torch.allclose(even[1].weight.double() * scale, network[1].weight.double(), rtol=1e-6)
    assert torch.allclose(even[1].bias.double() * scale, network[1].bias.double(), rtol=1e-6)
    reach = (even[1].bias.abs() + 3 * even[1].weight.abs()).detach().numpy()
    assert reach == pytest.approx(largest(even[4].weight, 1), rel=1e-3)


def test_depthwise_convolutions_read_and_make() -> None:
    network = equalize(uneven(mobile()), networks.images(1)).network
    reach = (network[1].bias.abs() + 3 * network[1].weight.abs()).detach().numpy()
    assert reach == pytest.approx(largest(network[3].weight, 0), rel=1e-3)
    made = np.maximum(largest(network[3].weight, 0), np.abs(network[3].bias.detach().numpy()))
    assert made == pytest.approx(largest(network[5].weight, 1), rel=1e-3)


def test_two_layers_by_hand() -> None:
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[4.0], [1.0]]))
        network[2].weight.copy_(torch.tensor([[1.0, 16.0]]))
    result = equalize(network, torch.ones(1, 1))
    assert result.scales["0"] == pytest.approx([2.0, 0.25])  # sqrt(4 / 1), sqrt(1 / 16)
    assert result.network[0].weight.flatten().tolist() == [2.0, 4.0]
    assert result.network[2].weight.flatten().tolist() == [2.0, 4.0]
    assert (result.before["0"], result.after["0"]) == (pytest.approx(16.0), pytest.approx(1.0))


def test_rounding_per_tensor_costs_less_afterwards() -> None:
    """The point of it (Nagel et al., table 1): one scale for all channels suits even ones."""
    images = networks.images(64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = plain().eval()
        with torch.no_grad():  # the same function with channels of layer 0 up to a hundredfold apart
            factor = 10.0 ** (2 * torch.rand(8) - 1)
            network[0].weight *= factor[:, None, None, None]
            network[0].bias *= factor
            network[3].weight /= factor[:, None, None]

    def loss(float_network: nn.Module) -> float:
        rounded = copy.deepcopy(float_network)
        with torch.no_grad():
            for module in rounded:
                if isinstance(module, nn.Conv2d | nn.Linear):
                    rows = module.weight.reshape(1, -1).numpy()
                    dense = compress(rows, UniformConfig(6)).to_dense()
                    module.weight.copy_(torch.from_numpy(dense).reshape(module.weight.shape))
            expected = network(images)
            return float(((rounded(images) - expected) ** 2).mean() / expected.var())

    assert loss(equalize(network, images[:1]).network) < 0.5 * loss(network)


def test_dead_channels_are_left_alone() -> None:
    network = uneven(plain())
    with torch.no_grad():
        network[0].weight[2], network[0].bias[2] = 0.0, 0.0
        network[3].weight[:, 5] = 0.0
        network[6].weight.zero_()
        network[6].bias.zero_()
    result = equalize(network, networks.images(1))
    assert result.scales["0"][[2, 5]].tolist() == [1.0, 1.0]
    assert (result.scales["0"][[0, 1, 3, 4, 6, 7]] != 1.0).all()
    assert (result.scales["3"] == 1.0).all() and (result.scales["6"] == 1.0).all()
    assert all(torch.isfinite(p).all() for p in result.network.parameters())


def test_equalising_twice_changes_nothing() -> None:
    once = equalize(uneven(mobile()), networks.images(1)).network
    again = equalize(once, networks.images(1))
    assert again.sweeps == 1
    for scale in again.scales.values():
        assert scale == pytest.approx(np.ones(len(scale)), rel=1e-3)


def test_what_cannot_be_scaled_has_no_pair() -> None:
    no_affine = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    shared = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    shared = nn.Sequential(shared[0], nn.ReLU(), shared[0], nn.ReLU(), shared[2])
    for network in (no_affine, shared):
        result = equalize(network.eval(), networks.images(1))
        assert (result.readers, result.sweeps) == ({}, 1)
        for a, b in zip(network.parameters(), result.network.parameters(), strict=True):
            assert torch.equal(a, b)


def test_float_layers_stay_as_they_are() -> None:
    network = uneven(plain())
    result = equalize(network, networks.images(1), ["6"])
    assert result.readers == {"0": ("3",)}
    assert torch.equal(result.network[6].weight, network[6].weight)
