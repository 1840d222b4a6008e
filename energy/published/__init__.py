"""Figures printed in papers and repositories, and the models' answer beside each.

A target is a function that answers with :class:`Check` rows; it is one entry of ``validate``. Its file lies in this
package beside the data it quotes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from compressors.errors import UnknownName

Kind = Literal["calibrated", "blind"]


@dataclass(frozen=True)
class Check:
    """One published figure and what the model says.

    Attributes:
        name: what is compared, unique within its target.
        unit: of both figures.
        published, model: the figures.
        kind: ``calibrated`` where constants of the model were fitted to this design, ``blind`` where none was.
        source: where the published figure is printed.
    """

    name: str
    unit: str
    published: float
    model: float
    kind: Kind
    source: str

    @property
    def error(self) -> float:
        """Relative error of the model, signed; of shares of a whole, in ``points``, the difference over the whole."""
        if self.unit == "points":
            return (self.model - self.published) / 100.0
        return self.model / self.published - 1.0


@dataclass(frozen=True)
class Target:
    """A named set of checks.

    Attributes:
        name: what ``validate target=`` takes.
        title: one line for people.
        bar: mean absolute relative error that is asked for, by kind; empty where none is.
    """

    name: str
    title: str
    bar: dict[Kind, float]
    run: Callable[[], list[Check]]


_MODULES: tuple[str, ...] = ("bitfusion", "cam", "cim", "eyeriss", "mapping", "pe", "rtl", "scalesim")
_targets: dict[str, Target] = {}


def register_target(
    name: str, title: str, **bar: float
) -> Callable[[Callable[[], list[Check]]], Callable[[], list[Check]]]:
    """Make a function that returns checks the target ``name``; ``calibrated=`` and ``blind=`` are its bars."""

    def add(run: Callable[[], list[Check]]) -> Callable[[], list[Check]]:
        _targets[name] = Target(name, title, dict(bar), run)  # type: ignore[arg-type]
        return run

    return add


@cache
def _load() -> None:
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")


def targets() -> dict[str, Target]:
    """Every target by name."""
    _load()
    return dict(_targets)


def target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        UnknownName: there is none.
    """
    found = targets()
    if name not in found:
        raise UnknownName("target", name, found, key="target")
    return found[name]
