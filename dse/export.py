"""An exported candidate: a folder with its plan, its packed weights and its metrics.

``plan.json`` carries checksums of itself and of the weights, so that an altered candidate is told from the one
whose metrics stand beside it.

``plan.json`` and ``metrics.json`` are plain JSON, parsed and validated on the way in; nothing in a candidate is
ever executed, and a network of the user's own is only built from an import path given on the command line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressors.parsing import parse_json
from dse.candidate import Candidate
from dse.errors import CandidateError, DseError
from dse.files import write_atomically
from dse.memo import content_key
from dse.settings import Setup

PLAN, WEIGHTS, METRICS, WORKLOAD = "plan.json", "weights.safetensors", "metrics.json", "workload.yaml"
NO_FILES: Mapping[str, str] = {}
FORMAT = "dse-candidate-1"


@dataclass(frozen=True)
class Export:
    """What ``plan.json`` holds: the candidate, the setup its figures belong to, and the weights' SHA-256."""

    candidate: Candidate
    setup: Setup
    trial: int
    weights_sha256: str

    def to_dict(self) -> dict[str, Any]:
        content = {
            "format": FORMAT,
            "trial": self.trial,
            **self.candidate.to_dict(),
            "setup": self.setup.to_dict(),
            "weights_sha256": self.weights_sha256,
        }
        return {**content, "sha256": content_key(content)}

    def check_weights(self, path: Path) -> None:
        """Refuse a file of weights that is not the one exported with this plan.

        Raises:
            CandidateError: it is missing, or its checksum differs.
        """
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise CandidateError(
                f"{path}: cannot be read ({error.strerror}); export the trial again"
            ) from error
        if found != self.weights_sha256:
            raise CandidateError(
                f"{path}: SHA-256 {found[:12]}..., {PLAN} says {self.weights_sha256[:12]}...; the file is truncated "
                "or was altered since the export; export the trial again"
            )


def write_export(
    folder: Path,
    export: Export,
    weights: bytes,
    workload: str,
    metrics: Mapping[str, Any],
    further: Mapping[str, str] = NO_FILES,
) -> list[Path]:
    """Write the files, ``further`` ones by their path in the folder; ``metrics.json`` last: with it, all is there."""
    return [
        write_atomically(folder / PLAN, _pretty(export.to_dict())),
        write_atomically(folder / WEIGHTS, weights),
        write_atomically(folder / WORKLOAD, workload),
        *(write_atomically(folder / name, text) for name, text in further.items()),
        write_atomically(folder / METRICS, _pretty(metrics)),
    ]


def read_export(folder: Path) -> Export:
    """Parse and validate ``plan.json``.

    Raises:
        CandidateError: no candidate there, or one that is not what it claims to be.
    """
    path = folder / PLAN
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CandidateError(
            f"{path}: cannot be read ({error.strerror}); candidate= takes a folder that export wrote"
        ) from error
    except ValueError as error:
        raise CandidateError(f"{path}: not JSON: {error}; export the trial again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CandidateError(f"{path}: expected the format {FORMAT!r}")
    try:
        candidate = Candidate.from_dict({k: data[k] for k in ("plan", "granularity")})
        setup = Setup.from_dict(data["setup"])
        export = Export(candidate, setup, int(data["trial"]), str(data["weights_sha256"]))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, DseError) as error:
        raise CandidateError(
            f"{path}: {error!r}" if not isinstance(error, DseError) else f"{path}: {error}"
        ) from error
    if data.pop("sha256", None) != content_key(data):
        raise CandidateError(
            f"{path}: its content is not what its checksum was taken of, so it was altered since the export; "
            "export the trial again (another data folder, network or thread count is given to evaluate itself: "
            "data_root=, target=, threads=)"
        )
    return export


def _pretty(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
