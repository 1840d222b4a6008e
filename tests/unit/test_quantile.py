"""Equally probable bins: hand-worked, and against the integral over a normal distribution."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from contracts import CompressorContract, gauss
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compressors.errors import ConfigError
from compressors.methods.quantile import QuantileConfig, bin_means
from compressors.methods.sorted_rows import SortedRows
from compressors.registry import alphabet, compress


class TestQuantile(CompressorContract):
    ladder = [QuantileConfig(bits) for bits in (1, 2, 4)]

    def code_range(self, config: QuantileConfig) -> tuple[int, int]:
        return -127, 127


class TestQuantileFree(TestQuantile):
    ladder = [QuantileConfig(bits, zero=False) for bits in (1, 2, 4)]


class TestQuantilePerTensor(TestQuantile):
    ladder = [QuantileConfig(2, "tensor"), QuantileConfig(4, "tensor")]

    def test_channels_are_independent(self, config: QuantileConfig) -> None:
        tensor = compress(gauss(5, 33), config)
        assert np.all(tensor.scale == tensor.scale[:, :1])
        assert len(np.unique(tensor.to_dense())) <= 2**config.bits


def test_bins_hand_worked() -> None:
    weight = np.array(
        [[8.0, 1.0, 2.0, 5.0, 7.0, 99.0, 6.0, 4.0, 3.0], [0.0, -1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    )
    keep = np.ones(weight.shape, bool)
    keep[0, 5] = False  # 1..8 are left in four bins of two
    keep[1, 3:] = False  # -1, 0, 2: four bins of 3/4 weight: -1, then 1/4 of -1 and 2/4 of 0 ...
    means = bin_means(SortedRows.of(weight, keep), 4)
    assert means == pytest.approx(np.array([[1.5, 3.5, 5.5, 7.5], [-1.0, -1 / 3, 2 / 3, 2.0]]))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_error_for_a_normal_distribution(bits: int) -> None:
    """The integral's levels are those of endless weights, rounded nowhere; entries of 8 bits cost under 2 per cent."""
    borders = stats.norm.ppf(np.arange(2**bits + 1) / 2**bits)
    levels = -np.diff(stats.norm.pdf(borders)) * 2**bits
    cells = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    mass, mean = np.diff(stats.norm.cdf(cells)), -np.diff(stats.norm.pdf(cells))
    expected = 1.0 + (mass * levels**2 - 2 * mean * levels).sum()
    weight = np.random.default_rng(0).standard_normal((1, 400_000))
    got = naive.relative_mse(weight, compress(weight, QuantileConfig(bits, zero=False)).to_dense())
    assert got == pytest.approx(expected, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 10**6))
def test_bins_hold_equally_many(columns: int, bits: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((1, columns))
    runs = np.array_split(np.sort(weight[0]), 2**bits)
    means = bin_means(SortedRows.of(weight, np.ones(weight.shape, bool)), 2**bits)
    sizes = {len(run) for run in runs}
    assert np.all(np.diff(means) >= 0)
    if columns % 2**bits == 0:
        assert len(sizes) == 1
        assert means[0] == pytest.approx([run.mean() for run in runs])
    else:
        assert np.all((means >= weight.min()) & (means <= weight.max()))


def test_zero_and_the_number_of_values() -> None:
    weight = gauss(4, 200) + 0.3
    for zero in (True, False):
        config = QuantileConfig(3, zero=zero)
        tensor = compress(weight, config)
        levels = alphabet(tensor, config)
        assert levels.shape == (1, 4, 1, 8)
        assert np.all((levels == 0).any(3)) == zero
        keep = np.random.default_rng(0).random(weight.shape) < 0.9
        pruned = compress(weight, config, keep)
        assert all(len(np.unique(row)) <= 8 for row in pruned.codes()[0])
        assert pruned.storage_bits <= 800 * 3 + 4 * 8 * 8 + 4 * 32


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"bits": 9}, "quantile.bits=9"),
        ({"per": "row"}, "quantile.per=row"),
        ({"zero": None}, "quantile.zero=None"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantileConfig(**settings_)  # type: ignore[arg-type]
