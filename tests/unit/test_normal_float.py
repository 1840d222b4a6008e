"""NormalFloat against the values published for four bits."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from contracts import CompressorContract, gauss

from compressors.errors import ConfigError
from compressors.methods.normal_float import NormalFloatConfig, normal_levels
from compressors.registry import alphabet, compress


class TestNormalFloat(CompressorContract):
    ladder = [NormalFloatConfig(bits) for bits in (2, 4, 6)]

    def code_range(self, config: NormalFloatConfig) -> tuple[int, int]:
        top = 2 ** (config.table_bits - 1) - 1
        return -top, top


class TestNormalFloatMinMax(TestNormalFloat):
    ladder = [NormalFloatConfig(4, "minmax"), NormalFloatConfig(4, "mse")]


class TestNormalFloatGroups(TestNormalFloat):
    ladder = [NormalFloatConfig(3, group=9), NormalFloatConfig(5, group=9)]


# QLoRA, arXiv 2305.14314, appendix E
PUBLISHED = [
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
]


def test_published_levels() -> None:
    assert normal_levels(4) == pytest.approx(PUBLISHED, abs=3e-7)


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_of_any_width(bits: int) -> None:
    levels = np.array(normal_levels(bits))
    assert len(levels) == 2**bits and np.all(np.diff(levels) > 0)
    assert levels[0] == -1.0 and levels[-1] == 1.0
    assert (levels < 0).sum() == 2 ** (bits - 1) - 1 and (levels == 0).sum() == 1


@pytest.mark.parametrize("table_bits", [4, 6, 8])
def test_the_largest_weight_is_kept_and_the_others_take_the_nearest_level(table_bits: int) -> None:
    weight = gauss(6, 64).astype(np.float64)
    config = NormalFloatConfig(4, "minmax", table_bits=table_bits)
    tensor = compress(weight, config)
    dense = tensor.to_dense()
    table = np.unique(np.rint(np.array(PUBLISHED) * (2 ** (table_bits - 1) - 1)))
    assert np.array_equal(alphabet(tensor, config).ravel(), table)
    rows, largest = np.arange(6), np.abs(weight).argmax(1)
    assert dense[rows, largest] == pytest.approx(weight[rows, largest], rel=1e-6)
    for row, got in zip(weight, dense, strict=True):
        levels = table / table.max() * np.abs(row).max()
        errors = [np.abs(row[:, None] - side * levels).min(1) for side in (1, -1)]
        best = min(errors, key=lambda error: (error**2).sum())
        assert np.abs(row - got) == pytest.approx(best, abs=1e-6)


def test_searched_scale_against_a_fine_search() -> None:
    weight = gauss(3, 400).astype(np.float64)
    table = np.rint(np.array(PUBLISHED) * 127)
    got = ((weight - compress(weight, NormalFloatConfig(4)).to_dense()) ** 2).sum(1)
    for row, error in zip(weight, got, strict=True):
        scales = np.linspace(-1.1, 1.1, 300) * np.abs(row).max() / 127
        fine = min((np.abs(row[:, None] - s * table).min(1) ** 2).sum() for s in scales)
        assert error <= 1.02 * fine


def test_groups_are_channels_of_their_own_and_share_one_table() -> None:
    weight = gauss(4, 256)
    whole = compress(weight, NormalFloatConfig(4, group=64))
    apart = compress(weight.reshape(16, 64), NormalFloatConfig(4))
    assert np.array_equal(whole.to_dense(), apart.to_dense().reshape(4, 256))
    assert (
        whole.storage_bits <= 1024 * 4 + 31 * 8 + 16 * 32
    )  # codes of either sign: a table of mirrored levels


def test_normal_weights_lose_less_than_on_a_uniform_grid_and_more_than_to_the_best_levels() -> None:
    weight = np.random.default_rng(0).standard_normal((400, 1000))
    error = naive.relative_mse(weight, compress(weight, NormalFloatConfig(4)).to_dense())
    assert 0.0085 < error < 0.0115  # best 16 levels 0.0095 for endless rows, uniform 0.0115


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"bits": 1}, "normal_float.bits=1.*2 to 8"),
        ({"clip": "kl"}, "normal_float.clip=kl.*mse or minmax"),
        ({"group": -2}, "normal_float.group=-2"),
        ({"bits": 5, "table_bits": 4}, "normal_float.table_bits=4"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NormalFloatConfig(**settings_)  # type: ignore[arg-type]
