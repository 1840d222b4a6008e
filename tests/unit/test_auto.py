"""The best of several grids is the best of them."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import CompressorContract, gauss

from compressors.errors import ConfigError, UnknownName
from compressors.methods.auto import AutoConfig, chosen
from compressors.methods.kmeans import KmeansConfig
from compressors.methods.normal_float import NormalFloatConfig
from compressors.methods.power_of_two import PowerOfTwoConfig
from compressors.methods.quantile import QuantileConfig
from compressors.methods.uniform import UniformConfig
from compressors.registry import alphabet, compress


class TestAuto(CompressorContract):
    ladder = [AutoConfig(bits) for bits in (2, 4, 6)]

    def code_range(self, config: AutoConfig) -> tuple[int, int]:
        return -(2**15), 2**15 - 1

    def test_channels_are_independent(self, config: AutoConfig) -> None:
        """They are not where a shared codebook wins: the choice is the layer's. Without one, it only may differ."""
        weight = gauss(5, 33)
        alone = np.concatenate([compress(row[None], config).to_dense() for row in weight])
        assert ((weight - alone) ** 2).sum() <= (
            (weight - compress(weight, config).to_dense()) ** 2
        ).sum() * 1.01


class TestAutoOfOne(TestAuto):
    ladder = [AutoConfig(bits, "uniform") for bits in (2, 8)]

    def code_range(self, config: AutoConfig) -> tuple[int, int]:
        return -(2 ** (config.bits - 1)), 2 ** (config.bits - 1) - 1


def candidates(bits: int) -> list[object]:
    power = PowerOfTwoConfig(bits, bits // 2)
    return [UniformConfig(bits), KmeansConfig(bits), QuantileConfig(bits), NormalFloatConfig(bits), power]


def suited_to(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if name == "uniform":
        return np.concatenate([np.arange(-8, 8), rng.integers(-8, 8, 48)]).astype(float)[None] * [
            [0.3],
            [1.1],
        ]
    if name == "kmeans":
        return rng.choice([-1.0, -0.93, -0.31, 0.0, 0.07, 0.5, 0.9], (2, 64))
    if name == "quantile":
        own = np.concatenate([rng.integers(-127, 128, (4, 15)), np.zeros((4, 1))], axis=1)  # in every channel
        own[:, 0] = 127.0
        return np.repeat(own, 5, axis=1)
    if name == "normal_float":
        return rng.standard_normal((16, 200)) * rng.uniform(0.1, 5, (16, 1))
    return rng.choice([-10, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10], (2, 200)) * [[0.1], [1.3]]


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", ["uniform", "kmeans", "quantile", "normal_float", "power_of_two"])
def test_the_least_error_wins(name: str, bits: int) -> None:
    weight = suited_to(name)
    keep = np.random.default_rng(1).random(weight.shape) < 0.9
    kept = np.where(keep, weight, 0.0)
    tensors = [compress(weight, candidate, keep) for candidate in candidates(bits)]
    errors = [((tensor.to_dense() - kept) ** 2).sum() for tensor in tensors]
    best = int(np.argmin(errors))
    config = AutoConfig(bits)
    assert chosen(weight, keep, config) == candidates(bits)[best]
    assert compress(weight, config, keep).digest() == tensors[best].digest()


def test_every_candidate_has_weights_that_it_suits() -> None:
    winners = {name: type(chosen(suited_to(name), None, AutoConfig(4))) for name in ("uniform", "kmeans")}
    assert winners == {"uniform": UniformConfig, "kmeans": KmeansConfig}
    assert isinstance(chosen(suited_to("normal_float"), None, AutoConfig(4)), NormalFloatConfig)
    assert isinstance(chosen(suited_to("power_of_two"), None, AutoConfig(4)), PowerOfTwoConfig)
    assert isinstance(chosen(suited_to("quantile"), None, AutoConfig(4)), QuantileConfig)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["uniform", "kmeans", "quantile", "normal_float", "power_of_two"])
def test_the_alphabet_is_that_of_the_winner(name: str, bits: int) -> None:
    weight = np.random.default_rng(3).standard_normal((6, 80)) * np.arange(1, 7)[:, None]
    config = AutoConfig(bits, name)
    tensor = compress(weight, config)
    own = alphabet(tensor, chosen(weight, None, config))
    assert np.array_equal(alphabet(tensor, config), own)
    everything = AutoConfig(bits)
    levels = np.broadcast_to(alphabet(tensor, everything), (1, 6, 1, alphabet(tensor, everything).shape[-1]))
    assert levels.shape[-1] <= 2**bits
    for codes, row in zip(tensor.codes()[0], levels[0, :, 0], strict=True):
        assert np.isin(codes, row).all()


def test_of_equals_the_first_is_taken() -> None:
    weight = np.zeros((2, 5))
    assert chosen(weight, None, AutoConfig(4)) == UniformConfig(4)
    assert chosen(weight, None, AutoConfig(4, "quantile, kmeans")) == QuantileConfig(4)


@pytest.mark.parametrize("bits", [1, 9, True])
def test_bits_out_of_range(bits: object) -> None:
    with pytest.raises(ConfigError, match=f"auto.bits={bits}"):
        AutoConfig(bits)  # type: ignore[arg-type]


def test_unknown_candidates() -> None:
    with pytest.raises(UnknownName, match="auto.among: unknown candidate 'kmean'; did you mean 'kmeans'"):
        AutoConfig(4, "uniform,kmean")
    for among in ("", None, " "):
        with pytest.raises(ConfigError, match="auto.among"):
            AutoConfig(4, among)  # type: ignore[arg-type]
