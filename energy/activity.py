"""What switches: non-zero digits popcounted from the real tensors, at every slice granularity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressors.kernels.bits import pack
from compressors.kernels.statistics import statistics
from compressors.slicing import GRANULARITIES, reslice
from compressors.tensor import SlicedTensor


@dataclass(frozen=True, eq=False)
class WeightActivity:
    """Digits of a layer's weights in one encoding.

    Attributes:
        encoding: how the codes are written, see ``compressors.slicing``.
        terms: scales per output channel, each a multiplication per output.
        magnitude_bits: widest magnitude a digit can have; 1 where digits are -1, 0 and 1.
        dense_bits: bits of all codes stored one after the other, signs included.
        nonzero: granularity -> ``int64 [planes, N]``, non-zero digits per plane and output channel.
        signs: granularity -> sign bits that the non-zero digits need beside their magnitudes.
    """

    encoding: str
    terms: int
    magnitude_bits: int
    dense_bits: int
    nonzero: Mapping[int, np.ndarray]
    signs: Mapping[int, int]

    def sparse_bits(self, granularity: int, weights: int) -> int:
        """Bits of ``weights`` weights stored plane by plane as a bitmap and what stands behind its ones.

        Where a digit is one bit the bitmap holds it already.
        """
        counts = self.nonzero[granularity]
        width = min(granularity, self.magnitude_bits)
        behind = 0 if width == 1 else width
        return counts.shape[0] * weights + int(counts.sum()) * behind + self.signs[granularity]

    def to_dict(self) -> dict[str, Any]:
        return {
            "encoding": self.encoding,
            "terms": self.terms,
            "magnitude_bits": self.magnitude_bits,
            "dense_bits": self.dense_bits,
            "nonzero": {str(g): counts.tolist() for g, counts in self.nonzero.items()},
            "signs": {str(g): signs for g, signs in self.signs.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WeightActivity:
        return cls(
            data["encoding"],
            data["terms"],
            data["magnitude_bits"],
            data["dense_bits"],
            {int(g): np.array(counts, np.int64) for g, counts in data["nonzero"].items()},
            {int(g): int(signs) for g, signs in data["signs"].items()},
        )


@dataclass(frozen=True, eq=False)
class InputActivity:
    """Digits of a layer's input over some images.

    Attributes:
        bits: bits of a code, its sign included.
        signed: whether codes may be negative (digits then are those of the magnitude).
        nonzero: granularity -> ``float64 [slices]``, fraction of values with a non-zero digit at that position.
    """

    bits: int
    signed: bool
    nonzero: Mapping[int, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        fractions = {str(g): f.tolist() for g, f in self.nonzero.items()}
        return {"bits": self.bits, "signed": self.signed, "nonzero": fractions}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InputActivity:
        fractions = {int(g): np.array(f, np.float64) for g, f in data["nonzero"].items()}
        return cls(data["bits"], data["signed"], fractions)


def weight_activity(tensor: SlicedTensor, encoding: str) -> WeightActivity:
    """Count the non-zero digits of ``tensor`` written in ``encoding``, per plane and output channel."""
    counts, signs = {}, {}
    native = tensor.encoding in ("ternary", "binary")
    for g in GRANULARITIES:
        sliced = reslice(tensor, encoding, g)
        planes = sliced.magnitude.reshape(-1, *sliced.magnitude.shape[2:])
        counts[g] = statistics(planes, per_row=True).nonzero[sliced.granularity]
        signs[g] = _sign_bits(tensor, encoding, int(counts[g].sum()), native)
    weights = tensor.shape[0] * tensor.columns
    return WeightActivity(
        encoding=encoding,
        terms=tensor.terms,
        magnitude_bits=1 if native else tensor.bits,
        dense_bits=weights * _code_bits(tensor, native),
        nonzero=counts,
        signs=signs,
    )


def _code_bits(tensor: SlicedTensor, native: bool) -> int:
    """Bits of one weight in dense storage: ternary a mask and a sign per term, binary signs and one mask if pruned."""
    if not native:
        return tensor.bits * tensor.terms
    if tensor.encoding == "binary":
        return tensor.terms + (tensor.sparsity > 0)
    return 2 * tensor.terms


def _sign_bits(tensor: SlicedTensor, encoding: str, nonzero: int, native: bool) -> int:
    """Signs beside the magnitudes: one per digit, one per code whose digits share it, none in two's complement."""
    if native or encoding == "csd":
        return nonzero
    if encoding == "sign_magnitude":
        return int((tensor.codes() != 0).sum())
    return 0


def input_activity(codes: np.ndarray, bits: int, signed: bool) -> InputActivity:
    """Count the non-zero digits of a layer's input.

    Args:
        codes: integers of any shape, first axis the image.
        bits: bits of a code, its sign included.
        signed: whether codes may be negative; their magnitude is what is sliced then.
    """
    counted = statistics(pack(np.abs(codes).reshape(codes.shape[0], -1), bits))
    fractions = {g: counted.nonzero[g] / codes.size for g in GRANULARITIES}
    return InputActivity(bits, signed, fractions)
