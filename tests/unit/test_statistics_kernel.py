"""Counts of what switches and what is zero, against plain references over every bit."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.kernels import statistics as kernels
from compressors.kernels.bits import pack
from compressors.kernels.statistics import GRANULARITIES, GROUPS, PlaneStatistics, statistics


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Codes ``[rows, columns]``, odd shapes first among them, and a width that holds them."""
    width = draw(st.integers(1, 11))
    rows = draw(st.integers(0, 5))
    columns = draw(st.one_of(st.integers(0, 300), st.sampled_from([1, 63, 64, 65, 511, 512, 513, 576])))
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((rows, columns)) < density, rng.integers(0, 2**width, (rows, columns)), 0)
    return codes, width


def assert_equal(counted: PlaneStatistics, expected: PlaneStatistics) -> None:
    for got, wanted in [
        (counted.ones, expected.ones),
        (counted.toggles, expected.toggles),
        *((counted.nonzero[g], expected.nonzero[g]) for g in GRANULARITIES),
        *((counted.zero_groups[g], expected.zero_groups[g]) for g in GROUPS),
    ]:
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, wanted)


def plainly(codes: np.ndarray, width: int) -> PlaneStatistics:
    """The references of every row."""
    return PlaneStatistics(
        np.array([naive.ones(codes, bit) for bit in range(width)]),
        np.array([naive.toggles(codes, bit) for bit in range(width)]),
        {g: np.array(naive.nonzero_digits(codes, width, g)) for g in GRANULARITIES},
        {g: np.array([naive.zero_groups(codes, bit, g) for bit in range(width)]) for g in GROUPS},
    )


def added_up(counted: PlaneStatistics) -> PlaneStatistics:
    """Without the rows."""
    return PlaneStatistics(
        counted.ones.sum(1),
        counted.toggles.sum(1),
        {g: counts.sum(1) for g, counts in counted.nonzero.items()},
        {g: counts.sum(1) for g, counts in counted.zero_groups.items()},
    )


@settings(max_examples=50, deadline=None)
@given(matrices())
def test_against_brute_force(case: tuple[np.ndarray, int]) -> None:
    codes, width = case
    planes, expected = pack(codes, width), plainly(codes, width)
    assert_equal(statistics(planes, columns=codes.shape[1], per_row=True), expected)
    assert_equal(statistics(planes, columns=codes.shape[1]), added_up(expected))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 7, 8, 9, 64, 65]),
    st.sampled_from([1, 3, 4, 9, 16, 65]),
    st.integers(0, 2**32 - 1),
)
def test_the_compiled_kernel_counts_what_the_plain_one_does(
    planes: int, rows: int, width: int, seed: int
) -> None:
    """Long enough that blocks of vectors end within rows."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**64, (planes, rows, width), np.uint64)
    words[rng.random(words.shape) < 0.3] &= np.uint64(0x00FF_0000_0000_FF00)
    for runs in (1, rows):
        flat = words.reshape(planes, runs, -1)
        assert np.array_equal(kernels._count(flat, width), kernels._count_plainly(flat, width))


def test_every_plane_has_its_own_counts() -> None:
    """A single one, in each plane and at each end of a row in turn, toggles once per neighbour it has."""
    for plane, row, bit, toggles in [(0, 0, 0, 1), (8, 1, 64 * 9, 2), (9, 2, 64 * 17 + 63, 1)]:
        codes = np.zeros((3, 64 * 18), np.int64)
        codes[row, bit] = 1 << plane
        counted = statistics(pack(codes, 10), per_row=True)
        where = (np.arange(10)[:, None] == plane) & (np.arange(3) == row)
        np.testing.assert_array_equal(counted.ones, where)
        np.testing.assert_array_equal(counted.toggles, toggles * where)
        np.testing.assert_array_equal(counted.zero_groups[16], 64 * 18 // 16 - where)
        np.testing.assert_array_equal(
            counted.nonzero[8], [[plane // 8 == d and r == row for r in range(3)] for d in range(2)]
        )


def test_columns_past_the_end_are_no_groups() -> None:
    planes = np.zeros((1, 2, 1), np.uint64)
    assert {g: n.tolist() for g, n in statistics(planes).zero_groups.items()} == {
        8: [16],
        16: [8],
        32: [4],
        64: [2],
    }
    counted = statistics(planes, columns=17).zero_groups
    assert {g: n.tolist() for g, n in counted.items()} == {8: [6], 16: [4], 32: [2], 64: [2]}


def test_views_and_read_only_planes() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (6, 140))
    planes = pack(codes, 4)
    planes.setflags(write=False)
    assert_equal(statistics(planes[:, ::2], columns=140, per_row=True), plainly(codes[::2], 4))


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_nothing_to_count(shape: tuple[int, int, int]) -> None:
    counted = statistics(np.zeros(shape, np.uint64), per_row=True)
    assert counted.ones.shape == counted.toggles.shape == shape[:2]
    assert not counted.ones.any() and not counted.toggles.any()
    assert counted.nonzero[2].shape == (-(-shape[0] // 2), shape[1])
    assert counted.zero_groups[8].shape == shape[:2]
    assert (counted.zero_groups[8] == shape[2] * 8).all()
