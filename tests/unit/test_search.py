"""Similarity search against brute force on unpacked vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import BadTensor, ConfigError
from compressors.kernels.machine import machine
from compressors.operators import search
from compressors.operators.search import PackedIndex
from compressors.tensor import pack_rows

FAMILIES = [f for f in ("avx512", "portable", "plain") if f != "avx512" or machine().counts_words]


def nearest(keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest keys of each row, ties to the lower column."""
    order = np.argsort(keys, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(keys, order, 1), order


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    bits=st.integers(1, 200),
    rows=st.integers(1, 200),
    queries=st.integers(1, 9),
    k=st.integers(1, 12),
    threads=st.integers(1, 3),
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 1 << 30),
)
def test_hamming_distances_and_rows_are_exact(bits, rows, queries, k, threads, family, seed) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    base, asked = rng.random((rows, bits)) < 0.5, rng.random((queries, bits)) < 0.5
    index = PackedIndex(bits, family=family)
    cut = rows // 3
    index.add(pack_rows(base[:cut]))
    index.add(pack_rows(base[cut:]))
    distances, found = index.search(pack_rows(asked), k, threads=threads)
    expected = nearest((base[None] != asked[:, None]).sum(2), min(k, rows))
    assert np.array_equal(distances, expected[0])
    assert np.array_equal(found, expected[1])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    bits=st.integers(1, 200),
    rows=st.integers(1, 150),
    queries=st.integers(1, 9),
    k=st.integers(1, 12),
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 1 << 30),
)
def test_ternary_dot_products_and_rows_are_exact(bits, rows, queries, k, family, seed) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    base, asked = rng.integers(-1, 2, (rows, bits)), rng.integers(-1, 2, (queries, bits))
    index = PackedIndex(bits, ternary=True, family=family)
    index.add(pack_rows(base != 0), pack_rows(base < 0))
    products, found = index.search(pack_rows(asked != 0), k, pack_rows(asked < 0))
    expected = nearest(-(asked @ base.T), min(k, rows))
    assert np.array_equal(products, -expected[0])
    assert np.array_equal(found, expected[1])


def test_databases_of_many_pieces_and_from_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(search, "_PIECE", 100)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 63, (777, 3)).astype(np.uint64)
    np.save(tmp_path / "base.npy", base)
    index = PackedIndex(192)
    index.add(np.load(tmp_path / "base.npy", mmap_mode="r"))
    distances, found = index.search(base[[5, 700]], 3)
    assert len(index) == 777
    assert found[:, 0].tolist() == [5, 700]
    assert distances[:, 0].tolist() == [0, 0]
    every = np.bitwise_count(base[None] ^ base[[5, 700]][:, None]).sum(2).astype(np.int64)
    assert np.array_equal(found, nearest(every, 3)[1])


def test_equal_rows_come_in_their_order() -> None:
    index = PackedIndex(64)
    index.add(np.zeros((300, 1), np.uint64))
    assert index.search(np.zeros((1, 1), np.uint64), 5)[1].tolist() == [[0, 1, 2, 3, 4]]


def test_what_is_refused() -> None:
    index = PackedIndex(70)
    with pytest.raises(BadTensor, match="the database is empty"):
        index.search(np.zeros((1, 2), np.uint64))
    with pytest.raises(BadTensor, match=r"expected uint64 \[n, 2\] for 70 bits"):
        index.add(np.zeros((1, 3), np.uint64))
    with pytest.raises(BadTensor, match=r"int64 \[1, 2\]: expected uint64"):
        index.add(np.zeros((1, 2), np.int64))
    with pytest.raises(BadTensor, match="bits beyond element 70"):
        index.add(np.full((1, 2), 1 << 40, np.uint64))
    with pytest.raises(BadTensor, match="signs belong to ternary vectors"):
        index.add(np.zeros((1, 2), np.uint64), np.zeros((1, 2), np.uint64))
    ternary = PackedIndex(64, ternary=True)
    with pytest.raises(BadTensor, match="negative where the vector is zero"):
        ternary.add(np.zeros((1, 1), np.uint64), np.ones((1, 1), np.uint64))
    index.add(np.zeros((1, 2), np.uint64))
    for k, threads, message in ((0, 1, "k=0"), (2.5, 1, "k=2.5"), (1, 0, "threads=0")):
        with pytest.raises(ConfigError, match=message):
            index.search(np.zeros((1, 2), np.uint64), k, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(BadTensor, match="signs of 2 vectors for 1 vectors"):
        ternary.add(np.zeros((1, 1), np.uint64), np.zeros((2, 1), np.uint64))
    with pytest.raises(ConfigError, match="bits=10.5"):
        PackedIndex(10.5)  # type: ignore[arg-type]
    assert index.search(np.zeros((0, 2), np.uint64), 4)[0].shape == (0, 1)
