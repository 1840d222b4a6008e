"""Plain references: slow, obvious, and never calling the code under test."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np


def popcount(word: int) -> int:
    """Ones in the binary writing of a non-negative integer."""
    return bin(int(word)).count("1")


def pack(codes: Sequence[Sequence[int]], bits: int) -> list[list[list[int]]]:
    """``[bits][rows][words]`` of Python integers: bit ``j`` of word ``w`` is column ``64 * w + j``."""
    planes = []
    for b in range(bits):
        rows = []
        for row in codes:
            words = [0] * ((len(row) + 63) // 64)
            for column, code in enumerate(row):
                words[column // 64] += ((int(code) // 2**b) % 2) * 2 ** (column % 64)
            rows.append(words)
        planes.append(rows)
    return planes


def ones(codes: Sequence[Sequence[int]], bit: int) -> list[int]:
    """Per row, how many codes have ``bit`` set."""
    return [sum((int(code) // 2**bit) % 2 for code in row) for row in codes]


def toggles(codes: Sequence[Sequence[int]], bit: int) -> list[int]:
    """Per row, bits that differ between a column and the one 64 later; columns past the end are 0."""
    counts = []
    for row in codes:
        bits = [(int(code) // 2**bit) % 2 for code in row]
        bits += [0] * (-len(bits) % 64)
        counts.append(sum(a != b for a, b in zip(bits, bits[64:], strict=False)))
    return counts


def nonzero_digits(codes: Sequence[Sequence[int]], bits: int, granularity: int) -> list[list[int]]:
    """``[digits][rows]``: codes whose digit in radix ``2**granularity`` at that position is not zero."""
    radix = 2**granularity
    positions = -(-bits // granularity)
    return [[sum(int(c) // radix**d % radix != 0 for c in row) for row in codes] for d in range(positions)]


def zero_groups(codes: Sequence[Sequence[int]], bit: int, group: int) -> list[int]:
    """Per row, runs of ``group`` columns, the last of them possibly shorter, in which no code has ``bit`` set."""
    counts = []
    for row in codes:
        runs = [row[first : first + group] for first in range(0, len(row), group)]
        counts.append(sum(all((int(code) // 2**bit) % 2 == 0 for code in run) for run in runs))
    return counts


@cache
def fewest_signed_digits(number: int) -> int:
    """The fewest non-zeros of any writing of ``number`` with digits -1, 0, 1 in radix 2."""
    if number in (-1, 0, 1):
        return abs(number)
    if number % 2 == 0:
        return fewest_signed_digits(number // 2)
    return 1 + min(fewest_signed_digits((number - 1) // 2), fewest_signed_digits((number + 1) // 2))


def least_ternary_error(row: Sequence[float]) -> float:
    """Least squared error of ``scale * {-1, 0, 1}`` over every choice of codes, each with its best scale."""
    return min(_scaled_error(row, codes) for codes in itertools.product((-1, 0, 1), repeat=len(row)))


def least_binary_error(row: Sequence[float]) -> float:
    """Least squared error of ``scale * {-1, 1}`` over every choice of signs, each with its best scale."""
    return min(_scaled_error(row, codes) for codes in itertools.product((-1, 1), repeat=len(row)))


def _scaled_error(row: Sequence[float], codes: Sequence[int]) -> float:
    norm = sum(c * c for c in codes)
    scale = sum(c * w for c, w in zip(codes, row, strict=True)) / norm if norm else 0.0
    return sum((w - scale * c) ** 2 for c, w in zip(codes, row, strict=True))


def grid_error(values: Sequence[float], scale: float, low: int, high: int) -> float:
    """Squared error of rounding ``values`` to the nearest of ``scale * low ... scale * high``."""
    points = [scale * code for code in range(low, high + 1)]
    return sum(min((value - point) ** 2 for point in points) for value in values)


def relative_mse(weight: np.ndarray, approximation: np.ndarray) -> float:
    """``||w - q||**2 / ||w||**2`` in float64."""
    weight, approximation = np.asarray(weight, np.float64), np.asarray(approximation, np.float64)
    return float(((weight - approximation) ** 2).sum() / (weight**2).sum())


def sliced_product(
    magnitude: np.ndarray,
    sign: np.ndarray,
    term: Sequence[int],
    factor: Sequence[int],
    terms: int,
    inputs: Sequence[int],
    input_bits: int,
) -> np.ndarray:
    """Integer products ``[terms, N]`` of packed weight planes with non-negative inputs: AND, popcount, shift, add.

    ``magnitude [planes, g, N, words]`` and ``sign [planes, N, words]`` are those of a ``SlicedTensor``.
    """
    input_planes = pack([inputs], input_bits)
    planes, granularity, rows, words = magnitude.shape
    result = np.zeros((terms, rows), object)
    for p, g, n, w, a in itertools.product(
        range(planes), range(granularity), range(rows), range(words), range(input_bits)
    ):
        active = int(magnitude[p, g, n, w]) & input_planes[a][0][w]
        negative = int(sign[p, n, w])
        count = popcount(active & ~negative) - popcount(active & negative)
        result[term[p], n] += int(factor[p]) * (count << (g + a))
    return result.astype(np.int64)


def convolution(
    image: np.ndarray,
    kernel: np.ndarray,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> np.ndarray:
    """``image [channels, h, w]`` with ``kernel [out, channels / groups, kh, kw]``, in float64 or integers."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    outputs, depth, kh, kw = kernel.shape
    height = (padded.shape[1] - dilation * (kh - 1) - 1) // stride + 1
    width = (padded.shape[2] - dilation * (kw - 1) - 1) // stride + 1
    result = np.zeros((outputs, height, width), np.result_type(image, kernel))
    for o, y, x in itertools.product(range(outputs), range(height), range(width)):
        first = o // (outputs // groups) * depth
        for c, i, j in itertools.product(range(depth), range(kh), range(kw)):
            pixel = padded[first + c, y * stride + i * dilation, x * stride + j * dilation]
            result[o, y, x] += pixel * kernel[o, c, i, j]
    return result


def quadratic(hessian: np.ndarray, row: Sequence[float], rounded: Sequence[float]) -> float:
    """``(w - q)' H (w - q)``."""
    gap = [w - q for w, q in zip(row, rounded, strict=True)]
    return float(sum(a * hessian[i, j] * b for i, a in enumerate(gap) for j, b in enumerate(gap)))


def least_quadratic(hessian: np.ndarray, row: Sequence[float], levels: Sequence[Sequence[float]]) -> float:
    """The least ``(w - q)' H (w - q)`` over every choice of a level ``q_k`` from ``levels[k]``."""
    return min(quadratic(hessian, row, choice) for choice in itertools.product(*levels))


def gptq(hessian: np.ndarray, row: np.ndarray, levels: Sequence[Sequence[float]]) -> list[float]:
    """Round column by column; those to come take up each error as least squares says (arXiv 2210.17323)."""
    rest, rounded = np.array(row, np.float64), []
    for k, choices in enumerate(levels):
        rounded.append(min(choices, key=lambda level: abs(level - rest[k])))
        error = rest[k] - rounded[k]
        if k + 1 < len(rest):
            # the best change d of the rest minimises (e, d)' H (e, d) over the columns not yet rounded
            rest[k + 1 :] += np.linalg.solve(hessian[k + 1 :, k + 1 :], hessian[k + 1 :, k] * error)
    return rounded


def patches(
    image: np.ndarray, kernel: tuple[int, int], stride: int = 1, padding: int = 0, dilation: int = 1
) -> np.ndarray:
    """``[channels, h, w]`` to ``[places, channels * kh * kw]``: what a filter lies on at each of its places."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    (kh, kw), rows = kernel, []
    for y in range(0, padded.shape[1] - dilation * (kh - 1), stride):
        for x in range(0, padded.shape[2] - dilation * (kw - 1), stride):
            ys, xs = y + dilation * np.arange(kh), x + dilation * np.arange(kw)
            rows.append(padded[:, ys][:, :, xs].ravel())
    return np.array(rows)
