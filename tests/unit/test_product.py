"""Integer products on packed planes, against exact convolutions of another library, for every family of kernels."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import BadTensor, ConfigError
from compressors.kernels import popcount
from compressors.kernels.layout import InputFormat, magnitude_planes
from compressors.kernels.machine import KERNELS, VARIABLE, kernels, machine
from compressors.operators.product import Finish, Product, Window, code_thresholds, factor_digits

FAMILIES = [f for f in ("avx512", "portable", "plain") if f != "avx512" or machine().counts_words]
FORMATS = {
    **{f"u{bits}": InputFormat.integers(bits, signed=False) for bits in range(1, 9)},
    **{f"s{bits}": InputFormat.integers(bits, signed=True) for bits in range(1, 9)},
    "binary": InputFormat.binary(),
    "ternary": InputFormat.ternary(),
}
WEIGHTS = {
    "binary": (-1, 1, 2),
    "ternary": (-1, 1, 1),
    "zero": (0, 0, 1),
    "int4": (-8, 7, 1),
    "even": (-6, 6, 2),
    "int8": (-128, 127, 1),
}
"""Lowest, highest and step of the codes."""


def draw(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    low, high, step = WEIGHTS[kind]
    return rng.choice(np.arange(low, high + 1, step), shape).astype(np.int64)


def inputs(rng: np.random.Generator, fmt: InputFormat, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, fmt.largest + 1, shape) * fmt.step + fmt.low


def reference(values: np.ndarray, codes: np.ndarray, window: Window) -> np.ndarray:
    """``[terms, batch, N, h, w]`` by torch in float64, which is exact for integers of this size."""
    x = torch.from_numpy(values).double()
    options = {
        "stride": window.stride,
        "padding": window.padding,
        "dilation": window.dilation,
        "groups": window.groups,
    }
    found = [torch.nn.functional.conv2d(x, torch.from_numpy(term).double(), **options) for term in codes]
    return torch.stack(found).long().numpy()


pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    fmt=st.sampled_from(sorted(FORMATS)),
    weights=st.sampled_from(sorted(WEIGHTS)),
    family=st.sampled_from(FAMILIES),
    method=st.sampled_from([None, "popcount", "bytes"]),
    groups=st.sampled_from([1, 1, 1, 2, 4]),
    depth=st.sampled_from([1, 3, 16, 17, 32]),
    outputs=st.integers(1, 36),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    terms=st.integers(1, 2),
    seed=st.integers(0, 1 << 30),
)
def test_sums_are_exact(
    fmt, weights, family, method, groups, depth, outputs, kernel, stride, dilation, padding, size, terms, seed
) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    window = Window(kernel, stride, padding, dilation, groups)
    codes = draw(rng, weights, (terms, outputs * groups, depth, *kernel))
    padded = FORMATS[fmt] if fmt != "binary" else InputFormat.binary()
    values = inputs(rng, padded, (2, depth * groups, *size))
    got = Product(codes, padded, window, family, method).sums(values)
    assert np.array_equal(got, reference(values, codes, window))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fmt", ["u4", "s3", "binary", "ternary"])
def test_a_plain_loop_agrees(family: str, fmt: str) -> None:
    rng = np.random.default_rng(3)
    codes, image = draw(rng, "ternary", (1, 5, 7, 3, 3)), inputs(rng, FORMATS[fmt], (1, 7, 6, 5))
    got = Product(codes, FORMATS[fmt], Window((3, 3), (2, 2), (1, 1)), family).sums(image)
    assert np.array_equal(got[0, 0], naive.convolution(image[0], codes[0], 2, 1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("columns", [1, 7, 31, 33, 64, 1153, 2113])
def test_rows_of_any_length(family: str, columns: int) -> None:
    """Long ones fill 8-bit counters more than once."""
    rng = np.random.default_rng(columns)
    codes, values = draw(rng, "binary", (1, 20, columns, 1, 1)), np.ones((9, columns, 1, 1), np.int64)
    values[1:] = inputs(rng, FORMATS["binary"], (8, columns, 1, 1))
    got = Product(codes, FORMATS["binary"], family=family).sums(values)
    assert np.array_equal(got[0, :, :, 0, 0], values[:, :, 0, 0] @ codes[0, :, :, 0, 0].T)


def test_one_pixel_and_all_zeros() -> None:
    codes = np.zeros((2, 3, 1, 1, 1), np.int64)
    codes[1, 1] = -5
    got = Product(codes, FORMATS["u8"]).sums(np.full((1, 1, 1, 1), 200))
    assert got.reshape(2, 3).tolist() == [[0, 0, 0], [0, -1000, 0]]


def test_sums_beyond_32_bits_are_refused() -> None:
    codes = np.full((1, 1, 40_000, 1, 1), 127, np.int64)
    with pytest.raises(BadTensor, match="do not fit 32 bits"):
        Product(codes, FORMATS["u8"])


def test_an_input_smaller_than_the_filter_is_refused() -> None:
    product = Product(np.ones((1, 1, 1, 5, 5), np.int64), FORMATS["u2"], Window((5, 5)))
    with pytest.raises(BadTensor, match="3 x 4 is smaller than the filter"):
        product.sums(np.zeros((1, 1, 3, 4), np.int64))


def test_other_channels_are_refused() -> None:
    product = Product(np.ones((1, 1, 4, 1, 1), np.int64), FORMATS["u2"])
    with pytest.raises(BadTensor, match="3 channels for weights that read 4"):
        product.sums(np.zeros((1, 3, 2, 2), np.int64))


def test_weights_that_are_no_bytes_are_refused_as_bytes() -> None:
    with pytest.raises(BadTensor, match="-128 to 127"):
        _ = Product(np.full((1, 1, 1, 1, 1), 200, np.int64), FORMATS["u2"], method="bytes").bytewise


def test_the_family_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "plain")
    assert kernels() == "plain"
    assert kernels("portable") == "portable"
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ConfigError, match=f"{VARIABLE}=fast: expected {KERNELS[0]}"):
        kernels()


def test_many_planes_go_as_bytes_where_the_processor_can() -> None:
    wide = Product(np.full((1, 4, 16, 1, 1), 100, np.int64), FORMATS["u8"])
    narrow = Product(np.ones((1, 4, 16, 1, 1), np.int64), FORMATS["u1"])
    assert not narrow.bytewise
    assert wide.bytewise == (machine().dots_bytes and kernels() == "avx512")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(1 << 28), 1 << 28), min_size=1, max_size=6))
def test_digits_add_up_to_the_factor(factors: list[int]) -> None:
    digits = factor_digits(np.array([factors]))[0]
    found = ((1 << digits[:, 0].astype(object)) * (1 + 2 * digits[:, 1]) * -digits[:, 2]).sum(0)
    assert found.tolist() == factors
    fewest = [naive.fewest_signed_digits(f) for f in factors]
    assert (-digits[:, 2]).sum(0).tolist() == fewest


@settings(max_examples=60, deadline=None)
@given(
    factor=st.integers(0, 1 << 20),
    constant=st.integers(-(1 << 30), 1 << 30),
    shift=st.integers(0, 24),
    total=st.integers(-100_000, 100_000),
)
def test_thresholds_say_what_scaling_says(factor: int, constant: int, shift: int, total: int) -> None:
    bounds = code_thresholds(np.array([factor]), np.array([constant]), shift, 15)[:, 0]
    assert int((total >= bounds.astype(np.int64)).sum()) == min(
        max((total * factor + constant) >> shift, 0), 15
    )


@pytest.mark.parametrize("rescale", ["multiply", "shift_add", "thresholds"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("signed", [False, True])
def test_codes_for_the_next_layer(family: str, rescale: str, signed: bool) -> None:
    """What a kernel packs is what arithmetic in Python says, border included."""
    rng = np.random.default_rng(7)
    codes, values = draw(rng, "ternary", (1, 21, 16, 3, 3)), inputs(rng, FORMATS["u3"], (2, 16, 6, 7))
    window = Window((3, 3), padding=(1, 1))
    first = Product(codes, FORMATS["u3"], window, family, "popcount")
    sheet = first.sheet(2, (6, 7))
    buffer = sheet.empty()
    sheet.fill(buffer, values)
    bound = first.bind(sheet)
    factors, constants, shift = rng.integers(1, 9000, (1, 21)), rng.integers(-50_000, 50_000, 21), 13
    target = Product(
        draw(rng, "ternary", (1, 3, 21, 3, 3)), InputFormat.integers(4, signed), window, family, "popcount"
    )
    out = target.sheet(2, (6, 7))
    got, expected = out.empty(), out.empty()
    finish = Finish(factors, constants, shift, rescale=rescale)
    bound.kernel(buffer, *bound.arguments(finish, codes=got, out=out), 0, bound.tiles)
    sums = reference(values, codes, window)[0]
    stored = (sums * factors[0][:, None, None] + constants[:, None, None]) >> shift
    out.fill(expected, np.clip(stored, 0, 15) + out.format.low)
    shown = [got, expected]
    own = [np.unpackbits(out.interior(b), axis=-1, bitorder="little")[..., :21] for b in shown]
    assert np.array_equal(*own)
    border = [
        b[: out.planes * out.plane_bytes].reshape(out.planes, 2, out.rows, out.columns, -1)[:, :, 0]
        for b in shown
    ]
    assert np.array_equal(*border)


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_make_the_whole(family: str) -> None:
    rng = np.random.default_rng(0)
    product = Product(draw(rng, "ternary", (1, 70, 16, 1, 1)), FORMATS["u2"], family=family)
    sheet = product.sheet(1, (5, 5))
    buffer = sheet.empty()
    values = inputs(rng, FORMATS["u2"], (1, 16, 5, 5))
    sheet.fill(buffer, values)
    bound = product.bind(sheet)
    stream = np.zeros((bound.rows, bound.width), np.int64)
    arguments = bound.arguments(Finish(np.ones((1, 70), np.int64), np.zeros(70, np.int64)), stream=stream)
    for first in range(bound.tiles):
        bound.kernel(buffer, *arguments, first, first + 1)
    assert np.array_equal(stream[:, :70], bound.sums(buffer)[0])


def test_operations_are_those_of_the_loops() -> None:
    """3 x 3 on 16 channels: 48 bits a filter row, two words; 2 planes of weights, 4 of inputs."""
    codes = np.array([0, 3, -2, 1] * 36).reshape(1, 1, 16, 3, 3).repeat(2, 1)
    assert magnitude_planes(codes) == (0, 1)
    product = Product(codes, FORMATS["u4"], Window((3, 3), padding=(1, 1)), method="popcount")
    executed = product.bind(product.sheet(1, (8, 8))).executed()
    assert executed.popcounts == 64 * 2 * (2 * 4) * (3 * 2)
    assert executed.multiplications == 0
    assert popcount.LANES == 16
