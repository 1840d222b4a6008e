"""Ternary planes: against brute force and against the published oracles."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from contracts import CompressorContract, gauss
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compressors.errors import ConfigError
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig, optimal_ternary, residual_terms
from compressors.registry import compress

DISTRIBUTIONS = {"gauss": stats.norm(), "laplace": stats.laplace(), "uniform": stats.uniform(-1, 2)}


def population(name: str) -> np.ndarray:
    """400,000 weights in one channel that follow the distribution without sampling noise."""
    count = 400_000
    return DISTRIBUTIONS[name].ppf((np.arange(count) + 0.5) / count)[None]


class TestTernary(CompressorContract):
    ladder = [TernaryConfig(1), TernaryConfig(2), TernaryConfig(3), TernaryConfig(8)]

    def code_range(self, config: TernaryConfig) -> tuple[int, int]:
        return -1, 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6))
def test_no_choice_of_codes_does_better(row: list[float]) -> None:
    weight = np.array([row])
    codes, scale = optimal_ternary(weight)
    error = ((weight - scale[:, None] * codes) ** 2).sum()
    assert error == pytest.approx(naive.least_ternary_error(row), rel=1e-9, abs=1e-12)


# relative squared error and share of zeros of the exact optimum, then residual terms 2, 3, 4, tabulated from one
# draw of 1e6 samples: with heavy tails the last of them moves by 1.5 % from draw to draw
ORACLES = {
    "gauss": (0.1901, 0.459, (0.0419, 0.0178, 0.0069)),
    "laplace": (0.2642, 0.632, (0.0823, 0.0382, 0.0121)),
    "uniform": (0.1113, 0.333, (0.0124, 0.0014, 0.0002)),
}


@pytest.mark.parametrize("name", ORACLES)
def test_oracles(name: str) -> None:
    error, zeros, residual = ORACLES[name]
    weight = population(name)
    tensors = [compress(weight, TernaryConfig(terms)) for terms in (1, 2, 3, 4)]
    errors = [naive.relative_mse(weight, tensor.to_dense()) for tensor in tensors]
    assert errors[0] == pytest.approx(error, rel=0.01)
    assert tensors[0].sparsity == pytest.approx(zeros, abs=0.01)
    for got, expected in zip(errors[1:], residual, strict=True):
        assert got == pytest.approx(expected, rel=0.015, abs=5e-5)


def test_hand_worked_row() -> None:
    # supports by size: 5**2/1 = 25, 9**2/2 = 40.5, 10**2/3 = 33.3, 10**2/4 = 25: the two largest, scale 4.5;
    # what is left is [0.5, -0.5, 1, 0]: 1, 1.5**2/2 = 1.125, 2**2/3 = 1.333: all three, scale 2/3
    tensor = compress(np.array([[5.0, 4.0, 1.0, 0.0]]), TernaryConfig(2))
    assert tensor.codes()[:, 0].tolist() == [[1, 1, 0, 0], [1, -1, 1, 0]]
    assert tensor.scale[:, 0, 0] == pytest.approx([4.5, 2 / 3])


def test_later_terms_fit_what_the_stored_scales_left_over() -> None:
    weight = gauss(4, 30).astype(np.float64)
    codes, scale = residual_terms(weight, np.ones(weight.shape, bool), 3)
    assert scale.dtype == np.float32  # as stored
    rest = weight - (scale[:2, :, None].astype(np.float64) * codes[:2]).sum(0)
    last, last_scale = optimal_ternary(rest)
    assert np.array_equal(codes[2], last)
    assert np.array_equal(scale[2], last_scale.astype(np.float32))


def test_never_worse_than_binary() -> None:
    weight = gauss(8, 40)
    ternary, binary = (compress(weight, c(1)).to_dense() for c in (TernaryConfig, BinaryConfig))
    assert np.all(((weight - ternary) ** 2).sum(1) <= ((weight - binary) ** 2).sum(1) + 1e-9)


def test_signs_follow_the_weights() -> None:
    weight = gauss(3, 50)
    codes = compress(weight, TernaryConfig(1)).codes()[0]
    assert np.all(codes * weight >= 0)


@pytest.mark.parametrize("terms", [0, 9, -1, 1.0, "2", None, True, [1]])
def test_terms_out_of_range(terms: object) -> None:
    with pytest.raises(ConfigError, match="ternary.terms=.*integer from 1 to 8"):
        TernaryConfig(terms)  # type: ignore[arg-type]
