"""Which channels go: the readers' loss against least squares, and whole conversions with them gone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import images, network

from compressors.calibration.observe import calibrate
from compressors.calibration.structured import _cheapest
from compressors.convert import convert
from compressors.errors import BadTensor, ConfigError
from compressors.graph import find_layers
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan, Reconstruction
from compressors.serialize import load, to_bytes


def loss_without(weight: np.ndarray, hessian: np.ndarray, gone: list[int]) -> float:
    """Least squared error of a reading layer that may refit all but the columns ``gone``."""
    half = np.linalg.cholesky(hessian).T
    stay = np.setdiff1d(np.arange(len(hessian)), gone)
    total = 0.0
    for row in weight:
        best = np.linalg.lstsq(half[:, stay], half @ row, rcond=None)[0]
        total += ((half @ row - half[:, stay] @ best) ** 2).sum()
    return total


@pytest.mark.parametrize("run", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_cheapest_channels_go_first(run: int, seed: int) -> None:
    channels, rng = 5, np.random.default_rng(seed)
    x = rng.standard_normal((400, channels * run)) @ rng.standard_normal((channels * run, channels * run))
    hessian = x.T @ x / len(x) + 0.1 * np.eye(channels * run)
    weights = [rng.standard_normal((rows, channels * run)) for rows in (3, 6)]
    parts = [(torch.from_numpy(w), torch.from_numpy(hessian)) for w in weights]
    energies = [np.einsum("nk,kj,nj", w, hessian, w) for w in weights]

    def cost(out: tuple[int, ...]) -> float:
        gone = [c * run + i for c in out for i in range(run)]
        return sum(loss_without(w, hessian, gone) / e for w, e in zip(weights, energies, strict=True))

    out: tuple[int, ...] = ()
    for count in range(1, 4):
        rest = [c for c in range(channels) if c not in out]
        out = (*out, min(rest, key=lambda c, out=out: cost((*out, c))))
        kept = _cheapest(parts, channels, count / channels)
        assert set(np.flatnonzero(~kept)) == set(out)
    pairs = [cost(pair) for pair in itertools.combinations(range(channels), 2)]
    assert cost(out[:2]) <= sorted(pairs)[2]  # one after the other is near the best pair


def test_one_channel_stays() -> None:
    parts = [(torch.ones(2, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))]
    assert _cheapest(parts, 3, 0.99).sum() == 1
    assert _cheapest(parts, 3, 0.0).all()


PLANS = {
    "residual": {"conv2": 0.5},
    "separable": {"stem.0": 0.5, "depthwise2.0": 0.0},
    "vgg": {"0": 0.0, "4": 0.0, "9": 0.5},
    "perceptron": {"1": 0.4, "3": 0.5},
}
READERS = {"residual": "conv3", "separable": "pointwise1.0", "vgg": "12", "perceptron": "3"}
PASSED = {"separable": "depthwise1.0"}


def converted(name: str, rounding: str, reconstruct: bool = False) -> CompressedModel:
    model = network(name)
    calibration = calibrate(model, images(40))
    layers = []
    for layer in calibration.layers:
        share = PLANS[name].get(layer.name, 0.0)
        pattern = "channel" if share else "element"
        layers.append(
            (layer.name, LayerPlan(UniformConfig(6), ActivationConfig(8), share, pattern, rounding))
        )
    settings = Reconstruction(4, 16) if reconstruct else None
    return convert(model, CompressionPlan(tuple(layers), bias="match", reconstruct=settings), calibration)


@pytest.mark.parametrize("rounding", ["nearest", "second_order"])
@pytest.mark.parametrize("name", PLANS)
def test_channels_are_really_gone(name: str, rounding: str, tmp_path: Path) -> None:
    model = converted(name, rounding)
    before = {layer.name: layer for layer in find_layers(network(name), images(1))}
    after = {layer.name: layer for layer in model.layers}
    for layer, share in PLANS[name].items():
        outputs = before[layer].weight_shape[0]
        assert after[layer].weight_shape[0] == outputs - round(share * outputs)
        if share:
            assert model.kept[layer].sum() == after[layer].weight_shape[0]
    assert after[READERS[name]].weight_shape[1] < before[READERS[name]].weight_shape[1]
    if name in PASSED:
        assert after[PASSED[name]].weight_shape[0] == after[PASSED[name]].groups == 4
    for layer, tensor in model.tensors.items():
        assert tensor.shape == after[layer].weight_shape
        assert np.array_equal(tensor.to_dense(), model.network.get_submodule(layer).weight.detach().numpy())
    path = tmp_path / "small.safetensors"
    path.write_bytes(to_bytes(model))
    other = network(name, seed=1)
    again = load(path, other, find_layers(other, images(1)))
    with torch.no_grad():
        assert torch.equal(again(images(9)), model(images(9)))
    assert to_bytes(again) == path.read_bytes()
    assert all(np.array_equal(again.kept[layer], mask) for layer, mask in model.kept.items())


@pytest.mark.parametrize("name", ["residual", "separable"])
def test_channels_go_together_with_reconstruction(name: str) -> None:
    model = converted(name, "second_order", reconstruct=True)
    assert model.report.unit_errors and torch.isfinite(model(images(5))).all()


@torch.no_grad()
def test_by_what_readers_lose_is_better_than_by_size() -> None:
    """Without grids that matter: half of a layer's channels, chosen either way."""
    wins = 0
    for seed in range(6):
        model = network("residual", seed)
        calibration = calibrate(model, images(64))
        errors = {}
        for rounding in ("nearest", "second_order"):
            plan = LayerPlan(UniformConfig(8), None, 0.5, "channel", rounding)
            small = convert(model, CompressionPlan((("conv2", plan),)), calibration)
            errors[rounding] = float((small(images(64, seed=5)) - model(images(64, seed=5))).norm())
        wins += errors["second_order"] <= errors["nearest"]
    assert wins >= 4


def test_channels_that_a_residual_add_reads_are_refused() -> None:
    model = network("residual")
    calibration = calibrate(model, images())
    for rounding in ("nearest", "second_order"):
        plan = LayerPlan(TernaryConfig(), None, 0.5, "channel", rounding)
        with pytest.raises(ConfigError, match="plan.layers.conv3.pattern.*a layer among conv2"):
            convert(model, CompressionPlan((("conv3", plan),)), calibration)


@pytest.mark.parametrize("rounding", ["nearest", "second_order"])
def test_bad_weights_are_not_dropped_in_silence(rounding: str) -> None:
    model = network("residual")
    calibration = calibrate(model, images())
    with torch.no_grad():
        model.conv2.weight[0, 0] = float("nan")
    plan = LayerPlan(TernaryConfig(), None, 0.5, "channel", rounding)
    with pytest.raises(BadTensor, match="layer conv2: 9 of 324 weights are NaN"):
        convert(model, CompressionPlan((("conv2", plan),)), calibration)
