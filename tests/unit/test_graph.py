"""What a network is made of, and what is refused by name."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import Residual, images
from torch import nn
from torch.nn import functional

from compressors.errors import UnknownName, UnsupportedLayer
from compressors.graph import Layer, find_layers

Forward = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """Two convolutions, a linear layer and a block of one convolution, run by whatever forward is given."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        self.linear = nn.Linear(8, 8)
        self.block = Block()
        self._run = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._run(self, x)


class Block(nn.Module):
    """A convolution and something that is not supported, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.inner(x)) * 2


def layers_of(forward: Forward, float_layers: tuple[str, ...] = ()) -> dict[str, Layer]:
    found = find_layers(Net(forward).eval(), images(1), float_layers)
    assert len({layer.name for layer in found}) == len(found)
    return {layer.name: layer for layer in found}


def only(layer: nn.Module, example: torch.Tensor | None = None) -> Layer:
    (found,) = find_layers(nn.Sequential(layer).eval(), images(1) if example is None else example)
    return found


def test_residual_network() -> None:
    found = {layer.name: layer for layer in find_layers(Residual().eval(), images(1))}
    assert list(found) == ["conv1", "conv2", "conv3", "depthwise", "linear"]
    assert found["conv1"] == Layer(
        name="conv1",
        kind="conv2d",
        weight_shape=(6, 3, 3, 3),
        input_shape=(3, 8, 8),
        output_shape=(6, 8, 8),
        padding=(1, 1),
        consumers=("conv2",),
        kept=True,
    )
    assert (found["conv2"].consumers, found["conv2"].added, found["conv2"].kept) == (("conv3",), False, False)
    third = found["conv3"]
    assert (third.consumers, third.added, third.kept) == (("depthwise",), True, False)
    assert found["depthwise"].groups == 6
    assert found["depthwise"].stride == (2, 2)
    assert found["depthwise"].output_shape == (6, 3, 3)
    assert found["linear"].kind == "linear"
    assert (found["linear"].input_shape, found["linear"].consumers) == ((6,), ())


def test_a_sum_that_is_added_again() -> None:
    def forward(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        first = net.conv(x) + x
        return net.other(first) + first

    found = layers_of(forward)
    assert (found["conv"].added, found["conv"].consumers, found["conv"].kept) == (True, ("other",), True)
    assert (found["other"].added, found["other"].consumers, found["other"].kept) == (True, (), False)


def test_an_output_in_two_adds_is_described_the_same_every_time() -> None:
    def forward(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        out = net.conv(x)
        first = out + x
        second = first + out
        return net.other(first) + net.block.inner(second)

    for _ in range(10):  # the nodes lie elsewhere in memory each time
        conv = layers_of(forward)["conv"]
        assert (conv.added, conv.consumers, conv.kept) == (True, ("other",), True)


def test_an_output_that_a_second_add_needs_is_kept() -> None:
    def forward(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        out = net.conv(x)
        first = net.other(out + x)
        return (out + net.block.inner(x)) + first

    conv = layers_of(forward)["conv"]
    assert (conv.added, conv.consumers, conv.kept) == (True, ("other",), True)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.conv(x) + 1,
        lambda net, x: torch.add(net.conv(x), 1.0),
        lambda net, x: net.conv(x).add(2),
    ],
)
def test_adding_a_constant_is_no_residual_add(forward: Forward) -> None:
    conv = layers_of(lambda net, x: net.other(forward(net, x)))["conv"]
    assert (conv.added, conv.consumers, conv.kept) == (False, ("other",), False)


@pytest.mark.parametrize(
    "add",
    [
        lambda a, b: a + b,
        lambda a, b: torch.add(a, b),
        lambda a, b: torch.add(a, other=b),
        lambda a, b: a.add(b),
        lambda a, b: a.add_(b),
        lambda a, b: operator.iadd(a, b),
    ],
)
def test_every_way_to_add(add: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    assert layers_of(lambda net, x: add(net.conv(x), x))["conv"].added


@pytest.mark.parametrize(
    ("layer", "padding"),
    [
        (nn.Conv2d(3, 4, 3, padding="same"), (1, 1)),
        (nn.Conv2d(3, 4, (5, 3), padding="same", dilation=(1, 2)), (2, 2)),
        (nn.Conv2d(3, 4, 3, padding="valid"), (0, 0)),
        (nn.Conv2d(3, 4, 3, padding=(0, 2)), (0, 2)),
    ],
    ids=str,
)
def test_padding(layer: nn.Conv2d, padding: tuple[int, int]) -> None:
    found = only(layer)
    assert found.padding == padding
    assert found.output_shape == tuple(layer(images(1)).shape[1:])
    for axis in (0, 1):
        reach = found.dilation[axis] * (found.weight_shape[2 + axis] - 1)
        size = (found.input_shape[1 + axis] + 2 * padding[axis] - reach - 1) // found.stride[axis] + 1
        assert size == found.output_shape[1 + axis]


def test_grouped_dilated_strided() -> None:
    found = only(nn.Conv2d(6, 4, (3, 2), stride=(2, 1), dilation=(1, 3), groups=2), torch.zeros(1, 6, 9, 9))
    assert (found.weight_shape, found.groups) == ((4, 3, 3, 2), 2)
    assert (found.stride, found.dilation, found.output_shape) == ((2, 1), (1, 3), (4, 4, 6))


def test_linear_layers_on_flat_input_and_on_sequences() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 2)).eval()
    first, second = find_layers(model, torch.zeros(1, 7))
    assert (first.input_shape, first.output_shape, first.consumers) == ((7,), (5,), ("4",))
    assert second.weight_shape == (2, 5)
    assert only(nn.Linear(7, 5), torch.zeros(1, 3, 7)).output_shape == (3, 5)


def test_supported_operations() -> None:
    def forward(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(functional.pad(net.conv(x), (1, 1)))
        x = functional.max_pool2d(functional.avg_pool2d(x, 2, padding=1), 2)
        x = torch.cat([functional.adaptive_avg_pool2d(x, 2), functional.adaptive_avg_pool2d(x, 2)], 1)
        x = functional.dropout(torch.relu(x), training=net.training)
        return torch.flatten(x, 1).view(x.size(0), -1).reshape(x.shape[0], -1).mean(1)

    assert list(layers_of(forward)) == ["conv"]


def test_layers_that_never_run_are_left_out() -> None:
    assert list(layers_of(lambda net, x: net.other(x))) == ["other"]


def test_nothing_but_float() -> None:
    assert find_layers(nn.Sequential(nn.ReLU()), images(1)) == ()


@pytest.mark.parametrize(
    ("forward", "where", "what"),
    [
        (lambda net, x: net.block(x), "block.act", "SiLU"),
        (lambda net, x: net.conv(x).sigmoid(), "sigmoid", ".sigmoid()"),
        (lambda net, x: functional.softmax(net.conv(x), 1), "softmax", "softmax"),
        (lambda net, x: net.conv(x) * 2, "mul", "mul"),
        (lambda net, x: functional.conv2d(x, net.conv.weight), "conv2d", "conv2d"),
        (lambda net, x: net.conv(net.other(net.conv(x))), "conv", "Conv2d called 2 times"),
        (lambda net, x: net.linear(net.linear(x)), "linear", "Linear called 2 times"),
        (lambda net, x: net.conv(input=x), "conv", "Conv2d called with keyword arguments"),
    ],
)
def test_unsupported_is_named_with_its_path(forward: Forward, where: str, what: str) -> None:
    with pytest.raises(UnsupportedLayer) as caught:
        layers_of(forward)
    message = str(caught.value)
    assert message.startswith(f"{where}: {what}")
    assert f"model.float_layers=[{where}]" in message


@pytest.mark.parametrize(
    ("forward", "where"),
    [
        (lambda net, x: net.other(net.conv(x).sigmoid()), "sigmoid"),
        (lambda net, x: net.other(functional.softmax(net.conv(x), 1) * 2), "softmax,mul"),
        (lambda net, x: net.other(net.block.act(net.conv(x))), "block.act"),
        (lambda net, x: net.other(net.linear(net.linear(net.conv(x)))), "linear"),
    ],
)
def test_the_remedy_works(forward: Forward, where: str) -> None:
    assert list(layers_of(forward, tuple(where.split(",")))) == ["conv", "other"]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_anything_but_zeros(mode: str) -> None:
    with pytest.raises(UnsupportedLayer, match=f"^0: Conv2d with padding_mode='{mode}'"):
        only(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose2d, nn.Conv3d, nn.Sigmoid, nn.GroupNorm])
def test_unsupported_modules(kind: type[nn.Module]) -> None:
    layer = {nn.GroupNorm: lambda: nn.GroupNorm(1, 3), nn.Sigmoid: nn.Sigmoid}.get(
        kind, lambda: kind(3, 3, 1)
    )()
    with pytest.raises(UnsupportedLayer, match=f"^0: {kind.__name__} is not supported"):
        find_layers(nn.Sequential(layer), images(1))


def test_parametrized_weights_would_not_take_new_ones() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    with pytest.raises(UnsupportedLayer, match="^0: Conv2d with a parametrized weight"):
        only(layer)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert only(layer).weight_shape == (4, 3, 3, 3)


def test_float_layers_are_left_out() -> None:
    def forward(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return net.other(net.block(net.conv(x)))

    assert list(layers_of(forward, ("block",))) == ["conv", "other"]  # opaque: not even looked into
    assert list(layers_of(forward, ("block.act", "block.mul"))) == ["conv", "block.inner", "other"]
    assert list(layers_of(forward, ("block", "conv"))) == ["other"]


def test_a_float_layer_passes_on_what_reads_its_output() -> None:
    found = layers_of(lambda net, x: net.other(net.block(net.conv(x))), ("block",))
    assert found["conv"].consumers == ("other",)


def test_unknown_float_layer_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="model.float_layers: unknown layer 'blok'; did you mean 'block'"):
        layers_of(lambda net, x: net.conv(x), ("blok",))


def test_a_name_that_begins_like_a_float_layer_is_not_one() -> None:
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 3, 1))
    model.add_module("conv1", nn.Conv2d(3, 3, 1))
    assert [layer.name for layer in find_layers(model, images(1), ("conv",))] == ["conv1"]


def fail(error: Exception) -> torch.Tensor:
    raise error


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.conv(x) if x.sum() > 0 else x,
        lambda net, x: [net.conv(x) for _ in range(x.size(0))][0],
        lambda net, x: net.conv(x) + float(x.mean()),
        lambda net, x: net.conv(torch.from_numpy(np.asarray(x))),
        lambda net, x: [net.conv(row) for row in x][0],
        lambda net, x: net.missing(x),
        lambda net, x: fail(ValueError("only square images")),
        lambda net, x: fail(KeyError("x")),
    ],
)
def test_what_cannot_be_traced(forward: Forward) -> None:
    with pytest.raises(UnsupportedLayer, match="Net cannot be traced: .*model.float_layers"):
        layers_of(forward)


def test_an_input_the_network_does_not_take(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedLayer) as caught:
        find_layers(Residual().eval(), torch.zeros(1, 5, 8, 8))
    assert "does not accept an input of shape (1, 5, 8, 8) and type torch.float32: Given groups=1" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # the message alone, no traceback


def test_finding_layers_changes_nothing() -> None:
    model = Residual().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    find_layers(model, images(1))
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module._forward_pre_hooks for module in model.modules())
