"""The kernels for the GPU: under Numba's simulator, on a GPU where there is one, and what is refused without either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import config, cuda

from compressors.errors import BadTensor, ConfigError
from compressors.kernels.bits import pack
from compressors.kernels.cuda import (
    NoCudaDevice,
    PlaneWeights,
    convolve,
    nearest_hamming,
    pack_images,
    product,
)
from compressors.slicing import from_codes

CASES = Path(__file__).with_name("cuda_cases.py")
ROOT = CASES.parents[2]


def run_cases(simulator: bool) -> None:
    """All cases in one process, as Numba decides between a GPU and the simulator when it is imported."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(CASES)],
        cwd=ROOT,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": str(int(simulator)), "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_under_the_simulator() -> None:
    run_cases(simulator=True)


def test_on_a_gpu() -> None:
    if config.ENABLE_CUDASIM or not cuda.is_available():
        pytest.skip("there is no GPU that Numba can use")
    run_cases(simulator=False)


def matrix(bits: int = 4, columns: int = 20, outputs: int = 3) -> PlaneWeights:
    codes = np.full((1, outputs, columns), -(1 << bits - 1))
    scale = np.ones((1, outputs, 1), np.float32)
    return PlaneWeights.sliced(from_codes(codes, scale, shape=codes.shape[1:], bits=bits))


def test_without_a_device_it_says_so() -> None:
    if config.ENABLE_CUDASIM or cuda.is_available():
        pytest.skip("there is a GPU")
    words = np.zeros((1, 1), np.uint64)
    for run in (lambda: product(words[None], matrix()), lambda: nearest_hamming(words, words)):
        with pytest.raises(
            NoCudaDevice, match=r"no CUDA device that Numba can use: .*set NUMBA_ENABLE_CUDASIM=1"
        ):
            run()


def test_sums_that_could_overflow_are_refused_before_anything_runs() -> None:
    """255 * 255 * K passes 2**31 - 1 at K = 33026; the zeros of a convolution's border count as inputs."""
    rows = np.zeros((8, 1, 517), np.uint64)
    with pytest.raises(BadTensor, match="sums of up to 2147515650 do not fit 32 bits .*dtype=np.int64"):
        product(rows, matrix(bits=8, columns=33026))
    weights = from_codes(
        np.ones((1, 1, 4096 * 9), np.int64), np.ones((1, 1, 1), np.float32), shape=(1, 4096, 3, 3), bits=8
    )
    with pytest.raises(BadTensor, match="do not fit 32 bits"):
        convolve(np.zeros((8, 1, 3, 3, 1, 64), np.uint64), PlaneWeights.sliced(weights))


def test_the_largest_sums_that_fit_are_not_refused_for_their_size() -> None:
    if config.ENABLE_CUDASIM or cuda.is_available():
        pytest.skip("there is a GPU, which would run it")
    with pytest.raises(NoCudaDevice):
        product(np.zeros((8, 1, 516), np.uint64), matrix(bits=8, columns=33024))
    with pytest.raises(NoCudaDevice):
        product(np.zeros((8, 1, 517), np.uint64), matrix(bits=8, columns=33026), dtype=np.int64)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((2, 1), np.int32, BadTensor, r"inputs of shape \(2, 1\).*expected \[bits, rows, words\]"),
        ((2, 1, 2), np.int32, BadTensor, "2 words do not fit weights of 3 outputs and 1 words"),
        ((9, 1, 1), np.int32, ConfigError, "bits of an input=9: expected 1 to 8"),
        ((0, 1, 1), np.int32, ConfigError, "bits of an input=0"),
        ((2, 1, 1), np.float32, ConfigError, "dtype=float32: expected int32 or int64"),
    ],
)
def test_products_that_cannot_be(
    shape: tuple[int, ...], dtype: type, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        product(np.zeros(shape, np.uint64), matrix(), dtype=dtype)


def test_convolutions_that_cannot_be() -> None:
    codes = np.ones((1, 3, 8), np.int64)
    tensor = from_codes(codes, np.ones((1, 3, 1), np.float32), shape=(3, 2, 2, 2), bits=4)
    weights, images = PlaneWeights.sliced(tensor), pack_images(np.zeros((1, 2, 3, 3), np.int64), 2)
    with pytest.raises(BadTensor, match=r"dilation \(3, 3\) do not fit images of \(3, 3\)"):
        convolve(images, weights, dilation=(3, 3))
    with pytest.raises(ConfigError, match="at least 1, 0 and 1"):
        convolve(images, weights, stride=(0, 1))
    with pytest.raises(BadTensor, match="inputs of 2 groups of 1 words do not fit weights of 3 outputs"):
        convolve(pack_images(np.zeros((1, 2, 3, 3), np.int64), 2, groups=2), weights)
    with pytest.raises(BadTensor, match="and a matrix"):
        product(pack(np.zeros((1, 8), np.int64), 2), weights)


def test_images_that_cannot_be_packed() -> None:
    with pytest.raises(BadTensor, match="3 channels do not fall into 2 groups"):
        pack_images(np.zeros((1, 3, 2, 2), np.int64), 2, groups=2)
    with pytest.raises(BadTensor, match=r"codes span \[0, 2\]; 2 bits hold \[-2, 1\]"):
        pack_images(np.array([0, 1, 2, 0]).reshape(1, 1, 2, 2), 2, signed=True)


def test_weights_of_other_shapes_are_refused() -> None:
    words = np.zeros((2, 1), np.uint64)
    with pytest.raises(BadTensor, match=r"expected \(1, 2, 1, 2\)"):
        PlaneWeights.binary(words, 65)
    with pytest.raises(BadTensor, match="expected the same"):
        PlaneWeights.ternary(words, words[:1], 3)
