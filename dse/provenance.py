"""Where a result comes from: versions, commit, machine, seed, command. One entry per session of a study."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from itertools import count
from pathlib import Path
from platform import platform, python_version
from typing import Any

from compressors.parsing import parse_json
from dse.errors import RunFolderError
from dse.files import write_atomically
from dse.locks import FileLock
from energy.meters.base import Absent
from energy.meters.machine import cpu_model, cpu_quota, memory_bytes, usable_cores
from energy.meters.nvml import list_gpus

FILE_NAME = "provenance.json"
PACKAGES = (
    "torch",
    "numpy",
    "numba",
    "scipy",
    "optuna",
    "hydra-core",
    "scikit-learn",
    "safetensors",
    "matplotlib",
    "nvidia-ml-py",
)
_SOURCE = Path(__file__).resolve().parent
_GIT_TIMEOUT_S = 10.0


class Unknown(Exception):
    """Why a fact could not be had."""


def collect_provenance(
    seed: int | None, config_digest: str | None, packages: Iterable[str] = PACKAGES
) -> dict[str, Any]:
    """How a session of a study came about. Never raises, and imports none of the packages.

    Args:
        seed: the study's seed.
        config_digest: digest of the composed configuration.
        packages: distributions whose versions count.

    Returns:
        Plain data. What is unknown is None, with the reason under ``absent`` by its dotted name.
    """
    absent: dict[str, str] = {}

    def known(name: str, probe: Callable[[], Any]) -> Any:
        try:
            value = probe()
            reason = "not told by this system"
        except Exception as error:  # a study must not fail for want of a note about it
            value, reason = None, str(error) if isinstance(error, Unknown) else repr(error)
        if value is None:
            absent[name] = reason
        return value

    return {
        "time_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": known("command", _command),
        "seed": seed,
        "config_digest": config_digest,
        "versions": {
            "python": python_version(),
            "dse": known("versions.dse", _own_version),
            **{name: known(f"versions.{name}", lambda name=name: _version(name)) for name in packages},
        },
        "git": {
            "commit": known("git.commit", lambda: git_commit(_SOURCE)),
            "dirty": known("git.dirty", lambda: git_dirty(_SOURCE)),
        },
        "machine": {
            "platform": known("machine.platform", platform),
            "cpu": known("machine.cpu", cpu_model),
            "cores": known("machine.cores", usable_cores),
            "cpu_quota": known("machine.cpu_quota", _cpu_quota),
            "memory_bytes": known("machine.memory_bytes", memory_bytes),
        },
        "gpus": known("gpus", _gpus),
        "absent": absent,
    }


def write_provenance(run: Path, entry: Mapping[str, Any]) -> Path:
    """Add a session's entry to the list in ``run/provenance.json``; returns the path of that file.

    Sessions that write at the same time wait for each other. A file that is no such list (damaged, or not
    ours) is kept beside, under another name.

    Raises:
        RunFolderError: the file cannot be read or written.
    """
    path = run / FILE_NAME
    with FileLock(run / f".{FILE_NAME}.lock"):
        entries = [*_entries_or_set_aside(path), dict(entry)]
        text = json.dumps(entries, indent=2, ensure_ascii=False, default=str)
        return write_atomically(path, text + "\n")


def read_provenance(run: Path) -> list[dict[str, Any]]:
    """The entries of ``run/provenance.json``, oldest first; empty when there is no such file.

    Raises:
        RunFolderError: the file cannot be read, or is no list of entries.
    """
    path = run / FILE_NAME
    try:
        entries = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except ValueError as error:
        raise RunFolderError(f"{path} is no JSON: {error}; move it away") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RunFolderError(f"{path}: expected a list of entries, one for each session; move the file away")
    return entries


def _entries_or_set_aside(path: Path) -> list[dict[str, Any]]:
    try:
        return read_provenance(path.parent)
    except RunFolderError as error:
        if isinstance(error.__cause__, OSError):
            raise
        aside = next(p for n in count(1) if not (p := path.with_name(f"{path.name}.damaged-{n}")).exists())
        try:
            os.replace(path, aside)
        except OSError as failure:
            raise RunFolderError(f"cannot move {path} away: {failure.strerror}; do it by hand") from failure
        return []


def git_commit(source: Path) -> str:
    """Commit that the checkout holding ``source`` is on; ``Unknown`` where its files are not under git."""
    _git(source, "ls-files", "--error-unmatch", "--", Path(__file__).name)
    return _git(source, "rev-parse", "--verify", "HEAD").strip()


def git_dirty(source: Path) -> bool:
    """Whether the code of the checkout differs from its commit, new files of the packages counted too."""
    git_commit(source)
    parts = [f":(top){name}" for name in ("dse", "compressors", "energy", "configs", "pyproject.toml")]
    return bool(_git(source, "status", "--porcelain", "--", *parts).strip())


def _git(folder: Path, *arguments: str) -> str:
    # Variables such as GIT_DIR, set while a hook runs, would make git answer for another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unknown(f"git could not be run: {error}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"git {arguments[0]} ended with {done.returncode}"]
        raise Unknown(f"no commit to name: {lines[0]}")
    return done.stdout


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise Unknown("not installed") from None


def _own_version() -> str:
    owners = metadata.packages_distributions().get("dse", [])
    if not owners:
        raise Unknown("dse runs from its source and is not installed")
    return ", ".join(f"{owner} {metadata.version(owner)}" for owner in sorted(set(owners)))


def _gpus() -> list[dict[str, Any]]:
    gpus = list_gpus()
    if isinstance(gpus, Absent):
        raise Unknown(gpus.reason)
    return gpus


def _cpu_quota() -> float:
    quota = cpu_quota()
    if quota is None:
        raise Unknown("no limit")
    return quota


def _command() -> list[str]:
    """The command line; passwords in addresses (a data base's, say) are left out."""
    return [re.sub(r"(://[^:/@\s]*):[^@\s]+@", r"\1:***@", word) for word in sys.argv]
