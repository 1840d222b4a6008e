"""A graph of adders: what a layer's products cost when nothing is multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compressors.errors import BadTensor, ConfigError
from compressors.kernels import adders as kernels


@dataclass(frozen=True, eq=False)
class AdderGraph:
    """Adders that compute ``T @ x`` for an integer matrix ``T [N, K]``.

    Nodes are numbered: the ``K`` inputs, then the operations in an order in which they can be carried out.

    Attributes:
        inputs: ``K``.
        operations: ``int64 [adders, 5]``: left, left sign, right, right sign, shift; the node it makes is
            ``left sign * left + right sign * (right << shift)``. Both signs are negative only where a row's last
            addition would otherwise leave the row negated.
        outputs: ``int64 [N, 3]``: node, shift, sign; row ``n`` is ``sign * (node << shift)``, and 0 where node is -1.
        adders_before: additions without sharing, one fewer than the digits of every row.
        shared: how many of the operations (the first ones, per block) are sums that several rows use.
    """

    inputs: int
    operations: np.ndarray
    outputs: np.ndarray
    adders_before: int
    shared: int

    @property
    def adders(self) -> int:
        """Additions and subtractions, for one position."""
        return len(self.operations)

    @property
    def nodes(self) -> int:
        return self.inputs + self.adders

    @cached_property
    def node_depth(self) -> np.ndarray:
        """``int64 [nodes]``: additions one after another until the node is there."""
        depth = np.zeros(self.nodes, np.int64)
        kernels.follow_depth(self.operations, self.inputs, depth)
        return depth

    @cached_property
    def depth(self) -> int:
        """Additions one after another until every output is there."""
        used = self.outputs[self.outputs[:, 0] >= 0, 0]
        return int(self.node_depth[used].max(initial=0))

    @cached_property
    def _coefficient_sums(self) -> np.ndarray:
        return kernels.sum_coefficients(self.operations, self.inputs)

    def ranges(self, low: int, high: int) -> np.ndarray:
        """``int64 [nodes, 2]``: least and greatest value of every node, both reached, for inputs in ``[low, high]``."""
        positive, negative = self._coefficient_sums.T
        return np.stack([positive * low + negative * high, positive * high + negative * low], axis=1)

    def output_ranges(self, low: int, high: int) -> np.ndarray:
        """``int64 [N, 2]``: least and greatest value of every output for inputs in ``[low, high]``."""
        spans = np.zeros((len(self.outputs), 2), np.int64)
        filled = self.outputs[:, 0] >= 0
        node, shift, sign = self.outputs[filled].T[:, :, None]
        reached = self.ranges(low, high)[node[:, 0]] << shift
        spans[filled] = np.where(sign < 0, -reached[:, ::-1], reached)
        return spans

    def widths(self, bits: int, signed: bool) -> np.ndarray:
        """Word width of every node, ``int64 [nodes]``.

        A node that is never negative is unsigned, any other two's complement; both ends of its range are reached, so
        no bit is idle.

        Args:
            bits: width of every input; signed: whether it is two's complement.

        Raises:
            ConfigError: fewer than 1 or more than 32 bits.
        """
        return _widths(self.ranges(*input_range(bits, signed)))

    def output_widths(self, bits: int, signed: bool) -> np.ndarray:
        """Word width of every output, ``int64 [N]``, as in :meth:`widths`; 0 for an empty row."""
        return _widths(self.output_ranges(*input_range(bits, signed)))

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """``T @ x`` for integers ``x [K, M]`` as ``int64 [N, M]``, exact wherever that fits ``int64``.

        Raises:
            BadTensor: an ``x`` that is not of that shape or not of integers.
        """
        return kernels.evaluate(self.operations, self.inputs, self.outputs, check_inputs(x, self.inputs))


def input_range(bits: int, signed: bool) -> tuple[int, int]:
    """Least and greatest number of ``bits`` bits, two's complement if ``signed``."""
    if not 1 <= bits <= 32:
        raise ConfigError("bits", bits, "1 to 32 bits per input")
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def check_inputs(x: np.ndarray, inputs: int) -> np.ndarray:
    """The inputs as ``int64 [inputs, M]``, or :class:`BadTensor`."""
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[0] != inputs or not np.issubdtype(x.dtype, np.integer):
        raise BadTensor(
            f"inputs of shape {x.shape} and type {x.dtype}: expected integers [{inputs}, positions]"
        )
    return x.astype(np.int64, copy=False)


def _widths(ranges: np.ndarray) -> np.ndarray:
    """Bits that hold ``[least, greatest]``, per row of ``int64 [.., 2]``."""
    low, high = ranges.T
    magnitude = np.maximum(np.where(low < 0, ~low, 0), np.maximum(high, 0))
    bits = np.zeros(len(magnitude), np.int64)
    for b in range(int(magnitude.max(initial=0)).bit_length()):
        bits[magnitude >> b > 0] = b + 1
    return bits + (low < 0)
