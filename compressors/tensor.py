"""SlicedTensor: the one representation of compressed weights between all parts of the project.

A weight matrix of ``N`` output channels and ``K`` inputs is a sum of scaled digit planes,

    W[n, k] = sum_t scale[t, n, group(k)] * C_t[n, k],      C_t = sum_{p: term[p]=t} factor[p] * D_p[n, k],

where every term ``t`` is an integer code with a scale of its own and every plane ``D_p`` holds the digits of one
position of that code; ``factor`` is a power of two, negative for the leading plane of two's complement. A shift
realises a factor, so only the ``terms`` scales cost a multiplication, once per output.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from compressors.errors import BadTensor
from compressors.storage import shared_table_bits, signed_width


def pack_rows(bits: np.ndarray) -> np.ndarray:
    """Booleans ``[..., columns]`` to ``uint64 [..., words]`` in the layout of ``compressors.kernels.bits``."""
    words = -(-bits.shape[-1] // 64)
    padded = np.zeros((*bits.shape[:-1], words * 64), np.uint8)
    padded[..., : bits.shape[-1]] = bits
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def unpack_rows(words: np.ndarray, columns: int) -> np.ndarray:
    """``uint64 [..., words]`` to booleans ``[..., columns]``; the inverse of :func:`pack_rows`."""
    as_bytes = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return np.unpackbits(as_bytes, axis=-1, bitorder="little", count=columns).astype(bool)


def as_array(value: Any, what: str) -> np.ndarray:
    """A NumPy array, nested list or torch tensor (without its gradient) as an array; copied only where it has to be.

    Raises:
        BadTensor: anything else; ``what`` says in the message what it was meant to be.
    """
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadTensor(f"{what} that is no array: {error}; give a NumPy array") from error
    if array.dtype.kind not in "biuf":
        raise BadTensor(
            f"{what} of type {type(value).__name__}: expected an array of real numbers or booleans"
        )
    return array


@dataclass(frozen=True, eq=False)
class SlicedTensor:
    """A weight tensor as scaled digit planes.

    Attributes:
        shape: shape of the dense tensor; the first axis is the output channel, the rest are the ``K`` inputs.
        encoding: how the digits write the codes: ``ternary``, ``binary``, ``twos_complement``,
            ``sign_magnitude`` or ``csd`` (see ``compressors.slicing``).
        bits: bits of one code (1 for ternary and binary, whose sign is kept apart).
        scale: ``float32 [terms, N, groups]``; the ``K`` inputs fall into ``groups`` equal runs.
        term: ``int64 [planes]``, the term each plane belongs to.
        factor: ``int64 [planes]``, the signed power of two of each plane.
        magnitude: ``uint64 [planes, g, N, words]``, the ``g`` bits of each digit's magnitude.
        sign: ``uint64 [planes, N, words]``, one where the digit is negative.
    """

    shape: tuple[int, ...]
    encoding: str
    bits: int
    scale: np.ndarray
    term: np.ndarray
    factor: np.ndarray
    magnitude: np.ndarray
    sign: np.ndarray

    def __post_init__(self) -> None:
        if self.magnitude.ndim != 4 or not self.shape:
            raise BadTensor(
                f"planes of shape {self.magnitude.shape} for a tensor of shape {self.shape}: expected "
                "[planes, g, rows, words] for [rows, ...]"
            )
        planes, _, rows, words = self.magnitude.shape
        expected = -(-self.columns // 64)
        if rows != self.shape[0] or words != expected or self.sign.shape != (planes, rows, words):
            raise BadTensor(
                f"planes of shape {self.magnitude.shape} and signs of shape {self.sign.shape} do not hold a "
                f"tensor of shape {self.shape} ({self.shape[0]} rows of {expected} words expected)"
            )
        groups = self.scale.shape[2] if self.scale.ndim == 3 else 0
        if not groups or self.scale.shape[1] != rows or self.columns % groups:
            raise BadTensor(
                f"scale of shape {self.scale.shape} does not fit a tensor of shape {self.shape}: "
                f"expected [terms, {rows}, groups] with groups dividing {self.columns}"
            )
        outside = np.any((self.term < 0) | (self.term >= self.terms))
        if self.term.shape != (planes,) or self.factor.shape != (planes,) or outside:
            raise BadTensor(f"{planes} planes need as many terms and factors, each term below {self.terms}")

    @property
    def columns(self) -> int:
        """Inputs per output channel, ``K``."""
        return int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def terms(self) -> int:
        """Codes with a scale of their own."""
        return self.scale.shape[0]

    @property
    def planes(self) -> int:
        return self.magnitude.shape[0]

    @property
    def granularity(self) -> int:
        """Bits of one digit."""
        return self.magnitude.shape[1]

    @classmethod
    def from_digits(
        cls,
        digits: np.ndarray,
        *,
        shape: tuple[int, ...],
        encoding: str,
        bits: int,
        granularity: int,
        scale: np.ndarray,
        term: np.ndarray,
        factor: np.ndarray,
    ) -> SlicedTensor:
        """Pack digits ``int [planes, N, K]``, each of magnitude below ``2**granularity``."""
        magnitude = np.abs(digits)
        if digits.size and magnitude.max() >= 1 << granularity:
            raise BadTensor(f"a digit of magnitude {magnitude.max()} does not fit {granularity} bits")
        planes = np.stack([pack_rows((magnitude >> b) & 1 == 1) for b in range(granularity)], axis=1)
        return cls(
            tuple(shape),
            encoding,
            bits,
            np.ascontiguousarray(scale, np.float32),
            np.asarray(term, np.int64),
            np.asarray(factor, np.int64),
            planes,
            pack_rows(digits < 0),
        )

    @classmethod
    def from_terms(
        cls, codes: np.ndarray, scale: np.ndarray, shape: tuple[int, ...], encoding: str
    ) -> SlicedTensor:
        """Codes ``int [terms, N, K]`` in {-1, 0, 1}, one plane per term (ternary and binary grids)."""
        terms = codes.shape[0]
        return cls.from_digits(
            codes,
            shape=shape,
            encoding=encoding,
            bits=1,
            granularity=1,
            scale=scale,
            term=np.arange(terms),
            factor=np.ones(terms, np.int64),
        )

    def digits(self) -> np.ndarray:
        """Digits as ``int64 [planes, N, K]``."""
        bits = unpack_rows(self.magnitude, self.columns).astype(np.int64)
        weights = (1 << np.arange(self.granularity)).reshape(1, -1, 1, 1)
        return np.where(unpack_rows(self.sign, self.columns), -1, 1) * (bits * weights).sum(1)

    def codes(self) -> np.ndarray:
        """Integer codes as ``int64 [terms, N, K]``."""
        codes = np.zeros((self.terms, self.shape[0], self.columns), np.int64)
        np.add.at(codes, self.term, self.digits() * self.factor[:, None, None])
        return codes

    def to_dense(self) -> np.ndarray:
        """The weights as ``float32`` of ``shape``, summed in float64 and rounded once."""
        groups = self.scale.shape[2]
        codes = self.codes().reshape(self.terms, self.shape[0], groups, -1)
        return (
            (self.scale.astype(np.float64)[..., None] * codes).sum(0).astype(np.float32).reshape(self.shape)
        )

    @cached_property
    def support(self) -> np.ndarray:
        """``uint64 [N, words]``: one where any digit is non-zero."""
        return np.bitwise_or.reduce(self.magnitude.reshape(-1, *self.magnitude.shape[2:]), axis=0)

    @cached_property
    def sparsity(self) -> float:
        """Fraction of weights that are zero in every plane."""
        ones = int(np.bitwise_count(self.support).sum())
        return 1.0 - ones / (self.shape[0] * self.columns)

    @cached_property
    def storage_bits(self) -> int:
        """Bits to store the codes and scales without padding, in the smallest of several ways.

        Dense, a code takes its ``bits``, a ternary term 2 (mask and sign), a binary term its sign alone, with one
        mask for all terms where weights are pruned. Behind a bitmap of the non-zero weights only those keep their
        codes; ternary terms may also each have a bitmap of their own and signs for their non-zeros. Codes beyond
        the signed range of ``bits`` stand above a zero point of ``bits`` bits per term, channel and group. Weights
        that share few values may be stored as indices into a table of them, dense or behind the bitmap (see
        ``compressors.storage``). Scales take 32 bits each.
        """
        codes = self.codes()
        weights = self.shape[0] * self.columns
        kept = round(weights * (1.0 - self.sparsity))
        if self.encoding == "binary":
            entry = self.terms + (kept < weights)
            smallest = weights * self.terms if kept == weights else weights + kept * self.terms
        elif self.encoding == "ternary":
            entry = 2 * self.terms
            nonzero = int(np.bitwise_count(self.magnitude).sum())
            behind_bitmap = weights + kept * 2 * self.terms
            smallest = min(weights * 2 * self.terms, behind_bitmap, weights * self.terms + nonzero)
        else:
            width = signed_width(codes)
            entry = max(self.bits, width) * self.terms
            zero_points = self.bits * self.scale.size if width > self.bits else 0
            code = self.bits * self.terms
            smallest = min(weights * code, weights + kept * code) + zero_points
        smallest = min(smallest, shared_table_bits(codes, entry))
        return smallest + 32 * self.scale.size

    def digest(self) -> str:
        """SHA-256 over everything that defines the tensor."""
        state = hashlib.sha256(f"{self.shape}{self.encoding}{self.bits}".encode())
        for array in (self.scale, self.term, self.factor, self.magnitude, self.sign):
            state.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return state.hexdigest()
