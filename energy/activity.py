"""What switches: non-zero digits popcounted from the real tensors, at every slice granularity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressors.kernels import bits as kernels
from compressors.slicing import GRANULARITIES, reslice
from compressors.tensor import SlicedTensor


@dataclass(frozen=True, eq=False)
class WeightActivity:
    """Digits of a layer's weights in one encoding.

    Attributes:
        encoding: how the codes are written, see ``compressors.slicing``.
        terms: scales per output channel, each a multiplication per output.
        signed: whether a digit carries a sign of its own next to its magnitude bits.
        nonzero: granularity -> ``int64 [planes, N]``, non-zero digits per plane and output channel.
    """

    encoding: str
    terms: int
    signed: bool
    nonzero: Mapping[int, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        counts = {str(g): counts.tolist() for g, counts in self.nonzero.items()}
        return {"encoding": self.encoding, "terms": self.terms, "signed": self.signed, "nonzero": counts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WeightActivity:
        counts = {int(g): np.array(counts, np.int64) for g, counts in data["nonzero"].items()}
        return cls(data["encoding"], data["terms"], data["signed"], counts)


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
    counts = {}
    for g in GRANULARITIES:
        sliced = reslice(tensor, encoding, g)
        planes = sliced.magnitude.reshape(-1, *sliced.magnitude.shape[2:])
        counts[g] = kernels.count_nonzero_digits(planes, sliced.granularity)
    signed = tensor.encoding in ("ternary", "binary") or encoding != "twos_complement"
    return WeightActivity(encoding, tensor.terms, signed, counts)


def input_activity(codes: np.ndarray, bits: int, signed: bool) -> InputActivity:
    """Count the non-zero digits of a layer's input.

    Args:
        codes: integers of any shape, first axis the image.
        bits: bits of a code, its sign included.
        signed: whether codes may be negative; their magnitude is what is sliced then.
    """
    planes = kernels.pack(np.abs(codes).reshape(codes.shape[0], -1), bits)
    fractions = {g: kernels.count_nonzero_digits(planes, g).sum(1) / codes.size for g in GRANULARITIES}
    return InputActivity(bits, signed, fractions)
