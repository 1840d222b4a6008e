"""Real processes on one study: killed, run side by side, interrupted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import study_process  # noqa: E402

from dse.records import TrialRecord  # noqa: E402
from dse.study import load_records  # noqa: E402
from dse.worker import run_worker  # noqa: E402

SCRIPT = Path(study_process.__file__)
ROOT = SCRIPT.parents[2]
PATIENCE_S = 60.0


def start(run: Path, n_trials: int, sampler: str, sleep_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(run), str(n_trials), sampler, str(sleep_s)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def journal_lines(run: Path) -> int:
    path = run / "journal.log"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(run: Path, lines: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while journal_lines(run) < lines and process.poll() is None:
        assert time.monotonic() < deadline, "the study makes no progress"
        time.sleep(0.001)


def check_orphans(records: list[TrialRecord]) -> int:
    """Every orphan has exactly one retry, with its parameters; returns how many there were."""
    retries = Counter(record.retry_of for record in records if record.retry_of is not None)
    orphans = [record for record in records if record.state == "FAIL"]
    assert retries == Counter(record.number for record in orphans)
    by_number = {record.number: record for record in records}
    for record in records:
        if record.retry_of is not None:
            orphan = by_number[record.retry_of]
            if record.state == "COMPLETE":  # a retry may have been killed in turn before it drew
                assert orphan.params.items() <= record.params.items()
            assert orphan.label == record.label
    return len(orphans)


def finished(records: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.state == "COMPLETE"]


def check_whole(records: list[TrialRecord], n_trials: int) -> None:
    assert [record.number for record in records] == list(range(len(records)))
    assert {record.state for record in records} <= {"COMPLETE", "FAIL"}
    assert len(finished(records)) == n_trials
    seeds = [record.seed for record in records if record.seed is not None]
    assert len(seeds) == len(set(seeds))
    labels = Counter(record.label for record in finished(records) if record.label)
    assert labels == {"float": 1, "ternary": 1}


def test_killed_ten_times_and_resumed(tmp_path: Path) -> None:
    sampler, n_trials, rng, run = "tpe", 36, random.Random(4), tmp_path / "killed"
    for _ in range(10):
        process = start(run, n_trials, sampler, 0.03)
        # About twelve records a trial, so this hits every stage of asking, evaluating and telling.
        wait_for_lines(run, journal_lines(run) + rng.randint(1, 25), process)
        time.sleep(rng.uniform(0.0, 0.04))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    last = start(run, n_trials, sampler, 0.0)
    last.communicate(timeout=PATIENCE_S)
    assert last.returncode == 0

    straight = study_process.make_study(tmp_path / "straight", n_trials, sampler)
    run_worker(straight, study_process.evaluate)
    records = load_records(run)
    check_whole(records, n_trials)
    assert check_orphans(records) > 0
    expected = finished(straight.records())
    assert [(r.params, r.evaluation) for r in finished(records)] == [
        (r.params, r.evaluation) for r in expected
    ]
    assert list((run / "workers").glob("*-*.lock")) != []  # the dead left their locks; nobody minds


def test_two_processes_share_one_folder_and_one_dies(tmp_path: Path) -> None:
    n_trials = 30
    both = [start(tmp_path, n_trials, "nsga2", 0.05) for _ in range(2)]
    third = start(tmp_path, n_trials, "nsga2", 30.0)
    wait_for_lines(tmp_path, 100, third)
    assert third.stdout is not None and third.stdout.readline() != ""  # it has a trial in hand
    third.kill()
    third.communicate()
    outputs = [process.communicate(timeout=PATIENCE_S)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    records = load_records(tmp_path)
    check_whole(records, n_trials)
    assert check_orphans(records) == 1
    assert all(len(numbers) > 2 for numbers in outputs)
    told = Counter(int(n) for numbers in outputs for n in numbers)
    assert set(told.values()) == {1}
    assert set(told) == {record.number for record in finished(records)}


def test_interrupt_finishes_the_trial_in_hand(tmp_path: Path) -> None:
    process = start(tmp_path, 1000, "random", 0.2)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert {record.state for record in load_records(tmp_path)} == {"COMPLETE"}


def test_second_interrupt_stops_at_once_and_leaves_an_orphan(tmp_path: Path) -> None:
    process = start(tmp_path, 3, "random", 60.0)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode not in (0, 130)
    assert [record.state for record in load_records(tmp_path)] == ["RUNNING"]
    again = start(tmp_path, 3, "random", 0.0)
    again.communicate(timeout=PATIENCE_S)
    records = load_records(tmp_path)
    assert [record.state for record in records] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert (records[1].retry_of, records[1].label) == (0, "float")
