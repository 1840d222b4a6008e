"""Second-order rounding of layers: what it sees, against plain loops, and what it gains, on the layer's output."""

from __future__ import annotations

from collections.abc import Iterator

import naive
import numpy as np
import pytest
import torch
from contracts import gauss
from torch import nn

from compressors.calibration.activation import ActivationGrid
from compressors.calibration.second_order import (
    DAMPING,
    columns,
    fitted_grid,
    input_moments,
    output_error,
    prune_second_order,
    round_second_order,
    target_weights,
)
from compressors.calibration.stream import CHUNK
from compressors.methods.binary import BinaryConfig
from compressors.methods.bit_columns import BitColumnsConfig
from compressors.methods.kmeans import KmeansConfig
from compressors.methods.prune import keep_mask
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.parallel import Lanes, lanes
from compressors.registry import MethodConfig, alphabet, compress, make_config, method_names

LAYERS: dict[str, nn.Module] = {
    "plain": nn.Conv2d(4, 6, 3),
    "stride": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "uneven": nn.Conv2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 0)),
    "dilation": nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "same": nn.Conv2d(4, 6, (5, 3), padding="same"),
    "same and dilated": nn.Conv2d(4, 6, 2, padding="same", dilation=2),
    "valid": nn.Conv2d(4, 6, 2, padding="valid"),
    "groups": nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(4, 4, 3, stride=2, groups=4),
    "twice as many": nn.Conv2d(4, 8, 3, groups=4),
    "pointwise": nn.Conv2d(4, 6, 1),
    "linear": nn.Linear(9, 6),
    "linear on rows": nn.Linear(9, 6),
}


@pytest.fixture
def pool() -> Iterator[Lanes]:
    with torch.no_grad(), lanes() as opened:
        yield opened


def batch(name: str, count: int = 5, seed: int = 0) -> torch.Tensor:
    shape = {"linear": (9,), "linear on rows": (3, 9)}.get(name, (4, 8, 9))
    values = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    # correlated, and not centred, as inputs behind a ReLU are
    return torch.relu(values + 0.5 * values.roll(1, -1) + 0.3)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_columns_times_weights_are_the_layers_output(name: str) -> None:
    layer, x = LAYERS[name], batch(name)
    expected = layer(x)
    weight = layer.weight.reshape(getattr(layer, "groups", 1), -1, layer.weight[0].numel())
    found = columns(layer, x)
    output = (found @ weight.transpose(1, 2)).permute(1, 0, 2).reshape(found.shape[1], -1) + layer.bias
    if isinstance(layer, nn.Conv2d):
        expected = expected.permute(0, 2, 3, 1)
    assert torch.allclose(output, expected.reshape(-1, len(layer.weight)), atol=1e-5)


@pytest.mark.parametrize("turn", [0, 1, 3, 4])
@pytest.mark.parametrize("name", ["plain", "stride", "dilation", "same", "depthwise", "uneven"])
@torch.no_grad()
def test_thinned_columns_are_some_of_the_output_positions(name: str, turn: int) -> None:
    layer, x = LAYERS[name], batch(name, 2)
    height, width = layer(x).shape[2:]
    every = columns(layer, x).reshape(layer.groups, 2, height, width, -1)
    first = min(turn // 2 % 2, height - 1), min(turn % 2, width - 1)
    expected = every[:, :, first[0] :: 2, first[1] :: 2]
    assert torch.equal(columns(layer, x, 2, turn), expected.reshape(layer.groups, -1, every.shape[-1]))


def plain_moments(
    name: str, layer: nn.Module, x: torch.Tensor, z: torch.Tensor, centred: bool
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Undamped ``E[z z']``, ``E[x z']``, ``E[x x']`` of each group."""
    found = []
    groups = getattr(layer, "groups", 1)
    for g in range(groups):
        sides = []
        for values in (x, z):
            if name == "linear":
                rows = values.numpy().astype(np.float64)
            else:
                split = values.numpy().astype(np.float64)
                split = split.reshape(len(split), groups, -1, *split.shape[2:])[:, g]
                settings = (layer.kernel_size, layer.stride[0], layer.padding[0], layer.dilation[0])
                rows = np.concatenate([naive.patches(image, *settings) for image in split])
            sides.append(rows - rows.mean(0) if centred else rows)
        flat, own = sides
        found.append(tuple(a.T @ b / len(own) for a, b in ((own, own), (flat, own), (flat, flat))))
    return found


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", ["plain", "stride", "dilation", "groups", "depthwise", "linear"])
def test_moments_are_those_of_plain_loops(pool: Lanes, name: str, centred: bool) -> None:
    layer, x, z = LAYERS[name], batch(name, 70), batch(name, 70, seed=1) * 0.5 + batch(name, 70)
    moments = input_moments(layer, x.split(CHUNK), z.split(CHUNK), centred=centred, lanes=pool)
    for g, (own, cross, flat) in enumerate(plain_moments(name, layer, x, z, centred)):
        damping = DAMPING * np.trace(own) / len(own) * np.eye(len(own))
        for got, expected in ((moments.second, own), (moments.cross, cross), (moments.flat, flat)):
            assert got[g].numpy() == pytest.approx(expected + damping, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("shift", [3.0, 1000.0])
def test_centred_moments_do_not_see_a_shift(pool: Lanes, shift: float) -> None:
    """But for what single precision cannot tell from rounding, which is added to the diagonal."""
    layer, x = LAYERS["pointwise"], batch("pointwise", 40)
    near, far = (
        input_moments(layer, x.split(CHUNK), (x + s).split(CHUNK), centred=True, lanes=pool)
        for s in (0, shift)
    )
    slack = 1e-4 + 1.5e-8 * shift**2
    assert torch.allclose(far.second, near.second, atol=slack)
    assert torch.allclose(far.cross, near.cross, atol=slack)
    seen = input_moments(layer, x.split(CHUNK), (x + shift).split(CHUNK), centred=False, lanes=pool)
    assert not torch.allclose(seen.second, near.second, rtol=0.5)


@pytest.mark.parametrize("value", [0.0, 0.1, -30.0, 1e6, 1e-20])
@pytest.mark.parametrize("centred", [True, False])
def test_constant_inputs_have_usable_moments(pool: Lanes, value: float, centred: bool) -> None:
    x = torch.full((130, 4, 8, 9), value) * torch.tensor([1.0, 0.7, -0.3, 0.0])[:, None, None]
    for layer in (LAYERS["pointwise"], LAYERS["plain"], LAYERS["depthwise"]):
        moments = input_moments(layer, x.split(CHUNK), x.split(CHUNK), centred=centred, lanes=pool)
        torch.linalg.cholesky(moments.second)  # positive definite
        weight = layer.weight.numpy().astype(np.float64).reshape(len(layer.weight), -1)
        assert target_weights(weight, moments) == pytest.approx(weight, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["groups", "linear", "depthwise"])
def test_the_target_is_ridge_regression_towards_the_weights(pool: Lanes, name: str) -> None:
    """``w*`` minimises ``|X w - Z q|^2 + ridge |w - q|^2``, solved here as one tall least-squares problem."""
    layer, x = LAYERS[name], batch(name, 30)
    z = torch.round(4 * x) / 4 + 0.1
    moments = input_moments(layer, [x], [z], centred=False, lanes=pool)
    weight = layer.weight.numpy().astype(np.float64).reshape(len(layer.weight), -1)
    target = target_weights(weight, moments)
    flat, own = (columns(layer, v).double().numpy() for v in (x, z))
    size = len(weight) // len(own)
    for n, row in enumerate(weight):
        c = n // size
        count, width = own[c].shape
        ridge = np.sqrt(DAMPING * np.mean(own[c] ** 2) * count) * np.eye(width)
        tall, right = np.vstack([own[c], ridge]), np.concatenate([flat[c] @ row, ridge @ row])
        assert target[n] == pytest.approx(np.linalg.lstsq(tall, right, rcond=None)[0], rel=1e-4, abs=1e-6)


def test_output_error_is_that_of_the_output(pool: Lanes) -> None:
    layer, x = LAYERS["groups"], batch("groups", 30)
    moments = input_moments(layer, [x], [x], centred=False, lanes=pool)
    weight = layer.weight.numpy().astype(np.float64).reshape(6, -1)
    other = np.round(weight * 8) / 8
    error = energy = 0.0
    for c, rows in enumerate(columns(layer, x).double().numpy()):
        part = slice(3 * c, 3 * c + 3)
        noise = DAMPING * np.mean(rows**2) * len(rows)  # the damping counts as an input of its own
        error += ((rows @ (weight - other)[part].T) ** 2).sum() + noise * ((weight - other)[part] ** 2).sum()
        energy += ((rows @ weight[part].T) ** 2).sum() + noise * (weight[part] ** 2).sum()
    assert output_error(weight, other, moments) == pytest.approx(error / energy, rel=1e-4)
    assert output_error(weight, weight, moments) == pytest.approx(0.0, abs=1e-9)
    assert output_error(weight, 0 * weight, moments) == pytest.approx(1.0)


CONFIGS: list[MethodConfig] = [
    TernaryConfig(2),
    TernaryConfig(3, refine="joint"),
    TernaryConfig(1, asymmetric=True),
    TernaryConfig(1, group=9),
    TernaryConfig(1, per="tensor"),
    BinaryConfig(2),
    BinaryConfig(2, group=12),
    UniformConfig(3, symmetric=False),
    UniformConfig(2, group=9),
    UniformConfig(4, per="tensor"),
    KmeansConfig(2),
    BitColumnsConfig(),
]


def every_method() -> list[MethodConfig]:
    return [make_config(name, {}) for name in method_names()]


def setting(name: str = "plain") -> tuple[nn.Module, np.ndarray, torch.Tensor]:
    layer = LAYERS[name]
    return layer, gauss(*layer.weight.shape, seed=5).astype(np.float64), batch(name, 64)


def errors(layer: nn.Module, weight: np.ndarray, dense: np.ndarray, x: torch.Tensor) -> float:
    """Squared error of the output, without the mean of each channel."""
    flat = columns(layer, x).double()
    gap = torch.from_numpy(dense.astype(np.float64) - weight).reshape(len(flat), -1, flat.shape[2])
    output = flat @ gap.transpose(1, 2)
    return float((output - output.mean(1, keepdim=True)).square().sum())


@pytest.mark.parametrize("config", [*every_method(), *CONFIGS], ids=str)
def test_the_output_is_closer_than_rounded_to_nearest(pool: Lanes, config: MethodConfig) -> None:
    layer, weight, x = setting()
    moments = input_moments(layer, [x], [x], centred=True, lanes=pool)
    keep = np.ones(weight.shape, bool)
    keep[1, 2] = keep[3] = False
    nearest = compress(weight, config, keep)
    rounded = round_second_order(weight, config, keep, moments, pool)
    assert errors(layer, weight, rounded.to_dense(), x) <= errors(layer, weight, nearest.to_dense(), x)
    assert rounded.shape == nearest.shape and rounded.encoding == nearest.encoding
    assert rounded.scale.shape == nearest.scale.shape and np.isfinite(rounded.scale).all()
    assert not rounded.digits()[:, ~keep.reshape(6, -1)].any()
    allowed = np.broadcast_to(
        alphabet(nearest, config),
        (nearest.terms, 6, nearest.scale.shape[2], alphabet(nearest, config).shape[3]),
    )
    codes = rounded.codes().reshape(nearest.terms, 6, nearest.scale.shape[2], -1)
    found = (codes[..., None] == allowed[:, :, :, None]).all(0).any(-1)
    zero = (codes == 0).all(0)
    assert (found | zero).all()
    if getattr(config, "per", "") == "tensor":
        assert (rounded.scale == rounded.scale[:, :1]).all()


@pytest.mark.parametrize("config", [TernaryConfig(1), UniformConfig(2), BinaryConfig(1)], ids=str)
@pytest.mark.parametrize("name", ["groups", "depthwise", "twice as many", "linear"])
def test_coarse_grids_gain_on_every_kind_of_layer(pool: Lanes, config: MethodConfig, name: str) -> None:
    layer, weight, x = setting(name)
    moments = input_moments(layer, [x], [x], centred=True, lanes=pool)
    keep = np.ones(weight.shape, bool)
    rounded = round_second_order(weight, config, keep, moments, pool).to_dense()
    nearest = compress(weight, config).to_dense()
    assert errors(layer, weight, rounded, x) < errors(layer, weight, nearest, x)


@pytest.mark.parametrize("pattern", ["element", "2:4", "2x3"])
def test_pruning_costs_less_than_by_magnitude(pool: Lanes, pattern: str) -> None:
    layer, weight, x = setting("groups")
    moments = input_moments(layer, [x], [x], centred=False, lanes=pool)
    keep, fitted = prune_second_order(weight, 0.5, pattern, moments, pool)
    by_size = keep_mask(np.abs(weight), 0.5, pattern)
    assert keep.sum() == by_size.sum() and not fitted[~keep].any()
    rows = weight.reshape(6, -1)
    pruned = output_error(rows, fitted.reshape(rows.shape), moments)
    assert pruned < 0.8 * output_error(rows, np.where(by_size, weight, 0.0).reshape(rows.shape), moments)
    assert pruned < output_error(rows, np.where(keep, weight, 0.0).reshape(rows.shape), moments)


def test_nothing_to_prune_changes_nothing(pool: Lanes) -> None:
    layer, weight, x = setting()
    moments = input_moments(layer, [x], [x], centred=False, lanes=pool)
    keep, fitted = prune_second_order(weight, 0.0, "element", moments, pool)
    assert keep.all() and np.array_equal(fitted, weight)


def test_a_row_of_zeros_has_no_digits(pool: Lanes) -> None:
    layer, weight, x = setting()
    weight[2] = 0.0
    moments = input_moments(layer, [x], [x], centred=True, lanes=pool)
    for config in (TernaryConfig(2), UniformConfig(4), KmeansConfig(2)):
        rounded = round_second_order(weight, config, np.ones(weight.shape, bool), moments, pool)
        assert not rounded.to_dense()[2].any() and not rounded.digits()[:, 2].any()


def test_an_inputs_grid_reaches_for_what_the_weights_read(pool: Lanes) -> None:
    inputs = torch.rand(300, 8, generator=torch.Generator().manual_seed(0))
    inputs[:, 0] *= 1.4  # beyond the grid, which fits the others
    layer = nn.Linear(8, 3)
    chunks = list(inputs.split(CHUNK))
    start = ActivationGrid(4, signed=False, scale=1.0 / 15)

    def chosen(column: int) -> ActivationGrid:
        layer.weight.zero_()
        layer.weight[:, column] = torch.tensor([1.0, -0.5, 2.0])
        return fitted_grid(start, layer, chunks, chunks, centred=True, lanes=pool)

    def lost(grid: ActivationGrid, column: int) -> float:
        x, q = inputs[:, column].double(), grid.round(inputs)[:, column].double()
        return float(1.0 - np.corrcoef(x.numpy(), q.numpy())[0, 1] ** 2)

    far, near = chosen(0), chosen(5)
    assert far.scale > 1.15 * start.scale
    assert near.scale < far.scale
    assert lost(far, 0) < lost(start, 0)
    assert (far.bits, far.signed) == (start.bits, start.signed)
