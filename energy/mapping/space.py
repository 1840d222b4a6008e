"""What a dataflow lets one look at: all ways to cut the loops of a problem, as arrays for the kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from energy.mapping import kernel
from energy.mapping.machine import ORDERS, Dataflow, Machine, check_dataflow
from energy.mapping.problem import DIMS, OPERANDS, RELEVANT, Problem, divisors

Choice = tuple[tuple[int, ...], tuple[int, ...], int, float]
"""Turns at the levels inside, positions along the axes, what is left for outside, and the real part of it all."""


class Space(NamedTuple):
    """What is looked at for one problem and dataflow.

    A choice is one way to cut a dim: turns at the levels inside the array, positions along the axes, and what is left
    for the levels outside. ``first [9]`` says where the choices of each dim begin.

    Attributes:
        first: ``int64 [9]``.
        turns: ``int64 [n, inner]``.
        positions: ``int64 [n, A]``.
        rest: ``int64 [n]``.
        share: ``float64 [n]``, the part of the padded dim that is real.
        axes: ``int64 [A]``, sizes.
        may: ``bool [8, A]``, dims that may run along an axis.
        where, values: divisors of ``n`` are ``values[where[n]:where[n + 1]]``.
        tensors: ``float64 [3]``, distinct words of each operand.
        fixed: ``bool [L, 8]``, dims that may not turn at a level.
        orders: ``bool [L, n]``, orders allowed at each level.
        slack: as of the dataflow.
    """

    first: np.ndarray
    turns: np.ndarray
    positions: np.ndarray
    rest: np.ndarray
    share: np.ndarray
    axes: np.ndarray
    may: np.ndarray
    where: np.ndarray
    values: np.ndarray
    tensors: np.ndarray
    fixed: np.ndarray
    orders: np.ndarray
    slack: float

    def inside(
        self, nest: np.ndarray, per_bit: np.ndarray, narrowest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`energy.mapping.kernel.inside`: all ways to fill the array, and what bounds their energies."""
        room = 4096
        while True:
            found, parts = np.empty((room, 8), np.int64), np.empty((room, 8))
            n = kernel.inside(nest, per_bit, narrowest, *self[:10], found, parts)
            if n <= room:
                quick = self._turns(found[:n]) if n else np.zeros(0)
                kept = quick <= self.slack * quick.min(initial=np.inf)
                return found[:n][kept], parts[:n][kept]
            room = n

    def _turns(self, choices: np.ndarray) -> np.ndarray:
        """Turns of the array by choices ``[n, 8]``."""
        return (self.turns.prod(1) * self.rest)[choices].prod(1, dtype=float)

    def search(self, nest: np.ndarray, scale: np.ndarray, *rest: np.ndarray) -> int:
        """See :func:`energy.mapping.kernel.search`; ``rest`` from ``choices`` on."""
        cuts = (self.turns, self.positions, self.rest, self.share, self.where, self.values)
        return kernel.search(nest, scale, *cuts, self.fixed, self.orders, *rest)


@lru_cache(maxsize=1024)
def space(problem: Problem, machine: Machine, flow: Dataflow) -> Space:
    """The arrays for ``flow``.

    Raises:
        UnknownName: the dataflow names what the machine does not have.
    """
    check_dataflow(flow, machine)
    taken = _taken_first(problem, machine, flow)
    cuts = [_cuts(bound, dim, machine, flow, taken) for dim, bound in zip(DIMS, problem.bounds, strict=True)]
    every = [choice for cut in cuts for choice in cut]
    where, values = _divisor_table(max(rest for _, _, rest, _ in every))
    inner, axes, levels = machine.outer, len(machine.axes), machine.levels
    allowed = dict(flow.orders)
    return Space(
        first=np.cumsum([0, *(len(cut) for cut in cuts)]).astype(np.int64),
        turns=np.array([turns for turns, _, _, _ in every], np.int64).reshape(-1, inner),
        positions=np.array([positions for _, positions, _, _ in every], np.int64).reshape(-1, axes),
        rest=np.array([rest for _, _, rest, _ in every], np.int64),
        share=np.array([share for _, _, _, share in every]),
        axes=np.array([axis.size for axis in machine.axes], np.int64),
        may=np.array([[_unrolls(dim, axis.name, flow) for axis in machine.axes] for dim in DIMS]).reshape(
            8, -1
        ),
        fixed=_fixed(machine, flow),
        orders=np.array([[name in allowed.get(level.name, ORDERS) for name in ORDERS] for level in levels]),
        slack=flow.slack,
        where=where,
        values=values,
        tensors=np.array([problem.words(operand) for operand in range(3)], float),
    )


def _fixed(machine: Machine, flow: Dataflow) -> np.ndarray:
    """Dims that may not turn at a level: at the outermost the dataflow's, outside its home an operand's."""
    fixed = np.zeros((len(machine.levels), 8), bool)
    fixed[-1] = [dim in flow.fixed for dim in DIMS]
    for operand, name in enumerate(OPERANDS):
        fixed[machine.home(name) + 1 :] |= RELEVANT[operand]
    return fixed


def _unrolls(dim: str, axis: str, flow: Dataflow) -> bool:
    return dim in dict(flow.spatial).get(axis, ())


def _taken_first(problem: Problem, machine: Machine, flow: Dataflow) -> tuple[tuple[str, str, int], ...]:
    """Axis, dim and positions of what the dataflow unrolls before all else."""
    left = {axis.name: axis.size for axis in machine.axes}
    bounds = dict(zip(DIMS, problem.bounds, strict=True))
    taken = []
    for axis, dim in flow.first:
        positions = _positions(bounds[dim], left[axis], flow.ragged)[-1]
        taken.append((axis, dim, positions))
        left[axis] //= positions
        bounds[dim] = -(-bounds[dim] // positions)
    return tuple(taken)


@lru_cache(maxsize=4096)
def _cuts(
    bound: int, dim: str, machine: Machine, flow: Dataflow, taken: tuple[tuple[str, str, int], ...]
) -> tuple[Choice, ...]:
    """All ways to cut one dim."""
    fixed, ways = {(axis, which): n for axis, which, n in taken}, []
    for axis in machine.axes:
        unrolled = _positions(bound, axis.size, flow.ragged) if _unrolls(dim, axis.name, flow) else [1]
        ways.append([fixed[axis.name, dim]] if (axis.name, dim) in fixed else unrolled)
    turning = [dim in dict(flow.loops).get(level.name, ()) for level in machine.levels[: machine.outer]]
    found = []
    for positions in itertools.product(*ways):
        unrolled = math.prod(positions)
        left = -(-bound // unrolled)
        whole = all(
            (axis.name, dim) in fixed for axis, n in zip(machine.axes, positions, strict=True) if n > 1
        )
        if not whole and (unrolled > bound or (not flow.ragged and bound % unrolled)):
            continue
        for turns, rest in _turns(left, turning):
            found.append((turns, positions, rest, bound / (left * unrolled)))
    return tuple(found)


def _positions(bound: int, size: int, ragged: bool) -> list[int]:
    """Positions along an axis: all divisors that fit, and what fills it in as few turns as possible."""
    found = {n for n in divisors(bound) if n <= size}
    if ragged:
        turns = -(-bound // size)
        found.add(-(-bound // turns))
    return sorted(found)


def _turns(left: int, turning: list[bool]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Turns at each level inside, and what they leave."""
    if not turning:
        yield (), left
        return
    for n in divisors(left) if turning[0] else [1]:
        for turns, rest in _turns(left // n, turning[1:]):
            yield (n, *turns), rest


@lru_cache(maxsize=64)
def _divisor_table(largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Divisors of all numbers up to ``largest``, one after the other, and where those of each begin."""
    counts = np.zeros(largest + 2, np.int64)
    for d in range(1, largest + 1):
        counts[d : largest + 1 : d] += 1
    where = np.concatenate([[0], np.cumsum(counts[: largest + 1])])
    values, at = np.empty(where[-1], np.int64), where[: largest + 1].copy()
    for d in range(1, largest + 1):
        numbers = np.arange(d, largest + 1, d)
        values[at[numbers]] = d
        at[numbers] += 1
    return where, values
