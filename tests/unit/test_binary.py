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


class TestBinaryRefinements(TestBinary):
    ladder = [BinaryConfig(2), BinaryConfig(2, "least_squares"), BinaryConfig(2, "joint")]


class TestBinaryJoint(TestBinary):
    ladder = [BinaryConfig(terms, "joint") for terms in (1, 3, 6)]


class TestBinaryGroups(TestBinary):
    ladder = [BinaryConfig(1), BinaryConfig(1, group=8)]


class TestBinaryPerTensor(TestBinary):
    ladder = [BinaryConfig(1, per="tensor"), BinaryConfig(1)]

    def test_channels_are_independent(self, config: BinaryConfig) -> None:
        if config.per == "channel":
            super().test_channels_are_independent(config)
        scale = compress(gauss(5, 33), BinaryConfig(2, per="tensor", refine="joint")).scale
        assert scale.shape == (2, 5, 1) and np.all(scale == scale[:, :1])

    def test_rows_of_zeros(self, config: BinaryConfig) -> None:
        if config.per == "channel":
            super().test_rows_of_zeros(config)
        zeros = np.zeros((2, 3), np.float32)  # a row of zeros among others has signs like them
        assert not compress(zeros, BinaryConfig(2, per="tensor", refine="joint")).to_dense().any()


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


# the least error of any 4 levels (Max, Quantizing for minimum distortion, 1960, and its Laplace counterpart), which two
# planes reach because the levels of a symmetric distribution are +-a +-b
BEST_OF_FOUR = {"gauss": 0.1175, "laplace": 0.1762, "uniform": 0.0625}


@pytest.mark.parametrize("name", BEST_OF_FOUR)
def test_two_joint_planes_are_the_best_four_levels(name: str) -> None:
    weight = population(name)
    got = naive.relative_mse(weight, compress(weight, BinaryConfig(2, "joint")).to_dense())
    assert got == pytest.approx(BEST_OF_FOUR[name], rel=0.003)


@pytest.mark.parametrize("refine", ["greedy", "least_squares", "joint"])
def test_groups_are_channels_of_their_own(refine: str) -> None:
    weight = gauss(4, 60)
    keep = weight > -1
    whole = compress(weight, BinaryConfig(2, refine, group=16), keep)
    parts = compress(weight.reshape(16, 15), BinaryConfig(2, refine), keep.reshape(16, 15))
    assert whole.scale.shape == (2, 4, 4)
    assert np.array_equal(whole.to_dense(), parts.to_dense().reshape(4, 60))


@pytest.mark.parametrize("refine", ["greedy", "least_squares", "joint"])
def test_pruned_weights_have_no_sign_and_the_others_do(refine: str) -> None:
    weight = gauss(3, 40)
    keep = np.random.default_rng(1).random(weight.shape) < 0.6
    codes = compress(weight, BinaryConfig(3, refine), keep).codes()
    assert np.array_equal(np.abs(codes), np.broadcast_to(keep, codes.shape))


@pytest.mark.parametrize("terms", [2, 3, 8])
def test_least_squares_scales_are_those_of_the_whole_system(terms: int) -> None:
    weight = gauss(3, 40).astype(np.float64)
    tensor = compress(weight, BinaryConfig(terms, "least_squares"))
    for row, codes, scale in zip(
        weight, tensor.codes().transpose(1, 2, 0), tensor.scale[:, :, 0].T, strict=True
    ):
        solved = np.linalg.lstsq(codes.astype(float), row, rcond=None)[0]
        least = ((row - codes @ solved) ** 2).sum()
        assert ((row - codes @ scale.astype(float)) ** 2).sum() <= least * (1 + 1e-6)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"refine": "best"}, "binary.refine=best: expected greedy, least_squares or joint"),
        ({"per": 0}, "binary.per=0: expected channel or tensor"),
        ({"group": 1.5}, "binary.group=1.5"),
        ({"group": 4, "per": "tensor"}, "binary.group=4: expected 0 where binary.per=tensor"),
        ({"terms": 7, "refine": "joint"}, "binary.terms=7: expected at most 6 with binary.refine=joint"),
    ],
)
def test_settings_out_of_range(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BinaryConfig(**settings_)  # type: ignore[arg-type]
