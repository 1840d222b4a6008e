"""The uniform grid: its scale against an exhaustive search, its bits against the published oracles."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from contracts import CompressorContract, gauss

from compressors.errors import ConfigError
from compressors.methods.uniform import UniformConfig
from compressors.registry import compress
from compressors.slicing import reslice


class TestUniform(CompressorContract):
    ladder = [UniformConfig(bits) for bits in (2, 3, 4, 6, 8)]

    def code_range(self, config: UniformConfig) -> tuple[int, int]:
        return -(2 ** (config.bits - 1)), 2 ** (config.bits - 1) - 1


class TestUniformMinMax(CompressorContract):
    ladder = [UniformConfig(bits, "minmax") for bits in (2, 4, 8)]

    def code_range(self, config: UniformConfig) -> tuple[int, int]:
        return -(2 ** (config.bits - 1)), 2 ** (config.bits - 1) - 1


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
