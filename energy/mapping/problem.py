"""The loops of a convolution or a linear layer, and which operand moves with which of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from energy.workload import LayerWork

DIMS = ("B", "G", "K", "C", "Y", "X", "FY", "FX")
"""Images, channel groups, output and input channels of a group, output rows and columns, filter rows and columns."""
B, G, K, C, Y, X, FY, FX = range(8)

WEIGHTS, INPUTS, OUTPUTS = range(3)
OPERANDS = ("weights", "inputs", "outputs")
RELEVANT = np.array(
    [[d in dims for d in range(8)] for dims in ((G, K, C, FY, FX), (B, G, C, Y, X, FY, FX), (B, G, K, Y, X))]
)
"""``bool [operand, dim]``: whether another index of the loop means another word."""


@dataclass(frozen=True)
class Problem:
    """``bounds`` of the loops in the order of ``DIMS``; ``stride`` and ``dilation`` are ``(rows, columns)``.

    Output row ``y`` and filter row ``fy`` read input row ``stride * y + dilation * fy``; a border of zeros counts as
    data. Hashable: what two layers share by being the same problem is computed once.
    """

    bounds: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, layer: LayerWork, batch: int = 1) -> Problem:
        """The loops of ``layer`` over ``batch`` images."""
        height, width = layer.output_size
        groups = layer.groups
        bounds = (
            batch,
            groups,
            layer.outputs // groups,
            layer.inputs // groups,
            height,
            width,
            *layer.kernel,
        )
        # without a filter or a second row, steps are never taken: the same problem, so the same answer
        stride = tuple(s if n > 1 else 1 for s, n in zip(layer.stride, (height, width), strict=True))
        dilation = tuple(d if n > 1 else 1 for d, n in zip(layer.dilation, layer.kernel, strict=True))
        return cls(bounds, stride, dilation)

    @property
    def macs(self) -> int:
        return math.prod(self.bounds)

    def words(self, operand: int) -> int:
        """Distinct words of an operand."""
        if operand != INPUTS:
            return math.prod(n for n, r in zip(self.bounds, RELEVANT[operand], strict=True) if r)
        b = self.bounds
        rows = distinct(b[Y], b[FY], self.stride[0], self.dilation[0])
        columns = distinct(b[X], b[FX], self.stride[1], self.dilation[1])
        return b[B] * b[G] * b[C] * rows * columns


def distinct(outputs: int, taps: int, stride: int, dilation: int) -> int:
    """How many input rows ``outputs`` adjacent output rows read through ``taps`` filter rows.

    ``stride * y + dilation * f`` meets itself again at ``y + dilation / g``, ``f - stride / g`` with ``g`` their common
    divisor: every pair that has such a neighbour counts once less.
    """
    g = math.gcd(stride, dilation)
    return outputs * taps - max(0, outputs - dilation // g) * max(0, taps - stride // g)


def divisors(n: int) -> list[int]:
    """All divisors of ``n``, ascending."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]
