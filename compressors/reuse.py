"""Computation reuse: a layer's products as a graph of adders that share what rows have in common.

Codes written in digits of -1, 0 and 1 need additions alone, and pairs of digits that several rows hold are added
once. ``compressors.kernels.reuse`` finds them; what each row still adds is summed in a balanced tree. One operation is
one adder or subtractor with an optional shift, which is wiring. Shifted digits are not columns of their own: a pair
is shared wherever the same two inputs stand the same distance apart, at any position of the code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.adders import AdderGraph, check_inputs
from compressors.errors import BadTensor, ConfigError
from compressors.kernels import adders as kernels
from compressors.kernels.reuse import eliminate
from compressors.slicing import csd_digits
from compressors.storage import signed_width
from compressors.tensor import SlicedTensor

Block = tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class Reuse:
    """Adder graphs of a layer: one per term, and per group of inputs where these have scales of their own.

    Attributes:
        rows: ``N``.
        graphs: ``[terms][groups]``.
    """

    rows: int
    graphs: tuple[tuple[AdderGraph, ...], ...]

    @property
    def adders_before(self) -> int:
        return sum(graph.adders_before for graph in self._all)

    @property
    def adders(self) -> int:
        """Additions of integers, for one position; those of scaled sums are counted by :attr:`combining`."""
        return sum(graph.adders for graph in self._all)

    @property
    def depth(self) -> int:
        """Of the deepest graph."""
        return max(graph.depth for graph in self._all)

    @property
    def scalings(self) -> int:
        """Sums that are multiplied with a scale: one per row, term and group, unless it is empty."""
        return int(self._filled.sum())

    @property
    def combining(self) -> int:
        """Additions of scaled sums: one fewer per row than it has terms and groups that are not empty."""
        return int(np.maximum(self._filled.sum(0) - 1, 0).sum())

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Integer sums ``int64 [terms, groups, N, M]`` for integers ``x [K, M]``, before any scale."""
        groups = len(self.graphs[0])
        parts = np.split(check_inputs(x, groups * self.graphs[0][0].inputs), groups)
        return np.array(
            [[g.evaluate(part) for g, part in zip(term, parts, strict=True)] for term in self.graphs]
        )

    @property
    def _all(self) -> list[AdderGraph]:
        return [graph for term in self.graphs for graph in term]

    @property
    def _filled(self) -> np.ndarray:
        return np.array([graph.outputs[:, 0] >= 0 for graph in self._all])


def adder_graph(codes: np.ndarray, block: Block = None) -> AdderGraph:
    """The adder graph of an integer matrix.

    Args:
        codes: integers ``[N, K]``. Ternary ones are taken as they are, others written in canonical signed digits.
        block: rows and columns within which sums are shared, as where an array of adders holds no more; the last
            ones may be smaller. ``None`` shares over the whole matrix.

    Raises:
        BadTensor: codes that are not a matrix of integers, or too many for one block (some millions of digits).
        ConfigError: a block without rows or columns.
    """
    codes = check_codes(codes)
    if codes.size and np.abs(codes).max() > 1:
        return _graph(np.stack(csd_digits(codes, signed_width(codes), 1)[0]).astype(np.int8), block)
    return _graph(codes[None].astype(np.int8), block)


def reuse(tensor: SlicedTensor, block: Block = None) -> Reuse:
    """The adder graphs of a layer, from the digits its codes are written in (``slicing.reslice`` writes them anew).

    A digit of several bits is as many digits of one bit, each with its sign. ``block`` is as in :func:`adder_graph`,
    its columns counted within a group of inputs.

    Raises:
        BadTensor: a factor that is no power of two, or two planes of a term at one position.
        ConfigError: a block without rows or columns.
    """
    groups = tensor.scale.shape[2]
    graphs = []
    for term in range(tensor.terms):
        parts = np.split(_signed_digits(tensor, term), groups, axis=2)
        graphs.append(tuple(_graph(part, block) for part in parts))
    return Reuse(tensor.shape[0], tuple(graphs))


def check_codes(codes: np.ndarray) -> np.ndarray:
    """The codes as ``int64 [N, K]``, or :class:`BadTensor`."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise BadTensor(
            f"codes of shape {codes.shape} and type {codes.dtype}: expected integers [rows, columns]"
        )
    return codes.astype(np.int64)


def check_block(block: Block, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a block; those of the whole matrix, or 1 where it has none, without one."""
    height, width = (max(rows, 1), max(columns, 1)) if block is None else block
    if height < 1 or width < 1:
        raise ConfigError("block", block, "rows and columns of at least 1, or none for the whole matrix")
    return height, width


def _signed_digits(tensor: SlicedTensor, term: int) -> np.ndarray:
    """``int8 [offsets, N, K]`` in {-1, 0, 1} of one term."""
    planes = np.flatnonzero(tensor.term == term)
    factor = tensor.factor[planes]
    shifts = [int(abs(f)).bit_length() - 1 for f in factor]
    if any(abs(int(f)) != 1 << s if f else True for f, s in zip(factor, shifts, strict=True)):
        raise BadTensor(
            f"planes with factors {factor.tolist()}: expected powers of two, positive or negative"
        )
    g = tensor.granularity
    offsets = max(shifts, default=0) + g
    digits = np.zeros((offsets, tensor.shape[0], tensor.columns), np.int8)
    all_digits = tensor.digits()
    for plane, shift, f in zip(planes, shifts, factor, strict=True):
        sign = np.sign(all_digits[plane]) * int(np.sign(f))
        for b in range(g):
            bit = (np.abs(all_digits[plane]) >> b & 1) * sign
            if np.any(bit * digits[shift + b]):
                raise BadTensor(
                    f"two planes of term {term} hold digits at position {shift + b}; expected one"
                )
            digits[shift + b] += bit.astype(np.int8)
    return digits


def _graph(digits: np.ndarray, block: Block) -> AdderGraph:
    """Share within blocks, sum every block's rows, then the rows over blocks."""
    _, rows, inputs = digits.shape
    height, width = check_block(block, rows, inputs)
    pairs, terms = [np.empty((0, 5), np.int64)], [np.empty((0, 3), np.int64)]
    counts, row = (
        [np.empty(0, np.int64)],
        [np.empty(0, np.int64)],
    )  # terms, and of which row, per block and row
    shared = 0
    for top in range(0, rows, height):
        for first in range(0, inputs, width):
            part = digits[:, top : top + height, first : first + width]
            made, left, starts = _eliminated(part, first, inputs + shared)
            pairs.append(made)
            terms.append(left)
            counts.append(np.diff(starts))
            row.append(top + np.arange(part.shape[1]))
            shared += len(made)
    operations, outputs = _summed(
        np.concatenate(pairs),
        np.concatenate(terms),
        np.concatenate(counts),
        np.concatenate(row),
        rows,
        inputs,
    )
    before = np.maximum(np.count_nonzero(digits, (0, 2)) - 1, 0).sum()
    return AdderGraph(inputs, operations, outputs, int(before), shared)


def _eliminated(part: np.ndarray, first: int, node: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Operations that a block shares, and what its rows still add, in numbers of nodes of the whole graph.

    ``first`` is the block's first input, ``node`` the number of the next node that is made.
    """
    pairs, starts, entries = eliminate(part)
    number = np.concatenate([first + np.arange(part.shape[2]), node + np.arange(len(pairs))])
    left, right, shift, subtracted = pairs.T
    operations = np.stack(
        [number[left], np.ones_like(left), number[right], 1 - 2 * subtracted, shift], axis=1
    )
    span, place = 2 * part.shape[0] - 1, entries >> 1
    terms = np.stack([number[place // span], place % span, 1 - 2 * (entries & 1)], axis=1)
    return operations, terms, starts


def _summed(
    shared: np.ndarray, terms: np.ndarray, counts: np.ndarray, row: np.ndarray, rows: int, inputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """All operations and the outputs: ``counts`` terms each are summed, then those sums that are of one ``row``."""
    per_row = np.bincount(row, counts, rows).astype(np.int64)
    operations = np.zeros((len(shared) + int(np.maximum(per_row - 1, 0).sum()), 5), np.int64)
    operations[: len(shared)] = shared
    depth = np.zeros(inputs + len(operations), np.int64)
    kernels.follow_depth(shared, inputs, depth)
    sums, made = kernels.sum_balanced(_starts(counts), terms, operations, len(shared), inputs, depth)
    order = np.argsort(row, kind="stable")
    order = order[sums[order, 0] >= 0]
    starts = _starts(np.bincount(row[order], minlength=rows))
    outputs, _ = kernels.sum_balanced(starts, sums[order], operations, made, inputs, depth)
    # a row's own last addition takes up its sign
    own = np.flatnonzero((outputs[:, 2] < 0) & (outputs[:, 0] >= inputs + len(shared)))
    operations[np.ix_(outputs[own, 0] - inputs, [1, 3])] *= -1
    outputs[own, 2] = 1
    return operations, outputs


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
