"""Reconstruction: gradients against differences, latent weights against the tensors they come from, never worse."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from contracts import gauss
from networks import NETWORKS, TwoHeads, images, network, smooth_images
from torch import nn

from compressors.calibration import reconstruct as module
from compressors.calibration.observe import calibrate
from compressors.calibration.reconstruct import LatentWeight, _affine_parameters, _split, _step, _UnitRun
from compressors.conversion import Conversion
from compressors.convert import convert
from compressors.graph import find_units, trace
from compressors.grid import LevelGrid
from compressors.methods.binary import BinaryConfig
from compressors.methods.bit_columns import BitColumnsConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.parallel import Lanes, lanes
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan, Reconstruction
from compressors.registry import MethodConfig, alphabet, compress, make_config, method_names
from compressors.slicing import with_codes
from compressors.tensor import SlicedTensor

CONFIGS: list[MethodConfig] = [
    *(make_config(name, {}) for name in method_names()),
    TernaryConfig(2),
    TernaryConfig(1, asymmetric=True),
    TernaryConfig(1, group=6),
    TernaryConfig(1, per="tensor"),
    BinaryConfig(3),
    UniformConfig(3, symmetric=False),
]


@pytest.fixture
def pool() -> Iterator[Lanes]:
    with lanes() as opened:
        yield opened


def latent_of(
    config: MethodConfig, weight: np.ndarray, keep: np.ndarray | None = None, shift: float = 0.0
) -> tuple[LatentWeight, SlicedTensor]:
    keep = np.ones(weight.shape, bool) if keep is None else keep
    tensor = compress(weight, config, keep)
    rows = len(weight)
    # second-order rounding leaves weights far from the level next to them
    target = (weight + shift * gauss(*weight.shape, seed=9)).reshape(rows, -1)
    return LatentWeight(tensor, LevelGrid.of(tensor, config), target, keep.reshape(rows, -1)), tensor


def round_to_grid(tensor: SlicedTensor, config: MethodConfig) -> SlicedTensor:
    """The tensor with every code moved to the next one of its alphabet."""
    codes, allowed = tensor.codes()[0], alphabet(tensor, config)[0, :, 0]
    nearest = np.abs(codes[:, :, None] - allowed[:, None]).argmin(2)
    moved = np.take_along_axis(np.broadcast_to(allowed, (len(codes), allowed.shape[1])), nearest, 1)
    return with_codes(tensor, np.where(codes == 0, 0, moved)[None], tensor.scale)


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_latent_weights_start_at_the_tensor_they_come_from(config: MethodConfig, shift: float) -> None:
    weight = gauss(5, 4, 3, 3).astype(np.float64)
    keep = np.random.default_rng(0).random(weight.shape) < 0.8
    keep[2] = False
    latent, tensor = latent_of(config, weight, keep, shift)
    if isinstance(config, BitColumnsConfig):  # lists fewer codes than a tensor of its own may have
        tensor = round_to_grid(tensor, config)
        latent = LatentWeight(
            tensor, LevelGrid.of(tensor, config), weight.reshape(5, -1), keep.reshape(5, -1)
        )
    start = latent.tensor()
    assert np.array_equal(start.to_dense(), tensor.to_dense())
    snapped = latent.snap().reshape(weight.shape).numpy()  # summed in single precision
    assert snapped == pytest.approx(tensor.to_dense(), rel=1e-6, abs=1e-7)
    assert start.digest() == tensor.digest()


@pytest.mark.parametrize("config", [TernaryConfig(2), UniformConfig(4)], ids=str)
@pytest.mark.parametrize("kind", ["a row of zeros", "all equal", "one weight"])
def test_latent_weights_of_odd_tensors(config: MethodConfig, kind: str) -> None:
    weight = {
        "a row of zeros": np.vstack([np.zeros(6), gauss(2, 6)]),
        "all equal": np.full((3, 6), 0.37),
        "one weight": gauss(3, 1),
    }[kind].astype(np.float64)
    latent, tensor = latent_of(config, weight)
    assert np.array_equal(latent.tensor().to_dense(), tensor.to_dense())
    assert latent.tensor().sparsity == tensor.sparsity
    assert torch.isfinite(latent.weight).all()


@pytest.mark.parametrize(
    "config",
    [TernaryConfig(2), TernaryConfig(1, group=4), UniformConfig(3, symmetric=False), BinaryConfig(2)],
    ids=str,
)
def test_gradients_of_scales_are_those_of_differences(config: MethodConfig) -> None:
    """Of a quadratic in the snapped weights, with the codes as they are."""
    weight = gauss(4, 8).astype(np.float64)
    keep = np.random.default_rng(1).random(weight.shape) < 0.8
    latent, tensor = latent_of(config, weight, keep)
    codes, goal = tensor.codes().reshape(tensor.terms, 4, tensor.scale.shape[2], -1), gauss(4, 8, seed=2)

    def loss(scale: np.ndarray) -> float:
        dense = (scale[..., None] * codes).sum(0).reshape(4, 8)
        return float(((dense - goal) ** 2).sum())

    snapped = latent.snap().double().numpy()
    latent.pull(torch.from_numpy(2 * (snapped - goal)).float())
    scale = tensor.scale.astype(np.float64)
    for place in np.ndindex(*scale.shape):
        ahead, behind = scale.copy(), scale.copy()
        ahead[place] += 1e-4
        behind[place] -= 1e-4
        slope = (loss(ahead) - loss(behind)) / 2e-4
        assert latent.scale.grad[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)
    straight = np.where(keep, 2 * (snapped - goal), 0.0)
    inside = latent.weight.grad.numpy()
    assert ((inside == 0) | (np.abs(inside - straight) < 1e-5)).all() and (inside != 0).sum() > keep.sum() / 2
    assert not inside[~keep].any()


def test_a_latent_weight_far_beyond_the_levels_rests() -> None:
    latent, _ = latent_of(TernaryConfig(1), gauss(1, 8).astype(np.float64))
    with torch.no_grad():
        latent.weight[0, :3] = torch.tensor([50.0, -50.0, 0.1])
    latent.snap()
    latent.pull(torch.ones(1, 8))
    assert latent.weight.grad[0, :3].tolist() == [0.0, 0.0, 1.0]


def test_a_shared_scale_stays_shared() -> None:
    latent, tensor = latent_of(TernaryConfig(1, per="tensor"), gauss(4, 8).astype(np.float64))
    latent.snap()
    latent.pull(torch.from_numpy(gauss(4, 8, seed=3)))
    assert (latent.scale.grad == latent.scale.grad[:, :1]).all() and latent.scale.grad.any()


@pytest.mark.parametrize("name", ["residual", "separable"])
def test_gradients_of_a_unit_are_those_of_differences(pool: Lanes, name: str) -> None:
    """Weights, batch norms and biases: the network's own float64 outputs, a little to each side."""
    model = network(name)
    graph = trace(copy.deepcopy(model))
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    unit = next(u for u in find_units(graph, names) if len(u.layers) == 2)
    latents = {}
    for layer in unit.layers:
        weight = graph.get_submodule(layer).weight.detach().double().numpy()
        latents[layer] = latent_of(UniformConfig(3), weight)[0]
    affine = _affine_parameters(graph, unit)
    read = torch.relu(images(7, seed=3)[:, :1].expand(-1, 10 if name == "separable" else 6, -1, -1))
    exact = _UnitRun(copy.deepcopy(graph).double(), unit, {})

    def output(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return exact.output(read.double(), weights)

    weights = {n: latent.snap().double() for n, latent in latents.items()}
    wanted = output(weights) + torch.randn(output(weights).shape, generator=torch.Generator().manual_seed(1))
    runs = [_UnitRun(graph, unit, {}) for _ in range(4)]
    energy = wanted.square().mean().float()
    _step(runs, latents, affine, read, wanted.float(), energy, pool)

    def loss(weights: Mapping[str, torch.Tensor]) -> float:
        return float((output(weights) - wanted).square().mean() / energy)

    rng = np.random.default_rng(0)
    for layer, latent in latents.items():
        rows, columns_ = weights[layer].shape
        for place in zip(rng.integers(0, rows, 5), rng.integers(0, columns_, 5), strict=True):
            sides = []
            for step in (1e-5, -1e-5):
                moved = {n: w.clone() for n, w in weights.items()}
                moved[layer][place] += step
                sides.append(loss(moved))
            slope = (sides[0] - sides[1]) / 2e-5
            if latent.weight.grad[place] != 0:  # beyond the levels it rests
                assert latent.weight.grad[place].item() == pytest.approx(slope, rel=2e-3, abs=1e-6)
    own = dict(exact.module.named_parameters())
    found = {n: p for n, p in graph.named_parameters() if any(p is a for a in affine)}
    assert found
    for parameter_name, parameter in found.items():
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                own[parameter_name][1] += step
                sides.append(loss(weights))
                own[parameter_name][1] -= step
        slope = (sides[0] - sides[1]) / 2e-5
        assert parameter.grad[1].item() == pytest.approx(slope, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(("count", "images_"), [(1, 1), (15, 15), (16, 16), (65, 65), (60, 20), (30, 15)])
def test_images_held_out_do_not_train_in_any_version(count: int, images_: int) -> None:
    training, judging = (set(part.tolist()) for part in _split(count, images_))
    assert training | judging == set(range(count)) and training and judging
    if images_ < 16:
        assert training == judging
    else:
        assert not {i % images_ for i in training} & {i % images_ for i in judging}


def plan_of(calibration, reconstruct: Reconstruction | None, **options: object) -> CompressionPlan:  # type: ignore[no-untyped-def]
    layer = LayerPlan(TernaryConfig(1), ActivationConfig(8))
    return CompressionPlan(
        tuple((known.name, layer) for known in calibration.layers), reconstruct=reconstruct, **options
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_units_come_closer(name: str) -> None:
    model = network(name)
    calibration = calibrate(model, smooth_images(64))
    fitted = convert(model, plan_of(calibration, Reconstruction(60, 32), bias="match"), calibration)
    errors = fitted.report.unit_errors
    assert len(errors) == len(find_units(trace(network(name)), [x.name for x in calibration.layers]))
    assert any(after < 0.95 * before for before, after in errors.values())
    scores = fitted.report.divergence
    assert fitted.report.kept == min(scores, key=lambda kind: scores[kind])


def held_out_error(model: nn.Module, fitted: nn.Module, batch: torch.Tensor) -> float:
    held = torch.arange(len(batch)) % 8 == 7
    with torch.no_grad():
        expected, got = model(batch[held]), fitted(batch[held])
        return float((got - expected).square().mean() / model(batch).square().mean())


@pytest.mark.parametrize("config", [TernaryConfig(1), UniformConfig(3), BitColumnsConfig()], ids=str)
def test_the_errors_reported_are_those_of_the_unit_on_images_held_out(
    pool: Lanes, config: MethodConfig
) -> None:
    """A network of one unit: its output is the unit's. Wherever that rose, the unit is as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten()).eval()
    batch = smooth_images(48)
    calibration = calibrate(model, batch)
    layers = (("0", LayerPlan(config)),)
    with torch.no_grad():
        plain, fitted = (
            Conversion(model, CompressionPlan(layers, reconstruct=r), calibration, {}, pool).run()
            for r in (None, Reconstruction(100, 32))
        )
    ((before, after),) = fitted.report.unit_errors.values()
    assert before == pytest.approx(held_out_error(model, plain, batch), rel=1e-4)
    if after < before:
        assert after == pytest.approx(held_out_error(model, fitted, batch), rel=1e-4)
    else:
        assert fitted.tensors["0"].digest() == plain.tensors["0"].digest()
    assert (after < before) or isinstance(config, BitColumnsConfig)


def test_a_unit_that_got_worse_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("residual")
    calibration = calibrate(model, images(40))
    plain = convert(model, plan_of(calibration, None), calibration)
    monkeypatch.setattr(module, "_RATE", 5.0)
    wild = convert(model, plan_of(calibration, Reconstruction(6, 16)), calibration)
    worse = [after >= before for before, after in wild.report.unit_errors.values()]
    assert all(worse)
    assert {n: t.digest() for n, t in wild.tensors.items()} == {
        n: t.digest() for n, t in plain.tensors.items()
    }
    state = wild.network.state_dict()
    for key, value in plain.network.state_dict().items():
        assert torch.equal(state[key], value), key


def test_two_outputs_are_left_as_they_are_behind_the_trunk() -> None:
    model = TwoHeads().eval()
    calibration = calibrate(model, images(20))
    fitted = convert(model, plan_of(calibration, Reconstruction(5, 8)), calibration)
    assert set(fitted.report.unit_errors) == {"flatten"}
    left, right = fitted(images(3))
    assert left.shape == (3, 3) and right.shape == (3, 2)
    assert fitted.report.divergence["as planned"] > 0


class DeadEnd(nn.Module):
    """A layer that nothing reads beside one that is the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.unread = nn.Conv2d(4, 4, 3)
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        self.unread(x)
        return self.last(x.mean((2, 3)))


def test_a_layer_that_nothing_reads() -> None:
    model, batch = DeadEnd().eval(), images()
    layers = tuple((name, LayerPlan(TernaryConfig(1))) for name in ("first", "unread", "last"))
    plan = CompressionPlan(layers, reconstruct=Reconstruction(steps=3))
    converted = convert(model, plan, calibrate(model, batch))
    assert set(converted.tensors) == {"first", "unread", "last"}
