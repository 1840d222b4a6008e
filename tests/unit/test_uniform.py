"""The uniform grid: its scale against an exhaustive search, its bits against the published oracles."""

from __future__ import annotations

import itertools

import naive
import numpy as np
import pytest
from contracts import CompressorContract, gauss
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.clipping import aciq_multiple
from compressors.errors import ConfigError
from compressors.methods.uniform import CLIPS, UniformConfig
from compressors.registry import alphabet, compress
from compressors.slicing import reslice


class TestUniform(CompressorContract):
    ladder = [UniformConfig(bits) for bits in (2, 3, 4, 6, 8)]

    def code_range(self, config: UniformConfig) -> tuple[int, int]:
        return -(2 ** (config.bits - 1)), 2 ** (config.bits - 1) - 1


class TestUniformMinMax(CompressorContract):
    ladder = [UniformConfig(bits, "minmax") for bits in (2, 4, 8)]

    def code_range(self, config: UniformConfig) -> tuple[int, int]:
        return -(2 ** (config.bits - 1)), 2 ** (config.bits - 1) - 1


class TestUniformPoints(TestUniform):
    # finer is worse where a clipping point has little to do with the squared error, so every point is alone here
    ladder = [UniformConfig(4, clip) for clip in ("percentile", "kl", "aciq")]

    def test_finer_is_never_worse(self) -> None:
        for clip in ("percentile", "aciq"):
            weight = gauss(4, 400)
            errors = [
                naive.relative_mse(weight, compress(weight, UniformConfig(bits, clip)).to_dense())
                for bits in (3, 5, 8)
            ]
            assert errors[0] > 2 * errors[1] > 4 * errors[2]


class TestUniformAsymmetric(CompressorContract):
    ladder = [UniformConfig(bits, symmetric=False) for bits in (2, 3, 4, 8)]

    def code_range(self, config: UniformConfig) -> tuple[int, int]:
        return -(2**config.bits - 1), 2**config.bits - 1


class TestUniformAsymmetricPoints(TestUniformAsymmetric):
    ladder = [UniformConfig(4, clip, symmetric=False) for clip in ("minmax", "percentile", "kl", "aciq")]

    def test_finer_is_never_worse(self) -> None:
        for clip in ("minmax", "percentile", "aciq"):
            weight = gauss(4, 400)
            errors = [
                naive.relative_mse(weight, compress(weight, UniformConfig(b, clip, False)).to_dense())
                for b in (3, 5, 8)
            ]
            assert errors[0] > 2 * errors[1] > 4 * errors[2]


class TestUniformGroups(TestUniform):
    ladder = [UniformConfig(4), UniformConfig(4, group=9), UniformConfig(8, group=9)]


class TestUniformPerTensor(TestUniform):
    ladder = [UniformConfig(bits, per="tensor") for bits in (3, 8)]

    def test_channels_are_independent(self, config: UniformConfig) -> None:
        scale = compress(gauss(5, 33), config).scale
        assert scale.shape == (1, 5, 1) and np.all(scale == scale[:, :1])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_clip_against_a_fine_search(bits: int) -> None:
    weight = gauss(3, 48).astype(np.float64)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    got = ((weight - compress(weight, UniformConfig(bits)).to_dense()) ** 2).sum(1)
    for row, error in zip(weight, got, strict=True):
        largest = np.abs(row).max()
        scales = np.linspace(-1.2, 1.2, 800) * largest / high
        assert error <= 1.15 * min(naive.grid_error(row, s, low, high) for s in scales)


@pytest.mark.parametrize("bits", range(2, 9))
def test_never_worse_than_minmax(bits: int) -> None:
    weight = gauss(16, 64, seed=bits)
    mse, minmax = (
        ((weight - compress(weight, UniformConfig(bits, clip)).to_dense().astype(np.float64)) ** 2).sum(1)
        for clip in ("mse", "minmax")
    )
    assert np.all(mse <= minmax)
    if bits <= 4:
        assert mse.sum() < 0.95 * minmax.sum()


def test_minmax_keeps_the_largest_weight_and_half_a_step() -> None:
    weight = gauss(5, 200)
    tensor = compress(weight, UniformConfig(6, "minmax"))
    dense, largest = tensor.to_dense(), np.abs(weight).argmax(1)
    rows = np.arange(5)
    assert dense[rows, largest] == pytest.approx(weight[rows, largest], rel=1e-6)
    assert np.all(np.abs(weight - dense) <= np.abs(tensor.scale[0]) * 0.5 * (1 + 1e-5))


def test_the_longer_side_of_the_grid_faces_the_longer_tail() -> None:
    weight = np.array([[-1.0, 1.0, 2.0, 0.0], [1.0, -1.0, -2.0, 0.0]])
    tensor = compress(weight, UniformConfig(2))  # codes -2..1, so one row needs a negative scale
    assert tensor.to_dense() == pytest.approx(weight, abs=0.1)
    assert np.sign(tensor.scale[0, :, 0]).tolist() == [-1, 1]


# non-zero bits per weight of 8-bit codes, clipped at the largest of 1152 weights per channel
ORACLES = {
    "gauss": {"twos_complement": 4.00, "sign_magnitude": 2.76, "csd": 2.36},
    "laplace": {"twos_complement": 3.96, "sign_magnitude": 2.28, "csd": 2.01},
}


@pytest.mark.parametrize("name", ORACLES)
def test_nonzero_bits_of_each_encoding(name: str) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((200, 1152)) if name == "gauss" else rng.laplace(size=(200, 1152))
    tensor = compress(weight, UniformConfig(8, "minmax"))
    for encoding, expected in ORACLES[name].items():
        digits = reslice(tensor, encoding, 1).digits()
        assert np.count_nonzero(digits) / weight.size == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 2.0, "abc", None, True, [4]])
def test_bits_out_of_range(bits: object) -> None:
    with pytest.raises(ConfigError, match="uniform.bits=.*integer from 2 to 8"):
        UniformConfig(bits)  # type: ignore[arg-type]


@pytest.mark.parametrize("clip", ["MSE", "", None, 1, []])
def test_unknown_clip(clip: object) -> None:
    with pytest.raises(ConfigError, match="uniform.clip=.*mse or minmax"):
        UniformConfig(4, clip)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["symmetric", "per", "group", "percentile"])
def test_other_settings_out_of_range(key: str) -> None:
    wrong = {"symmetric": 1, "per": "layer", "group": -1, "percentile": 0}
    with pytest.raises(ConfigError, match=f"uniform.{key}={wrong[key]}"):
        UniformConfig(4, **{key: wrong[key]})
    with pytest.raises(ConfigError, match="uniform.group=4.*uniform.per=tensor"):
        UniformConfig(4, per="tensor", group=4)


# -- clipping points ------------------------------------------------------------------------------------------------

# multiples of the mean absolute value and of the standard deviation (arXiv 1810.05723 and its optimality equation)
PUBLISHED = {"laplace": (2.83, 3.897, 5.029, 6.205), "gauss": (1.711, 2.152, 2.559, 2.936)}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_analytical_clip(name: str, bits: int) -> None:
    rng = np.random.default_rng(0)
    weight = 0.03 * (rng.standard_normal((1, 400_000)) if name == "gauss" else rng.laplace(size=(1, 400_000)))
    assert aciq_multiple(bits, name) == pytest.approx(PUBLISHED[name][bits - 2], abs=1.5e-3)
    tensor = compress(weight, UniformConfig(bits, "aciq"))
    reach = abs(float(tensor.scale[0, 0, 0])) * (2**bits - 1) / 2  # 2**bits levels over both sides
    assert reach == pytest.approx(0.03 * PUBLISHED[name][bits - 2], rel=0.01)
    best = min(
        ((np.clip(np.rint(weight / s), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * s - weight) ** 2).sum()
        for s in np.linspace(0.5, 1.5, 41) * abs(float(tensor.scale[0, 0, 0]))
    )
    assert ((tensor.to_dense() - weight) ** 2).sum() <= 1.06 * best


def test_analytical_clip_follows_the_mean_where_the_grid_can() -> None:
    weight = 5.0 + np.random.default_rng(0).standard_normal((1, 100_000))
    codes = alphabet(compress(weight, config := UniformConfig(3, "aciq", False)), config)[0, 0, 0]
    levels = codes * compress(weight, config).scale[0, 0, 0]
    assert levels[0] == 0.0  # zero has to be a level
    assert levels[-1] == pytest.approx(5.0 + 2.152, rel=0.02)


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 100])
def test_percentile_clip(percentile: float) -> None:
    weight = gauss(3, 501).astype(np.float64)
    keep = np.random.default_rng(1).random(weight.shape) < 0.8
    tensor = compress(weight, UniformConfig(6, "percentile", percentile=percentile), keep)
    for row, mask, scale in zip(weight, keep, tensor.scale[0, :, 0], strict=True):
        assert abs(scale) * 31 == pytest.approx(np.percentile(np.abs(row[mask]), percentile), rel=1e-6)


def test_least_information_is_lost_short_of_a_thin_tail() -> None:
    rng = np.random.default_rng(0)
    reach = {}
    for name, weight in (
        ("laplace", rng.laplace(size=(1, 20_000))),
        ("even", rng.uniform(-1, 1, (1, 20_000))),
    ):
        scale = compress(weight, UniformConfig(4, "kl")).scale[0, 0, 0]
        reach[name] = 7 * abs(float(scale)) / np.abs(weight).max()
    assert reach["even"] > 0.99
    assert 0.2 < reach["laplace"] < 0.7


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_pruned_weights_do_not_move_the_grid(clip: str, symmetric: bool) -> None:
    weight = gauss(3, 60)
    keep = np.ones((3, 80), bool)
    keep[:, 60:] = False
    wider = np.concatenate([weight, np.full((3, 20), 9.0)], axis=1)
    config = UniformConfig(4, clip, symmetric)
    tensor = compress(wider, config, keep)
    assert np.array_equal(tensor.to_dense()[:, :60], compress(weight, config).to_dense())


# -- asymmetric grids, groups and whole tensors ----------------------------------------------------------------------


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("shift", [-4.0, -0.7, 0.0, 0.7, 4.0])
def test_asymmetric_levels_hold_zero_and_are_2_to_the_bits(clip: str, shift: float) -> None:
    weight, config = gauss(4, 90) + shift, UniformConfig(3, clip, symmetric=False)
    tensor = compress(weight, config)
    levels = alphabet(tensor, config)
    assert levels.shape == (1, 4, 1, 8)
    assert np.all(np.diff(levels, axis=3) == 1)
    assert levels.min() >= -7 and levels.max() <= 7 and np.all((levels == 0).any(3))
    assert all(np.isin(c, row).all() for c, row in zip(tensor.codes()[0], levels[0, :, 0], strict=True))
    assert tensor.bits == 3
    if abs(shift) == 4.0:
        assert np.array_equal(levels.ravel(), np.tile(np.arange(8) if shift > 0 else np.arange(-7, 1), 4))


def test_one_sided_weights_get_all_levels() -> None:
    weight = np.random.default_rng(0).uniform(0, 1, (2, 200))
    tensor = compress(weight, UniformConfig(4, "minmax", symmetric=False))
    assert np.unique(tensor.codes()).tolist() == list(range(16))
    assert np.abs(weight - tensor.to_dense()).max() <= 0.5 / 15 * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-3, 5, width=32), min_size=1, max_size=20), st.integers(2, 5))
def test_asymmetric_is_never_worse_than_symmetric(row: list[float], bits: int) -> None:
    weight = np.array([row], np.float64)
    one, other = (compress(weight, UniformConfig(bits, symmetric=s)).to_dense() for s in (False, True))
    assert ((weight - one) ** 2).sum() <= ((weight - other) ** 2).sum() * (1 + 1e-6) + 1e-10


@pytest.mark.parametrize("bits", [2, 3])
def test_asymmetric_clip_against_every_zero_point_and_scale(bits: int) -> None:
    weight = (gauss(4, 60, seed=bits) + np.array([[0.0], [0.5], [-1.5], [3.0]])).astype(np.float64)
    got = ((weight - compress(weight, UniformConfig(bits, symmetric=False)).to_dense()) ** 2).sum(1)
    for row, error in zip(weight, got, strict=True):
        scales = np.linspace(0.05, 1.2, 200) * np.abs(row).max() / (2 ** (bits - 1) - 1)
        grids = itertools.product(range(2**bits), scales)
        assert error <= 1.05 * min(naive.grid_error(row, s, -z, 2**bits - 1 - z) for z, s in grids)


def test_a_zero_point_is_stored_where_codes_need_one() -> None:
    weight = np.random.default_rng(0).uniform(0, 1, (3, 64))
    asymmetric = compress(weight, UniformConfig(8, "minmax", symmetric=False, group=32))
    # a code of 8 bits, a scale of 32 bits and a zero point of 8 bits per group
    assert asymmetric.storage_bits == 3 * 64 * 8 + 6 * (32 + 8)
    centred = compress(weight - 0.5, UniformConfig(8, "minmax", group=32))
    assert centred.storage_bits == 3 * 64 * 8 + 6 * 32


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("clip", CLIPS)
def test_groups_are_channels_of_their_own(clip: str, symmetric: bool) -> None:
    weight = gauss(4, 60)
    whole = compress(weight, UniformConfig(3, clip, symmetric, group=16))  # the largest divisor is 15
    apart = compress(weight.reshape(16, 15), UniformConfig(3, clip, symmetric))
    assert whole.scale.shape == (1, 4, 4)
    assert np.array_equal(whole.to_dense(), apart.to_dense().reshape(4, 60))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("clip", CLIPS)
def test_a_tensor_is_one_channel(clip: str, symmetric: bool) -> None:
    weight = gauss(4, 60)
    config = UniformConfig(3, clip, symmetric, per="tensor")
    tensor = compress(weight, config)
    alone = compress(weight.reshape(1, 240), UniformConfig(3, clip, symmetric))
    assert np.array_equal(tensor.to_dense(), alone.to_dense().reshape(4, 60))
    assert alphabet(tensor, config).shape == (1, 1, 1, 8)
