"""kill -9 at random moments, then the same command again: what the study looks like in the end."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dse.records import TrialRecord
from dse.study import JOURNAL
from tests.benchmarks.processes import kill, start, tail

_POLL_S = 0.01


@dataclass(frozen=True)
class Audit:
    """What is wrong with a study, counted; a sound one has ``finished`` equal to its budget and zeros.

    Attributes:
        finished: trials that are COMPLETE.
        orphans: trials that were closed because their worker died.
        left_open: trials neither finished nor failed.
        gaps: numbers below the highest that no trial has, or that two have.
        repeated_seeds: trials with the seed of an earlier one, and finished trials of the search that have none and
            retry none (a retry goes on with its orphan's, which is written there alone).
        repeated_params: finished trials whose parameters an earlier one has.
        badly_retried: orphans without exactly one retry, and retries with other parameters or label.
        repeated_labels: baselines that finished more than once.
    """

    finished: int
    orphans: int
    left_open: int
    gaps: int
    repeated_seeds: int
    repeated_params: int
    badly_retried: int
    repeated_labels: int

    @property
    def lost_or_doubled(self) -> int:
        return self.left_open + self.gaps + self.repeated_labels


def audit(records: Sequence[TrialRecord]) -> Audit:
    """Look for everything that killing could have done to a study."""
    finished = [r for r in records if r.state == "COMPLETE"]
    failed = [r for r in records if r.state == "FAIL"]
    seeds = Counter(r.seed for r in records if r.seed is not None)
    unseeded = [r for r in finished if r.seed is None and r.retry_of is None and not r.label]
    params = Counter(tuple(sorted(r.params.items())) for r in finished if r.params)
    return Audit(
        finished=len(finished),
        orphans=len(failed),
        left_open=len(records) - len(finished) - len(failed),
        gaps=len({r.number for r in records} ^ set(range(len(records)))),
        repeated_seeds=sum(n - 1 for n in seeds.values()) + len(unseeded),
        repeated_params=sum(n - 1 for n in params.values()),
        badly_retried=_badly_retried(records),
        repeated_labels=sum(n - 1 for n in Counter(r.label for r in finished if r.label).values()),
    )


def _badly_retried(records: Sequence[TrialRecord]) -> int:
    by_number = {r.number: r for r in records}
    retries = Counter(r.retry_of for r in records if r.retry_of is not None)
    wrong = sum(retries[r.number] != 1 for r in records if r.state == "FAIL")
    for record in records:
        if record.retry_of is not None:
            orphan = by_number.get(record.retry_of)
            same = (
                orphan is not None
                and orphan.state == "FAIL"
                and orphan.label == record.label
                # An orphan may have been killed before all its parameters were drawn, a retry of it too.
                and (record.state != "COMPLETE" or orphan.params.items() <= record.params.items())
            )
            wrong += not same
    return wrong


def differing(one: Sequence[TrialRecord], other: Sequence[TrialRecord]) -> int:
    """Finished trials of either study that the other has not, by parameters and metrics."""

    def facts(records: Sequence[TrialRecord]) -> Counter[str]:
        kept = [r for r in records if r.evaluation is not None]
        return Counter(
            repr((r.label, sorted(r.params.items()), sorted(r.evaluation.metrics.items()))) for r in kept
        )

    first, second = facts(one), facts(other)
    return max((first - second).total(), (second - first).total())


def kill_and_resume(command: Sequence[str], folder: Path, run: Path, kills: int, longest_s: float) -> int:
    """Kill ``command`` up to ``kills`` times, each 0 to ``longest_s`` seconds into its search, then let it end.

    Returns how many processes were killed: fewer than asked if one ended before its moment came.

    Raises:
        RuntimeError: a process ended with an error of its own.
    """
    rng, killed = random.Random(0), 0
    for _ in range(kills):
        process = start(command, folder)
        try:
            _wait_for_search(process, run)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0.0, longest_s))
        finally:
            kill(process)
        if process.returncode != -signal.SIGKILL:
            _check_ended(process, folder)
            break
        killed += 1
    last = start(command, folder)
    last.wait()
    _check_ended(last, folder)
    return killed


def _wait_for_search(process: subprocess.Popen[bytes], run: Path) -> None:
    """Until the process writes to the study's journal, or ends."""
    journal = run / JOURNAL
    before = journal.stat().st_size if journal.exists() else 0
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > before):
        time.sleep(_POLL_S)


def _check_ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.returncode != 0:
        raise RuntimeError(f"a sweep ended with {process.returncode}:\n{tail(folder)}")
