"""Activity counts against brute force over every digit, in plain Python integers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.slicing import ENCODINGS, GRANULARITIES, from_codes
from compressors.tensor import SlicedTensor
from energy.activity import InputActivity, WeightActivity, input_activity, weight_activity


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
    rest = abs(code) if encoding == "sign_magnitude" else code
    while rest:
        if encoding == "csd" and g == 1:
            digit = 0 if rest % 2 == 0 else 2 - rest % 4
        elif encoding == "csd":
            digit = rest % radix - (radix if rest % radix > radix // 2 else 0)
        else:
            digit = rest % radix
        digits.append(digit)
        rest = (rest - digit) // radix
    return digits


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
    assert activity.terms == len(codes) and activity.signed
    for g in GRANULARITIES:
        np.testing.assert_array_equal(activity.nonzero[g], (codes != 0).sum(2))


def test_only_twos_complement_integers_need_no_sign_beside_the_digit() -> None:
    integers = from_codes(np.array([[[1, -2]]]), np.ones((1, 1, 1)), shape=(1, 2), bits=3)
    ternary = SlicedTensor.from_terms(np.array([[[1, -1]]]), np.ones((1, 1, 1)), (1, 2), "ternary")
    signed = {e: weight_activity(integers, e).signed for e in ENCODINGS}
    assert signed == {"twos_complement": False, "sign_magnitude": True, "csd": True}
    assert weight_activity(ternary, "twos_complement").signed


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
    assert (again.encoding, again.terms, again.signed) == ("csd", 1, True)
    fractions = input_activity(*inputs)
    read = InputActivity.from_dict(json.loads(json.dumps(fractions.to_dict())))
    assert (read.bits, read.signed) == (fractions.bits, fractions.signed)
    for g in GRANULARITIES:
        np.testing.assert_array_equal(again.nonzero[g], counted.nonzero[g])
        assert again.nonzero[g].dtype == counted.nonzero[g].dtype
        np.testing.assert_array_equal(read.nonzero[g], fractions.nonzero[g])
