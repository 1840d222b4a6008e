"""How a layer's weights lie on arrays: which columns they take, and how many arrays that fills."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from energy.workload import LayerWork


@dataclass(frozen=True)
class Shape:
    """Of an array: ``rows`` inputs by ``units`` columns, or groups of columns, with a result each."""

    rows: int
    units: int


@dataclass(frozen=True)
class Placement:
    """Where a layer lies.

    Attributes:
        tiles: arrays that it fills, one copy.
        units: columns, or groups of them, that hold weights, over all rows.
        results: results of one application of inputs: ``units`` times the arrays one above the other.
        driven: arrays beside each other that take the same inputs, times the inputs of a channel group; summed up
            over the groups.
    """

    tiles: int
    units: int
    results: int
    driven: int

    @property
    def idle(self) -> bool:
        """No weight that is not zero: nothing was placed."""
        return self.tiles == 0


def used_units(nonzero: np.ndarray, terms: int, joined: int, *, whole: bool) -> np.ndarray:
    """Which units hold a non-zero digit.

    Args:
        nonzero: ``int64 [planes, N]``, non-zero digits per plane and output.
        terms: the planes are those of so many terms, one after the other.
        joined: planes of a term that share one unit.
        whole: all units of an output and term are used where one of them is.

    Returns:
        ``bool [units per output, N]``.
    """
    planes = nonzero.reshape(terms, -1, nonzero.shape[1])
    digits = planes.shape[1]
    padded = np.pad(planes, ((0, 0), (0, -digits % joined), (0, 0)))
    used = padded.reshape(terms, -1, joined, nonzero.shape[1]).any(2)
    if whole:
        used = np.broadcast_to(used.any(1, keepdims=True), used.shape)
    return used.reshape(-1, nonzero.shape[1])


def place(layer: LayerWork, used: np.ndarray, shape: Shape) -> Placement:
    """Lay out the used units of ``bool [units per output, N]``; channel groups take arrays of their own."""
    per_group = used.reshape(used.shape[0], layer.groups, -1).sum((0, 2))
    beside = -(-per_group // shape.units)
    above = -(-layer.reduction // shape.rows)
    units = int(per_group.sum())
    return Placement(
        tiles=int(beside.sum()) * above,
        units=units,
        results=units * above,
        driven=int(beside.sum()) * layer.reduction,
    )
