"""An exported candidate: a folder with its plan, its packed weights and its metrics.

``plan.json`` and ``metrics.json`` are plain JSON, parsed and validated on the way in; nothing in a candidate is
ever executed, and a network of the user's own is only built from an import path given on the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dse.candidate import Candidate
from dse.errors import CandidateError, DseError
from dse.files import write_atomically
from dse.settings import Setup

PLAN, WEIGHTS, METRICS = "plan.json", "weights.safetensors", "metrics.json"
FORMAT = "dse-candidate-1"


@dataclass(frozen=True)
class Export:
    """What ``plan.json`` holds: the candidate, and the setup its figures belong to."""

    candidate: Candidate
    setup: Setup
    trial: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "trial": self.trial,
            **self.candidate.to_dict(),
            "setup": self.setup.to_dict(),
        }


def write_export(folder: Path, export: Export, weights: bytes, metrics: Mapping[str, Any]) -> list[Path]:
    """Write the three files; ``metrics.json`` last, so that a folder with it is whole."""
    return [
        write_atomically(folder / PLAN, _pretty(export.to_dict())),
        write_atomically(folder / WEIGHTS, weights),
        write_atomically(folder / METRICS, _pretty(metrics)),
    ]


def read_export(folder: Path) -> Export:
    """Parse and validate ``plan.json``.

    Raises:
        CandidateError: no candidate there, or one that is not what it claims to be.
    """
    path = folder / PLAN
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CandidateError(
            f"{path}: cannot be read ({error.strerror}); candidate= takes a folder that export wrote"
        ) from error
    except ValueError as error:
        raise CandidateError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CandidateError(f"{path}: expected the format {FORMAT!r}")
    try:
        candidate = Candidate.from_dict({k: data[k] for k in ("plan", "granularity")})
        return Export(candidate, Setup.from_dict(data["setup"]), int(data["trial"]))
    except (KeyError, TypeError, ValueError, AttributeError, DseError) as error:
        raise CandidateError(
            f"{path}: {error!r}" if not isinstance(error, DseError) else f"{path}: {error}"
        ) from error


def _pretty(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
