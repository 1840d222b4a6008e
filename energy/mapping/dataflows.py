"""Dataflows by name, for any machine with the axes ``rows`` and ``columns``.

Names say what stays while the loops directly outside the array turn (Sze et al., "Efficient Processing of Deep Neural
Networks", Proc. IEEE 2017). Loops run inside the array where a memory there keeps an operand that moves with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compressors.errors import UnknownName
from energy.mapping.machine import Dataflow, Machine
from energy.mapping.problem import DIMS, OPERANDS, RELEVANT


class _Form(NamedTuple):
    """Dims along rows, along columns and inside the array; orders of the loops directly outside it, all if none."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    inside: tuple[str, ...]
    orders: tuple[str, ...] = ()


_FORMS = {
    "weight_stationary": _Form(
        ("C", "FY", "FX"), ("K", "G"), ("K", "C", "FY", "FX"), ("weights", "weights-rows")
    ),
    "output_stationary": _Form(("B", "Y", "X"), ("K", "G"), ("C", "FY", "FX"), ("outputs",)),
    "input_stationary": _Form(
        ("C", "FY", "FX"), ("B", "Y", "X"), ("B", "C", "Y", "X"), ("inputs", "inputs-rows")
    ),
    "row_stationary": _Form(("FY", "C", "K"), ("Y", "K", "G"), ("K", "C", "FX"), ("weights", "weights-rows")),
    "no_local_reuse": _Form(("C", "FY", "FX"), ("K", "G"), ()),
}
_FIRST = {"row_stationary": (("rows", "FY"), ("columns", "Y"))}
"""Filter rows by output rows make a set of elements; what is left of the array takes further sets (Chen et al., ISCA
2016)."""

DATAFLOWS = tuple(_FORMS)


def dataflow(
    name: str,
    machine: Machine,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    fixed: Sequence[str] = (),
) -> Dataflow:
    """The dataflow called ``name`` on ``machine``; ``rows`` and ``columns`` replace what runs along them.

    Raises:
        UnknownName: there is no such dataflow.
    """
    if name not in _FORMS:
        raise UnknownName("dataflow", name, DATAFLOWS, key="accelerator.dataflows")
    form, loops = _FORMS[name], []
    for level in machine.levels[: machine.outer]:
        moving = RELEVANT[[OPERANDS.index(operand) for operand in level.operands]].any(0)
        loops.append(
            (
                level.name,
                tuple(d for d, moves in zip(DIMS, moving, strict=True) if moves and d in form.inside),
            )
        )
    outside = machine.levels[machine.outer].name
    return Dataflow(
        name,
        spatial=(("rows", tuple(rows) or form.rows), ("columns", tuple(columns) or form.columns)),
        loops=tuple(loops),
        orders=((outside, form.orders),) if form.orders else (),
        first=() if rows or columns else _FIRST.get(name, ()),
        fixed=tuple(fixed),
    )
