"""Batch-norm repair: what each batch norm puts out after a conversion, against the float network."""

from __future__ import annotations

import pytest
import torch
from networks import images, residual, settled
from torch import nn

from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def coarse(model: nn.Module, batch: torch.Tensor, repair: str, sparsity: float = 0.0) -> nn.Module:
    """``model`` with every layer ternary and every input of 3 bits."""
    calibration = calibrate(model, batch)
    plan = LayerPlan(TernaryConfig(), ActivationConfig(3), sparsity)
    layers = tuple((layer.name, plan) for layer in calibration.layers)
    return convert(model, CompressionPlan(layers, repair), calibration).network


@torch.no_grad()
def moments(
    model: nn.Module, batch: torch.Tensor, output: bool
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Mean and deviation per channel of what each batch norm puts out (or reads), in float64."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def hook_for(name: str):  # type: ignore[no-untyped-def]
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
            values = (result if output else args[0]).double().transpose(0, 1).flatten(1)
            seen[name] = values.mean(1), values.std(1, correction=0)

        return hook

    handles = [m.register_forward_hook(hook_for(n)) for n, m in model.named_modules() if isinstance(m, NORMS)]
    model(batch)
    for handle in handles:
        handle.remove()
    return seen


def flat_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layers = [nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.BatchNorm1d(8)]
        model = nn.Sequential(nn.Flatten(), *layers, nn.ReLU(), nn.Linear(8, 3))
    return settled(model, images(40, seed=7))


NETWORKS = {"residual": residual, "flat": flat_network}


@pytest.mark.parametrize("network", NETWORKS)
def test_match_gives_every_output_the_float_mean_and_deviation(network: str) -> None:
    model, batch = NETWORKS[network](), images()
    expected = moments(model, batch, output=True)
    got = moments(coarse(model, batch, "match"), batch, output=True)
    assert set(got) == set(expected) and got
    for name in expected:
        assert torch.allclose(got[name][0], expected[name][0], atol=2e-4)
        assert torch.allclose(got[name][1], expected[name][1], rtol=2e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_without_repair_they_differ(network: str) -> None:
    model, batch = NETWORKS[network](), images()
    expected = moments(model, batch, output=True)
    got = moments(coarse(model, batch, "keep"), batch, output=True)
    assert any((got[name][1] - expected[name][1]).abs().max() > 0.05 for name in expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_reestimate_takes_the_networks_own_statistics(network: str) -> None:
    model, batch = NETWORKS[network](), images()
    compressed = coarse(model, batch, "reestimate")
    read = moments(compressed, batch, output=False)
    for name, (mean, deviation) in read.items():
        norm = compressed.get_submodule(name)
        assert torch.allclose(norm.running_mean.double(), mean, atol=1e-4)
        assert torch.allclose(norm.running_var.double(), deviation**2, rtol=1e-3)


@pytest.mark.parametrize("repair", ["match", "reestimate", "keep"])
def test_weights_and_biases_of_batch_norms_stay(repair: str) -> None:
    model = residual()
    compressed = coarse(model, images(), repair)
    for name in ("bn1", "bn2", "bn3"):
        old, new = model.get_submodule(name), compressed.get_submodule(name)
        assert torch.equal(old.weight, new.weight) and torch.equal(old.bias, new.bias)
        same = torch.equal(old.running_mean, new.running_mean) and torch.equal(
            old.running_var, new.running_var
        )
        assert same == (repair == "keep")
        assert not new._forward_pre_hooks  # nothing stays behind


@pytest.mark.parametrize("repair", ["match", "reestimate"])
def test_a_channel_that_dies(repair: str) -> None:
    model, batch = residual(), images()
    with torch.no_grad():
        model.conv2.weight[1] *= 1e-4  # pruning takes it all
    expected = moments(model, batch, output=True)["bn2"][0][1]
    compressed = coarse(model, batch, repair, sparsity=0.5)
    assert not compressed.conv2.weight[1].any()
    mean, deviation = moments(compressed, batch, output=True)["bn2"]
    assert deviation[1] == 0.0
    if repair == "match":
        assert mean[1] == pytest.approx(expected.item(), abs=1e-4)
    assert torch.isfinite(compressed(batch)).all()


@pytest.mark.parametrize("repair", ["match", "reestimate"])
def test_a_channel_that_is_dead_in_the_float_network(repair: str) -> None:
    model, batch = residual(), images()
    with torch.no_grad():
        model.conv2.weight[1] = 0.0
    expected = moments(model, batch, output=True)["bn2"]
    mean, deviation = moments(coarse(model, batch, repair), batch, output=True)["bn2"]
    assert deviation[1] == expected[1][1] == 0.0
    if repair == "match":
        assert mean[1] == pytest.approx(expected[0][1].item(), abs=1e-4)


@pytest.mark.parametrize("repair", ["match", "reestimate", "keep"])
@pytest.mark.parametrize("network", NETWORKS)
def test_one_calibration_image(network: str, repair: str) -> None:
    model = NETWORKS[network]()
    assert torch.isfinite(coarse(model, images(1), repair)(images())).all()


@pytest.mark.parametrize("repair", ["match", "reestimate"])
def test_norms_without_weights_or_without_statistics(repair: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Flatten(),
        nn.Linear(64, 2),
    )
    model, batch = settled(model, images(16)), images()
    compressed = coarse(model, batch, repair)
    assert compressed[3].running_mean is None
    assert torch.isfinite(compressed(batch)).all()
    if repair == "match":
        expected, got = (moments(m, batch, output=True)["1"] for m in (model, compressed))
        assert torch.allclose(got[1], expected[1], rtol=2e-3)


def test_a_batch_norm_at_two_places_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.b(self.norm(self.a(x))))

    model = settled(Twice(), images(16))
    compressed = coarse(model, images(), "match")
    assert torch.equal(compressed.norm.running_mean, model.norm.running_mean)


@pytest.mark.parametrize("repair", ["match", "reestimate", "keep"])
def test_a_network_without_batch_norms(repair: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    kept = coarse(model, images(), "keep")
    assert torch.equal(coarse(model, images(), repair)(images()), kept(images()))


def test_match_brings_the_logits_closer() -> None:
    model, batch, unseen = residual(), images(64), images(64, seed=1)
    calibration = calibrate(model, batch)
    layers = tuple((name, LayerPlan(BinaryConfig())) for name in ("conv2", "conv3"))
    with torch.no_grad():
        errors = {
            repair: (
                convert(model, CompressionPlan(layers, repair), calibration)(unseen) - model(unseen)
            ).norm()
            for repair in ("match", "keep")
        }
    assert errors["match"] < errors["keep"]
