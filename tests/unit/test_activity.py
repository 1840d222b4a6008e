"""Activity counts against brute force over every digit, in plain Python integers."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.slicing import ENCODINGS, GRANULARITIES, from_codes
from compressors.tensor import SlicedTensor
from energy.activity import InputActivity, WeightActivity, input_activity, reuse_activity, weight_activity


def integer_arrays(low: int, high: int, rows: int, columns: int) -> st.SearchStrategy[np.ndarray]:
    cells = st.lists(st.integers(low, high), min_size=rows * columns, max_size=rows * columns)
    return cells.map(lambda values: np.array(values, np.int64).reshape(rows, columns))


@st.composite
def weight_codes(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    bits = draw(st.integers(2, 8))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    return draw(integer_arrays(-(1 << (bits - 1)), (1 << (bits - 1)) - 1, rows, columns)), bits


def positional_digits(code: int, encoding: str, g: int) -> list[int]:
    """Digits of one code, least significant first, one division at a time."""
    radix, digits = 1 << g, []
    if encoding == "csd":
        return list(fewest_signed_digits(code, radix))
    rest = abs(code) if encoding == "sign_magnitude" else code
    while rest:
        digits.append(rest % radix)
        rest //= radix
    return digits


@cache
def fewest_signed_digits(code: int, radix: int) -> tuple[int, ...]:
    """Of all writings with digits of magnitude up to ``radix // 2`` the one with the fewest non-zeros.

    In radix 2 there may be several, and the one without adjacent non-zeros counts.
    """
    half = radix // 2
    if abs(code) <= half:
        return (code,)
    digits = (digit for digit in range(-half, half + 1) if (code - digit) % radix == 0)
    writings = ((digit, *fewest_signed_digits((code - digit) // radix, radix)) for digit in digits)
    return min(writings, key=lambda w: (sum(d != 0 for d in w), [d != 0 for d in w]))


def two_complement_digits(code: int, bits: int, g: int) -> list[int]:
    pattern = code + (1 << bits) if code < 0 else code  # the bits as they are stored
    signed = [(pattern >> i) & 1 for i in range(bits)]
    slices = [signed[i : i + g] for i in range(0, bits, g)]
    return [int(any(chunk)) for chunk in slices]


@settings(max_examples=60, deadline=None)
@given(weight_codes(), st.sampled_from(ENCODINGS), st.sampled_from(GRANULARITIES))
def test_weight_digits_match_brute_force(drawn: tuple[np.ndarray, int], encoding: str, g: int) -> None:
    codes, bits = drawn
    tensor = from_codes(codes[None], np.ones((1, len(codes), 1), np.float32), shape=codes.shape, bits=bits)
    counted = weight_activity(tensor, encoding).nonzero[g]
    for row, got in zip(codes.tolist(), counted.T, strict=True):
        expected = np.zeros(len(got), np.int64)
        for code in row:
            if encoding == "twos_complement":
                digits = two_complement_digits(code, bits, g)
            else:
                digits = positional_digits(code, encoding, g)
            for position, digit in enumerate(digits):
                expected[position] += digit != 0
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda terms: st.lists(integer_arrays(-1, 1, 3, 65), min_size=terms, max_size=terms).map(np.stack)
    )
)
def test_ternary_terms_keep_one_plane_each_at_every_granularity(codes: np.ndarray) -> None:
    tensor = SlicedTensor.from_terms(codes, np.ones((len(codes), 3, 1)), (3, 65), "ternary")
    activity = weight_activity(tensor, "sign_magnitude")
    assert activity.terms == len(codes) and activity.magnitude_bits == 1
    assert activity.dense_bits == 2 * codes.size  # a mask and a sign for each
    for g in GRANULARITIES:
        np.testing.assert_array_equal(activity.nonzero[g], (codes != 0).sum(2))
        # the bitmap holds the magnitudes already, whatever the granularity
        assert activity.sparse_bits(g, 3 * 65) == codes.size + (codes != 0).sum()


def test_only_twos_complement_integers_need_no_sign_beside_the_digit() -> None:
    integers = from_codes(np.array([[[1, -2]]]), np.ones((1, 1, 1)), shape=(1, 2), bits=3)
    ternary = SlicedTensor.from_terms(np.array([[[1, -1]]]), np.ones((1, 1, 1)), (1, 2), "ternary")
    signs = {e: weight_activity(integers, e).signs[1] for e in ENCODINGS}
    assert signs == {"twos_complement": 0, "sign_magnitude": 2, "csd": 2}
    assert weight_activity(ternary, "twos_complement").signs == dict.fromkeys(GRANULARITIES, 2)


def test_bits_of_stored_weights_by_hand() -> None:
    """Codes 5 = 101 and -3 = 011 of 4 bits, and a zero."""
    codes = np.array([[[5, -3, 0]]])
    tensor = from_codes(codes, np.ones((1, 1, 1)), shape=(1, 3), bits=4)
    activity = weight_activity(tensor, "sign_magnitude")
    assert activity.dense_bits == 3 * 4
    assert activity.sparse_bits(1, 3) == 3 * 3 + 2  # three bitmaps are the digits; two signs
    assert (
        activity.sparse_bits(2, 3) == 2 * 3 + 3 * 2 + 2
    )  # low digits 1, 3 and high digit 1 (of 5) behind two bitmaps
    assert activity.sparse_bits(8, 3) == 3 + 2 * 4 + 2  # one bitmap, two whole codes


def test_binary_weights_are_their_signs_and_one_mask_if_pruned() -> None:
    def dense_bits(codes: list[int]) -> int:
        planes = np.array([[codes], [codes]])
        tensor = SlicedTensor.from_terms(planes, np.ones((2, 1, 1)), (1, len(codes)), "binary")
        return weight_activity(tensor, "sign_magnitude").dense_bits

    assert dense_bits([1, -1, 1, 1]) == 4 * 2
    assert dense_bits([1, -1, 0, 1]) == 4 * (2 + 1)


@st.composite
def input_codes(draw: st.DrawFn) -> tuple[np.ndarray, int, bool]:
    bits, signed = draw(st.integers(1, 8)), draw(st.booleans())
    low = -(1 << (bits - 1)) if signed else 0
    high = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
    images, values = draw(st.integers(1, 3)), draw(st.integers(1, 70))
    return draw(integer_arrays(low, high, images, values)), bits, signed


@settings(max_examples=60, deadline=None)
@given(input_codes())
def test_input_digits_match_brute_force(drawn: tuple[np.ndarray, int, bool]) -> None:
    codes, bits, signed = drawn
    activity = input_activity(codes.reshape(len(codes), -1, 1, 1), bits, signed)
    assert (activity.bits, activity.signed) == (bits, signed)
    for g in GRANULARITIES:
        slices = -(-bits // g)
        expected = np.zeros(slices)
        for code in codes.ravel().tolist():
            for position, digit in enumerate(positional_digits(abs(code), "unsigned", g)):
                expected[position] += digit != 0
        np.testing.assert_allclose(activity.nonzero[g], expected / codes.size, rtol=1e-15)


def test_a_code_that_does_not_fit_its_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="2 bits hold"):
        input_activity(np.array([[4]]), 2, False)


@settings(max_examples=20, deadline=None)
@given(weight_codes(), input_codes())
def test_json_round_trip_is_exact(
    weights: tuple[np.ndarray, int], inputs: tuple[np.ndarray, int, bool]
) -> None:
    codes, bits = weights
    tensor = from_codes(codes[None], np.ones((1, len(codes), 1), np.float32), shape=codes.shape, bits=bits)
    counted = weight_activity(tensor, "csd")
    again = WeightActivity.from_dict(json.loads(json.dumps(counted.to_dict())))
    assert (again.encoding, again.terms, again.magnitude_bits, again.signs, again.dense_bits) == (
        "csd",
        1,
        bits,
        counted.signs,
        bits * codes.size,
    )
    fractions = input_activity(*inputs)
    read = InputActivity.from_dict(json.loads(json.dumps(fractions.to_dict())))
    assert (read.bits, read.signed) == (fractions.bits, fractions.signed)
    for g in GRANULARITIES:
        np.testing.assert_array_equal(again.nonzero[g], counted.nonzero[g])
        assert again.nonzero[g].dtype == counted.nonzero[g].dtype
        np.testing.assert_array_equal(read.nonzero[g], fractions.nonzero[g])


def test_what_ternary_rows_share_by_hand() -> None:
    """Rows a + b + c and a + b - c of inputs 0 to 15: a + b takes 5 bits, both sums 6 (one with a sign)."""
    codes = np.array([[[1, 1, 1, 0], [1, 1, -1, 0]]])
    tensor = SlicedTensor.from_terms(codes, np.ones((1, 2, 1), np.float32), (2, 4), "ternary")
    found = reuse_activity(tensor, groups=1, block=None, bits=4, signed=False)
    assert (found.adders_before, found.adders, found.adder_bits, found.depth) == (4, 3, 5 + 6 + 6, 2)
    assert (found.scalings, found.combining) == (2, 0)
    assert (found.multiplications_before, found.multiplications) == (6, 2)


def test_rows_of_other_channel_groups_share_nothing() -> None:
    """The same four weights in both groups read different inputs."""
    row = np.array([1, 1, -1, 1])
    tensor = SlicedTensor.from_terms(
        np.stack([row, row])[None], np.ones((1, 2, 1), np.float32), (2, 4, 1, 1), "ternary"
    )
    assert reuse_activity(tensor, 1, None, 4, False).adders == 3  # both rows are one sum
    assert reuse_activity(tensor, 2, None, 4, False).adders == 6


def test_integer_codes_are_shared_in_their_fewest_digits() -> None:
    """7 x = (x << 3) - x: one adder; in plain binary it would be two."""
    tensor = from_codes(np.array([[[7]]]), np.ones((1, 1, 1), np.float32), shape=(1, 1), bits=4)
    found = reuse_activity(tensor, 1, None, 4, False)
    assert (found.adders_before, found.adders) == (1, 1)
