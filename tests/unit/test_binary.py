"""Binary sign planes: against brute force and against the published oracles."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from contracts import CompressorContract, gauss
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ternary import population

from compressors.errors import ConfigError
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import optimal_binary
from compressors.registry import compress


class TestBinary(CompressorContract):
    ladder = [BinaryConfig(1), BinaryConfig(2), BinaryConfig(3), BinaryConfig(8)]

    def code_range(self, config: BinaryConfig) -> tuple[int, int]:
        return -1, 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=8))
def test_no_choice_of_signs_does_better(row: list[float]) -> None:
    weight = np.array([row])
    codes, scale = optimal_binary(weight, np.ones(weight.shape, bool))
    error = ((weight - scale[:, None] * codes) ** 2).sum()
    assert np.all(np.abs(codes) == 1)
    assert error == pytest.approx(naive.least_binary_error(row), rel=1e-9, abs=1e-12)


# relative squared error with 1, 2, 3 and 4 planes
ORACLES = {
    "gauss": (0.3634, 0.1306, 0.0585, 0.0330),
    "laplace": (0.4999, 0.2293, 0.1424, 0.0950),
    "uniform": (0.2503, 0.0626, 0.0156, 0.0039),
}


@pytest.mark.parametrize("name", ORACLES)
def test_oracles(name: str) -> None:
    weight = population(name)
    for terms, expected in enumerate(ORACLES[name], 1):
        got = naive.relative_mse(weight, compress(weight, BinaryConfig(terms)).to_dense())
        assert got == pytest.approx(expected, rel=0.01, abs=5e-5)


def test_pruned_weights_do_not_move_the_scale() -> None:
    weight, keep = np.array([[3.0, -1.0, 100.0, 2.0]]), np.array([[True, True, False, True]])
    tensor = compress(weight, BinaryConfig(1), keep)
    assert tensor.codes()[0, 0].tolist() == [1, -1, 0, 1]
    assert tensor.scale[0, 0, 0] == 2.0  # (3 + 1 + 2) / 3


def test_every_kept_weight_has_a_sign() -> None:
    weight = gauss(3, 40)
    weight[1, 5] = 0.0
    assert np.all(np.abs(compress(weight, BinaryConfig(3)).codes()) == 1)


@pytest.mark.parametrize("terms", [0, 9, -1, 1.0, "2", None, True])
def test_terms_out_of_range(terms: object) -> None:
    with pytest.raises(ConfigError, match="binary.terms=.*integer from 1 to 8"):
        BinaryConfig(terms)  # type: ignore[arg-type]
