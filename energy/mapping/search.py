"""The best mapping of a layer on a machine: searched once for a layer's shape, priced anew for every format.

What a search keeps does not depend on the formats that were asked for: the best few mappings for each of ``FORMATS``,
with their access counts in words. Other formats re-score those, so a change of bit widths costs a product of small
tables. Where none of them fits, the formats in question get a search of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from compressors.errors import ConfigError
from energy.mapping import kernel, layout
from energy.mapping.machine import ORDERS, Dataflow, Machine
from energy.mapping.problem import DIMS, Problem
from energy.mapping.space import space

FORMATS = (*((w, a) for w in (2, 4, 8) for a in (2, 4, 8)), (16, 16), (32, 32))
"""Bits of weights and activations that mappings are kept for."""
_KEPT = 4  # mappings for each of them
Bits = tuple[float, float, float, float]
"""Of a word: weights, inputs, partial sums, final outputs."""


@dataclass(frozen=True, eq=False)
class Mapping:
    """One way to run a layer, with what it moves.

    Attributes:
        temporal: ``int64 [L, 8]``, turns of each loop at each level.
        spatial: ``int64 [A, 8]``, positions of each loop along each axis.
        orders: of the loops at each level, of ``ORDERS``.
        shares: by operand the part of the padded loops that is real, and of all products.
        reads, writes: words by level and column (weights, inputs, partial sums, final outputs).
        moves: words passed on beneath each level.
        energy_j: for the words' widths it was chosen for, elements' own energy excluded.
        cycles: until the last output is done.
        busy: cycles each level's ports need, and behind them the elements with what they wait for.
    """

    temporal: np.ndarray
    spatial: np.ndarray
    orders: tuple[str, ...]
    shares: np.ndarray
    reads: np.ndarray
    writes: np.ndarray
    moves: np.ndarray
    energy_j: float
    cycles: float
    busy: np.ndarray

    @property
    def turns(self) -> int:
        """Cycles in which elements work."""
        return int(np.prod(self.temporal))

    def describe(self, machine: Machine) -> str:
        """The nest in a line, from the outermost memory inwards."""
        parts = []
        for i in reversed(range(len(machine.levels))):
            parts.append(f"{machine.levels[i].name}[{_loops(self.temporal[i], ORDERS[self.orders[i]])}]")
            for a, axis in enumerate(machine.axes):
                if machine.index(axis.below) == i:
                    parts.append(f"{axis.name}<{_loops(self.spatial[a], range(8))}>")
        return " ".join(parts)


def _loops(counts: np.ndarray, order: Sequence[int]) -> str:
    return " ".join(f"{DIMS[d]}{counts[d]}" for d in reversed(order) if counts[d] > 1)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Mappings found for one problem, as :func:`energy.mapping.kernel.search` leaves them, and their counts."""

    mappings: np.ndarray
    shares: np.ndarray
    counts: np.ndarray


def best_mapping(
    problem: Problem, machine: Machine, flows: tuple[Dataflow, ...], bits: Bits, *, anew: bool = False
) -> Mapping:
    """The mapping of least energy for words of these widths, the faster of equals.

    ``anew`` searches for exactly these widths instead of re-scoring what was found for ``FORMATS``.

    Raises:
        ConfigError: no mapping fits into the machine's memories.
        UnknownName: a dataflow names what the machine does not have.
    """
    nest, scale = layout.nest(problem, machine), layout.scale(machine, bits)
    usual = tuple((w, a, bits[2], a) for w, a in FORMATS)
    for formats in ((bits,),) if anew else (usual, (bits,)):
        found = candidates(problem, machine, flows, formats)
        scores = np.empty((len(found.mappings), 2))
        kernel.rescore(nest, scale, found.mappings, found.shares, found.counts, scores)
        if len(scores) and np.isfinite(scores[:, 0]).any():
            least = scores[:, 0] <= scores[:, 0].min() * (1 + 1e-9)
            return _mapping(found, int(np.where(least, scores[:, 1], np.inf).argmin()), scores, nest, scale)
    sizes = ", ".join(f"{level.name} {level.capacity_bits:g} bits" for level in machine.levels[:-1])
    raise ConfigError(
        "machine", sizes, "memories that hold a word of each operand they keep", f"words have {bits} bits"
    )


@lru_cache(maxsize=8192)
def candidates(
    problem: Problem, machine: Machine, flows: tuple[Dataflow, ...], formats: tuple[Bits, ...]
) -> Candidates:
    """The best few mappings of every format, over all dataflows."""
    levels, axes = len(machine.levels), len(machine.axes)
    nest, per_bit = layout.nest(problem, machine), layout.scale(machine, (1.0, 1.0, 1.0, 1.0))
    narrowest = layout.scale(machine, tuple(min(f[i] for f in formats) for i in range(4)))
    insides = [(s := space(problem, machine, flow), *s.inside(nest, per_bit, narrowest)) for flow in flows]
    tables = np.zeros((len(formats), _KEPT, 2 * levels + axes, 8), np.int64)
    results = np.zeros((len(formats), _KEPT, 6))
    kept = []
    for i, bits in enumerate(formats):
        scale, number = layout.scale(machine, bits), np.zeros(1, np.int64)
        for ways, choices, parts in insides:
            bounds = _bounds(parts, bits)
            order = np.argsort(bounds, kind="stable")
            ways.search(nest, scale, choices[order], bounds[order], results[i], tables[i], number)
        kept += [(i, j) for j in range(number[0])]
    at = tuple(np.array(kept, np.int64).reshape(-1, 2).T)
    mappings, first = np.unique(tables[at], axis=0, return_index=True)
    shares = results[at][first, 2:]
    counts = np.zeros((len(mappings), 3, levels, 4))
    for one, share, counted in zip(mappings, shares, counts, strict=True):
        kernel.count(
            nest, one[:levels], one[2 * levels :], one[levels : 2 * levels, 0].copy(), share, counted
        )
    return Candidates(mappings, shares, counts)


def _bounds(parts: np.ndarray, bits: Bits) -> np.ndarray:
    """Least energies from their parts per bit: of all operands but one, which may stay, what moving costs."""
    moving, staying = (parts[:, i::2] * bits for i in (0, 1))
    gains = moving - staying
    most = np.maximum(np.maximum(gains[:, 0], gains[:, 1]), gains[:, 2] + gains[:, 3])
    return moving.sum(1) - most


def _mapping(found: Candidates, i: int, scores: np.ndarray, nest: np.ndarray, scale: np.ndarray) -> Mapping:
    levels = len(scale) - 1
    table, shares, counts = found.mappings[i], found.shares[i], found.counts[i]
    temporal, perms, spatial = table[:levels], table[levels : 2 * levels, 0].copy(), table[2 * levels :]
    busy = np.empty(levels + 1)
    kernel.latency(nest, scale, temporal, spatial, perms, shares, counts, busy)
    names = list(ORDERS)
    orders = tuple(names[p] for p in perms)
    energy_j, cycles = (float(score) for score in scores[i])
    return Mapping(temporal, spatial, orders, shares, *counts, energy_j, cycles, busy)
