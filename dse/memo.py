"""Results kept on disk by content: shared by workers, safe to delete at any time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from dse.files import write_atomically


def content_key(*parts: Any) -> str:
    """SHA-256 of plain data, the same on every machine."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Memo:
    """A folder of JSON files, one per key; a broken or missing file is a result not known yet."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._recent: dict[str, Any] = {}

    def get(self, key: str) -> Any | None:
        if key in self._recent:
            return self._recent[key]
        if self._folder is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            self._recent[key] = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
        return self._recent.get(key)

    def put(self, key: str, value: Any) -> None:
        self._recent[key] = value
        if self._folder is not None:
            write_atomically(self._folder / f"{key}.json", json.dumps(value))
