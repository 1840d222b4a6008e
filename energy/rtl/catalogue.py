"""The elements that the area laws are fitted to: a design and what it is made of, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compressors.adders import AdderGraph
from compressors.reuse import adder_graph
from energy.fpga.fabric import (
    Composition,
    graph_element,
    popcount_element,
    serial_element,
    ternary_element,
)
from energy.rtl.design import Design
from energy.rtl.graphs import delay_bits, graph_design
from energy.rtl.trees import bit_serial, popcount_dot, ternary_mux_add


@dataclass(frozen=True)
class Element:
    """One entry; ``family`` groups those of one generator."""

    name: str
    family: str
    build: Callable[[], tuple[Design, Composition]]

    @cached_property
    def _built(self) -> tuple[Design, Composition]:
        return self.build()

    @property
    def design(self) -> Design:
        return self._built[0]

    @property
    def made_of(self) -> Composition:
        return self._built[1]


def _ternary(lanes: int, bits: int, signed: bool) -> Element:
    return Element(
        f"ternary mux-add, {lanes} lanes x {bits} bits{', signed' if signed else ''}",
        "ternary",
        lambda: (ternary_mux_add(lanes, bits, signed=signed), ternary_element(lanes, bits, signed)),
    )


def _popcount(lanes: int, xnor: bool) -> Element:
    return Element(
        f"popcount, {lanes} lanes, {'xnor' if xnor else 'and'}",
        "popcount",
        lambda: (popcount_dot(lanes, xnor=xnor), popcount_element(lanes)),
    )


def _serial(lanes: int, digit: int, accumulator: int, signed: bool) -> Element:
    return Element(
        f"bit-serial, {lanes} lanes x {digit} bits{'' if signed else ', unsigned'}",
        "bit-serial",
        lambda: (
            bit_serial(lanes, digit, accumulator, signed=signed),
            serial_element(lanes, digit, accumulator, signed),
        ),
    )


def _graph(rows: int, inputs: int, bits: int, density: float, largest: int, signed: bool = False) -> Element:
    def build() -> tuple[Design, Composition]:
        graph = random_graph(rows, inputs, density, largest)
        made_of = graph_element(graph, bits, signed)
        waiting = Composition(registers=delay_bits(graph, bits, signed))
        return graph_design(graph, bits, signed), made_of + waiting

    kind = "ternary" if largest == 1 else f"weights to {largest}"
    return Element(
        f"adder graph, {rows} x {inputs} {kind}, {bits} bits{', signed' if signed else ''}",
        "adder graph",
        build,
    )


def random_graph(rows: int, inputs: int, density: float, largest: int) -> AdderGraph:
    """The shared adders of weights drawn evenly, a share ``density`` of them not zero, the same on every call."""
    rng = np.random.default_rng([rows, inputs, largest])
    weights = rng.integers(1, largest + 1, (rows, inputs)) * rng.choice([-1, 1], (rows, inputs))
    return adder_graph(np.where(rng.random((rows, inputs)) < density, weights, 0))


CATALOGUE: tuple[Element, ...] = (
    *(
        _ternary(lanes, bits, False)
        for lanes, bits in ((4, 4), (8, 8), (9, 6), (16, 4), (16, 8), (32, 2), (64, 4))
    ),
    *(_ternary(lanes, bits, True) for lanes, bits in ((8, 5), (27, 8))),
    *(_popcount(lanes, True) for lanes in (16, 36, 64, 128, 256)),
    *(_popcount(lanes, False) for lanes in (25, 64)),
    *(_serial(lanes, 1, 24, True) for lanes in (8, 16, 64, 128)),
    *(_serial(lanes, 2, 24, True) for lanes in (8, 16, 32)),
    *(_serial(lanes, 4, 32, True) for lanes in (4, 8, 16)),
    *(_serial(lanes, 8, 32, True) for lanes in (2, 4, 8)),
    *(_serial(lanes, digit, 24, False) for lanes, digit in ((32, 1), (16, 2))),
    _graph(8, 16, 4, 0.6, 1),
    _graph(16, 36, 4, 0.5, 1),
    _graph(4, 64, 8, 0.4, 1),
    _graph(16, 27, 8, 0.7, 1, signed=True),
    _graph(1, 32, 6, 0.6, 1),
    _graph(6, 12, 4, 0.8, 7),
    _graph(4, 9, 8, 1.0, 31, signed=True),
    _graph(10, 16, 2, 1.0, 3),
)
"""Shapes small enough to synthesise in seconds and spread over every generator's parameters."""

CLOCKED: dict[str, tuple[int, Callable[[], Design]]] = {
    "ternary mux-add, 4 lanes x 4 bits": (7, lambda: ternary_mux_add(4, 4)),
    "ternary mux-add, 8 lanes x 8 bits": (12, lambda: ternary_mux_add(8, 8)),
    "ternary mux-add, 16 lanes x 4 bits": (9, lambda: ternary_mux_add(16, 4)),
    "ternary mux-add, 4 lanes x 16 bits": (19, lambda: ternary_mux_add(4, 16)),
    "ternary mux-add, 4 lanes x 24 bits": (27, lambda: ternary_mux_add(4, 24)),
    "popcount, 64 lanes": (7, lambda: popcount_dot(64)),
    "bit-serial, 16 lanes x 1 bits, 16": (16, lambda: bit_serial(16, 1, 16)),
    "bit-serial, 16 lanes x 1 bits, 24": (24, lambda: bit_serial(16, 1, 24)),
    "bit-serial, 16 lanes x 1 bits, 32": (32, lambda: bit_serial(16, 1, 32)),
    "bit-serial, 16 lanes x 1 bits, 48": (48, lambda: bit_serial(16, 1, 48)),
    "bit-serial, 8 lanes x 2 bits, 32": (32, lambda: bit_serial(8, 2, 32)),
}
"""Elements whose clock is measured: bits of the widest sum, and how to build it. Digits above 2 bits have a multiplier
between registers, which the law of clocks leaves out."""
