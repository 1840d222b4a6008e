"""The same integer codes written in other digits: encodings and bit-slices.

Slicing never changes a weight. Codes of ``b`` bits become digits of ``g`` bits, least significant first:

* ``twos_complement``: unsigned digits, the leading one signed (its plane has a negative factor where ``g`` is 1);
* ``sign_magnitude``: digits of the magnitude, all carrying the number's sign. With ``g`` = 3 these are the signed
  bit-slices of Sibia (Im et al., HPCA 2023, arXiv 2203.07679): the high slice of a small negative number is zero, as
  that of a small positive one is, and unlike in two's complement;
* ``csd``: signed digits of radix ``2**g`` in ``[-2**(g-1), 2**(g-1)]`` with the fewest non-zeros (canonical signed
  digit; for ``g`` = 1 the non-adjacent form).

Ternary and binary terms are signed digits already and stay one plane per term at any granularity.
"""

from __future__ import annotations

import numpy as np

from compressors.errors import ConfigError, UnknownName
from compressors.storage import signed_width
from compressors.tensor import SlicedTensor

GRANULARITIES = (1, 2, 4, 8)


def twos_complement_digits(codes: np.ndarray, bits: int, g: int) -> tuple[list[np.ndarray], list[int]]:
    """Digits and factors of codes in ``[-2**(bits-1), 2**(bits-1))``."""
    slices = -(-bits // g)
    unsigned = [(codes >> (g * i)) & ((1 << g) - 1) for i in range(slices - 1)]
    top = codes >> (g * (slices - 1))  # arithmetic shift: the leading digit keeps the sign
    factors = [1 << (g * i) for i in range(slices)]
    if g == 1:
        return [*unsigned, -top], [*factors[:-1], -factors[-1]]
    return [*unsigned, top], factors


def sign_magnitude_digits(codes: np.ndarray, bits: int, g: int) -> tuple[list[np.ndarray], list[int]]:
    """Digits of the magnitude, each with the sign of its code; ``-2**(bits-1)`` needs all ``bits``."""
    magnitude_bits = max(1, int(np.abs(codes).max(initial=0)).bit_length())
    slices = -(-max(magnitude_bits, bits - 1) // g)
    magnitude, sign = np.abs(codes), np.sign(codes)
    digits = [sign * ((magnitude >> (g * i)) & ((1 << g) - 1)) for i in range(slices)]
    return digits, [1 << (g * i) for i in range(slices)]


def csd_digits(codes: np.ndarray, bits: int, g: int) -> tuple[list[np.ndarray], list[int]]:
    """Signed digits in ``[-2**(g-1), 2**(g-1)]`` with the fewest non-zeros there are.

    A digit follows from the lowest ``g`` bits, but for ``2**(g-1)``, which may also be written negative with a carry.
    The carry is taken where it clears the next digit, or makes that one free to choose in turn; where neither writing
    does, both lead to as many non-zeros (for ``g`` = 1 this is the non-adjacent form, Reitwiesner 1960).
    """
    rest, digits = codes.copy(), []
    radix, half = 1 << g, 1 << (g - 1)
    while np.any(rest) or not digits:
        low, above = rest & (radix - 1), rest >> g
        here, carried = above & (radix - 1), (above + 1) & (radix - 1)
        carry = (low == half) & (here != 0) & ((carried == 0) | ((carried == half) & (here != half)))
        digit = np.where((low > half) | carry, low - radix, low)
        digits.append(digit)
        rest = (rest - digit) >> g
    return digits, [1 << (g * i) for i in range(len(digits))]


_ENCODINGS = {
    "twos_complement": twos_complement_digits,
    "sign_magnitude": sign_magnitude_digits,
    "csd": csd_digits,
}
ENCODINGS = tuple(_ENCODINGS)


def from_codes(
    codes: np.ndarray,
    scale: np.ndarray,
    *,
    shape: tuple[int, ...],
    bits: int,
    encoding: str = "twos_complement",
    granularity: int = 1,
) -> SlicedTensor:
    """Write integer codes in digits.

    Args:
        codes: ``int64 [terms, N, K]``, each in ``[-2**(bits-1), 2**(bits-1))``, or in another run of ``2**bits``
            numbers that holds 0 (a grid with a zero point; its digits take one bit more).
        scale: ``float32 [terms, N, groups]``.
        shape: shape of the dense tensor.
        bits: width of a code.
        encoding: one of ``ENCODINGS``.
        granularity: bits per digit, 1 to 8.

    Raises:
        UnknownName: an encoding that does not exist.
        ConfigError: a granularity out of range.
    """
    if encoding not in _ENCODINGS:
        raise UnknownName("encoding", encoding, _ENCODINGS)
    if not 1 <= granularity <= 8:
        raise ConfigError("granularity", granularity, "1 to 8 bits per digit")
    width = bits + 1 if signed_width(codes) == bits + 1 else bits
    digits: list[np.ndarray] = []
    term: list[int] = []
    factor: list[int] = []
    for t, term_codes in enumerate(codes):
        term_digits, term_factors = _ENCODINGS[encoding](term_codes, width, granularity)
        digits += term_digits
        factor += term_factors
        term += [t] * len(term_digits)
    return SlicedTensor.from_digits(
        np.stack(digits),
        shape=shape,
        encoding=encoding,
        bits=bits,
        granularity=granularity,
        scale=scale,
        term=np.array(term),
        factor=np.array(factor),
    )


def reslice(tensor: SlicedTensor, encoding: str, granularity: int) -> SlicedTensor:
    """The same weights in another encoding and granularity (see the module's text)."""
    if tensor.encoding in ("ternary", "binary"):
        return tensor
    if (tensor.encoding, tensor.granularity) == (encoding, granularity):
        return tensor
    return from_codes(
        tensor.codes(),
        tensor.scale,
        shape=tensor.shape,
        bits=tensor.bits,
        encoding=encoding,
        granularity=granularity,
    )


def with_codes(
    tensor: SlicedTensor, codes: np.ndarray, scale: np.ndarray, shape: tuple[int, ...] | None = None
) -> SlicedTensor:
    """Other codes ``int64 [terms, N, K]`` and scales in the encoding and digits of ``tensor``; its shape or another."""
    shape = tensor.shape if shape is None else shape
    if tensor.encoding in ("ternary", "binary"):
        return SlicedTensor.from_terms(codes, scale, shape, tensor.encoding)
    return from_codes(
        codes,
        scale,
        shape=shape,
        bits=tensor.bits,
        encoding=tensor.encoding,
        granularity=tensor.granularity,
    )


def narrowed(tensor: SlicedTensor, rows: np.ndarray, inputs: np.ndarray) -> SlicedTensor:
    """Some outputs and inputs of a tensor.

    Args:
        rows: booleans ``[N]``; inputs: booleans over the second axis of the tensor's shape.

    Raises:
        ConfigError: inputs are dropped from a tensor with a scale for each group of them.
    """
    if not inputs.all() and tensor.scale.shape[2] > 1:
        raise ConfigError(
            "group", tensor.columns // tensor.scale.shape[2], "0 where channels are taken out in front"
        )
    columns = np.repeat(inputs, tensor.columns // len(inputs))
    shape = (int(rows.sum()), int(inputs.sum()), *tensor.shape[2:])
    return with_codes(tensor, tensor.codes()[:, rows][:, :, columns], tensor.scale[:, rows], shape)
