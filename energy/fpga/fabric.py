"""How many LUTs or gates a processing element takes, from what it is made of.

An element is taken apart into bits that are added, picked, counted and multiplied. On an FPGA with carry chains a bit
of a sum is one LUT, whatever the element; a gate library pays for every full adder. The few factors are fitted to
elements that were generated and synthesised (``energy/rtl/catalogue.py``), see ``fabric.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from compressors.adders import AdderGraph, input_range
from energy.rtl.design import levels
from energy.technology import Technology

TARGETS = ("ice40", "xc7", "gates")
"""LUTs of four inputs, LUTs of six, and gates of two inputs, all with what Yosys makes of an element."""


@dataclass(frozen=True)
class Composition:
    """What an element is made of, in bits.

    Attributes:
        sums: results of adders of two numbers; the carry out of unsigned numbers is none, as no LUT makes it.
        inverted: numbers that are subtracted, and so stand there inverted.
        picked: results of a mask, a sign or a control.
        counted: single bits that are added in pairs, masks and signs in front of them included.
        products: full adders inside digit multipliers: ``(g - 1)**2`` of an array of ``g x g`` partial products.
        registers: flip-flops.
    """

    sums: float = 0.0
    inverted: float = 0.0
    picked: float = 0.0
    counted: float = 0.0
    products: float = 0.0
    registers: float = 0.0

    def __add__(self, other: Composition) -> Composition:
        return Composition(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Composition:
        return Composition(*(factor * a for a in astuple(self)))

    __rmul__ = __mul__


LOGIC = ("sums", "inverted", "picked", "counted", "products")
"""Parts that take LUTs or gates."""
assert {f.name for f in fields(Composition)} == {*LOGIC, "registers"}


@dataclass(frozen=True)
class Law:
    """LUTs or gates per bit of every part of ``LOGIC``."""

    factors: tuple[float, ...]

    def __call__(self, made_of: Composition) -> float:
        return float(np.dot(self.factors, _parts(made_of)))


def law(technology: Technology, target: str) -> Law:
    """The law of one of ``TARGETS`` as it was fitted."""
    return Law(tuple(technology[f"fabric.{target}.{name}"].value for name in LOGIC))


def fit(elements: Sequence[Composition], counts: Sequence[float]) -> Law:
    """The law whose relative errors have the least squares, no factor being negative.

    A part whose best factor were negative is taken out, the worst one first; a part that no element has costs nothing.
    """
    rows = np.array([_parts(e) for e in elements]) / np.asarray(counts, float)[:, None]
    used = [i for i in range(len(LOGIC)) if rows[:, i].any()]
    factors = np.zeros(len(LOGIC))
    while used:
        found = np.linalg.lstsq(rows[:, used], np.ones(len(rows)), rcond=None)[0]
        if found.min() >= 0:
            factors[used] = found
            break
        used.pop(int(found.argmin()))
    return Law(tuple(float(f) for f in factors))


def leave_one_out(elements: Sequence[Composition], counts: Sequence[float]) -> list[float]:
    """What the law says of every element when it is fitted to all others."""
    found = []
    for i, element in enumerate(elements):
        others = [j for j in range(len(elements)) if j != i]
        found.append(fit([elements[j] for j in others], [counts[j] for j in others])(element))
    return found


def _parts(made_of: Composition) -> list[float]:
    return [getattr(made_of, name) for name in LOGIC]


def tree(terms: int, bits: int, signed: bool) -> Composition:
    """A pipelined tree that adds ``terms`` numbers of ``bits`` bits, one bit more per level."""
    sums = counted = registers = 0
    while terms > 1:
        pairs = terms // 2
        if bits == 1:
            counted += 2 * pairs
        else:
            sums += pairs * (bits + signed)
        terms, bits = terms - pairs, bits + 1
        registers += terms * bits
    return Composition(sums=sums, counted=counted, registers=registers)


def ternary_element(lanes: int, bits: int, signed: bool = False) -> Composition:
    """``energy.rtl.trees.ternary_mux_add``: a mask and a sign per bit, a tree, and the count of negated lanes."""
    term, total = bits + (not signed), bits + levels(lanes) + 1
    last = Composition(sums=total, registers=total)
    return Composition(picked=lanes * term) + tree(lanes, term, True) + tree(lanes, 1, False) + last


def popcount_element(lanes: int) -> Composition:
    """``energy.rtl.trees.popcount_dot``; xnor or and goes into the LUTs that count."""
    return tree(lanes, 1, False)


def serial_element(lanes: int, digit: int, accumulator: int, signed: bool = True) -> Composition:
    """``energy.rtl.trees.bit_serial``: digit products, a tree, and an accumulator that shifts."""
    depth = levels(lanes)
    term = 2 * digit + signed
    total = term + depth + 1
    # a single bit's product and its sign are one LUT; of more bits, every bit of the product leaves through one
    one = Composition(products=(digit - 1) ** 2, picked=1 if digit == 1 else 2 * digit, registers=term)
    sums = tree(lanes, term, signed) + Composition(sums=total, registers=total)
    if signed:
        sums += tree(lanes, 1, False) + Composition(registers=lanes)
    else:
        sums += Composition(picked=total, registers=depth + 1)
    control = Composition(registers=2 * (depth + 2))
    return (
        lanes * one
        + sums
        + control
        + Composition(sums=accumulator, picked=accumulator, registers=accumulator)
    )


def graph_element(graph: AdderGraph, bits: int, signed: bool) -> Composition:
    """``energy.rtl.graphs.graph_design``, pipelined, but for the registers in which nodes wait."""
    low = graph.ranges(*input_range(bits, signed))[:, 0]
    width = graph.widths(bits, signed)
    left, left_sign, right, right_sign, shift = graph.operations.T
    own = width[graph.inputs :]
    subtracts = (left_sign < 0) | (right_sign < 0)
    unsigned = (low[left] >= 0) & (low[right] >= 0) & ~subtracts
    carry_out = unsigned & (own > np.maximum(width[left], width[right] + shift))
    wires = np.where(subtracts, 0, shift)  # what lies below a shifted number passes by
    taken = np.concatenate([left[left_sign < 0], right[right_sign < 0]])
    inverted = int(width[np.unique(taken)].sum())
    return Composition(
        sums=float(np.maximum(own - carry_out - wires, 0).sum()),
        inverted=inverted,
        registers=float(own.sum()),
    )
