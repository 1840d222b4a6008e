"""Analytical accelerator models: a file each, all answering with a ``Cost``."""

from __future__ import annotations

import dataclasses
import importlib
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from compressors.errors import ConfigError, DseError, UnknownName
from energy.bit_columns import ColumnRequest
from energy.cost import Cost, Peak
from energy.technology import Technology
from energy.workload import Workload


class Accelerator(Protocol):
    """A machine that can price a workload.

    It may also have ``columns``, bit columns it asks for (``energy.bit_columns.ColumnRequest``), and ``reuse_block``,
    rows and columns of weights that share sums; :func:`requests` reads them. ``needs_reuse`` is true of a machine that
    cannot do without their counting. ``without_area`` is the reason of a machine whose cost has no area.
    """

    encodings: tuple[str, ...]
    """Weight encodings whose activity the workload must carry."""

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price one inference with each layer cut into digits of ``granularity[layer]`` bits.

        Machines that cut nothing do not look at the granularity. What a machine cannot do in integers (a layer left
        in floating point) runs on ``energy.accelerators.float_unit`` beside it.
        """
        ...


class Specified(Accelerator, Protocol):
    """A machine that answers as chips are specified, beside pricing workloads; ``validate`` compares the two."""

    def peak(self, weight_bits: int, input_bits: int) -> Peak:
        """Rate, power and area with every element busy on operands of these widths."""
        ...


@dataclass(frozen=True)
class Requests:
    """What machines want to be counted on the weights.

    Attributes:
        encodings: ways of writing weights whose activity is asked for.
        columns: bit columns to count in each of them.
        reuse_block: rows and columns of weights that share sums; None where nobody asks.
    """

    encodings: tuple[str, ...]
    columns: tuple[ColumnRequest, ...]
    reuse_block: tuple[int, int] | None


def requests(accelerators: Mapping[str, Accelerator], reuse_block: tuple[int, ...] | None = None) -> Requests:
    """What all of ``accelerators`` ask for together, and ``reuse_block`` of the user.

    Raises:
        ConfigError: two blocks of weights that share sums.
    """
    encodings = dict.fromkeys(e for a in accelerators.values() for e in a.encodings)
    columns = dict.fromkeys(c for a in accelerators.values() for c in getattr(a, "columns", ()))
    block, asked_by = reuse_block, "evaluation.reuse_block"
    for name, accelerator in accelerators.items():
        wanted = getattr(accelerator, "reuse_block", None)
        if wanted is None:
            continue
        if block is not None and tuple(block) != tuple(wanted):
            raise ConfigError(
                f"accelerators.{name}: block of shared sums",
                list(wanted),
                f"{list(block)}, as {asked_by} says",
            )
        block, asked_by = tuple(wanted), f"accelerators.{name}"
    return Requests(tuple(encodings), tuple(columns), block)


Builder = Callable[[Any, Technology], Accelerator]
_BUILT_IN = (
    "addergraph",
    "associative",
    "bitserial",
    "columns",
    "crossbar",
    "digital_cim",
    "fpga",
    "fused_systolic",
    "gpu_roofline",
    "lowbit",
    "npu",
    "parallel",
    "rowstationary",
    "search",
    "systolic",
    "temporal",
)
_kinds: dict[str, tuple[type, Builder]] = {}


def register_accelerator(kind: str, config: type) -> Callable[[Builder], Builder]:
    """Make a class built from ``(config, technology)`` the accelerator of this kind."""

    def add(builder: Builder) -> Builder:
        _kinds[kind] = (config, builder)
        return builder

    return add


@cache
def _load() -> None:
    for module in _BUILT_IN:
        importlib.import_module(f"{__name__}.{module}")


def setting_names(kind: str, key: str = "accelerator") -> frozenset[str]:
    """Names of the settings of a kind.

    Raises:
        UnknownName: no such kind.
    """
    _load()
    if kind not in _kinds:
        raise UnknownName("accelerator kind", kind, _kinds, key=f"{key}.kind")
    return frozenset(f.name for f in dataclasses.fields(_kinds[kind][0]))


def specified_kinds() -> list[str]:
    """Kinds of machines that have ``peak``, so that ``validate`` can hold them against chips."""
    _load()
    return sorted(kind for kind, (_, builder) in _kinds.items() if hasattr(builder, "peak"))


def make_accelerator(
    kind: str, settings: Mapping[str, Any], technology: Technology, key: str = "accelerator"
) -> Accelerator:
    """Build an accelerator from its kind and plain settings.

    Raises:
        UnknownName: no such kind or setting.
        ConfigError: a setting out of range.
    """
    fields = setting_names(kind, key)
    for name in settings:
        if name not in fields:
            raise UnknownName(f"setting of {kind!r}", name, fields, key=key)
    config, builder = _kinds[kind]
    hints = typing.get_type_hints(config)
    for name, value in settings.items():
        _check_type(f"{key}.{name}", value, hints[name])
    return builder(config(**settings), technology)


def _check_type(key: str, value: object, hint: Any) -> None:
    """Refuse a value that is not of the setting's plain type; what else it must be, the configuration checks."""
    if isinstance(hint, types.UnionType):
        if value is None and types.NoneType in hint.__args__:
            return
        hint = hint.__args__[0]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits, expected = {
        int: (number and isinstance(value, int), "a whole number"),
        float: (number and math.isfinite(value), "a number"),  # type: ignore[arg-type]
        bool: (isinstance(value, bool), "true or false"),
        str: (isinstance(value, str), "a name"),
    }.get(hint, (True, ""))
    if typing.get_origin(hint) is tuple:
        fits, expected = isinstance(value, (list, tuple)), "a list"
    if not fits:
        shown = value if isinstance(value, (str, int, float, type(None))) else type(value).__name__
        raise ConfigError(key, shown, expected)


class NotCounted(DseError):
    """A workload that does not say what a machine looks at."""


def check_counted(accelerator: Accelerator, workload: Workload, key: str) -> None:
    """Refuse a workload without the activity that the machine asks for; ``key`` names the machine.

    Raises:
        NotCounted: names the first layer that lacks it.
    """
    for layer in workload.layers:
        if layer.is_float:
            continue
        missing = [e for e in accelerator.encodings if e not in layer.weights]
        if missing:
            raise NotCounted(
                f"{key}: its weights are written in {missing[0]}, which layer {layer.name} of the workload was not "
                f"counted in (it has {', '.join(layer.weights)}); export a candidate of a sweep in which such a "
                "machine takes part, or write the workload by hand"
            )
        if layer.reuse is None and getattr(accelerator, "needs_reuse", False):
            raise NotCounted(
                f"{key}: it runs shared sums, which were not counted for layer {layer.name} of the workload; export a "
                "candidate of a sweep in which such a machine takes part"
            )
