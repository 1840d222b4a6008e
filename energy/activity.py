"""What switches: non-zero digits popcounted from the real tensors, at every slice granularity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from compressors.kernels.bits import pack
from compressors.kernels.statistics import statistics
from compressors.reuse import Block, reuse
from compressors.sharing import share
from compressors.slicing import GRANULARITIES, narrowed, reslice
from compressors.tensor import SlicedTensor
from energy.associative.counts import PassCounts, graph_counts
from energy.bit_columns import ColumnActivity, ColumnRequest, column_activity


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
        columns: requests of an accelerator -> its bit columns; empty where none was asked for.
    """

    encoding: str
    terms: int
    magnitude_bits: int
    dense_bits: int
    nonzero: Mapping[int, np.ndarray]
    signs: Mapping[int, int]
    columns: Mapping[ColumnRequest, ColumnActivity] = field(default_factory=dict)

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
            "columns": [[*request, found.to_dict()] for request, found in self.columns.items()],
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
            {(int(g), int(f)): ColumnActivity.from_dict(c) for g, f, c in data.get("columns", ())},
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


@dataclass(frozen=True)
class ReuseActivity:
    """What a layer's weights share, for one position of the output.

    Attributes:
        adders_before, adders: additions of integers without and with shared sums (an adder graph per term).
        adder_bits: bits of all those adders, each as wide as its sum can get with this layer's input.
        depth: additions one after another.
        scalings, combining: multiplications of sums by scales, and additions of the scaled sums.
        multiplications_before, multiplications: weights that are not zero, and distinct magnitudes per row (UCNN).
        passes: what the adder graphs take on an associative processor; None where that was not counted.
    """

    adders_before: int
    adders: int
    adder_bits: int
    depth: int
    scalings: int
    combining: int
    multiplications_before: int
    multiplications: int
    passes: PassCounts | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReuseActivity:
        passes = data.get("passes")
        return cls(**{**data, "passes": None if passes is None else PassCounts(**passes)})


def reuse_activity(tensor: SlicedTensor, groups: int, block: Block, bits: int, signed: bool) -> ReuseActivity:
    """Count what the rows of each channel group share within ``block``, for an input of some bits.

    Codes are written in canonical signed digits, which are the fewest; ternary and binary planes stay as they are.
    """
    tensor = reslice(tensor, "csd", 1)
    rows = np.arange(tensor.shape[0]) * groups // tensor.shape[0]
    every = np.ones(tensor.shape[1], bool)
    parts = [tensor] if groups == 1 else [narrowed(tensor, rows == g, every) for g in range(groups)]
    graphs = [reuse(part, block) for part in parts]
    products = [p for part in parts for term in share(part, block) for p in term]
    adders = [graph for found in graphs for term in found.graphs for graph in term]
    return ReuseActivity(
        adders_before=sum(g.adders_before for g in graphs),
        adders=sum(g.adders for g in graphs),
        adder_bits=sum(int(g.widths(bits, signed)[g.inputs :].sum()) for g in adders),
        depth=max(g.depth for g in graphs),
        scalings=sum(g.scalings for g in graphs),
        combining=sum(g.combining for g in graphs),
        multiplications_before=sum(p.multiplications_before for p in products),
        multiplications=sum(p.multiplications for p in products),
        passes=PassCounts.total(graph_counts(graph, bits, signed) for graph in adders),
    )


def weight_activity(
    tensor: SlicedTensor, encoding: str, columns: Iterable[ColumnRequest] = (), groups: int = 1
) -> WeightActivity:
    """Count the non-zero digits of ``tensor`` written in ``encoding``, per plane and output channel.

    Args:
        columns: bit columns to count beside them; ``groups``: channel groups of the layer.
    """
    counts, signs, found = {}, {}, {}
    native = tensor.encoding in ("ternary", "binary")
    for g in GRANULARITIES:
        sliced = reslice(tensor, encoding, g)
        planes = sliced.magnitude.reshape(-1, *sliced.magnitude.shape[2:])
        counts[g] = statistics(planes, per_row=True).nonzero[sliced.granularity]
        signs[g] = _sign_bits(tensor, encoding, int(counts[g].sum()), native)
        if g == 1:
            found = {c: column_activity(planes, tensor.columns, c, groups) for c in columns}
    weights = tensor.shape[0] * tensor.columns
    return WeightActivity(
        encoding=encoding,
        terms=tensor.terms,
        magnitude_bits=1 if native else tensor.bits,
        dense_bits=weights * _code_bits(tensor, native),
        nonzero=counts,
        signs=signs,
        columns=found,
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
