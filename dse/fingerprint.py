"""What a study is about, and the refusal to go on with it as something else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dse.errors import StudyMismatch

_ABSENT = "absent"
_LONGEST = 100


def plain(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it comes back from JSON (tuples are lists, keys are strings)."""
    return json.loads(json.dumps(fingerprint, allow_nan=False, default=dict))


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line ``key: was A, now B`` for every leaf, by dotted key, in which two mappings differ."""
    before, after = dict(_leaves(was)), dict(_leaves(now))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: was {_show(before, key)}, now {_show(after, key)}"
        for key in keys
        if key not in before or key not in after or before[key] != after[key]
    ]


def refuse_mismatch(run: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Do nothing if both are equal.

    Raises:
        StudyMismatch: naming every difference, and how to go on.
    """
    found = differences(was, now)
    if found:
        raise StudyMismatch(
            f"{run} holds a study of something else:\n  " + "\n  ".join(found) + "\n"
            "Give the old settings to resume it, or study.name=ANOTHER_NAME to start this one in a folder of "
            "its own."
        )


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


def _show(leaves: Mapping[str, Any], key: str) -> str:
    if key not in leaves:
        return _ABSENT
    text = json.dumps(leaves[key], ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
