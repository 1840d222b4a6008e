"""The folder of an analysis: it holds one kind of run, of one configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressors.parsing import parse_json
from dse.errors import RunFolderError, StudyMismatch
from dse.files import write_atomically
from dse.fingerprint import differences, plain

ABOUT = "analysis.json"


def refuse_analysis(folder: Path) -> None:
    """Do nothing where ``folder`` holds no analysis.

    Raises:
        RunFolderError: it does, whose files a sweep would write over.
    """
    if (folder / ABOUT).exists():
        raise RunFolderError(
            f"{folder} holds an analysis; choose another study.name for a sweep, or move that folder away"
        )


def claim(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Write what the analysis is about, or compare with what was written.

    Args:
        fingerprint: nested plain data; everything a change of which makes it another analysis.

    Raises:
        StudyMismatch: the folder holds an analysis with another fingerprint.
        RunFolderError: the folder cannot be read or written.
    """
    path, now = folder / ABOUT, plain(fingerprint)
    if not path.exists():
        write_atomically(path, json.dumps(now, indent=2) + "\n")
        return
    found = differences(_read(path), now)
    if found:
        raise StudyMismatch(
            f"{folder} holds an analysis of something else:\n  " + "\n  ".join(found) + "\n"
            "Give the old settings to go on with it, or study.name=ANOTHER_NAME to start this one in a folder of its "
            "own."
        )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        about = parse_json(path.read_text(encoding="utf-8"))
        if isinstance(about, dict):
            return about
        reason = "no mapping"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise RunFolderError(f"{path}: damaged ({reason}); delete it and give the same command again")
