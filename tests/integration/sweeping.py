"""A sweep small enough to run in seconds, inside this process or as one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from dse.errors import DseError
from dse.records import TrialRecord
from dse.study import load_records

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "sweep",
    "experiment=resnet_ternary",
    "study.name=run",
    "data.search=60",
    "data.test=50",
    "data.calibration=32",
    "evaluation.activity_images=2",
    "evaluation.threads=1",
    "meter=none",
)
LABELS = {"float", "uniform 8", "uniform 4", "uniform 2", "ternary"}
PATIENCE_S = 120.0


def sweep_words(folder: Path, n_trials: int, *more: str) -> list[str]:
    """The small sweep, whose run folder is ``folder/run``."""
    return [*SMALL, f"study.folder={folder}", f"study.n_trials={n_trials}", *more]


def start(*words: str) -> subprocess.Popen[str]:
    """``python -m dse WORDS`` with its output piped."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dse", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finished(run: Path) -> list[TrialRecord]:
    """The finished trials so far; none where the study does not exist yet."""
    try:
        return [record for record in load_records(run) if record.state == "COMPLETE"]
    except DseError:
        return []


def wait_for_trials(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until ``count`` trials have finished, or the process has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while len(finished(run)) < count and process.poll() is None:
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.05)


def check_whole(run: Path, n_trials: int) -> None:
    """Exactly the budget, every baseline once, no seed twice, every orphan closed and retried."""
    records = load_records(run)
    assert [record.number for record in records] == list(range(len(records)))
    done = [record for record in records if record.state == "COMPLETE"]
    assert len(done) == n_trials
    labels = Counter(record.label for record in done if record.label)
    assert labels == Counter(LABELS)
    seeds = [record.seed for record in records if record.seed is not None]
    assert len(seeds) == len(set(seeds))
    orphans = Counter(record.number for record in records if record.state != "COMPLETE")
    assert Counter(record.retry_of for record in records if record.retry_of is not None) == orphans
