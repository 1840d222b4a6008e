"""Activation grids: rounding against plain Python, the scale against an exhaustive search."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.calibration.activation import ActivationGrid, InputStatistics, choose_grid
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
