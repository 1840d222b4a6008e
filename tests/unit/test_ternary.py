"""Ternary planes: against brute force and against the published oracles."""

from __future__ import annotations

import itertools

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
from compressors.registry import alphabet, compress
from compressors.tensor import SlicedTensor

DISTRIBUTIONS = {"gauss": stats.norm(), "laplace": stats.laplace(), "uniform": stats.uniform(-1, 2)}


def population(name: str) -> np.ndarray:
    """400,000 weights in one channel that follow the distribution without sampling noise."""
    count = 400_000
    return DISTRIBUTIONS[name].ppf((np.arange(count) + 0.5) / count)[None]


class TestTernary(CompressorContract):
    ladder = [TernaryConfig(1), TernaryConfig(2), TernaryConfig(3), TernaryConfig(8)]

    def code_range(self, config: TernaryConfig) -> tuple[int, int]:
        return -1, 1


class TestTernaryRules(TestTernary):
    ladder = [TernaryConfig(1, "twn"), TernaryConfig(1), TernaryConfig(1, asymmetric=True)]


class TestTernaryRefinements(TestTernary):
    ladder = [
        TernaryConfig(2),
        TernaryConfig(2, refine="least_squares"),
        TernaryConfig(2, refine="joint"),
        TernaryConfig(2, refine="joint", asymmetric=True),
    ]


class TestTernaryJoint(TestTernary):
    ladder = [TernaryConfig(terms, refine="joint") for terms in (1, 2, 4)]


class TestTernaryGroups(TestTernary):
    ladder = [TernaryConfig(1), TernaryConfig(1, group=8)]


class TestTernaryPerTensor(TestTernary):
    ladder = [TernaryConfig(1, per="tensor"), TernaryConfig(1)]

    def test_channels_are_independent(self, config: TernaryConfig) -> None:
        if config.per == "channel":
            super().test_channels_are_independent(config)
        scale = compress(gauss(5, 33), TernaryConfig(2, per="tensor", refine="joint")).scale
        assert scale.shape == (2, 5, 1) and np.all(scale == scale[:, :1])


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


def squared_error(weight: np.ndarray, tensor: SlicedTensor) -> np.ndarray:
    """Per row, against the weights before they are rounded to float32."""
    groups = tensor.scale.shape[2]
    codes = tensor.codes().reshape(*tensor.scale.shape, -1)
    dense = (tensor.scale.astype(np.float64)[..., None] * codes).sum(0).reshape(len(weight), -1)
    assert groups * codes.shape[3] == weight.shape[1]
    return ((weight - dense) ** 2).sum(1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6))
def test_no_choice_of_two_scales_does_better(row: list[float]) -> None:
    weight = np.array([row])
    least = np.inf
    for codes in itertools.product((-1, 0, 1), repeat=len(row)):
        sides = ([s * w for w, c in zip(row, codes, strict=True) if c == s] for s in (1, -1))
        used = sum(max(sum(side), 0.0) ** 2 / len(side) for side in sides if side)  # scales are not negative
        least = min(least, sum(w * w for w in row) - used)
    tensor = compress(weight, TernaryConfig(1, asymmetric=True))
    assert squared_error(weight, tensor)[0] == pytest.approx(least, rel=1e-6, abs=1e-11)
    assert tensor.codes()[0].min() >= 0 and tensor.codes()[1].max() <= 0
    assert np.all(tensor.scale >= 0)


def test_threshold_rule_hand_worked() -> None:
    # the mean of 1, 2, 3, 6 is 3, times 0.7 is 2.1: 3 and 6 stay, scale 4.5; the pruned 100 counts nowhere
    weight, keep = np.array([[1.0, -2.0, 3.0, -6.0, 100.0]]), np.array([[True, True, True, True, False]])
    tensor = compress(weight, TernaryConfig(1, "twn"), keep)
    assert tensor.codes()[0].tolist() == [[0, 0, 1, -1, 0]]
    assert tensor.scale.ravel().tolist() == [4.5]
    sides = compress(weight, TernaryConfig(1, "twn", asymmetric=True), keep)
    assert sides.codes()[:, 0].tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, -1, 0]]
    assert sides.scale.ravel().tolist() == [3.0, 6.0]


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("terms", [2, 3, 8])
def test_least_squares_scales_are_those_of_the_whole_system(terms: int, asymmetric: bool) -> None:
    weight = gauss(4, 40).astype(np.float64)
    keep = np.random.default_rng(1).random(weight.shape) < 0.8
    tensor = compress(weight, TernaryConfig(terms, refine="least_squares", asymmetric=asymmetric), keep)
    kept = np.where(keep, weight, 0.0)
    for row, codes, error in zip(
        kept, tensor.codes().transpose(1, 2, 0), squared_error(kept, tensor), strict=True
    ):
        solved = np.linalg.lstsq(codes.astype(float), row, rcond=None)[0]
        assert error <= ((row - codes @ solved) ** 2).sum() * (1 + 1e-6)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("terms", [1, 2, 3])
def test_alternation_ends_where_codes_and_scales_suit_each_other(terms: int, asymmetric: bool) -> None:
    weight = np.random.default_rng(terms).laplace(size=(5, 60))
    keep = np.random.default_rng(1).random(weight.shape) < 0.9
    config = TernaryConfig(terms, refine="joint", asymmetric=asymmetric)
    tensor = compress(weight, config, keep)
    kept = np.where(keep, weight, 0.0)
    errors = squared_error(kept, tensor)
    levels = (tensor.scale[:, :, 0, None] * alphabet(tensor, config)[:, 0, 0][:, None]).sum(0)
    for row, mask, codes, values, error in zip(
        kept, keep, tensor.codes().transpose(1, 2, 0), levels, errors, strict=True
    ):
        nearest = np.where(mask, np.abs(row[:, None] - values).min(1), 0.0)
        assert error == pytest.approx((nearest**2).sum(), rel=1e-6)
        solved = np.linalg.lstsq(codes.astype(float), row, rcond=None)[0]
        assert error <= ((row - codes @ solved) ** 2).sum() * (1 + 1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.integers(1, 4))
def test_alternation_survives_few_distinct_weights(row: list[int], terms: int) -> None:
    weight = np.array([row], np.float64)
    tensor = compress(weight, TernaryConfig(terms, refine="joint"))
    greedy = compress(weight, TernaryConfig(terms))
    assert squared_error(weight, tensor)[0] <= squared_error(weight, greedy)[0] + 1e-9
    assert not tensor.to_dense()[weight == 0].any()


@pytest.mark.parametrize("refine", ["greedy", "least_squares", "joint"])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_groups_are_channels_of_their_own(refine: str, asymmetric: bool) -> None:
    weight, config = gauss(4, 60), TernaryConfig(2, refine=refine, asymmetric=asymmetric)
    whole = compress(weight, TernaryConfig(2, refine=refine, asymmetric=asymmetric, group=16))
    assert whole.scale.shape[2] == 4  # 15 is the largest divisor of 60 up to 16
    parts = compress(weight.reshape(16, 15), config)
    assert np.array_equal(whole.to_dense(), parts.to_dense().reshape(4, 60))


def test_one_scale_in_all_channels_is_that_of_one_long_channel() -> None:
    weight = gauss(4, 20)
    tensor = compress(weight, TernaryConfig(2, per="tensor", refine="least_squares"))
    flat = compress(weight.reshape(1, 80), TernaryConfig(2, refine="least_squares"))
    assert np.array_equal(tensor.to_dense(), flat.to_dense().reshape(4, 20))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_every_code_tuple_is_in_the_alphabet(asymmetric: bool) -> None:
    for refine in ("greedy", "least_squares", "joint"):
        config = TernaryConfig(2, refine=refine, asymmetric=asymmetric)
        tensor = compress(gauss(3, 50), config)
        listed = {tuple(c) for c in alphabet(tensor, config)[:, 0, 0].T.tolist()}
        assert len(listed) == 9
        assert {tuple(c) for c in tensor.codes().reshape(len(tensor.scale), -1).T.tolist()} <= listed


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"rule": "best"}, "ternary.rule=best: expected optimal or twn"),
        ({"refine": 1}, "ternary.refine=1: expected greedy, least_squares or joint"),
        ({"per": "group"}, "ternary.per=group: expected channel or tensor"),
        ({"group": -1}, "ternary.group=-1"),
        ({"group": True}, "ternary.group=True"),
        ({"group": 4, "per": "tensor"}, "ternary.group=4: expected 0 where ternary.per=tensor"),
        ({"asymmetric": 1}, "ternary.asymmetric=1: expected true or false"),
        ({"terms": 5, "refine": "joint"}, "ternary.terms=5: expected at most 4 with ternary.refine=joint"),
    ],
)
def test_settings_out_of_range(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TernaryConfig(**settings_)  # type: ignore[arg-type]
