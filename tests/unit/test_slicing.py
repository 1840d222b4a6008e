"""Slicing never changes a code, and each encoding keeps its promise about the digits."""

from __future__ import annotations

import itertools

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import BadTensor, ConfigError, UnknownName
from compressors.slicing import ENCODINGS, from_codes, reslice
from compressors.tensor import SlicedTensor


@st.composite
def coded(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Codes ``[terms, rows, columns]`` with the ends of their range well represented, and their bits."""
    bits = draw(st.integers(1, 12))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9)))
    code = st.one_of(st.integers(low, high), st.sampled_from([low, high, 0]))
    values = draw(st.lists(code, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return np.array(values).reshape(shape), bits


def sliced(codes: np.ndarray, bits: int, encoding: str, granularity: int) -> SlicedTensor:
    scale = np.linspace(0.1, 2.0, codes.shape[0] * codes.shape[1]).reshape(*codes.shape[:2], 1)
    return from_codes(
        codes, scale, shape=codes.shape[1:], bits=bits, encoding=encoding, granularity=granularity
    )


@settings(max_examples=150, deadline=None)
@given(coded(), st.sampled_from(ENCODINGS), st.integers(1, 8))
def test_codes_and_digits(case: tuple[np.ndarray, int], encoding: str, granularity: int) -> None:
    codes, bits = case
    tensor = sliced(codes, bits, encoding, granularity)
    digits = tensor.digits()
    assert np.array_equal(tensor.codes(), codes)
    assert np.abs(digits).max() < 2**granularity
    for value in tensor.factor.tolist():
        assert naive.popcount(abs(value)) == 1
    rebuilt = np.zeros_like(codes)
    for plane, term, factor in zip(digits, tensor.term, tensor.factor, strict=True):
        rebuilt[term] += factor * plane
    assert np.array_equal(rebuilt, codes)


@settings(max_examples=60, deadline=None)
@given(
    coded(),
    st.sampled_from(ENCODINGS),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(ENCODINGS),
    st.integers(1, 8),
)
def test_reslicing_and_back(case: tuple[np.ndarray, int], first: str, g: int, second: str, h: int) -> None:
    tensor = sliced(*case, first, g)
    other = reslice(tensor, second, h)
    assert (other.encoding, other.granularity) == (second, h)
    assert np.array_equal(other.to_dense(), tensor.to_dense())
    assert reslice(other, first, g).digest() == tensor.digest()
    assert np.array_equal(other.support, tensor.support)


@settings(max_examples=80, deadline=None)
@given(coded())
def test_canonical_signed_digits(case: tuple[np.ndarray, int]) -> None:
    codes, bits = case
    tensor = sliced(codes, bits, "csd", 1)
    digits = tensor.digits()
    for term in range(tensor.terms):
        own = digits[tensor.term == term]
        assert not np.any(own[1:] * own[:-1])  # no two adjacent non-zeros
        fewest = [naive.fewest_signed_digits(int(code)) for code in codes[term].ravel()]
        assert (own != 0).sum(0).ravel().tolist() == fewest


def fewest_nonzero_digits(g: int) -> dict[int, int]:
    """Over every string of digits in ``[-2**(g-1), 2**(g-1)]`` that can write an 8-bit code: its fewest non-zeros."""
    half, fewest = 2 ** (g - 1), {}
    for digits in itertools.product(range(-half, half + 1), repeat=8 // g + 1):
        value = sum(digit * 2 ** (g * position) for position, digit in enumerate(digits))
        fewest[value] = min(fewest.get(value, 99), sum(digit != 0 for digit in digits))
    return fewest


@pytest.mark.parametrize("g", range(1, 9))
def test_signed_digits_are_as_few_as_can_be(g: int) -> None:
    codes = np.arange(-128, 128)
    digits = sliced(codes[None, None], 8, "csd", g).digits()
    fewest = fewest_nonzero_digits(g)
    assert np.abs(digits).max() <= 2 ** (g - 1)
    assert (digits != 0).sum(0)[0].tolist() == [fewest[code] for code in codes.tolist()]


def test_signed_digits_hand_worked() -> None:
    # radix 4, digits -2..2: 14 = 2 + 3 * 4 has a digit too large, -2 + 0 * 4 + 1 * 16 clears one; 2 needs no carry;
    # 10 = 2 + 2 * 4 has as many non-zeros as -2 - 1 * 4 + 1 * 16 less one
    digits = sliced(np.array([[[14, 2, -2, 10, -128]]]), 8, "csd", 2).digits()[:, 0].T
    assert digits.tolist() == [[-2, 0, 1, 0], [2, 0, 0, 0], [-2, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, -2]]
    # radix 256: -128 is one digit
    assert sliced(np.array([[[-128, 127]]]), 8, "csd", 8).digits().tolist() == [[[-128, 127]]]


def test_sign_magnitude_slices_are_those_of_sibia() -> None:
    codes = np.arange(-63, 64)
    tensor = sliced(codes[None, None], 7, "sign_magnitude", 3)
    low, high = tensor.digits()[:, 0]
    assert high.tolist() == [(c > 0) * (c // 8) - (c < 0) * (-c // 8) for c in codes.tolist()]
    assert low.tolist() == [(c > 0) * (c % 8) - (c < 0) * (-c % 8) for c in codes.tolist()]
    assert tensor.factor.tolist() == [1, 8]


@settings(max_examples=80, deadline=None)
@given(coded(), st.integers(1, 8))
def test_sign_magnitude_digits(case: tuple[np.ndarray, int], g: int) -> None:
    codes, bits = case
    tensor = sliced(codes, bits, "sign_magnitude", g)
    for term in range(tensor.terms):
        for position, digit in enumerate(tensor.digits()[tensor.term == term]):
            expected = [abs(int(c)) // 2 ** (g * position) % 2**g for c in codes[term].ravel()]
            assert np.abs(digit).ravel().tolist() == expected
            assert np.all(digit * codes[term] >= 0)


@settings(max_examples=80, deadline=None)
@given(coded(), st.integers(1, 8))
def test_twos_complement_digits(case: tuple[np.ndarray, int], g: int) -> None:
    codes, bits = case
    tensor = sliced(codes, bits, "twos_complement", g)
    slices = -(-bits // g)
    assert tensor.planes == slices * tensor.terms
    for term in range(tensor.terms):
        own = tensor.digits()[tensor.term == term]
        assert np.all(own[:-1] >= 0)  # all but the leading digit are unsigned
        for position in range(slices - 1):
            expected = [int(c) % 2**bits // 2 ** (g * position) % 2**g for c in codes[term].ravel()]
            assert own[position].ravel().tolist() == expected


def test_hand_worked_digits() -> None:
    codes = np.array([[[6, -3, 7]]])  # 0110, 1101, 0111
    by_encoding = {e: sliced(codes, 4, e, 1) for e in ENCODINGS}
    assert by_encoding["twos_complement"].digits()[:, 0].T.tolist() == [
        [0, 1, 1, 0],
        [1, 0, 1, 1],
        [1, 1, 1, 0],
    ]
    assert by_encoding["twos_complement"].factor.tolist() == [1, 2, 4, -8]
    assert by_encoding["sign_magnitude"].digits()[:, 0].T.tolist() == [[0, 1, 1], [-1, -1, 0], [1, 1, 1]]
    assert by_encoding["csd"].digits()[:, 0].T.tolist() == [[0, -1, 0, 1], [1, 0, -1, 0], [-1, 0, 0, 1]]


@pytest.mark.parametrize("encoding", ["ternary", "binary"])
def test_terms_of_signs_stay_as_they_are(encoding: str) -> None:
    codes = np.array([[[1, -1, 1]], [[-1, -1, 1]]])
    tensor = SlicedTensor.from_terms(codes, np.ones((2, 1, 1)), (1, 3), encoding)
    for granularity in (1, 2, 4, 8):
        assert reslice(tensor, "csd", granularity) is tensor


def test_unknown_encoding_and_granularity() -> None:
    codes = np.array([[[1]]])
    with pytest.raises(UnknownName, match="did you mean 'csd'"):
        sliced(codes, 2, "cds", 1)
    for granularity in (0, 9, -1):
        with pytest.raises(ConfigError, match="granularity.*1 to 8"):
            sliced(codes, 2, "csd", granularity)


def test_a_code_wider_than_its_bits_is_refused_in_bit_planes() -> None:
    with pytest.raises(BadTensor, match="does not fit 1 bits"):
        sliced(np.array([[[9]]]), 3, "twos_complement", 1)
