"""Results kept on disk by content: shared by workers, safe to delete at any time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from compressors.parsing import parse_json
from dse.files import write_atomically


def content_key(*parts: Any) -> str:
    """SHA-256 of plain data, the same on every machine."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Memo:
    """A folder of JSON files, one per key; a missing, broken or altered file is a result not known yet."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._recent: dict[str, Any] = {}

    def get(self, key: str) -> Any | None:
        if key in self._recent:
            return self._recent[key]
        if self._folder is None:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            stored = parse_json((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            if stored["key"] == key and stored["digest"] == content_key(stored["value"]):
                self._recent[key] = stored["value"]
        return self._recent.get(key)

    def put(self, key: str, value: Any) -> None:
        self._recent[key] = value
        if self._folder is not None:
            stored = {"key": key, "digest": content_key(value), "value": value}
            write_atomically(self._folder / f"{key}.json", json.dumps(stored))


class Recent(OrderedDict[Any, Any]):
    """A mapping of at most ``limit`` entries: the one that was not asked for the longest makes room for a new one."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._limit:
            del self[next(iter(self))]
