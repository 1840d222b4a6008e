"""What a configuration key expects, in words, read off the types that ``dse.schema`` gives it."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Any: "any value"}
_NUMBER = {int: re.compile(r"[+-]?\d+"), float: re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")}
EXAMPLE = "example"
"""Where a field's metadata show what to write, if its default does not."""
ANY_NAME = "NAME"
"""Key of an example that stands for any other."""
_UNSET = (None, "???", "", [], {})


def expectation(schema: type, key: str, value: str) -> tuple[str, str] | None:
    """What ``key`` expects, and what to write instead of ``value``; None where ``schema`` has no such key.

    Args:
        schema: dataclass of a command's whole configuration.
        key: dotted, an item of a list as in ``space.sparsity[0]``.
        value: as it was written.
    """
    parts = re.findall(r"[^.\[\]]+", key)
    hint = _hint_at(schema, parts)
    if hint is None:
        return None
    whole, _, item = key.partition("[")
    default, example = _shown_at(schema, parts[:-1] if item else parts)
    example = example or _bracketed(hint, value) or default
    return _words(hint), f"as in {_quoted(f'{whole}={example}')}" if example else ""


def _hint_at(hint: Any, parts: list[str]) -> Any:
    for i, part in enumerate(parts):
        hint, _ = _required(hint)
        if dataclasses.is_dataclass(hint):
            hint = get_type_hints(hint).get(part)
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
            if hint in _WORDS:  # the rest is a name with dots in it
                return hint
        elif get_origin(hint) is list and part.isdigit():
            hint = get_args(hint)[0]
        else:
            return Any if hint is Any and i else None
    return hint


def _shown_at(schema: type, parts: list[str]) -> tuple[str, str]:
    """The default at a key and the example there, as they are written; nothing where there is none."""
    default: Any = schema()
    example: Any = None
    for part in parts:
        if dataclasses.is_dataclass(default):
            example = {f.name: f.metadata.get(EXAMPLE) for f in dataclasses.fields(default)}[part]
            default = getattr(default, part)
        else:
            default = None
            example = example.get(part, example.get(ANY_NAME)) if isinstance(example, Mapping) else None
    return _shown(default), _shown(example)


def _words(hint: Any) -> str:
    hint, optional = _required(hint)
    if dataclasses.is_dataclass(hint):
        words = f"a mapping with the keys {', '.join(f.name for f in dataclasses.fields(hint))}"
    elif get_origin(hint) is list:
        (item,) = get_args(hint)
        words = "a list" if item is Any else f"a list, each item {_words(item)}"
    else:
        words = _mapping(get_args(hint)[1]) if get_origin(hint) is dict else _WORDS[hint]
    return f"null, or {words}" if optional else words


def _mapping(inner: Any) -> str:
    return "a mapping to lists" if get_origin(inner) is list else "a mapping"


def _bracketed(hint: Any, value: str) -> str:
    """``value`` in brackets where a list of such values is expected; else nothing."""
    hint, _ = _required(hint)
    if get_origin(hint) is not list or not re.fullmatch(r"[^\s\[\]{},'\"]+", value) or value == "null":
        return ""
    pattern = _NUMBER.get(get_args(hint)[0])
    return f"[{value}]" if pattern is None or pattern.fullmatch(value) else ""


def _required(hint: Any) -> tuple[Any, bool]:
    """The type without its None, and whether it had one."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(each for each in get_args(hint) if each is not type(None)), True
    return hint, False


def _shown(value: Any) -> str:
    """A default as it is written on the command line; nothing where there is none to show."""
    if value in _UNSET or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_shown(inner)}' for name, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[\[{ ]", word) else word
