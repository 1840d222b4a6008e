"""Adder graphs and shared products against the plain product, and the greedy against a brute-force count of pairs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.adders import AdderGraph
from compressors.errors import BadTensor, ConfigError
from compressors.kernels.reuse import eliminate
from compressors.reuse import adder_graph, reuse
from compressors.sharing import share, shared_products
from compressors.slicing import csd_digits, from_codes
from compressors.tensor import SlicedTensor

REPOSITORY = Path(__file__).resolve().parents[2]


def ternary(rows: int, columns: int, zeros: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((rows, columns)) < zeros, 0, rng.integers(0, 2, (rows, columns)) * 2 - 1)


@st.composite
def matrices(draw: st.DrawFn, largest: int = 1) -> np.ndarray:
    """Codes ``[N, K]`` of magnitude up to ``largest``, often with empty rows and columns of zeros alone."""
    rows = draw(st.one_of(st.integers(0, 9), st.sampled_from([1, 63, 64, 65, 130])))
    columns = draw(st.one_of(st.integers(0, 12), st.sampled_from([1, 40])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(-largest, largest + 1, (rows, columns))
    codes[rng.random(codes.shape) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))] = 0
    codes[rng.random(rows) < 0.1] = 0
    codes[:, rng.random(columns) < 0.1] = 0
    return codes


blocks = st.one_of(st.none(), st.tuples(st.integers(1, 70), st.integers(1, 7)))


def check_graph(graph: AdderGraph, codes: np.ndarray, digits: int) -> None:
    """All that holds for every graph of ``codes``, which are written in ``digits`` non-zero digits."""
    x = np.random.default_rng(0).integers(-(2**20), 2**20, (codes.shape[1], 5))
    assert np.array_equal(graph.evaluate(x), codes @ x)
    filled = int(codes.any(1).sum())
    assert graph.adders_before == digits - filled
    assert graph.adders <= graph.adders_before
    for s, (left, _, right, _, shift) in enumerate(graph.operations.tolist()):
        assert max(left, right) < graph.inputs + s and shift >= 0
    positive, negative = np.maximum(codes, 0).sum(1), np.minimum(codes, 0).sum(1)
    expected = np.stack([-3 * positive + 5 * negative, 5 * positive - 3 * negative], axis=1)
    assert np.array_equal(graph.output_ranges(-3, 5), expected)


@settings(max_examples=80, deadline=None)
@given(matrices(), blocks)
def test_ternary_graphs(codes: np.ndarray, block: tuple[int, int] | None) -> None:
    check_graph(adder_graph(codes.astype(np.int8), block), codes, np.count_nonzero(codes))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 7, 127, 1000]).flatmap(matrices), blocks)
def test_graphs_of_wide_codes(codes: np.ndarray, block: tuple[int, int] | None) -> None:
    digits = sum(np.count_nonzero(d) for d in csd_digits(codes, 11, 1)[0])
    check_graph(adder_graph(codes, block), codes, digits)


def pair_counts(planes: np.ndarray) -> np.ndarray:
    """``[2, columns, columns]``: rows in which two columns have the same sign, and in which they have not."""
    plus, minus = (planes > 0).astype(int), (planes < 0).astype(int)
    counts = np.stack([plus.T @ plus + minus.T @ minus, plus.T @ minus + minus.T @ plus])
    counts[:, np.arange(planes.shape[1]), np.arange(planes.shape[1])] = 0
    return counts


@pytest.mark.parametrize(
    ("rows", "columns", "zeros"), [(5, 7, 0.3), (64, 40, 0.5), (130, 24, 0.7), (200, 9, 0.2), (9, 90, 0.5)]
)
def test_every_step_takes_a_most_frequent_pair_of_the_rarest_columns(
    rows: int, columns: int, zeros: float
) -> None:
    planes = ternary(rows, columns, zeros, seed=rows)
    pairs, starts, entries = eliminate(planes[None].astype(np.int8))
    for left, right, shift, subtracted in pairs:
        counts, weight = pair_counts(planes), np.count_nonzero(planes, axis=0)
        most = counts.max()
        rarest = min(weight[list(members)].min() for _, *members in np.argwhere(counts == most))
        assert most >= 2 and counts[subtracted, left, right] == most and shift == 0
        assert min(weight[left], weight[right]) == rarest
        sign = -1 if subtracted else 1
        both = (planes[:, left] != 0) & (planes[:, right] == sign * planes[:, left])
        new = np.where(both, planes[:, left], 0)
        planes[np.ix_(both, [left, right])] = 0
        planes = np.column_stack([planes, new])
    assert pair_counts(planes).max() < 2
    for row in range(rows):
        left_over = entries[starts[row] : starts[row + 1]]
        assert left_over.tolist() == [
            int(c) << 1 | int(planes[row, c] < 0) for c in np.flatnonzero(planes[row])
        ]


def shifted_counts(digits: dict[tuple[int, int, int], int]) -> dict[tuple[int, int, int, int], int]:
    """Disjoint occurrences of every ``(left, right, shift, subtracted)`` among ``(row, column, offset) -> sign``."""
    found: dict[tuple[int, int, int, int], int] = {}
    used: dict[tuple[int, int, int, int], set] = {}
    for (row, left, low), sign in sorted(digits.items(), key=lambda item: item[0][2]):
        for (other_row, right, high), other in digits.items():
            if other_row != row or high < low or (low == high and left >= right):
                continue
            key = (left, right, high - low, int(sign != other))
            taken = used.setdefault(key, set())
            if left != right or (row, low) not in taken:
                found[key] = found.get(key, 0) + 1
                if left == right:
                    taken.add((row, high))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_pairs_with_shifts(seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-127, 128, (6, 5))
    planes = np.stack(csd_digits(codes, 8, 1)[0]).astype(np.int8)
    digits = {(int(r), int(c), int(o)): int(planes[o, r, c]) for o, r, c in np.argwhere(planes)}
    pairs, starts, entries = eliminate(planes)
    for step, (left, right, shift, subtracted) in enumerate(pairs.tolist()):
        key = (left, right, shift, subtracted)
        if shift == 0:
            key = (min(left, right), max(left, right), 0, subtracted)
        counts = shifted_counts(digits)
        assert counts[key] == max(counts.values()) >= 2
        for row, column, offset in sorted(digits, key=lambda place: place[2]):
            here, there = (row, left, offset), (row, right, offset + shift)
            if column == left and here in digits and there in digits and here != there:
                sign = digits[here]
                if (digits[there] != sign) == bool(subtracted):
                    del digits[here], digits[there]
                    digits[(row, 5 + step, offset)] = sign
    assert max(shifted_counts(digits).values(), default=0) < 2
    assert len(entries) == len(digits) and starts[-1] == len(entries)


def test_greedy_by_hand() -> None:
    # a + b is in all three rows; a + b + c and a + b - c have nothing else in common: 5 additions become 3
    graph = adder_graph(np.array([[1, 1, 1], [1, 1, -1], [1, 1, 0]]))
    assert (graph.adders_before, graph.adders, graph.shared, graph.depth) == (5, 3, 1, 2)
    assert sorted(graph.operations[0, [0, 2]]) == [0, 1]
    assert graph.outputs[2].tolist() == [3, 0, 1]


def test_ties_go_to_rare_columns() -> None:
    # every pair of a, b, c occurs twice, but a is in three rows: first b + c, then a + (b + c)
    graph = adder_graph(np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0]]))
    assert sorted(graph.operations[0, [0, 2]]) == [1, 2]
    assert (graph.adders, graph.outputs[0].tolist()) == (2, graph.outputs[1].tolist())


def test_shifted_digits_share_with_themselves() -> None:
    # 45 = 64 - 16 - 4 + 1 holds 4 - 1 twice: 3 = 4 - 1 and 45 = 16 * 3 - 3
    graph = adder_graph(np.array([[45]]))
    assert (graph.adders_before, graph.adders, graph.depth) == (3, 2, 2)
    assert graph.evaluate(np.array([[7, -2]])).tolist() == [[315, -90]]


def test_fewer_adders_than_the_best_known_for_a_random_layer() -> None:
    adders = [adder_graph(ternary(64, 576, 0.5, seed)).adders for seed in range(3)]
    assert np.mean(adders) <= 7466  # da4ml 0.6.0 on such matrices


def test_more_columns_than_bitsets_have_room_for() -> None:
    codes = ternary(400, 13, 0.2, seed=3)
    graph = adder_graph(codes)
    check_graph(graph, codes, np.count_nonzero(codes))
    assert graph.shared > 2 * (3 * 13 + 64)


def test_narrow_blocks_share_less() -> None:
    codes = ternary(32, 60, 0.5, seed=1)
    whole, halves, cells = (adder_graph(codes, block).adders for block in (None, (16, 60), (1, 1)))
    assert whole < halves < cells == adder_graph(codes).adders_before


def depth_of(graph: AdderGraph, node: int) -> int:
    if node < graph.inputs:
        return 0
    left, _, right, _, _ = graph.operations[node - graph.inputs]
    return 1 + max(depth_of(graph, left), depth_of(graph, right))


@settings(max_examples=40, deadline=None)
@given(matrices(largest=7), blocks)
def test_depth(codes: np.ndarray, block: tuple[int, int] | None) -> None:
    graph = adder_graph(codes[:8, :10], block)
    roots = [node for node, _, _ in graph.outputs if node >= 0]
    assert graph.depth == max((depth_of(graph, node) for node in roots), default=0)


def test_unshared_sums_are_balanced() -> None:
    # one row shares nothing: n terms in a tree of ceil(log2 n) levels
    for terms in range(1, 20):
        graph = adder_graph(np.ones((1, terms), int))
        assert (graph.adders, graph.depth) == (terms - 1, (terms - 1).bit_length())


@pytest.mark.parametrize(("bits", "signed"), [(1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("largest", [1, 7])
def test_widths_against_all_inputs(bits: int, signed: bool, largest: int) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    codes = np.random.default_rng(bits).integers(-largest, largest + 1, (5, 5))
    graph = adder_graph(codes)
    x = np.array(list(itertools.product(range(low, low + 2**bits), repeat=5))).T
    nodes = list(x)
    for left, left_sign, right, right_sign, shift in graph.operations.tolist():
        nodes.append(left_sign * nodes[left] + right_sign * nodes[right] * 2**shift)
    extremes = np.array([[node.min(), node.max()] for node in nodes])
    assert np.array_equal(graph.ranges(low, low + 2**bits - 1), extremes)

    def width(least: int, most: int) -> int:
        if least >= 0:
            return next(w for w in range(40) if most < 2**w)
        return next(w for w in range(1, 40) if -(2 ** (w - 1)) <= least and most < 2 ** (w - 1))

    assert graph.widths(bits, signed).tolist() == [width(*pair) for pair in extremes.tolist()]
    outputs = [width(int(row.min()), int(row.max())) for row in codes @ x]
    assert graph.output_widths(bits, signed).tolist() == outputs


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("encoding", "granularity"),
    [("csd", 1), ("csd", 4), ("twos_complement", 1), ("twos_complement", 3), ("sign_magnitude", 2)],
)
def test_reuse_of_sliced_tensors(encoding: str, granularity: int, groups: int) -> None:
    rng = np.random.default_rng(5)
    codes = rng.integers(-32, 32, (2, 7, 12))
    codes[1, 3] = codes[0, :, 5] = 0
    scale = rng.random((2, 7, groups)).astype(np.float32)
    tensor = from_codes(codes, scale, shape=(7, 3, 2, 2), bits=6, encoding=encoding, granularity=granularity)
    for block in (None, (3, 5)):
        layer = reuse(tensor, block)
        x = rng.integers(-128, 128, (12, 9))
        per_group = codes.reshape(2, 7, groups, -1)
        expected = np.einsum("tngk,gkm->tgnm", per_group, x.reshape(groups, -1, 9))
        assert np.array_equal(layer.evaluate(x), expected)
        bits = sum(bin(abs(int(d))).count("1") for d in tensor.digits().ravel())
        filled = per_group.any(3)
        assert layer.adders_before == bits - filled.sum()
        assert layer.scalings == filled.sum()
        assert layer.combining == np.maximum(filled.sum((0, 2)) - 1, 0).sum()
        assert layer.adders == sum(g.adders for term in layer.graphs for g in term) < layer.adders_before
        assert layer.depth == max(g.depth for term in layer.graphs for g in term)


def test_reuse_of_ternary_terms() -> None:
    codes = np.stack([ternary(16, 36, 0.5, seed) for seed in range(2)])
    layer = reuse(SlicedTensor.from_terms(codes, np.ones((2, 16, 1)), (16, 4, 3, 3), "ternary"))
    assert [term[0].adders for term in layer.graphs] == [adder_graph(c).adders for c in codes]


def test_tensors_whose_digits_are_none() -> None:
    digits = np.ones((2, 3, 4), np.int64)
    common = dict(
        shape=(3, 4), encoding="csd", bits=4, granularity=1, scale=np.ones((1, 3, 1)), term=np.zeros(2)
    )
    with pytest.raises(BadTensor, match=r"factors \[1, 3\].*powers of two"):
        reuse(SlicedTensor.from_digits(digits, factor=np.array([1, 3]), **common))
    with pytest.raises(BadTensor, match="term 0 hold digits at position 1"):
        reuse(SlicedTensor.from_digits(digits, factor=np.array([2, -2]), **common))


def test_what_is_refused() -> None:
    codes = np.array([[1, -1]])
    with pytest.raises(BadTensor, match="float64: expected integers"):
        adder_graph(codes.astype(float))
    with pytest.raises(BadTensor, match=r"shape \(2,\)"):
        shared_products(codes[0])
    with pytest.raises(ConfigError, match="block=.*at least 1"):
        adder_graph(codes, (0, 4))
    with pytest.raises(ConfigError, match="bits=33"):
        adder_graph(codes).widths(33, True)
    with pytest.raises(BadTensor, match=r"expected integers \[2, positions\]"):
        adder_graph(codes).evaluate(np.ones((3, 1), int))
    with pytest.raises(BadTensor, match="too many.*smaller blocks"):
        eliminate(np.zeros((2, 1 << 19, 1), np.int8))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 3, 9]).flatmap(matrices), blocks)
def test_shared_products(codes: np.ndarray, block: tuple[int, int] | None) -> None:
    products = shared_products(codes, block)
    x = np.random.default_rng(1).integers(-(2**20), 2**20, (codes.shape[1], 67))
    assert np.array_equal(products.evaluate(x), codes @ x)
    width = codes.shape[1] if block is None else block[1]
    parts = [row[first : first + width] for row in codes for first in range(0, len(row), max(width, 1))]
    assert products.multiplications == sum(len({abs(c) for c in part.tolist() if c}) for part in parts)
    assert products.multiplications_before == np.count_nonzero(codes)
    assert products.additions_before == np.count_nonzero(codes) - codes.any(1).sum()
    assert products.additions <= products.additions_before


def test_products_by_hand() -> None:
    # rows of 2a - 2b + 3c and 2a - 2b - 3c: 3 multiplications each become 2; a - b is common to both rows
    codes = np.array([[2, -2, 3], [2, -2, -3]])
    alone, together = shared_products(codes), shared_products(codes, (2, 3))
    assert (alone.multiplications_before, alone.multiplications) == (6, 4)
    assert (alone.additions_before, alone.additions, together.additions) == (4, 4, 3)
    assert together.multiplications == 4


def test_products_of_a_tensor() -> None:
    codes = np.random.default_rng(2).integers(-4, 4, (2, 5, 12))
    tensor = from_codes(codes, np.ones((2, 5, 3)), shape=(5, 12), bits=3)
    x = np.random.default_rng(3).integers(0, 16, (12, 4))
    for term, of_term in zip(codes, share(tensor), strict=True):
        parts = [p.evaluate(x[4 * g : 4 * g + 4]) for g, p in enumerate(of_term)]
        assert np.array_equal(sum(parts), term @ x)


WITHOUT_JIT = """
import numpy as np
from numba import config
from compressors.reuse import adder_graph
from compressors.sharing import shared_products

assert config.DISABLE_JIT
rng = np.random.default_rng(0)
for largest, block in [(1, None), (1, (3, 4)), (20, None)]:
    codes = rng.integers(-largest, largest + 1, (7, 11))
    x = rng.integers(-9, 9, (11, 3))
    graph = adder_graph(codes, block)
    assert np.array_equal(graph.evaluate(x), codes @ x)
    assert np.array_equal(shared_products(codes, block).evaluate(x), codes @ x)
    print(graph.adders, graph.depth, graph.widths(4, True).sum())
"""


def test_without_the_jit() -> None:
    printed = []
    for disabled in ("1", "0"):
        script = WITHOUT_JIT if disabled == "1" else WITHOUT_JIT.replace("assert config", "assert not config")
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "NUMBA_DISABLE_JIT": disabled, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1] != ""
