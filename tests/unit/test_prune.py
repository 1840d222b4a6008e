"""Magnitude pruning."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import gauss
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.methods.prune import magnitude_mask


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.floats(0, 0.999))
def test_the_smallest_go(seed: int, rows: int, columns: int, sparsity: float) -> None:
    weight = gauss(rows, columns, seed=seed)
    keep = magnitude_mask(weight, sparsity)
    assert keep.shape == weight.shape and keep.dtype == bool
    assert (~keep).sum() == round(sparsity * weight.size)
    assert max(np.abs(weight[~keep]), default=0.0) <= min(np.abs(weight[keep]), default=np.inf)


def test_ties_go_by_position() -> None:
    assert magnitude_mask(np.array([[1.0, -1.0], [1.0, 1.0]]), 0.5).tolist() == [[False, False], [True, True]]
    weight = np.random.default_rng(0).integers(-2, 3, (10, 100)).astype(float)
    first = sorted(range(1000), key=lambda place: abs(weight.flat[place]))[
        :300
    ]  # sorted() keeps ties in order
    assert np.flatnonzero(~magnitude_mask(weight, 0.3)).tolist() == sorted(first)


@pytest.mark.parametrize("order", ["C", "F"])
def test_more_sparsity_prunes_a_superset(order: str) -> None:
    weight = np.array(gauss(4, 3, 3, 3), order=order)
    masks = [magnitude_mask(weight, sparsity) for sparsity in (0.0, 0.2, 0.5, 0.9)]
    assert masks[0].all()
    for more, fewer in zip(masks, masks[1:], strict=False):
        assert not np.any(fewer & ~more)
