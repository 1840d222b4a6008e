"""Activation grids: rounding against plain Python, the scale against an exhaustive search."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.calibration.activation import ActivationGrid, InputStatistics, choose_grid
from compressors.clipping import aciq_multiple
from compressors.errors import ConfigError
from compressors.plan import ActivationConfig


def statistics(values: np.ndarray) -> InputStatistics:
    sample = np.sort(values.astype(np.float32))
    return InputStatistics(float(sample[0]), float(sample[-1]), sample)


def draw(name: str, count: int = 400) -> np.ndarray:
    values = np.random.default_rng(5).standard_normal(count)
    return {"signed": values, "rectified": np.maximum(values, 0), "positive": np.abs(values)}[name]


def error(grid: ActivationGrid, values: np.ndarray) -> float:
    rounded = grid.round(torch.from_numpy(values.astype(np.float32))).numpy()
    return float(((rounded.astype(np.float64) - values) ** 2).sum())


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 8),
    st.booleans(),
    st.floats(2**-13, 2**10, width=32),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
)
def test_rounding_goes_to_a_nearest_point(bits: int, signed: bool, scale: float, values: list[float]) -> None:
    grid = ActivationGrid(bits, signed, scale)
    rounded = grid.round(torch.tensor(values))
    codes = grid.codes(rounded)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    assert (grid.low, grid.high) == (low, high)
    assert codes.min() >= low and codes.max() <= high
    assert rounded.numpy() == pytest.approx(codes * np.float32(scale), rel=1e-6)
    got = float(((rounded.double().numpy() - np.array(values)) ** 2).sum())
    assert got == pytest.approx(naive.grid_error(values, scale, low, high), rel=1e-3, abs=1e-6 * scale**2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.booleans(), st.floats(2**-13, 2**10, width=32))
def test_every_code_survives_rounding(bits: int, signed: bool, scale: float) -> None:
    grid = ActivationGrid(bits, signed, scale)
    codes = torch.arange(grid.low, grid.high + 1)
    values = codes.float() * scale
    assert torch.equal(grid.round(values), values)
    assert grid.codes(values).tolist() == codes.tolist()


@pytest.mark.parametrize("name", ["signed", "rectified", "positive"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_scale_against_a_fine_search(name: str, bits: int) -> None:
    values = draw(name)
    grid = choose_grid(statistics(values), ActivationConfig(bits))
    assert grid.signed == (name == "signed")
    scales = np.linspace(0.005, 1.2, 300) * np.abs(values).max() / max(grid.high, 1)
    best = min(naive.grid_error(values, scale, grid.low, grid.high) for scale in scales)
    assert error(grid, values) <= 1.03 * best


@pytest.mark.parametrize("name", ["signed", "rectified", "positive"])
def test_finer_is_never_worse_and_mse_never_worse_than_minmax(name: str) -> None:
    values = draw(name, 3000)
    by_bits = [choose_grid(statistics(values), ActivationConfig(bits)) for bits in range(2, 9)]
    errors = [error(grid, values) for grid in by_bits]
    assert errors == sorted(errors, reverse=True)
    for bits, mse in zip(range(2, 9), errors, strict=True):
        minmax = error(choose_grid(statistics(values), ActivationConfig(bits, "minmax")), values)
        assert mse <= minmax * (1 + 1e-6)


@pytest.mark.parametrize("name", ["signed", "positive"])
def test_minmax_clips_nothing(name: str) -> None:
    values = draw(name)
    grid = choose_grid(statistics(values), ActivationConfig(5, "minmax"))
    rounded = grid.round(torch.from_numpy(values.astype(np.float32))).numpy()
    assert np.abs(rounded - values).max() <= grid.scale / 2 * (1 + 1e-4)


def test_minmax_by_hand() -> None:
    unsigned = choose_grid(statistics(np.array([0.0, 3.0])), ActivationConfig(2, "minmax"))
    assert unsigned == ActivationGrid(2, False, 1.0)  # 3 over the largest code, 3
    signed = choose_grid(statistics(np.array([-7.0, 3.0])), ActivationConfig(4, "minmax"))
    assert signed == ActivationGrid(4, True, 1.0)  # 7 over the largest code of a signed grid, 7


def test_the_scale_is_a_float32() -> None:
    for bits in range(1, 9):
        scale = choose_grid(statistics(draw("positive")), ActivationConfig(bits)).scale
        assert scale == float(np.float32(scale))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1e-32, 1e30])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_extreme_inputs_stay_finite(value: float, bits: int) -> None:
    values = np.array([0.0, value, value / 2])
    grid = choose_grid(statistics(values), ActivationConfig(bits))
    assert 0 < grid.scale < np.inf
    rounded = grid.round(torch.tensor(values, dtype=torch.float32))
    assert torch.isfinite(rounded).all()
    assert rounded[0] == 0.0


def test_one_bit() -> None:
    assert choose_grid(statistics(draw("positive")), ActivationConfig(1)).high == 1
    signed = choose_grid(statistics(draw("signed")), ActivationConfig(1))
    assert (signed.low, signed.high) == (-1, 0)


@pytest.mark.parametrize("bits", [0, 9, True, "8", None, 4.0])
def test_bits_out_of_range(bits: object) -> None:
    with pytest.raises(ConfigError, match="activation.bits=.*integer from 1 to 8"):
        ActivationConfig(bits)  # type: ignore[arg-type]


CLIPS = ("percentile", "kl", "aciq")


def test_percentile_covers_all_but_a_ten_thousandth() -> None:
    values = np.append(np.random.default_rng(0).random(29_999), 1000.0)
    grid = choose_grid(statistics(values), ActivationConfig(8, "percentile"))
    reach = grid.scale * grid.high
    assert 0.999 < reach <= 1.0
    assert (values > reach).sum() in (3, 4)  # 0.01 % of 30,000


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
def test_aciq_takes_the_analytic_point(bits: int, distribution: str) -> None:
    rng = np.random.default_rng(1)
    values = (
        rng.laplace(scale=3.0, size=30_000) if distribution == "laplace" else rng.normal(0.0, 3.0, 30_000)
    )
    signed = choose_grid(statistics(values), ActivationConfig(bits, "aciq"))
    assert signed.scale * signed.high == pytest.approx(3.0 * aciq_multiple(bits, distribution), rel=0.03)
    rectified = choose_grid(statistics(np.maximum(values, 0)), ActivationConfig(bits, "aciq"))
    # all levels on one side: that of one bit more
    assert rectified.scale * rectified.high == pytest.approx(
        3.0 * aciq_multiple(bits + 1, distribution), rel=0.03
    )


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", ["signed", "rectified", "positive"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_clipping_points_are_within_the_range(clip: str, name: str, bits: int) -> None:
    values = draw(name, 5000)
    grid = choose_grid(statistics(values), ActivationConfig(bits, clip))
    whole = choose_grid(statistics(values), ActivationConfig(bits, "minmax"))
    assert grid.signed == (name == "signed") and grid.scale == float(np.float32(grid.scale))
    assert 0.1 * whole.scale < grid.scale <= whole.scale


@pytest.mark.parametrize("clip", CLIPS)
def test_an_outlier_does_not_stretch_the_grid(clip: str) -> None:
    values = np.append(draw("positive", 30_000), 100.0)
    errors = [
        error(choose_grid(statistics(values), ActivationConfig(4, c)), values[:-1]) for c in (clip, "minmax")
    ]
    assert errors[0] < 0.1 * errors[1]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("values", [[0.0], [0.0, 1e-45], [2.0], [0.0, 1e30], [-1e-30, 0.0], [-3.0, -3.0]])
def test_few_and_extreme_values_have_a_grid(clip: str, values: list[float]) -> None:
    grid = choose_grid(statistics(np.array(values)), ActivationConfig(4, clip))
    assert 0 < grid.scale < np.inf
    assert torch.isfinite(grid.round(torch.tensor(values, dtype=torch.float32))).all()


@pytest.mark.parametrize("clip", CLIPS)
def test_a_sample_that_missed_all_but_zeros_falls_back_to_the_range(clip: str) -> None:
    seen = InputStatistics(0.0, 3.0, np.zeros(100, np.float32))
    assert choose_grid(seen, ActivationConfig(2, clip)) == ActivationGrid(2, False, 1.0)


def test_unknown_clips_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="activation.clip=entropy: expected mse or minmax or percentile or kl or aciq"
    ):
        ActivationConfig(8, "entropy")
