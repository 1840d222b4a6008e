"""Runs of inputs that share a scale divide the inputs evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressors.grid import LevelGrid
from compressors.methods.auto import AutoConfig
from compressors.methods.groups import group_length, grouped
from compressors.methods.kmeans import KmeansConfig
from compressors.methods.normal_float import NormalFloatConfig
from compressors.methods.power_of_two import PowerOfTwoConfig
from compressors.methods.quantile import QuantileConfig
from compressors.methods.uniform import UniformConfig
from compressors.registry import MethodConfig, compress


@given(st.integers(1, 300), st.integers(0, 400))
def test_the_largest_divisor_that_is_not_above(columns: int, group: int) -> None:
    length = group_length(columns, group)
    assert columns % length == 0
    if group:
        assert length <= group
        assert not any(columns % other == 0 for other in range(length + 1, min(group, columns) + 1))
    else:
        assert length == columns


def test_runs_are_contiguous() -> None:
    weight = np.arange(24).reshape(2, 12)
    assert grouped(weight, 5).tolist() == weight.reshape(2, 3, 4).tolist()
    assert grouped(weight, 0).shape == (2, 1, 12)


CONFIGS: list[MethodConfig] = [
    UniformConfig(3, group=9),
    UniformConfig(3, symmetric=False, group=9),
    UniformConfig(3, symmetric=False, per="tensor"),
    KmeansConfig(3),
    KmeansConfig(3, "channel"),
    QuantileConfig(3),
    NormalFloatConfig(3, group=9),
    PowerOfTwoConfig(4, 2, group=9),
    AutoConfig(3),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_nearest_levels_of_the_grid_are_what_a_method_chose(config: MethodConfig) -> None:
    """So repairs that choose levels anew start from the method's own result."""
    rng = np.random.default_rng(0)
    weight, keep = rng.standard_normal((4, 54)), rng.random((4, 54)) < 0.8
    tensor = compress(weight, config, keep)
    grid = LevelGrid.of(tensor, config)
    levels, order = grid.levels(tensor.scale)
    runs = weight.reshape(*tensor.scale.shape[1:], -1)
    nearest = np.abs(runs[..., None] - levels[:, :, None, :]).argmin(3)
    choice = np.take_along_axis(order, nearest, 2).reshape(4, 54)
    assert np.array_equal(grid.tensor(choice, tensor.scale, keep).to_dense(), tensor.to_dense())
