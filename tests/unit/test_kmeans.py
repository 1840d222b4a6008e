"""Codebooks against exact clustering by dynamic programming and against published optimal quantizers."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from contracts import CompressorContract, gauss
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError
from compressors.methods.clustering import shared_values
from compressors.methods.kmeans import KmeansConfig
from compressors.methods.sorted_rows import SortedRows
from compressors.methods.tables import integer_levels
from compressors.registry import alphabet, compress


class TestKmeans(CompressorContract):
    ladder = [KmeansConfig(bits, "channel") for bits in (1, 2, 3, 4)]

    def code_range(self, config: KmeansConfig) -> tuple[int, int]:
        top = 2 ** (config.table_bits - 1) - 1
        return -top, top


class TestKmeansFree(TestKmeans):
    ladder = [KmeansConfig(bits, "channel", zero=False) for bits in (1, 2, 4)]


class TestKmeansPerTensor(TestKmeans):
    ladder = [KmeansConfig(2), KmeansConfig(4)]

    def test_channels_are_independent(self, config: KmeansConfig) -> None:
        tensor = compress(gauss(5, 33), config)
        assert np.all(tensor.scale == tensor.scale[:, :1])
        assert len(np.unique(tensor.to_dense())) <= 2**config.bits


class TestKmeansNarrowTables(TestKmeans):
    ladder = [KmeansConfig(2, "channel", 3), KmeansConfig(2, "channel", 8)]


# relative squared error of the best 2, 4, 8 and 16 levels for a normal distribution (Max 1960)
LLOYD_MAX = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}


@pytest.mark.parametrize("bits", LLOYD_MAX)
def test_published_quantizers(bits: int) -> None:
    """Free of a zero entry; entries of 8 bits instead of real numbers cost up to one per cent more."""
    weight = np.random.default_rng(0).standard_normal((1, 1_000_000))
    ordered = SortedRows.of(weight, np.ones(weight.shape, bool))
    levels, count = shared_values(ordered, 2**bits, np.array([False]))
    borders = (levels[0, 1:] + levels[0, :-1]) / 2
    exact = naive.relative_mse(weight, levels[0][np.searchsorted(borders, weight)])
    assert exact == pytest.approx(LLOYD_MAX[bits], rel=0.01)
    assert count.sum() == 1_000_000
    dense = compress(weight, KmeansConfig(bits, zero=False)).to_dense()
    assert naive.relative_mse(weight, dense) == pytest.approx(LLOYD_MAX[bits], rel=0.02)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_zero_entry_costs_less_the_more_entries_there_are(bits: int) -> None:
    weight = np.random.default_rng(0).standard_normal((1, 200_000))
    error = naive.relative_mse(weight, compress(weight, KmeansConfig(bits)).to_dense())
    assert LLOYD_MAX[bits] * 0.99 < error < LLOYD_MAX[bits] * {2: 1.16, 3: 1.05, 4: 1.03}[bits]


def least_clustering(row: np.ndarray, entries: int, zero: bool) -> float:
    """Least squared error of ``entries`` levels, one of them 0 if so wanted, over every split of the sorted row."""
    row = np.sort(row)
    n = len(row)
    cost = np.zeros((2, n + 1, n + 1))  # of a run as a cell of its mean, of 0
    for start in range(n):
        for end in range(start + 1, n + 1):
            run = row[start:end]
            cost[0, start, end], cost[1, start, end] = ((run - run.mean()) ** 2).sum(), (run**2).sum()
    best = np.full((2, n + 1), np.inf)  # zero used or not, weights so far
    best[0, 0] = 0.0
    for _ in range(entries):
        before = best.copy()
        for used in (0, 1):
            for end in range(n + 1):
                options = [before[used, start] + cost[0, start, end] for start in range(end + 1)]
                if used:
                    options += [before[0, start] + cost[1, start, end] for start in range(end + 1)]
                best[used, end] = min(before[used, end], *options)
    return float(best[1 if zero else 0, n])


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_against_exact_clustering(bits: int, zero: bool) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        weight = (rng.standard_normal, rng.laplace)[seed % 2](size=(1, 24)) + seed % 3
        ordered = SortedRows.of(weight, np.ones(weight.shape, bool))
        levels, _ = shared_values(ordered, 2**bits, np.array([zero]))
        assert np.all(np.diff(levels) >= 0)
        assert not zero or np.any(levels == 0)
        error = (np.abs(weight.T - levels).min(1) ** 2).sum()
        assert error == pytest.approx(least_clustering(weight[0], 2**bits, zero), rel=1e-9)


@pytest.mark.parametrize("entries", [4, 16])
def test_longer_rows_come_close_to_the_exact_clustering(entries: int) -> None:
    weight = np.random.default_rng(entries).laplace(size=(4, 150))
    levels, _ = shared_values(SortedRows.of(weight, np.ones(weight.shape, bool)), entries, np.zeros(4, bool))
    for row, own in zip(weight, levels, strict=True):
        error = (np.abs(row[:, None] - own).min(1) ** 2).sum()
        assert error <= 1.03 * least_clustering(row, entries, zero=False)


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_values_are_as_few_as_promised(bits: int, per: str) -> None:
    weight = gauss(6, 90)
    keep = np.random.default_rng(1).random(weight.shape) < 0.7
    for mask in (None, keep):
        config = KmeansConfig(bits, per, zero=False)
        tensor = compress(weight, config, mask)
        rows = [tensor.codes()[0]] if per == "tensor" else tensor.codes()[0]
        assert all(len(np.unique(row)) <= 2**bits for row in rows)
        table_of = 1 if per == "tensor" else 6
        stored = 540 * bits + table_of * 2**bits * 8 + 6 * 32
        assert tensor.storage_bits <= stored
        levels = alphabet(tensor, config)
        assert levels.shape[:3] == (1, table_of, 1) and levels.shape[3] <= 2**bits
        for row, own in zip(rows, levels[0, :, 0], strict=True):
            assert np.array_equal(np.unique(row), np.unique(own))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32).filter(lambda w: w == 0 or abs(w) > 1e-30), min_size=1, max_size=40),
    st.integers(1, 5),
    st.booleans(),
)
def test_every_weight_takes_the_nearest_entry(row: list[float], bits: int, zero: bool) -> None:
    weight = np.array([row], np.float64)
    config = KmeansConfig(bits, "channel", zero=zero)
    tensor = compress(weight, config)
    levels = alphabet(tensor, config)[0, 0, 0] * tensor.scale[0, 0, 0].astype(np.float64)
    nearest = np.abs(weight.T - levels).min(1)
    assert np.abs(weight - tensor.to_dense())[0] == pytest.approx(nearest, abs=1e-6)
    if not zero and len(set(row)) <= 2**bits:  # as many entries as weights: only their rounding is left
        # a step may be chosen that is worse for one weight and better for all
        half = np.abs(weight).max() / 127 / 2
        assert (nearest**2).sum() <= len(row) * half**2 * (1 + 1e-5)


@pytest.mark.parametrize("table_bits", [2, 3, 5, 8])
def test_entries_are_rounded_under_the_best_scale(table_bits: int) -> None:
    rng = np.random.default_rng(table_bits)
    levels, count = np.sort(rng.standard_normal((5, 4)), axis=1), rng.integers(1, 9, (5, 4))
    table, scale = integer_levels(levels, count, table_bits)
    top = 2 ** (table_bits - 1) - 1
    assert np.abs(table).max() <= top
    for row, counts, codes, step in zip(levels, count, table, scale, strict=True):
        error = (counts * (codes * step - row) ** 2).sum()
        for code in range(top // 2 + 1, top + 1):
            other = np.abs(row).max() / code
            assert error <= (counts * (np.rint(row / other) * other - row) ** 2).sum() * (1 + 1e-4)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"bits": 0}, "kmeans.bits=0.*1 to 8"),
        ({"bits": 9}, "kmeans.bits=9"),
        ({"bits": 4, "table_bits": 3}, "kmeans.table_bits=3.*at least kmeans.bits"),
        ({"table_bits": 9}, "kmeans.table_bits=9"),
        ({"per": "layer"}, "kmeans.per=layer"),
        ({"zero": 1}, "kmeans.zero=1"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KmeansConfig(**settings_)  # type: ignore[arg-type]
