"""The device kernels in Numba: under its simulator, on a GPU where there is one, and compiled for one without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numba import config, cuda, types
from numba.cuda.cudadrv.error import CudaSupportError, NvvmSupportError

from compressors.kernels import cuda as kernels
from compressors.kernels import cuda_layers

CASES = Path(__file__).with_name("device_cases.py")
ROOT = CASES.parents[2]


def run_cases(simulator: bool) -> None:
    """All cases in one process, as Numba decides between a GPU and the simulator when it is imported."""
    path = os.pathsep.join(map(str, [ROOT, ROOT / "tests", CASES.parent]))
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": str(int(simulator)), "PYTHONPATH": path}
    if simulator:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-x", "-p", "no:cacheprovider", str(CASES)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_under_the_simulator() -> None:
    run_cases(simulator=True)


def test_on_a_gpu() -> None:
    if config.ENABLE_CUDASIM or not cuda.is_available():
        pytest.skip("there is no GPU that Numba can use")
    run_cases(simulator=False)


def array(kind: Any, axes: int, layout: str = "C") -> Any:
    return types.Array(kind, axes, layout)


F4, I8 = types.float32, types.int64
PLANES, SUMS = array(types.uint64, 6), array(types.int32, 3)
WORDS, FACTORS = array(types.uint64, 3), array(types.int32, 1)
SIGNATURES = {
    "bytes": (cuda_layers._quantize_bytes, (array(F4, 4, "A"), F4, F4, F4, I8, I8, I8, array(types.int8, 4))),
    "planes": (cuda_layers._quantize_planes, (array(F4, 4, "A"), F4, F4, F4, PLANES)),
    "finish": (
        cuda_layers._finish,
        (array(types.int32, 3, "A"), array(F4, 2), array(F4, 1), types.boolean, array(F4, 2)),
    ),
    "product": (
        kernels._product_kernel(True, False),
        (PLANES, FACTORS, I8, WORDS, WORDS, FACTORS, array(I8, 1), array(types.int32, 2), types.UniTuple(I8, 9), SUMS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_they_compile_for_a_gpu(name: str) -> None:
    """The compiler alone is needed, no device; the division of a value by the grid's step is exactly rounded."""
    if config.ENABLE_CUDASIM:
        pytest.skip("the simulator compiles nothing")
    kernel, signature = SIGNATURES[name]
    try:
        ptx, answer = cuda.compile_ptx(kernel.py_func, signature, cc=(8, 0))
    except (NvvmSupportError, CudaSupportError) as error:
        pytest.skip(f"Numba finds no compiler for GPUs: {error}".splitlines()[0])
    assert answer == types.void and ".visible .entry" in ptx
    if name in ("bytes", "planes"):
        assert "div.rn.f32" in ptx and "cvt.rni" in ptx
    if name == "product":
        assert "popc.b64" in ptx
