"""Which weights each pattern keeps, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contracts import gauss
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import BadTensor, ConfigError
from compressors.methods.prune import global_sparsity, keep_mask, parse_pattern


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.floats(0, 0.999))
def test_the_smallest_go(seed: int, rows: int, columns: int, sparsity: float) -> None:
    weight = gauss(rows, columns, seed=seed)
    keep = keep_mask(np.abs(weight), sparsity)
    assert keep.shape == weight.shape and keep.dtype == bool
    assert (~keep).sum() == round(sparsity * weight.size)
    assert max(np.abs(weight[~keep]), default=0.0) <= min(np.abs(weight[keep]), default=np.inf)


def test_ties_go_by_position() -> None:
    assert keep_mask(np.abs(np.array([[1.0, -1.0], [1.0, 1.0]])), 0.5).tolist() == [
        [False, False],
        [True, True],
    ]
    weight = np.random.default_rng(0).integers(-2, 3, (10, 100)).astype(float)
    first = sorted(range(1000), key=lambda place: abs(weight.flat[place]))[
        :300
    ]  # sorted() keeps ties in order
    assert np.flatnonzero(~keep_mask(np.abs(weight), 0.3)).tolist() == sorted(first)


@pytest.mark.parametrize("order", ["C", "F"])
def test_more_sparsity_prunes_a_superset(order: str) -> None:
    weight = np.array(gauss(4, 3, 3, 3), order=order)
    masks = [keep_mask(np.abs(weight), sparsity) for sparsity in (0.0, 0.2, 0.5, 0.9)]
    assert masks[0].all()
    for more, fewer in zip(masks, masks[1:], strict=False):
        assert not np.any(fewer & ~more)


@pytest.mark.parametrize("text", ["2:4", "4:8", "1:3", "4x1", "1x8", "16x16", "element", "channel"])
def test_patterns_are_read(text: str) -> None:
    pattern = parse_pattern(text)
    numbers = [int(n) for n in text.replace("x", ":").split(":")] if ":" in text or "x" in text else [1, 1]
    assert [pattern.rows, pattern.columns] == numbers
    assert pattern.fixed_sparsity == (1 - numbers[0] / numbers[1] if ":" in text else None)


@pytest.mark.parametrize(
    "text", ["", "4:2", "4:4", "0:4", "2:-4", "2x", "x2", "0x4", "2:4:8", "rows", None, 4, "99999x1"]
)
def test_other_patterns_are_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="layers.conv.pattern="):
        parse_pattern(text, "layers.conv.pattern")  # type: ignore[arg-type]


@pytest.mark.parametrize("sparsity", [0.4, 1.0, -0.1, "0.5", True, float("nan")])
def test_sparsity_that_contradicts_the_pattern_is_refused(sparsity: object) -> None:
    with pytest.raises(ConfigError, match="sparsity="):
        keep_mask(np.ones((2, 4)), sparsity, "2:4")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 2), (2, 4), (4, 8), (3, 5)]),
    st.integers(1, 3),
    st.integers(1, 20),
    st.sampled_from([(), (1, 1), (3, 2)]),
    st.booleans(),
)
def test_the_largest_of_every_run_stay(
    seed: int, form: tuple[int, int], rows: int, channels: int, kernel: tuple[int, ...], ties: bool
) -> None:
    n, m = form
    importance = np.abs(gauss(rows, channels, *kernel, seed=seed))
    importance = np.round(importance) if ties else importance
    keep = keep_mask(importance, 0.0, f"{n}:{m}")
    assert np.array_equal(keep, keep_mask(importance, 1 - n / m, f"{n}:{m}"))
    flat, kept = importance.reshape(rows, channels, -1), keep.reshape(rows, channels, -1)
    for row in range(rows):
        for pixel in range(flat.shape[2]):
            for start in range(0, channels, m):
                run = [(flat[row, c, pixel], -c) for c in range(start, min(start + m, channels))]
                best = sorted(run, reverse=True)[: math.ceil(n * len(run) / m)]  # ties: the first stays
                stays = {c for c in range(start, start + len(run)) if kept[row, c, pixel]}
                assert stays == {-c for _, c in best}


def test_two_of_four_by_hand() -> None:
    weight = np.array([[1.0, -3.0, 2.0, 0.5, 4.0, 5.0], [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]])
    keep = keep_mask(np.abs(weight), 0.5, "2:4")
    # the last run has two channels, of which ceil(2 * 2 / 4) = 1 stays; of zeros the first
    assert keep.tolist() == [[False, True, True, False, False, True], [True, True, False, False, False, True]]
    assert keep_mask(np.ones((4, 1, 3, 3)), 0.5, "2:4").all()  # depthwise: nothing to choose from


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(4, 1), (1, 4), (4, 4), (3, 2), (50, 1), (50, 50)]),
    st.integers(1, 9),
    st.integers(1, 5),
    st.floats(0, 0.999),
)
def test_blocks_of_the_least_mean_go(
    seed: int, form: tuple[int, int], rows: int, channels: int, sparsity: float
) -> None:
    height, width = form
    importance = np.abs(gauss(rows, channels, 2, 1, seed=seed))
    keep = keep_mask(importance, sparsity, f"{height}x{width}").reshape(rows, -1)
    flat = importance.reshape(rows, -1)
    kept, gone = [], []
    for top in range(0, rows, height):
        for left in range(0, flat.shape[1], width):
            block = keep[top : top + height, left : left + width]
            assert block.all() or not block.any()
            (kept if block.all() else gone).append(
                float(flat[top : top + height, left : left + width].mean())
            )
    blocks = len(kept) + len(gone)
    assert len(gone) == min(round(sparsity * blocks), blocks - 1)
    assert max(gone, default=0.0) <= min(kept) * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 3), st.floats(0, 0.999))
def test_whole_channels_go_evenly_from_every_group(
    seed: int, size: int, groups: int, sparsity: float
) -> None:
    importance = np.abs(gauss(size * groups, 3, 2, 2, seed=seed))
    keep = keep_mask(importance, sparsity, "channel", groups)
    rows = keep.reshape(size * groups, -1)
    assert np.array_equal(rows.all(1), rows.any(1))
    totals = importance.sum((1, 2, 3), dtype=np.float64).reshape(groups, size)
    for stays, total in zip(rows[:, 0].reshape(groups, size), totals, strict=True):
        assert (~stays).sum() == min(round(sparsity * size), size - 1)
        assert max(total[~stays], default=0.0) <= min(total[stays])


@pytest.mark.parametrize("pattern", ["element", "channel", "2x2", "4x1"])
def test_pruning_in_steps_drops_supersets(pattern: str) -> None:
    importance = np.abs(gauss(8, 6, 3, 3))
    keep = np.ones(importance.shape, bool)
    rng = np.random.default_rng(0)
    for sparsity in (0.2, 0.4, 0.6, 0.8):
        after = keep_mask(
            np.where(keep, importance * rng.uniform(0.5, 2.0, importance.shape), 0.0), sparsity, pattern
        )
        assert not (after & ~keep).any()
        keep = after
    assert np.array_equal(importance, np.abs(gauss(8, 6, 3, 3)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.floats(0, 0.999),
    st.booleans(),
)
def test_one_threshold_over_all_layers(seed: int, sizes: list[int], fraction: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    arrays = {f"layer{i}": rng.random((1, size)) * rng.choice([0.1, 10.0]) for i, size in enumerate(sizes)}
    arrays = {name: np.round(a) if ties else a for name, a in arrays.items()}
    shares = global_sparsity(arrays, fraction)
    masks = {name: keep_mask(array, shares[name]) for name, array in arrays.items()}
    assert all(mask.any() for mask in masks.values())
    dropped = sum(int((~mask).sum()) for mask in masks.values())
    assert dropped == min(round(fraction * sum(sizes)), sum(sizes) - len(sizes))
    # beside the last weight of each layer, nothing that stays is smaller than what went
    gone = max((array[~masks[name]].max(initial=0.0) for name, array in arrays.items()), default=0.0)
    for name, array in arrays.items():
        assert masks[name].sum() == 1 or array[masks[name]].min() >= gone


def test_global_sparsity_by_hand() -> None:
    arrays = {
        "wide": np.array([[1.0, 2.0, 3.0, 9.0]]),
        "small": np.array([[0.1, 0.2]]),
        "none": np.ones((0, 3)),
    }
    # the two smallest weights are all of "small", whose last one has to stay
    assert global_sparsity(arrays, 2 / 6) == {"wide": 1 / 4, "small": 1 / 2, "none": 0.0}


@pytest.mark.parametrize("pattern", ["element", "2:4", "2x3", "channel"])
def test_an_importance_of_torch_is_that_of_numpy(pattern: str) -> None:
    importance = np.abs(gauss(6, 8, 3))
    expected = keep_mask(importance, 0.5, pattern)
    for other in (torch.from_numpy(importance), torch.nn.Parameter(torch.from_numpy(importance))):
        keep = keep_mask(other, 0.5, pattern)  # type: ignore[arg-type]
        assert isinstance(keep, np.ndarray) and np.array_equal(keep, expected)
    shares = global_sparsity({"a": importance}, 0.3)
    assert global_sparsity({"a": torch.from_numpy(importance)}, 0.3) == shares  # type: ignore[dict-item]


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64])
def test_a_share_may_be_a_number_of_numpy(number: type) -> None:
    importance, share = np.abs(gauss(30, 40)), number(0.3)
    assert np.array_equal(keep_mask(importance, share), keep_mask(importance, float(share)))
    assert global_sparsity({"a": importance}, share) == global_sparsity({"a": importance}, float(share))


def test_shapes_that_a_pattern_does_not_fit() -> None:
    for pattern, shape in (("2:4", (8,)), ("channel", ()), ("4x1", (0, 3))):
        with pytest.raises(BadTensor, match="an importance of shape .*: expected"):
            keep_mask(np.ones(shape), 0.5, pattern)
    for groups in (0, 4, 7, -1, 2.0):
        with pytest.raises(ConfigError, match="groups="):
            keep_mask(np.ones((6, 3)), 0.5, "channel", groups)  # type: ignore[arg-type]
    with pytest.raises(BadTensor, match="an importance that is no array|of type str"):
        keep_mask("large", 0.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pattern=3: expected"):
        keep_mask(np.ones((6, 3)), 0.5, 3)  # type: ignore[arg-type]
