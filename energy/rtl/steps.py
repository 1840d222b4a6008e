"""What to play into a design, and what must come out: numbers laid out on its ports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressors.tensor import SlicedTensor
from energy.rtl.design import Design, packed
from energy.rtl.simulate import Step


def ternary_steps(design: Design, weights: np.ndarray, x: np.ndarray, sums: np.ndarray) -> list[Step]:
    """For ``ternary_mux_add``: weights in {-1, 0, 1} and numbers ``[steps, lanes]``, and their sums ``[steps]``."""
    bits, width = design.parameters["bits"], design.outputs[0].width
    return [
        Step(
            {"x": packed(numbers, bits), "mask": packed(row != 0, 1), "sign": packed(row < 0, 1)},
            {"y": packed([total], width)},
        )
        for row, numbers, total in zip(weights, x, sums, strict=True)
    ]


def popcount_steps(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> list[Step]:
    """For ``popcount_dot``: bits ``[steps, lanes]``, and the counts ``[steps]``."""
    return [
        Step({"a": packed(left, 1), "b": packed(right, 1)}, {"y": int(count)})
        for left, right, count in zip(a, b, counts, strict=True)
    ]


def serial_steps(design: Design, weights: SlicedTensor, x: np.ndarray, sums: np.ndarray) -> list[Step]:
    """For ``bit_serial``: one term of weights ``[rows, lanes]`` in digits, numbers ``x [lanes]``, a sum per row.

    Rows come one after another, each as the pairs of its planes and the planes of ``x``, most significant first. Of
    unsigned lanes, digits must have no signs but those of their planes, and ``x`` none.
    """
    digit, lanes_signed = design.parameters["digit"], design.parameters["signed"]
    digits, negative = weights.digits(), weights.factor < 0
    places = [int(abs(f)).bit_length() - 1 for f in weights.factor]
    slices = max(-(-int(np.abs(x).max(initial=1)).bit_length() // digit), 1)
    pairs = [(place + digit * q, p, q) for p, place in enumerate(places) for q in range(slices)]
    pairs.sort(key=lambda pair: -pair[0])
    steps = []
    for row, total in enumerate(sums):
        before = None
        for number, (place, p, q) in enumerate(pairs):
            plane = digits[p, row]
            given = {"clear": int(before is None), "shift": int(before is not None and place != before)}
            if lanes_signed:
                given["sign"] = packed((plane < 0) ^ (x < 0) ^ negative[p], 1)
            else:
                given["negate"] = int(negative[p])
            given |= {
                "w": packed(np.abs(plane), digit),
                "x": packed(np.abs(x) >> (digit * q) & ((1 << digit) - 1), digit),
            }
            last = number == len(pairs) - 1
            due = {"acc": packed([total], design.parameters["accumulator"])} if last else {}
            steps.append(Step(given, due))
            before = place
    return steps


def graph_steps(
    x: np.ndarray, bits: int, sums: np.ndarray, fields: Sequence[tuple[int, int, bool]]
) -> list[Step]:
    """For adder graphs: numbers ``x [inputs, steps]``, sums ``[rows, steps]``, and where rows lie in the output."""
    steps = []
    for numbers, rows in zip(x.T, sums.T, strict=True):
        word, low = 0, 0
        for row, width, _ in fields:
            word |= packed([rows[row]], width) << low
            low += width
        steps.append(Step({"x": packed(numbers, bits)}, {"y": word}))
    return steps
