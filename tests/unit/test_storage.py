"""Counting what codes take to store, against counting them one by one."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.methods.uniform import UniformConfig
from compressors.registry import compress
from compressors.slicing import from_codes
from compressors.storage import shared_table_bits, signed_width
from compressors.tensor import SlicedTensor


def index(entries: int) -> int:
    return math.ceil(math.log2(entries)) if entries else 0


def naive_table_bits(codes: np.ndarray, entry_bits: int) -> int:
    """Tables as dictionaries of tuples."""
    rows = [[tuple(codes[:, n, k]) for k in range(codes.shape[2])] for n in range(codes.shape[1])]
    options = []
    for bitmap in (False, True):
        stored = [[t for t in row if not bitmap or any(t)] for row in rows]
        weights = sum(map(len, stored))
        whole = len(Counter(t for row in stored for t in row))
        longest = max(len(set(row)) for row in stored)
        base = codes[0].size if bitmap else 0
        options.append(base + weights * index(whole) + whole * entry_bits)
        options.append(base + weights * index(longest) + len(rows) * longest * entry_bits)
    return min(options)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 40),
    st.sampled_from([0, 1, 3, 100, 40_000]),
    st.integers(1, 9),
    st.integers(0, 10**6),
)
def test_shared_tables(terms: int, rows: int, columns: int, most: int, entry_bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-most, most + 1, 6)
    codes = rng.choice(values, (terms, rows, columns)) * (rng.random((rows, columns)) < rng.random())
    assert shared_table_bits(codes, entry_bits) == naive_table_bits(codes, entry_bits)


@pytest.mark.parametrize(
    ("codes", "width"), [([0], 1), ([-1], 1), ([1], 2), ([-2, 1], 2), ([127], 8), ([-128], 8), ([128], 9)]
)
def test_width_of_signed_codes(codes: list[int], width: int) -> None:
    assert signed_width(np.array(codes)) == width


def coded(codes: np.ndarray, bits: int) -> SlicedTensor:
    return from_codes(codes, np.ones((len(codes), codes.shape[1], 1)), shape=codes.shape[1:], bits=bits)


def test_few_values_are_stored_as_indices() -> None:
    rng = np.random.default_rng(0)
    values = np.array([-128, -60, 0, 1, 5, 20, 77, 127])
    codes = rng.choice(values, (1, 4, 256))
    # an index of 3 bits for each of 1024 weights, a table of 8 entries of 8 bits, 4 scales
    assert coded(codes, 8).storage_bits == 1024 * 3 + 8 * 8 + 4 * 32
    own = np.stack([[rng.choice(rng.integers(n * 60 - 128, n * 60 - 68, 4), 256) for n in range(4)]])
    # 4 values in every channel, 16 altogether: a table of 4 entries for each
    assert coded(own, 8).storage_bits == 1024 * 2 + 4 * 4 * 8 + 4 * 32


def test_pruned_shared_values_stand_behind_a_bitmap() -> None:
    rng = np.random.default_rng(0)
    codes = rng.choice([-100, -7, 50, 127], (1, 2, 512)) * (np.arange(512) % 8 == 0)
    assert coded(codes, 8).storage_bits == 1024 + 128 * 2 + 4 * 8 + 2 * 32


def test_terms_are_counted_together() -> None:
    codes = np.stack([np.random.default_rng(0).integers(-8, 8, (2, 100))] * 2)
    codes[1] = codes[0, ::-1, ::-1]
    assert (
        coded(codes, 4).storage_bits == 2 * 200 * 4 + 4 * 32
    )  # 256 tuples of 8 bits, of which no table can tell


def test_two_bits_of_three_values_are_stored_as_ternary() -> None:
    codes = np.random.default_rng(0).choice([-1, 0, 1], (1, 4, 200), p=[0.1, 0.8, 0.1])
    kept = int(np.count_nonzero(codes))
    assert coded(codes, 2).storage_bits == 800 + kept + 2 * 2 + 4 * 32


@pytest.mark.parametrize("bits", range(3, 9))
def test_dense_uniform_codes_gain_nothing_from_a_table(bits: int) -> None:
    weight = np.random.default_rng(bits).standard_normal((16, 300))
    tensor = compress(weight, UniformConfig(bits, "minmax"))
    kept = round(4800 * (1 - tensor.sparsity))
    assert tensor.storage_bits == min(4800 * bits, 4800 + kept * bits) + 16 * 32
