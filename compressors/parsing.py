"""JSON out of files that anybody may have written: whatever is wrong with it is a ``ValueError``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

DEEPEST = 64  # lists and mappings inside one another; what this project writes has fewer than ten
LONGEST = 300  # digits of an integer; with a few more, not even a float holds it


def parse_json(text: str | bytes) -> Any:
    """The plain data that ``text`` (bytes as UTF-8) stands for, of bounded depth and with numbers that fit a float.

    Raises:
        ValueError: no JSON, more than ``DEEPEST`` levels, or an integer of more than ``LONGEST`` digits. The caller
            knows which file it is and what to do about it.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise _too_deep() from None
    # each level takes a bracket, so that few of them need no second look
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(value):
        raise _too_deep()
    return value


def _integer(digits: str) -> int:
    if len(digits) > LONGEST:
        raise ValueError(f"an integer of {len(digits)} digits, expected at most {LONGEST}")
    return int(digits)


def _is_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list))]
    return bool(level)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep() -> ValueError:
    return ValueError(f"more than {DEEPEST} lists and mappings inside one another")
