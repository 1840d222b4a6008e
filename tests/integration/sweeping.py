"""Small but real sweeps: the words that make them small, and ways to run, copy and compare them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from dse.cli import main
from dse.errors import RunFolderError
from dse.locations import config_dir
from dse.records import TrialRecord
from dse.study import load_records

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
_SPACE = yaml.safe_load((config_dir() / "space" / "slices.yaml").read_text(encoding="utf-8"))
BASELINES: tuple[str, ...] = tuple(_SPACE["baselines"])
N_TRIALS = len(BASELINES) + 2
SMALL = (
    "sweep",
    "+experiment=resnet_ternary",
    "data.search=60",
    "data.test=60",
    "data.calibration=32",
    "evaluation.activity_images=1",
    "evaluation.threads=1",
    "meter=none",
    f"study.n_trials={N_TRIALS}",
)


def into(run: Path) -> list[str]:
    """The overrides that make ``run`` the run folder."""
    return [f"study.folder={run.parent}", f"study.name={run.name}"]


def sweep(run: Path, *words: str) -> int:
    """A small sweep into ``run``, in this process; its exit code."""
    return main([*SMALL, *into(run), *words])


def start(run: Path, *words: str, log: Path, prefix: Sequence[str] = ()) -> subprocess.Popen:
    """A small sweep into ``run`` as a process of its own; both its outputs go to ``log``.

    ``prefix`` is a command that runs the one behind it.
    """
    line = [*prefix, sys.executable, "-m", "dse", *SMALL, *into(run), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(line, stdout=out, stderr=out, env=environment)


def finish(process: subprocess.Popen) -> int:
    """The exit code of a process, which is killed if it takes unreasonably long."""
    try:
        return process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


def wait_until(run: Path, reached: Callable[[list[TrialRecord]], bool], process: subprocess.Popen) -> None:
    """Watch a study from outside, while ``process`` works on it, until ``reached(records)``."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached(_records_so_far(run)):
        assert process.poll() is None, f"the sweep ended early, with {process.returncode}"
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.005)


def _records_so_far(run: Path) -> list[TrialRecord]:
    try:
        return load_records(run)
    except RunFolderError:  # the study is not described yet
        return []


def in_hand_after(n: int) -> Callable[[list[TrialRecord]], bool]:
    """Whether ``n`` trials are complete and another one is being worked on."""

    def reached(records: list[TrialRecord]) -> bool:
        return len(complete(records)) >= n and records[-1].state == "RUNNING"

    return reached


def complete(records: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.state == "COMPLETE"]


def copied(run: Path, target: Path) -> Path:
    """A copy of a run folder to do harm to."""
    return Path(shutil.copytree(run, target))


def content(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` but locks: what must not change when something is refused."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }
