"""Graphs of adders: balanced sums of what elimination left, evaluation, depth, ranges; and sums of shared weights.

An operation is a row ``(left, left sign, right, right sign, shift)`` of ``int64 [adders, 5]`` and makes the node
``inputs + its index = left sign * left + right sign * (right << shift)``.

Everything that compiles stands in this one file (see ``compressors.kernels.bits``).
"""

from __future__ import annotations

import numpy as np
from numba import njit

_CHUNK = 16  # inputs whose coefficients are followed through the graph at once


@njit(cache=True, nogil=True)
def _follow_depth(operations, inputs, depth, first):  # type: ignore[no-untyped-def]
    """Additions on the longest way to every node from operation ``first`` on."""
    for s in range(first, operations.shape[0]):
        depth[inputs + s] = 1 + max(depth[operations[s, 0]], depth[operations[s, 2]])


@njit(cache=True, nogil=True)
def _sum_balanced(starts, terms, operations, made, inputs, depth, sums):  # type: ignore[no-untyped-def]
    """Add the ``terms [.., 3]`` of every segment, which are ordered by depth; returns operations made.

    Taking the two lightest each time makes the deepest sum as shallow as can be (Golumbic 1976). Sums come out in
    order of depth, so that two queues do for it.
    """
    for segment in range(starts.shape[0] - 1):
        leaves = terms[starts[segment] : starts[segment + 1]]
        count = leaves.shape[0]
        if count == 0:
            sums[segment, 0] = -1
            sums[segment, 1] = 0
            sums[segment, 2] = 1
            continue
        queue = np.empty((2 * count - 1, 3), np.int64)
        for leaf in range(count):
            for part in range(3):
                queue[leaf, part] = leaves[leaf, part]
        leaf, head = 0, count
        for tail in range(count, 2 * count - 1):
            pair = np.empty(2, np.int64)
            for p in range(2):
                from_leaves = leaf < count and (
                    head >= tail or depth[queue[leaf, 0]] <= depth[queue[head, 0]]
                )
                if from_leaves:
                    pair[p] = leaf
                    leaf += 1
                else:
                    pair[p] = head
                    head += 1
            low, high = queue[pair[0]], queue[pair[1]]
            if high[1] < low[1]:
                low, high = high, low
            operations[made, 0], operations[made, 1] = low[0], 1
            operations[made, 2], operations[made, 3] = high[0], low[2] * high[2]
            operations[made, 4] = high[1] - low[1]
            queue[tail, 0], queue[tail, 1], queue[tail, 2] = inputs + made, low[1], low[2]
            depth[inputs + made] = 1 + max(depth[low[0]], depth[high[0]])
            made += 1
        for part in range(3):
            sums[segment, part] = queue[2 * count - 2, part]
    return made


@njit(cache=True, nogil=True)
def _run(operations, inputs, nodes):  # type: ignore[no-untyped-def]
    """All operations on ``nodes [inputs + adders, tile]``, whose inputs are filled in."""
    for s in range(operations.shape[0]):
        left, right = nodes[operations[s, 0]], nodes[operations[s, 2]]
        result, shift = nodes[inputs + s], operations[s, 4]
        if operations[s, 1] == operations[s, 3]:
            for t in range(result.shape[0]):
                result[t] = left[t] + (right[t] << shift)
        else:
            for t in range(result.shape[0]):
                result[t] = left[t] - (right[t] << shift)
        if operations[s, 1] < 0:
            for t in range(result.shape[0]):
                result[t] = -result[t]


@njit(cache=True, nogil=True)
def _evaluate(operations, inputs, outputs, x, tile, y):  # type: ignore[no-untyped-def]
    buffer = np.empty((inputs + operations.shape[0], tile), np.int64)
    for first in range(0, x.shape[1], tile):
        width = min(tile, x.shape[1] - first)
        nodes = buffer[:, :width]
        for i in range(inputs):
            source, target = x[i, first : first + width], nodes[i]
            for t in range(width):
                target[t] = source[t]
        _run(operations, inputs, nodes)
        for row in range(outputs.shape[0]):
            if outputs[row, 0] >= 0:
                source, shift, sign = nodes[outputs[row, 0]], outputs[row, 1], outputs[row, 2]
                target = y[row, first : first + width]
                for t in range(width):
                    target[t] = sign * (source[t] << shift)


@njit(cache=True, nogil=True)
def _sum_coefficients(operations, inputs, sums):  # type: ignore[no-untyped-def]
    """Per node the sum of its positive coefficients on the inputs, and of its negative ones: ``sums [nodes, 2]``."""
    nodes = np.empty((inputs + operations.shape[0], _CHUNK), np.int64)
    for first in range(0, inputs, _CHUNK):
        nodes[:inputs] = 0
        for i in range(first, min(first + _CHUNK, inputs)):
            nodes[i, i - first] = 1
        _run(operations, inputs, nodes)
        for n in range(nodes.shape[0]):
            for i in range(_CHUNK):
                sums[n, 0] += max(nodes[n, i], 0)
                sums[n, 1] += min(nodes[n, i], 0)


@njit(cache=True, nogil=True)
def _signed_sums(starts, members, x, sums):  # type: ignore[no-untyped-def]
    """``sums[s] = sum of +-x[member >> 1]`` over the members of segment ``s``; an odd member is subtracted."""
    for s in range(starts.shape[0] - 1):
        target = sums[s]
        target[:] = 0
        for member in members[starts[s] : starts[s + 1]]:
            source = x[member >> 1]
            if member & 1:
                for t in range(target.shape[0]):
                    target[t] -= source[t]
            else:
                for t in range(target.shape[0]):
                    target[t] += source[t]


@njit(cache=True, nogil=True)
def _scaled_sums(magnitude, row, x, sums):  # type: ignore[no-untyped-def]
    """Add ``magnitude[g] * x[g]`` to ``sums[row[g]]``."""
    for g in range(magnitude.shape[0]):
        source, target = x[g], sums[row[g]]
        for t in range(target.shape[0]):
            target[t] += magnitude[g] * source[t]


def follow_depth(operations: np.ndarray, inputs: int, depth: np.ndarray, first: int = 0) -> None:
    """Fill in ``depth [inputs + adders]`` of the nodes that the operations from ``first`` on make."""
    _follow_depth(operations, inputs, depth, first)


def sum_balanced(
    starts: np.ndarray, terms: np.ndarray, operations: np.ndarray, made: int, inputs: int, depth: np.ndarray
) -> tuple[np.ndarray, int]:
    """Sum every segment of ``terms``, lightest depth first.

    Args:
        starts: ``int64 [segments + 1]`` into ``terms``.
        terms: ``int64 [.., 3]``, each ``sign * (node << shift)`` as node, shift, sign.
        operations: ``int64 [>= adders, 5]``, of which ``made`` are there; new ones are written behind them.
        depth: ``int64 [inputs + adders]``, filled in for the new nodes.

    Returns:
        ``int64 [segments, 3]``, one such term per segment (node -1 where it is empty), and how many operations are
        there now.
    """
    sums = np.empty((len(starts) - 1, 3), np.int64)
    segment = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    terms = terms[np.lexsort((depth[terms[:, 0]], segment))]
    return sums, _sum_balanced(starts, terms, operations, made, inputs, depth, sums)


def evaluate(operations: np.ndarray, inputs: int, outputs: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Outputs ``int64 [N, M]`` of a graph for ``x int64 [inputs, M]``, modulo ``2**64``."""
    nodes = inputs + len(operations)
    tile = int(np.clip((4 << 20) // (8 * max(nodes, 1)), 8, 256))
    y = np.zeros((len(outputs), x.shape[1]), np.int64)
    _evaluate(operations, inputs, outputs, np.ascontiguousarray(x, np.int64), tile, y)
    return y


def sum_coefficients(operations: np.ndarray, inputs: int) -> np.ndarray:
    """``int64 [nodes, 2]``: the sum of every node's positive coefficients on the inputs, and of its negative ones."""
    sums = np.zeros((inputs + len(operations), 2), np.int64)
    _sum_coefficients(operations, inputs, sums)
    return sums


def signed_sums(starts: np.ndarray, members: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``int64 [segments, M]``: sums of the members ``index << 1 | subtracted`` of ``x int64 [.., M]``."""
    sums = np.empty((len(starts) - 1, x.shape[1]), np.int64)
    _signed_sums(starts, members, np.ascontiguousarray(x, np.int64), sums)
    return sums


def scaled_sums(magnitude: np.ndarray, row: np.ndarray, x: np.ndarray, rows: int) -> np.ndarray:
    """``int64 [rows, M]``: ``magnitude[g] * x[g]``, added up by ``row[g]``."""
    sums = np.zeros((rows, x.shape[1]), np.int64)
    _scaled_sums(magnitude, row, x, sums)
    return sums
