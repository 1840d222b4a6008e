"""Networks: their size, their tracing, and every way a configuration can name one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dse.data import DataConfig, DataSplits, load_data
from dse.errors import BadTensor, ConfigError, UnknownName
from dse.models import MODELS, ModelConfig, build_model, load_model
from dse.models.pretrain import accuracy, settle_batch_norm, shifted
from dse.models.resnet import OptionAShortcut


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data(DataConfig())


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the working directory, which is not on the import path."""
    name = "networks_of_a_user"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "import torch\n"
        "class Nets:\n"
        "    @staticmethod\n"
        "    def linear(classes=10):\n"
        "        return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes)).half()\n"
        "def broken():\n"
        "    net = Nets.linear()\n"
        "    net[1].bias.data[3] = float('nan')\n"
        "    return net\n"
        "def large():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(150528, 10))\n"
        "def not_a_network():\n"
        "    return [1, 2]\n"
        "constant = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def multiply_accumulates(model: nn.Module) -> int:
    """Count of a 32x32x3 image, from the shapes each convolution and linear layer really gave."""
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        fan_in = module.weight[0].numel()
        counts.append(output.numel() * fan_in)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(1, 3, 32, 32))
    return sum(counts)


@pytest.mark.parametrize(
    ("name", "layers", "parameters"),
    [
        ("resnet8", 8, 75_290),
        ("resnet20", 20, 269_722),
        ("resnet32", 32, 464_154),
        ("resnet44", 44, 658_586),
        ("resnet56", 56, 853_018),
    ],
)
def test_family_has_the_published_sizes(name: str, layers: int, parameters: int) -> None:
    """He et al. 2015, table 6: 0.27, 0.46, 0.66 and 0.85 M parameters.

    By hand, with n blocks a stage: 432 + 32 before the stages; 2n * 9c^2 + 4nc in a stage of width c, less
    9c^2 / 2 where the width doubles; 650 in the classifier.
    """
    blocks = (layers - 2) // 6
    stages = sum(2 * blocks * 9 * c * c + 4 * blocks * c for c in (16, 32, 64)) - (9 * 32**2 + 9 * 64**2) // 2
    assert 464 + stages + 650 == parameters
    model = build_model(ModelConfig(name=name), classes=10, channels=3)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers


def test_resnet20_has_41_million_multiply_accumulates() -> None:
    """Weights of each layer times the pixels it puts out: 32x32, then 16x16, then 8x8."""
    model = build_model(ModelConfig(), classes=10, channels=3).eval()
    stages = 6 * 2304 * 1024 + (4608 + 5 * 9216) * 256 + (18_432 + 5 * 36_864) * 64
    by_hand = 432 * 1024 + stages + 640
    assert multiply_accumulates(model) == by_hand == 40_551_040


def test_option_a_shortcut_against_indexing() -> None:
    x = torch.randn(2, 4, 5, 6)
    expected = torch.zeros(2, 10, 3, 3)
    for row in range(3):
        for column in range(3):
            expected[:, 3:7, row, column] = x[:, :, 2 * row, 2 * column]
    assert torch.equal(OptionAShortcut(3)(x), expected)


def test_network_is_traceable_and_all_modules() -> None:
    model = build_model(ModelConfig(name="resnet8"), classes=10, channels=3).eval()
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(traced(x), model(x))
    modules = {type(m) for m in model.modules()}
    assert {nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten, OptionAShortcut} <= modules


def test_shipped_weights_reach_the_accuracy_they_state(digits: DataSplits) -> None:
    model = load_model(ModelConfig(), digits)
    assert not model.training
    assert all(t.dtype == torch.float32 for t in model.parameters())
    assert accuracy(model, digits.test) >= 0.985
    assert accuracy(model, digits.search) >= 0.985


def test_settled_batch_norm_describes_clean_images(digits: DataSplits) -> None:
    """The statistics after settling equal those computed from the activations by numpy."""
    model = build_model(ModelConfig(name="resnet8"), classes=10, channels=3)
    images = digits.calibration.tensor(0, 100)
    settle_batch_norm(model, images)
    before = model.conv1(images).detach().numpy()
    np.testing.assert_allclose(model.bn1.running_mean, before.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.bn1.running_var, before.var((0, 2, 3), ddof=1), rtol=1e-4, atol=1e-5)


def test_shifts_move_whole_images_and_repeat_edges() -> None:
    torch.manual_seed(0)
    batch = torch.rand(16, 1, 32, 32)
    moved = shifted(batch)
    assert moved.shape == batch.shape
    for image, result in zip(batch[:, 0], moved[:, 0], strict=True):
        rows = [torch.arange(32).add(d).clamp(0, 31) for d in range(-3, 4)]
        assert any(torch.equal(image[r][:, c], result) for r in rows for c in rows)


def test_unknown_name_answers_with_the_nearest(digits: DataSplits) -> None:
    with pytest.raises(
        UnknownName, match=r"model\.name: unknown model 'resnet21'; did you mean .*'resnet20'"
    ):
        load_model(ModelConfig(name="resnet21"), digits)
    assert "resnet20" in MODELS


def test_nothing_named(digits: DataSplits) -> None:
    with pytest.raises(ConfigError, match=r"model\.target=package\.module:callable"):
        load_model(ModelConfig(name=None), digits)


def test_arguments_the_builder_does_not_take(digits: DataSplits) -> None:
    with pytest.raises(ConfigError, match=r"model\.args=.*resnet20.*width"):
        load_model(ModelConfig(args={"width": 3}), digits)


def test_network_without_shipped_weights_asks_for_a_checkpoint(digits: DataSplits) -> None:
    with pytest.raises(ConfigError, match=r"model\.checkpoint=None.*resnet56 on digits.*resnet20 on digits"):
        load_model(ModelConfig(name="resnet56"), digits)


def test_target_in_the_working_directory(user_module: str, digits: DataSplits) -> None:
    model = load_model(ModelConfig(target=f"{user_module}:Nets.linear", args={"classes": 10}), digits)
    assert isinstance(model[1], nn.Linear) and model[1].weight.dtype == torch.float32
    assert not model.training


@pytest.mark.parametrize(
    ("target", "args", "message"),
    [
        (
            "no_such_package.models:net",
            {},
            "model.target=no_such_package.models:net: expected a module that can be",
        ),
        ("{}", {}, "expected package.module:callable"),
        ("{}:nothing", {}, "has no attribute 'nothing'"),
        ("{}:constant", {}, "something callable, got a int"),
        ("{}:not_a_network", {}, "a callable that returns a torch.nn.Module, got a list"),
        ("{}:Nets.linear", {"depth": 3}, "unexpected keyword argument 'depth'"),
        ("{}:Nets.linear", {"classes": 7}, "gives (1, 10) for digits; it gave (1, 7)"),
        ("{}:large", {}, "takes (1, 3, 32, 32) and gives (1, 10) for digits; it failed with"),
    ],
)
def test_targets_that_cannot_be_used(
    user_module: str, digits: DataSplits, target: str, args: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_model(ModelConfig(target=target.format(user_module), args=args), digits)
    assert message in str(caught.value)


def test_target_with_nan_is_named(user_module: str, digits: DataSplits) -> None:
    with pytest.raises(BadTensor, match=r"NaN or infinity in 1\.bias"):
        load_model(ModelConfig(target=f"{user_module}:broken"), digits)
