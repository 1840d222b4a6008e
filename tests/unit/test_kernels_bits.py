"""Packing and counting of planes against plain references, compiled and as plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.kernels import bits as kernels

TESTS = Path(__file__).resolve().parents[1]


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Codes ``[rows, columns]``, odd shapes first among them, and a width that holds them."""
    width = draw(st.integers(1, 9))
    rows = draw(st.integers(0, 4))
    columns = draw(st.one_of(st.integers(0, 150), st.sampled_from([0, 1, 63, 64, 65, 128])))
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((rows, columns)) < density, rng.integers(0, 2**width, (rows, columns)), 0)
    return codes, width


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_pack_and_unpack(case: tuple[np.ndarray, int]) -> None:
    codes, width = case
    planes = kernels.pack(codes, width)
    assert planes.shape == (width, codes.shape[0], kernels.words_for(codes.shape[1]))
    assert planes.tolist() == naive.pack(codes, width)
    assert np.array_equal(kernels.unpack(planes, codes.shape[1]), codes)


def test_views_and_read_only_arrays() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (6, 140))
    planes = kernels.pack(codes, 4)
    planes.setflags(write=False)
    assert np.array_equal(kernels.unpack(planes[:, ::2], 140), codes[::2])
    assert np.array_equal(kernels.pack(codes.T[::3], 4), kernels.pack(codes.T[::3].copy(), 4))


@pytest.mark.parametrize("codes", [[[4]], [[-1]], [[0, 3, 7]]], ids=str)
def test_codes_that_do_not_fit(codes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"2 bits hold \[0, 3\]"):
        kernels.pack(np.array(codes), 2)


WITHOUT_JIT = """
import naive
import numpy as np
from numba import config
from compressors.kernels import bits as kernels
from compressors.kernels.statistics import statistics

assert config.DISABLE_JIT
codes = np.random.default_rng(0).integers(0, 8, (3, 131))
codes[1] = 7
planes = kernels.pack(codes, 3)
assert planes.tolist() == naive.pack(codes, 3)
assert np.array_equal(kernels.unpack(planes, 131), codes)
counted = statistics(planes, per_row=True)
for bit in range(3):
    assert counted.ones[bit].tolist() == naive.ones(codes, bit)
    assert counted.toggles[bit].tolist() == naive.toggles(codes, bit)
assert counted.nonzero[2].tolist() == naive.nonzero_digits(codes, 3, 2)
print("equal")
"""


def test_without_the_jit() -> None:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JIT],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "equal\n", done.stderr
