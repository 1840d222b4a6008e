"""Networks without some channels, against the same networks with those channels silent."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import networks
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compressors.errors import ConfigError, UnknownName, UnsupportedLayer
from compressors.graph import find_layers
from compressors.shrink import removable, shrink, silent_inputs, zero_channels
from dse.models.resnet import CifarResNet


def vgg() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.ReLU6(), nn.ZeroPad2d(1), nn.AvgPool2d(2)),
        *(nn.Dropout2d(), nn.Flatten(), nn.Linear(24, 10), nn.BatchNorm1d(10), nn.ReLU(inplace=True)),
        *(nn.Dropout(), nn.Linear(10, 7, bias=False), nn.BatchNorm1d(7, affine=False), nn.Identity()),
        nn.Linear(7, 5),
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4)
    )


def mobile() -> nn.Module:
    """Depthwise convolutions, with and without a batch norm behind them."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU()),
        *(nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )


class Functional(nn.Module):
    """A layer read twice, slices, and everything written as functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)
        self.conv2, self.conv3, self.conv4 = nn.Conv2d(4, 5, 3), nn.Conv2d(5, 3, 3), nn.Conv2d(5, 3, 1)
        self.linear3, self.linear4 = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.conv1(x))
        x = self.left(x) + self.right(functional.dropout(x, training=self.training))
        x = self.conv2(functional.pad(x, (1, 1, 1, 1)))[:, :, 1:]
        y = functional.avg_pool2d(functional.relu6(functional.pad(self.conv3(x), (0, 1))), 2, 1)
        y = torch.mean(functional.max_pool2d(y, 1), -1, keepdim=True).mean(2).squeeze(-1)
        z = functional.adaptive_avg_pool2d(self.conv4(x).relu(), 1).flatten(1)
        return self.linear3(y) + self.linear4(torch.flatten(z, start_dim=1))


class Viewing(nn.Module):
    """Batch sizes asked for in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(3, 4, 3, stride=2) for _ in range(3))
        self.linear1, self.linear2, self.linear3 = (nn.Linear(36, 5) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = (torch.relu(conv(x)) for conv in (self.conv1, self.conv2, self.conv3))
        first, second = first.view(first.size(0), -1), second.reshape((second.shape[0], -1))
        third = third.view(third.size()[0], -1)
        return self.linear1(first) + self.linear2(second) + self.linear3(third)


def build(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return networks.settled(make(), networks.images(32, seed=9))


def masks(network: nn.Module, seed: int) -> dict[str, np.ndarray]:
    """Random channels of all layers that allow it, at least one of each stays and one goes."""
    rng = np.random.default_rng(seed)
    kept = {}
    for name in removable(network, networks.images(2)):
        kept[name] = rng.random(len(network.get_submodule(name).weight)) < 0.5
        kept[name][:2] = [True, False]
    return kept


def macs(network: nn.Module) -> int:
    layers = find_layers(network, networks.images(1))
    return sum(math.prod(la.weight_shape[1:]) * math.prod(la.output_shape) for la in layers)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


NETWORKS = {
    "vgg": vgg,
    "mlp": mlp,
    "mobile": mobile,
    "viewing": Viewing,
    "residual": networks.Residual,
    "resnet8": lambda: CifarResNet(1, 10, 3),
}
EXPECTED = {
    "vgg": {"0": ("4",), "4": ("10",), "10": ("14",), "14": ("17",)},
    "mlp": {"1": ("3",), "3": ("5",)},
    "mobile": {"0": ("6",), "6": ("10",), "10": ("13",)},
    "viewing": {f"conv{i}": (f"linear{i}",) for i in (1, 2, 3)},
    "residual": {"conv2": ("conv3",)},
    "resnet8": {f"layer{i}.0.conv1": (f"layer{i}.0.conv2",) for i in (1, 2, 3)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_which_layers_may_shrink(name: str) -> None:
    assert removable(build(NETWORKS[name]), networks.images(2)) == EXPECTED[name]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_answers_from_fewer_channels(name: str, seed: int) -> None:
    network, images = build(NETWORKS[name]), networks.images(6, seed=seed)
    kept = masks(network, seed)
    before = copy.deepcopy(network.state_dict())
    small = shrink(network, kept, images[:1])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    silent = copy.deepcopy(network)
    zero_channels(silent, kept, images[:1])
    with torch.no_grad():
        assert torch.allclose(small(images), silent(images), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(small(images), network(images), atol=1e-3)
    assert parameters(small) < parameters(network) and macs(small) < macs(network)
    for layer, mask in kept.items():
        assert len(small.get_submodule(layer).weight) == mask.sum()
    # what is written of the modules fits their weights, and shrinking what is silent already is no different
    for a, b in zip(shrink(silent, kept, images[:1]).parameters(), small.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_silent_channels_arrive_as_exact_zeros(name: str) -> None:
    network, images = build(NETWORKS[name]), networks.images(4)
    kept = masks(network, 0)
    silent = silent_inputs(network, kept, images[:1])
    zero_channels(network, kept, images[:1])
    assert set(silent) == {reader for readers in EXPECTED[name].values() for reader in readers}
    for layer, readers in removable(network, images[:1]).items():
        for reader in readers:
            seen: list[torch.Tensor] = []
            handle = network.get_submodule(reader).register_forward_pre_hook(
                lambda _, x, seen=seen: seen.append(x[0])
            )
            with torch.no_grad():
                network(images)
            handle.remove()
            by_channel = seen[0].reshape(len(images), len(kept[layer]), -1)
            assert not by_channel[:, ~kept[layer]].any()
            assert by_channel[:, kept[layer]].any()
            inputs = network.get_submodule(reader).weight.shape[1]
            assert np.array_equal(silent[reader], np.repeat(~kept[layer], inputs // len(kept[layer])))


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_integers_are_exact(name: str) -> None:
    network = build(NETWORKS[name])
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).float()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 0.0
            module.running_mean.fill_(2.0)
            module.running_var.fill_(4.0)  # deviation 2: halves are exact
    images = torch.randint(-3, 4, (5, 3, 8, 8), generator=generator).float()
    kept = masks(network, 1)
    small = shrink(network, kept, images)
    zero_channels(network, kept, images)
    with torch.no_grad():
        assert torch.equal(small(images), network(images))
        assert network(images).any()


def test_a_narrow_batch_norm_by_hand() -> None:
    network = build(vgg)
    kept = {"0": np.array([True, False, True, False, False, False, False, False])}
    small = shrink(network, kept, networks.images(1))
    assert torch.equal(small[0].weight, network[0].weight[[0, 2]])
    assert torch.equal(small[4].weight, network[4].weight[:, [0, 2]])
    for part in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(small[1], part), getattr(network[1], part)[[0, 2]])
    assert (small[0].out_channels, small[1].num_features, small[4].in_channels) == (2, 2, 2)
    kept = {"4": np.arange(6) == 3}  # its channels are 2 by 2 pixels each in front of the linear layer
    assert torch.equal(shrink(network, kept, networks.images(1))[10].weight, network[10].weight[:, 12:16])


def test_one_channel_of_a_depthwise_convolution_stays() -> None:
    network, images = build(mobile), networks.images(3)
    kept = {"0": np.arange(8) == 5, "6": np.arange(6) == 2}
    small = shrink(network, kept, images)
    zero_channels(network, kept, images)
    assert (small[3].groups, small[3].in_channels, small[3].out_channels) == (1, 1, 1)
    with torch.no_grad():
        assert torch.allclose(small(images), network(images), atol=1e-5)


def test_nothing_is_shared_and_training_goes_on() -> None:
    network = build(vgg)
    small = shrink(network, masks(network, 0), networks.images(1))
    own = {id(p) for p in network.parameters()} | {p.data_ptr() for p in network.parameters()}
    assert not own & ({id(p) for p in small.parameters()} | {p.data_ptr() for p in small.parameters()})
    small.train()(networks.images(4)).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_functions_and_two_readers() -> None:
    network, images = build(Functional), networks.images(3)
    # conv2 keeps its channels for the slices, left and right for their sum
    expected = {"conv1": ("left", "right"), "conv3": ("linear3",), "conv4": ("linear4",)}
    assert removable(network, images) == expected
    kept = masks(network, 1)
    small = shrink(network, kept, images)
    zero_channels(network, kept, images)
    with torch.no_grad():
        assert torch.allclose(small(images), network(images), atol=1e-5)


class Tied(nn.Module):
    """Two layers with one weight, a batch norm at two places, a weight that is read directly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(c, 3, 1, bias=False) for c in (3, 3, 3))
        self.second.weight = self.first.weight
        self.norm, self.last = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.read, self.end = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        x = self.norm(self.last(torch.relu(self.norm(x))))
        return self.end(torch.relu(self.read(x)) + self.read.bias.sum())


@pytest.mark.parametrize(
    "make, layer, reason",
    [
        (networks.Residual, "conv1", "add"),
        (networks.Residual, "conv3", "add"),
        (networks.Residual, "depthwise", "groups"),
        (networks.Residual, "linear", "output"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2)),
            "0",
            "1 .a grouped convolution",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1, groups=4)),
            "0",
            "1 .a grouped convolution",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, 4)), "0", "1 .reads along another axis"),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm2d(3), nn.Linear(8, 4)), "0", "BatchNorm2d"),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(192, 4)), "0", "Flatten"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2), nn.Linear(64, 4)), "0", "Flatten"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1)), "0", "Sigmoid"),
        (Tied, "first", "used in several places"),
        (Tied, "second", "used in several places"),
        (Tied, "third", "norm, which is used in several places"),
        (Tied, "read", "used in several places"),
        (Functional, "conv2", "getitem"),
    ],
)
def test_what_keeps_all_its_channels_is_named(make: Callable[[], nn.Module], layer: str, reason: str) -> None:
    network = build(make)
    assert layer not in removable(network, networks.images(1))
    kept = {layer: np.arange(len(network.get_submodule(layer).weight)) > 0}
    for change in (shrink, zero_channels):
        with pytest.raises(UnsupportedLayer, match=f"^{layer}: its channels cannot be dropped.*{reason}"):
            change(network, kept, networks.images(1))
    everything = {layer: np.ones(len(network.get_submodule(layer).weight), bool)}
    assert parameters(shrink(network, everything, networks.images(1))) == parameters(network)


@pytest.mark.parametrize(
    "expression",
    [
        "x.view(-1, 36)",
        "x.view(1, -1)",
        "x.flatten(0)",
        "x.view(x.size(1), -1)",
        "x.squeeze()",
        "x.mean(1)",
        "x + 1.0",
    ],
)
def test_shapes_written_for_one_width_are_obstacles(expression: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3, stride=2), nn.LazyLinear(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.linear(eval(expression))

    network = Odd().eval()
    network(networks.images(1))  # settles the number of inputs
    assert removable(network, networks.images(1)) == {}


def test_padding_with_ones_is_an_obstacle() -> None:
    class Padded(nn.Module):
        def __init__(self, **how: object) -> None:
            super().__init__()
            self.conv, self.next, self.how = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), how

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.next(functional.pad(self.conv(x), **self.how))

    for how in (
        {"pad": (1, 1), "value": 1.0},
        {"pad": (1, 1, 1, 1, 0, 0)},
        {"pad": (1, 1, 1, 1), "mode": "reflect"},
    ):
        assert removable(build(lambda how=how: Padded(**how)), networks.images(1)) == {}
    assert removable(build(lambda: Padded(pad=(1, 1))), networks.images(1)) == {"conv": ("next",)}


def test_float_layers_stay_as_they_are() -> None:
    network = build(mlp)
    assert removable(network, networks.images(1), ["3"]) == {}
    assert removable(network, networks.images(1), ["5"]) == {"1": ("3",)}


@pytest.mark.parametrize("mask", [np.zeros(9, bool), np.ones(8, bool), np.ones(9), np.ones((9, 1), bool)])
def test_masks_that_do_not_fit_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"channels.1=.*expected booleans \[9\], at least one"):
        shrink(build(mlp), {"1": mask}, networks.images(1))


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(UnknownName, match="conv9"):
        shrink(build(mlp), {"conv9": np.ones(3, bool)}, networks.images(1))
