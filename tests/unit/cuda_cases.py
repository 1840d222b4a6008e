"""The kernels for the GPU against integers counted plainly; ``test_cuda_twins.py`` runs this where they can run."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from numba import cuda

from compressors.errors import BadTensor, ConfigError
from compressors.kernels import cuda as kernels
from compressors.kernels.bits import pack
from compressors.kernels.cuda import PlaneWeights, convolve, pack_images, product
from compressors.slicing import ENCODINGS, from_codes
from compressors.tensor import SlicedTensor, pack_rows


def drawn_codes(rng: np.random.Generator, bits: int, signed: bool, shape: tuple[int, ...]) -> np.ndarray:
    """Both ends of the range are among them."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    codes = rng.integers(low, high + 1, shape)
    codes.flat[0], codes.flat[-1] = low, high
    return codes


def planes_of(codes: np.ndarray, bits: int) -> np.ndarray:
    return pack(codes & ((1 << bits) - 1), bits)


def summed(codes: np.ndarray, weights: np.ndarray) -> list[list[list[int]]]:
    """``[terms, rows, N]`` in Python's integers."""
    return [
        [[sum(w * a for w, a in zip(row, x, strict=True)) for row in term] for x in codes.tolist()]
        for term in weights.tolist()
    ]


def window_sums(codes: np.ndarray, weights: np.ndarray, **window: int) -> np.ndarray:
    """``[batch, height, width, N]`` of ``codes [batch, C, h, w]`` and one term's weights."""
    images = [naive.convolution(image, weights, **window) for image in codes]
    return np.stack(images).transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("rows", "outputs", "columns", "bits", "signed"),
    [
        (1, 1, 1, 1, False),
        (3, 5, 70, 4, False),
        (3, 5, 70, 4, True),
        (2, 3, 65, 8, True),
        (4, 2, 33, 1, True),
        (33, 34, 300, 2, False),  # more than a tile in every direction
    ],
)
def test_ternary_products(rows: int, outputs: int, columns: int, bits: int, signed: bool) -> None:
    rng = np.random.default_rng(rows * columns)
    codes = drawn_codes(rng, bits, signed, (rows, columns))
    weights = rng.integers(-1, 2, (outputs, columns))
    planes = PlaneWeights.ternary(pack_rows(weights != 0), pack_rows(weights < 0), columns)
    sums = product(planes_of(codes, bits), planes, signed=signed)
    assert sums.dtype == np.int32
    assert sums.tolist() == summed(codes, weights[None])


def test_an_empty_mask_and_signs_outside_of_it() -> None:
    codes = np.arange(2 * 40).reshape(2, 40) % 8
    sign = np.full((3, 1), 2**40 - 1, np.uint64)
    mask = np.array([[0], [5], [0]], np.uint64)
    sums = product(pack(codes, 3), PlaneWeights.ternary(mask, sign, 40))
    assert sums.tolist() == [[[0, -codes[r, 0] - codes[r, 2], 0] for r in range(2)]]


@pytest.mark.parametrize(("columns", "bits", "signed"), [(64, 1, False), (67, 3, False), (129, 5, True)])
def test_binary_products(columns: int, bits: int, signed: bool) -> None:
    rng = np.random.default_rng(columns)
    codes = drawn_codes(rng, bits, signed, (4, columns))
    weights = rng.choice([-1, 1], (6, columns))
    planes = PlaneWeights.binary(pack_rows(weights < 0), columns)
    assert product(planes_of(codes, bits), planes, signed=signed).tolist() == summed(codes, weights[None])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("granularity", "dtype"), [(1, np.int32), (2, np.int64), (4, np.int32)])
def test_sliced_products_of_several_terms(encoding: str, granularity: int, dtype: type) -> None:
    rng = np.random.default_rng(granularity)
    weights = drawn_codes(rng, 5, True, (2, 3, 45))
    scale = np.ones((2, 3, 1), np.float32)
    tensor = from_codes(weights, scale, shape=(3, 45), bits=5, encoding=encoding, granularity=granularity)
    codes = drawn_codes(rng, 3, True, (2, 45))
    sums = product(planes_of(codes, 3), PlaneWeights.sliced(tensor), signed=True, dtype=dtype)
    assert sums.dtype == dtype
    assert sums.tolist() == summed(codes, weights)


def test_binary_tensors_need_no_mask_unless_pruned() -> None:
    rng = np.random.default_rng(0)
    weights = rng.choice([-1, 1], (2, 4, 9))
    codes = drawn_codes(rng, 2, False, (3, 9))
    for pruned in (False, True):
        weights[:, 1, 3] *= not pruned
        tensor = SlicedTensor.from_terms(weights, np.ones((2, 4, 1), np.float32), (4, 9), "binary")
        planes = PlaneWeights.sliced(tensor)
        assert (planes.mask is not None) == pruned
        assert product(planes_of(codes, 2), planes).tolist() == summed(codes, weights)


def test_planes_in_any_order_of_terms() -> None:
    tensor = from_codes(np.array([[[3, -4]], [[1, 2]]]), np.ones((2, 1, 1), np.float32), shape=(1, 2), bits=3)
    order = [4, 0, 3, 1, 5, 2]
    mixed = SlicedTensor(
        tensor.shape,
        tensor.encoding,
        tensor.bits,
        tensor.scale,
        *(part[order] for part in (tensor.term, tensor.factor, tensor.magnitude, tensor.sign)),
    )
    codes = np.array([[1, 2], [3, 0]])
    sums = product(pack(codes, 2), PlaneWeights.sliced(mixed))
    assert sums.tolist() == summed(codes, np.array([[[3, -4]], [[1, 2]]]))


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "size", "window", "bits", "signed"),
    [
        (3, 4, (3, 3), (5, 4), {"padding": 1}, 2, False),
        (65, 3, (3, 3), (4, 5), {"stride": 2, "padding": 1}, 2, True),
        (5, 3, (1, 1), (4, 3), {"stride": 2}, 4, False),
        (4, 2, (2, 3), (7, 8), {"dilation": 2, "padding": 1}, 3, True),
        (6, 4, (3, 3), (4, 4), {"groups": 2, "padding": 1}, 2, False),
        (4, 4, (3, 3), (5, 5), {"groups": 4, "stride": 2}, 3, False),
        (130, 2, (3, 2), (3, 2), {}, 1, False),
        (1, 1, (3, 3), (1, 1), {"padding": 1}, 8, True),
        (2, 35, (2, 2), (8, 6), {}, 1, False),
    ],
)
def test_convolutions(
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    size: tuple[int, int],
    window: dict[str, int],
    bits: int,
    signed: bool,
) -> None:
    rng = np.random.default_rng(channels * outputs)
    groups = window.get("groups", 1)
    codes = drawn_codes(rng, bits, signed, (2, channels, *size))
    weights = rng.integers(-1, 2, (2, outputs, channels // groups, *kernel))
    scale = np.ones((2, outputs, 1), np.float32)
    tensor = SlicedTensor.from_terms(weights.reshape(2, outputs, -1), scale, weights.shape[1:], "ternary")
    both = {name: (n, n) for name, n in window.items() if name != "groups"}
    images = pack_images(codes, bits, signed=signed, groups=groups)
    sums = convolve(images, PlaneWeights.sliced(tensor), signed=signed, **both)
    assert sums.dtype == np.int32
    assert sums.tolist() == [window_sums(codes, term, **window).tolist() for term in weights]


def test_windows_that_differ_in_height_and_width() -> None:
    rng = np.random.default_rng(7)
    codes, weights = rng.integers(0, 4, (1, 3, 6, 5)), rng.integers(-4, 4, (4, 3, 2, 3))
    tensor = from_codes(
        weights.reshape(1, 4, -1), np.ones((1, 4, 1), np.float32), shape=weights.shape, bits=3
    )
    sums = convolve(
        pack_images(codes, 2), PlaneWeights.sliced(tensor), stride=(2, 1), padding=(1, 2), dilation=(3, 1)
    )
    padded = np.pad(codes[0], ((0, 0), (1, 1), (2, 2)))
    expected = [
        [
            [int((padded[:, y : y + 4 : 3, x : x + 3] * weights[n]).sum()) for n in range(4)]
            for x in range(padded.shape[2] - 2)
        ]
        for y in range(0, padded.shape[1] - 3, 2)
    ]
    assert sums.tolist() == [[expected]]


def nearest(keys: np.ndarray, k: int) -> np.ndarray:
    """Columns of the smallest keys of each row, ties to the lower column."""
    return np.array([sorted(range(len(row)), key=lambda j: (row[j], j))[:k] for row in keys.tolist()])


@pytest.mark.parametrize(
    ("n", "columns", "queries", "k", "part"),
    [(50, 130, 3, 4, None), (1, 1, 2, 1, None), (67, 3, 2, 5, 16), (33, 64, 1, 40, None), (20, 70, 3, 1, 8)],
)
def test_hamming_search(
    n: int, columns: int, queries: int, k: int, part: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few columns make many equal distances; a small part makes several rounds of selection."""
    if part is not None:
        monkeypatch.setattr(kernels, "_PART", part)
        monkeypatch.setattr(kernels, "_VALUES", 2 * n)  # and two queries at a time
    rng = np.random.default_rng(n)
    database, asked = (rng.integers(0, 2, (rows, columns)) for rows in (n, queries))
    distances = np.array([[sum(a != b for a, b in zip(x, y, strict=True)) for y in database] for x in asked])
    found, rows = kernels.nearest_hamming(pack_rows(database == 1), pack_rows(asked == 1), k)
    expected = nearest(distances, k)
    assert rows.tolist() == expected.tolist()
    assert found.tolist() == np.take_along_axis(distances, expected, 1).tolist()


def test_ternary_search() -> None:
    rng = np.random.default_rng(5)
    database, asked = rng.integers(-1, 2, (45, 70)), rng.integers(-1, 2, (3, 70))
    database[7], asked[2] = 0, 0
    dots = np.array(summed(asked, database[None])[0])
    base, queries = ((pack_rows(v != 0), pack_rows(v < 0)) for v in (database, asked))
    similarity = kernels.ternary_similarity(base, queries)
    assert similarity.dtype == np.int32
    assert similarity.tolist() == dots.tolist()
    found, rows = kernels.nearest_ternary(base, queries, 6)
    assert rows.tolist() == nearest(-dots, 6).tolist()
    assert found.tolist() == np.take_along_axis(dots, rows, 1).tolist()


def test_arrays_on_the_device() -> None:
    rng = np.random.default_rng(2)
    codes, weights = rng.integers(0, 4, (2, 20)), rng.integers(-1, 2, (3, 20))
    planes = PlaneWeights.ternary(pack_rows(weights != 0), pack_rows(weights < 0), 20)
    sums = product(cuda.to_device(pack(codes, 2)), planes)
    assert not isinstance(sums, np.ndarray)
    assert sums.copy_to_host().tolist() == summed(codes, weights[None])
    database, asked = pack_rows(weights != 0), pack_rows(codes > 1)
    on_host = kernels.nearest_hamming(database, asked, 2)
    on_device = kernels.nearest_hamming(cuda.to_device(database), cuda.to_device(asked), 2)
    assert [part.tolist() for part in on_device] == [part.tolist() for part in on_host]


def test_nothing_to_multiply() -> None:
    planes = PlaneWeights.ternary(np.zeros((3, 1), np.uint64), np.zeros((3, 1), np.uint64), 20)
    assert product(np.zeros((2, 0, 1), np.uint64), planes).shape == (1, 0, 3)
    found, rows = kernels.nearest_hamming(np.zeros((4, 1), np.uint64), np.zeros((0, 1), np.uint64), 2)
    assert found.shape == rows.shape == (0, 2)


def test_searches_that_cannot_be() -> None:
    words = np.zeros((2, 1), np.uint64)
    with pytest.raises(BadTensor, match=r"queries of shape \(2, 1\): expected \[rows, 2\]"):
        kernels.nearest_hamming(np.zeros((2, 2), np.uint64), words)
    with pytest.raises(BadTensor, match="the database is empty"):
        kernels.nearest_hamming(words[:0], words)
    with pytest.raises(ConfigError, match="k=0: expected at least 1"):
        kernels.nearest_hamming(words, words, 0)
    with pytest.raises(BadTensor, match="as many signs as masks"):
        kernels.ternary_similarity((words, words[:1]), (words, words))
