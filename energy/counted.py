"""Counted activity from a file, as plain data: every number is checked before a model calculates with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from reprlib import Repr
from typing import Any

from compressors.errors import DseError, UnknownName
from compressors.slicing import ENCODINGS, GRANULARITIES
from energy.activity import ReuseActivity
from energy.associative.counts import PassCounts

MOST = 1 << 40
"""Of anything that is counted."""
MOST_BITS = 32
"""Of an operand."""

_brief = Repr()
_brief.maxlevel, _brief.maxdict, _brief.maxlist, _brief.maxtuple = 2, 4, 4, 4


class WorkloadError(DseError):
    """A workload file that is not what it should be."""


def shown(value: Any) -> str:
    """A value for an error's text; a few references in a file can make one that is too long to print."""
    return _brief.repr(value)


def count(value: Any, what: str, most: int = MOST, least: int = 1) -> int:
    """``value`` as a whole number from ``least`` to ``most``.

    Raises:
        WorkloadError: it is none.
    """
    if type(value) is not int or not least <= value <= most:
        raise WorkloadError(f"{what}={shown(value)}: expected a whole number from {least} to {most}")
    return value


def share(value: Any, what: str) -> float:
    """``value`` as a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise WorkloadError(f"{what}={shown(value)}: expected a share from 0 to 1")
    return float(value)


def flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise WorkloadError(f"{what}={shown(value)}: expected true or false")
    return value


def check_weights(given: Mapping[str, Any], outputs: int, reduction: int, where: str) -> None:
    """Check activity by encoding, as ``WeightActivity.to_dict`` writes it.

    Raises:
        WorkloadError, UnknownName: what is wrong, and where.
    """
    for encoding, activity in given.items():
        if encoding not in ENCODINGS:
            raise UnknownName(f"encoding of the weights of {where}", encoding, ENCODINGS)
        at = f"{where}: weights.{encoding}"
        keys = ("encoding", "terms", "magnitude_bits", "dense_bits", "nonzero", "signs")
        _keys(activity, at, keys, ("columns",))
        if activity["encoding"] != encoding:
            raise WorkloadError(f"{at}.encoding={shown(activity['encoding'])}: expected {encoding}")
        terms = count(activity["terms"], f"{at}.terms", 64)
        count(activity["magnitude_bits"], f"{at}.magnitude_bits", 64)
        count(activity["dense_bits"], f"{at}.dense_bits")
        for g, planes in _by_granularity(activity["nonzero"], f"{at}.nonzero").items():
            if len(_list(planes, f"{at}.nonzero.{g}")) % terms:
                raise WorkloadError(f"{at}.nonzero.{g}: {len(planes)} planes are not those of {terms} terms")
            for plane in planes:
                _counts(plane, f"{at}.nonzero.{g}", reduction, outputs)
        for g, signs in _by_granularity(activity["signs"], f"{at}.signs").items():
            count(signs, f"{at}.signs.{g}", least=0)
        for column in _list(activity.get("columns", []), f"{at}.columns", least=0):
            _check_column(column, f"{at}.columns", outputs)


def check_input(given: Mapping[str, Any], where: str) -> None:
    """Check the activity of an input, as ``InputActivity.to_dict`` writes it; raises as :func:`check_weights`."""
    at = f"{where}: input"
    _keys(given, at, ("bits", "signed", "nonzero"))
    bits = count(given["bits"], f"{at}.bits", MOST_BITS)
    flag(given["signed"], f"{at}.signed")
    for g, shares in _by_granularity(given["nonzero"], f"{at}.nonzero").items():
        digits = -(-bits // int(g))
        if len(_list(shares, f"{at}.nonzero.{g}")) != digits:
            raise WorkloadError(f"{at}.nonzero.{g}: expected {digits} digits, got {len(shares)}")
        for value in shares:
            share(value, f"{at}.nonzero.{g}")


def check_reuse(given: Any, where: str) -> None:
    """Check what a layer's weights share, as ``ReuseActivity.to_dict`` writes it; raises as :func:`check_weights`."""
    if given is None:
        return
    at = f"{where}: reuse"
    numbers = [f.name for f in fields(ReuseActivity) if f.name != "passes"]
    _keys(given, at, numbers, ("passes",))
    for name in numbers:
        count(given[name], f"{at}.{name}", least=0)
    passes = given.get("passes")
    if passes is None:
        return
    _keys(passes, f"{at}.passes", [f.name for f in fields(PassCounts)])
    for name, value in passes.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise WorkloadError(f"{at}.passes.{name}={shown(value)}: expected a number that is not negative")


def _check_column(given: Any, at: str, outputs: int) -> None:
    if len(_list(given, at)) != 3:
        raise WorkloadError(f"{at}={shown(given)}: expected weights of a run, filters, and what was counted")
    for number in given[:2]:
        count(number, at)
    _keys(given[2], at, ("runs", "planes", "nonzero", "slowest"))
    most = count(given[2]["runs"], f"{at}.runs") * count(given[2]["planes"], f"{at}.planes")
    _counts(given[2]["nonzero"], f"{at}.nonzero", most, outputs)
    _counts(given[2]["slowest"], f"{at}.slowest", most, None)


def _keys(given: Any, at: str, needed: Any, further: tuple[str, ...] = ()) -> None:
    if not isinstance(given, Mapping):
        raise WorkloadError(f"{at}={shown(given)}: expected keys with values")
    for key in given:
        if key not in needed and key not in further:
            raise UnknownName(f"key of {at}", key, (*needed, *further))
    for key in needed:
        if key not in given:
            raise WorkloadError(f"{at}: {key!r} is missing")


def _by_granularity(given: Any, at: str) -> Mapping[str, Any]:
    _keys(given, at, [str(g) for g in GRANULARITIES])
    return given


def _list(given: Any, at: str, least: int = 1) -> list[Any]:
    if not isinstance(given, list) or len(given) < least:
        raise WorkloadError(f"{at}={shown(given)}: expected a list")
    return given


def _counts(given: Any, at: str, most: int, entries: int | None) -> None:
    if entries is not None and len(_list(given, at)) != entries:
        raise WorkloadError(f"{at}: expected {entries} counts, one per output, got {len(given)}")
    for value in _list(given, at):
        count(value, at, most, least=0)
