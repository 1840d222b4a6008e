"""Problems, machines and formats as the tables that ``energy.mapping.kernel`` reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from energy.mapping import kernel as k
from energy.mapping.machine import BUFFERING, ORDERS, Level, Machine, Network
from energy.mapping.problem import OPERANDS, RELEVANT, Problem

_KINDS = {"bus": k.BUS, "systolic": k.SYSTOLIC, "unicast": k.UNICAST}


@lru_cache(maxsize=1024)
def nest(problem: Problem, machine: Machine) -> np.ndarray:
    """The table of a problem on a machine, ``int64 [n, 9]``; its rows are named in the kernel."""
    levels, axes = machine.levels, machine.axes
    places = [machine.index(axis.below) for axis in axes]
    edges = []
    for operand, name in enumerate(OPERANDS):
        kept = [-1, *(i for i, level in enumerate(levels) if name in level.operands)]
        edges += [(operand, *pair, pair[0] == kept[1]) for pair in zip(kept, kept[1:], strict=False)]
    common = [math.gcd(s, d) for s, d in zip(problem.stride, problem.dilation, strict=True)]
    apart = [n // g for pair in (problem.dilation, problem.stride) for n, g in zip(pair, common, strict=True)]
    steps = (*apart, len(levels), len(axes), len(edges), machine.outer)
    networks = dict(machine.networks)
    rows = [
        *RELEVANT,
        steps,
        places,
        *ORDERS.values(),
        *(_level(level, networks.get(level.name, Network()), i in places) for i, level in enumerate(levels)),
        *edges,
    ]
    table = np.zeros((len(rows), 9), np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def elements(table: np.ndarray) -> np.ndarray:
    """``table`` with nothing but what elements exchange with their innermost memories."""
    first = k.LEVELS + table[k.STEPS, 4]
    return np.concatenate([table[:first], table[first:][table[first:, 1] < 0]])


def orders(names: Sequence[str]) -> np.ndarray:
    """Rows of the kernel's orders by name."""
    known = list(ORDERS)
    return np.array([known.index(name) for name in names], np.int64)


def _level(level: Level, network: Network, feeds: bool) -> tuple[int, ...]:
    kept = (operand in level.operands for operand in OPERANDS)
    kind = _KINDS[network.kind] if feeds else k.NONE
    order = list(ORDERS).index(level.order)
    return (
        *kept,
        BUFFERING.index(level.buffering),
        level.slides,
        network.halo,
        kind,
        level.shared_port,
        order,
    )


@lru_cache(maxsize=1024)
def scale(machine: Machine, bits: tuple[float, float, float, float]) -> np.ndarray:
    """What depends on formats, ``float64 [L + 1, 15]``.

    ``bits`` of weights, inputs, partial sums, final outputs.
    """
    table = np.full((len(machine.levels) + 1, 15), np.inf)
    width = np.array(bits, float)
    networks = dict(machine.networks)
    for row, level in zip(table, machine.levels, strict=False):
        hop_j = networks[level.name].hop_j.nominal if level.name in networks else 0.0
        row[k.READ : k.READ + 4] = level.read_j.nominal * width
        row[k.WRITE : k.WRITE + 4] = level.write_j.nominal * width
        row[k.MOVE : k.MOVE + 4] = hop_j * width
        row[k.CAPACITY] = np.inf if level.capacity_bits is None else level.capacity_bits
        row[k.PORTS] = level.read_bits or np.inf
        row[k.PORTS + 1] = (level.read_bits if level.shared_port else level.write_bits) or np.inf
    table[-1, :4] = width
    return table
