"""SlicedTensor: packing, counting and what it refuses to be."""

from __future__ import annotations

import dataclasses
from typing import Any

import naive
import numpy as np
import pytest
from contracts import gauss
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import BadTensor
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.registry import compress
from compressors.tensor import SlicedTensor, pack_rows, unpack_rows


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 200), st.integers(0, 10**6))
def test_packing_against_the_plain_one(rows: int, columns: int, seed: int) -> None:
    bits = np.random.default_rng(seed).random((rows, columns)) < 0.5
    words = pack_rows(bits)
    assert words.dtype == np.uint64
    assert words.tolist() == naive.pack(bits, 1)[0]
    assert np.array_equal(unpack_rows(words, columns), bits)


def ternary(codes: list[list[list[int]]]) -> SlicedTensor:
    array = np.array(codes)
    return SlicedTensor.from_terms(array, np.ones((*array.shape[:2], 1)), array.shape[1:], "ternary")


def test_scales_per_group_of_inputs() -> None:
    codes = np.array([[[1, -1, 1, 0]]])
    tensor = SlicedTensor.from_terms(codes, np.array([[[2.0, 0.5]]]), (1, 4), "ternary")
    assert tensor.to_dense().tolist() == [[2.0, -2.0, 0.5, 0.0]]


def test_support_and_sparsity_over_all_planes() -> None:
    tensor = ternary([[[1, 0, 0, -1], [0, 0, 0, 0]], [[0, 1, 0, 1], [0, 0, 0, 0]]])
    assert unpack_rows(tensor.support, 4).tolist() == [[True, True, False, True], [False] * 4]
    assert tensor.sparsity == 1 - 3 / 8


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 90), st.integers(0, 10**6), st.floats(0, 1))
def test_sparsity_against_counting(rows: int, columns: int, seed: int, density: float) -> None:
    keep = np.random.default_rng(seed).random((rows, columns)) < density
    tensor = compress(gauss(rows, columns, seed=seed), BinaryConfig(2), keep)
    assert tensor.sparsity == pytest.approx(1 - keep.mean(), abs=1e-12)


def test_storage_dense() -> None:
    weight = gauss(2, 64)
    assert compress(weight, UniformConfig(8, "minmax")).storage_bits == 2 * 64 * 8 + 2 * 32
    assert compress(weight, BinaryConfig(3)).storage_bits == 2 * 64 * 3 + 2 * 3 * 32


def test_storage_of_pruned_weights() -> None:
    weight, keep = np.ones((2, 64)), np.zeros((2, 64), bool)
    weight[:, :4] = [[1.0, -2.0, 3.0, -4.0], [-7.0, 6.0, -5.0, 2.0]]
    keep[:, :4] = True  # 8 of 128 kept: a bitmap of 128 bits and the codes of 8
    assert compress(weight, UniformConfig(4, "minmax"), keep).storage_bits == 128 + 8 * 4 + 2 * 32
    assert compress(weight, BinaryConfig(2), keep).storage_bits == 128 + 8 * 2 + 4 * 32
    # ternary: a bitmap and 8 signs beat 2 bits for each, and 2 bits behind a bitmap
    weight[:, :4] = np.sign(weight[:, :4])
    assert compress(weight, TernaryConfig(1), keep).storage_bits == 128 + 8 + 2 * 32


def test_storage_of_ternary_terms_takes_the_smallest() -> None:
    codes = np.zeros((2, 1, 10), int)
    codes[0, 0, :5] = [1, 1, -1, -1, 1]
    codes[1, 0, :5] = [1, -1, 1, -1, 1]
    # two bits for each term of 10 weights: 40; behind one bitmap: 10 + 5 * 2 * 2 = 30; a bitmap per term and
    # signs: 20 + 10 = 30; and two scales; a table of 5 tuples takes 10 * 3 + 5 * 4
    assert ternary(codes.tolist()).storage_bits == 30 + 64
    codes[1] = 0
    codes[1, 0, 0] = 1  # a bitmap per term: 20 + 5 + 1
    assert ternary(codes.tolist()).storage_bits == 26 + 64
    codes[0, 0], codes[1, 0] = 1, -1  # a single tuple: its table of 4 bits, and no index
    assert ternary(codes.tolist()).storage_bits == 4 + 64


def test_digest_tells_every_part_apart() -> None:
    tensor = compress(gauss(3, 70), UniformConfig(4))
    changes: list[dict[str, Any]] = [
        {"scale": tensor.scale * 2},
        {"sign": tensor.sign ^ np.uint64(1)},
        {"magnitude": tensor.magnitude ^ np.uint64(1)},
        {"factor": tensor.factor * 2},
        {"bits": 5},
        {"encoding": "csd"},
        {"shape": (3, 7, 10)},
    ]
    digests = {dataclasses.replace(tensor, **change).digest() for change in changes}
    assert len(digests | {tensor.digest()}) == len(changes) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"shape": ()},
        {"shape": (4, 70)},
        {"shape": (3, 129)},
        {"sign": np.zeros((2, 3, 2), np.uint64)},
        {"scale": np.ones((1, 2, 1), np.float32)},
        {"scale": np.ones((1, 3, 3), np.float32)},
        {"scale": np.ones((1, 3, 0), np.float32)},
        {"scale": np.ones((1, 3), np.float32)},
        {"term": np.zeros(3, np.int64)},
        {"term": np.array([0, 0, 0, 1])},
        {"term": np.array([0, 0, 0, -1])},
        {"term": np.zeros((4, 1), np.int64)},
        {"factor": np.ones(5, np.int64)},
        {"magnitude": np.zeros((4, 3, 2), np.uint64)},
    ],
    ids=lambda change: next(f"{k}-{getattr(v, 'shape', v)}" for k, v in change.items()),
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    tensor = compress(gauss(3, 70), UniformConfig(4))  # 4 planes of 3 rows of 2 words
    with pytest.raises(BadTensor):
        dataclasses.replace(tensor, **change)


def test_a_digit_too_large_is_refused() -> None:
    with pytest.raises(BadTensor, match="magnitude 2 does not fit 1 bits"):
        ternary([[[2, 0]]])
