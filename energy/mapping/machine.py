"""An array of processing elements and its memories, as one list from the innermost memory outwards.

A memory keeps some operands (uneven hierarchies: what it does not keep passes it by). Axes of the array lie between
two memories: those inside are there once per position, those outside serve all positions. Loops are unrolled along
axes, or run at a memory, over its contents. The outermost memory has no end. An operand that it does not keep lies as a
whole in the outermost memory that does.

Widths and energies are given per bit, so that the same machine serves any format.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from compressors.errors import ConfigError, UnknownName
from energy.cost import Band
from energy.mapping.problem import DIMS, OPERANDS

NETWORKS = ("bus", "systolic", "unicast")
BUFFERING = ("single", "double", "stream")
ORDERS = {
    "weights": (5, 4, 0, 7, 6, 3, 2, 1),
    "weights-rows": (4, 5, 0, 7, 6, 3, 2, 1),
    "inputs": (2, 5, 4, 0, 7, 6, 3, 1),
    "inputs-rows": (2, 4, 5, 0, 7, 6, 3, 1),
    "outputs": (7, 6, 3, 5, 4, 0, 2, 1),
}
"""Name -> dims from the innermost loop outwards; the operand named stays while the first of them turn.

An operand stays while loops that are not relevant to it turn inside all others. No loop but the groups' is relevant to
all, and none is irrelevant to two, so what turns first decides: images and pixels keep weights, output channels keep
inputs, the reduction keeps outputs. Rows before columns or the other way round is about the window that slides.
"""


@dataclass(frozen=True)
class Level:
    """One memory.

    Attributes:
        name: unique in its machine.
        operands: of ``OPERANDS``, those it keeps.
        read_j, write_j: energy per bit.
        capacity_bits: of one instance; None without end.
        read_bits, write_bits: per cycle through the ports of one instance; None without limit.
        shared_port: reads and writes take turns on one port of ``read_bits``.
        buffering: ``double``: half of the capacity is filled while the other is in use; ``single``: the elements wait
            for every filling but the first; ``stream``: what is new takes the place of what is used up.
        slides: of a window that moves on to its neighbour only what is new is fetched.
        order: of the loops that run at it where it lies inside an axis, of ``ORDERS``.
    """

    name: str
    operands: tuple[str, ...]
    read_j: Band
    write_j: Band
    capacity_bits: float | None = None
    read_bits: float | None = None
    write_bits: float | None = None
    shared_port: bool = False
    buffering: str = "double"
    slides: bool = True
    order: str = "outputs"


@dataclass(frozen=True)
class Axis:
    """``size`` positions side by side, beneath the memory called ``below`` and outside all that are inside of that."""

    name: str
    size: int
    below: str


@dataclass(frozen=True)
class Network:
    """How words travel between the positions beneath a memory and what lies outside of them.

    A ``bus`` takes a word once for all positions that need it and costs ``hop_j`` per bit and position it reaches;
    in a ``systolic`` array positions pass it on, ``hop_j`` per bit and pass; ``unicast`` takes it for every position.
    Positions that reduce the same output pass partial sums on, a hop each. ``halo``: positions whose input windows
    overlap share those words too, not just wholly equal windows.
    """

    kind: str = "bus"
    hop_j: Band = Band(0.0, 0.0, 0.0)
    halo: bool = True


@dataclass(frozen=True)
class Machine:
    """``levels`` and ``axes`` from the innermost outwards; ``networks`` by the memory their axes lie beneath.

    Raises:
        ConfigError: names that repeat or do not exist, or a hierarchy that keeps an operand nowhere.
    """

    levels: tuple[Level, ...]
    axes: tuple[Axis, ...] = ()
    networks: tuple[tuple[str, Network], ...] = ()

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if len(set(names)) < len(names) or not names:
            raise ConfigError("machine.levels", names, "at least one memory, each with a name of its own")
        for level in self.levels:
            check_names("machine.operands", level.operands, OPERANDS)
            check_names("machine.buffering", (level.buffering,), BUFFERING)
            check_names("machine.order", (level.order,), list(ORDERS))
        kept = {operand for level in self.levels for operand in level.operands}
        if kept != set(OPERANDS) or self.levels[-1].capacity_bits is not None:
            raise ConfigError(
                "machine.levels", names, "an outermost memory without end, each operand kept somewhere"
            )
        for axis in self.axes:
            check_names("machine.axes", (axis.below,), names)
            if axis.size < 1:
                raise ConfigError(f"machine.axes.{axis.name}", axis.size, "at least one position")
        places = [names.index(axis.below) for axis in self.axes]
        if places != sorted(places):
            raise ConfigError("machine.axes", [a.name for a in self.axes], "axes from the innermost outwards")
        for below, network in self.networks:
            check_names("machine.networks", (below,), names)
            check_names("machine.networks", (network.kind,), NETWORKS)

    def index(self, level: str) -> int:
        """Position of a memory, 0 the innermost."""
        return [one.name for one in self.levels].index(level)

    def home(self, operand: str) -> int:
        """Index of the outermost memory that keeps an operand: where all of it lies."""
        return max(i for i, level in enumerate(self.levels) if operand in level.operands)

    def on_chip(self, operand: str) -> int | None:
        """The same among the memories outside the array without the outermost; None where none keeps the operand."""
        between = range(self.outer, len(self.levels) - 1)
        return max((i for i in between if operand in self.levels[i].operands), default=None)

    def keeping(self, operands: Collection[str]) -> Machine:
        """The same machine with ``operands`` on the chip: the outermost memory does not keep them."""
        last = self.levels[-1]
        left = tuple(operand for operand in last.operands if operand not in operands)
        return replace(self, levels=(*self.levels[:-1], replace(last, operands=left)))

    @property
    def outer(self) -> int:
        """Index of the first memory outside all axes."""
        return max((self.index(axis.below) for axis in self.axes), default=0)

    def instances(self, level: int) -> int:
        """How many of a memory there are."""
        return math.prod(axis.size for axis in self.axes if self.index(axis.below) > level)

    @property
    def positions(self) -> int:
        """Processing elements."""
        return math.prod(axis.size for axis in self.axes)


@dataclass(frozen=True)
class Dataflow:
    """Which mappings of a machine are looked at.

    The array is filled as far as loops allow: none in which an axis could take more of a loop that turns outside.

    Attributes:
        name: for people.
        spatial: axis -> dims that may be unrolled along it.
        loops: memory inside the array -> dims that may run there; memories outside may run all.
        orders: memory outside the array -> orders of its loops, of ``ORDERS``; all where it is not named.
        first: axis and dim, one after the other, that takes as much of what is left of the axis as it can.
        fixed: dims that may not be cut at the outermost memory: all of their loops run inside.
        ragged: a dim may fill an axis though the last turn leaves positions idle.
        slack: turns of the array, at most, over the fewest that any way to fill it takes.
    """

    name: str
    spatial: tuple[tuple[str, tuple[str, ...]], ...]
    loops: tuple[tuple[str, tuple[str, ...]], ...] = ()
    orders: tuple[tuple[str, tuple[str, ...]], ...] = ()
    first: tuple[tuple[str, str], ...] = ()
    fixed: tuple[str, ...] = ()
    ragged: bool = True
    slack: float = math.inf


def check_names(key: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise UnknownName for a name that is not known."""
    for name in given:
        if name not in known:
            raise UnknownName(key.rpartition(".")[2], name, known, key=key)


def check_dataflow(flow: Dataflow, machine: Machine) -> None:
    """Raise UnknownName where ``flow`` names what ``machine`` does not have."""
    levels = [level.name for level in machine.levels]
    check_names("dataflow.spatial", [axis for axis, _ in flow.spatial], [a.name for a in machine.axes])
    check_names("dataflow.loops", [level for level, _ in flow.loops], levels[: machine.outer])
    check_names("dataflow.orders", [level for level, _ in flow.orders], levels[machine.outer :])
    for axis, dim in flow.first:
        check_names("dataflow.first", (dim,), dict(flow.spatial).get(axis, ()))
    for _, dims in (*flow.spatial, *flow.loops, ("", flow.fixed)):
        check_names("dataflow.dims", dims, DIMS)
    for _, orders in flow.orders:
        check_names("dataflow.orders", orders, list(ORDERS))
