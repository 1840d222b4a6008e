"""What is shown while a study runs, on a terminal and in a log."""

from __future__ import annotations

import io
import itertools

import pytest

from dse.objectives import metrics_for
from dse.progress import LivePanel, PlainLines, Progress, Standing, describe, duration, make_progress
from dse.records import Evaluation, TrialRecord

ALL = metrics_for(["bitserial"])
OBJECTIVES = [ALL["energy.bitserial"], ALL["accuracy"]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def row(number: int, accuracy: float, energy: float, label: str = "") -> TrialRecord:
    evaluation = Evaluation("p", metrics={"accuracy": accuracy, "energy.bitserial": energy})
    return TrialRecord(number, "COMPLETE", label, {}, evaluation, duration_s=0.5)


FIRST = (row(0, 0.995, 4e-6, "float"), row(1, 0.9, 1e-6))
FAILED = TrialRecord(2, "FAIL", "", {}, None, error="Traceback\n  line\nValueError: \x1b[31mbad\tbits\n")
EVENTS = [
    Progress(2, 5, FIRST),
    Progress(2, 5, (FAILED,)),
    Progress(3, 5, (row(3, 0.95, 2e-6),)),
    Progress(3, 5, (), waiting_for=2),
    Progress(3, 5, (), waiting_for=2),
]


def test_plain_lines_of_a_resumed_study() -> None:
    stream = io.StringIO()
    times = itertools.count(start=0.0, step=30.0)
    with make_progress(5, OBJECTIVES, stream, clock=lambda: next(times)) as progress:
        for event in EVENTS:
            progress(event)
        progress.notice("stopping")
    lines = stream.getvalue().splitlines()
    # One trial in 60 s. Box: energy 1..4 uJ (+10 %), accuracy 0.9..0.995 (+10 %). Scaled costs of the
    # points: (1/1.1, 0), (0, 1/1.1), (0.5/1.1, 0.45/0.95/1.1), energy on a log scale. Area: see the sum below.
    a, b, m = 1 / 1.1, 0.045 / 0.095 / 1.1, 0.5 / 1.1
    area = (a - m) * (1 - b) + (1 - a) * 1.0 + m * (1 - a)
    assert lines == [
        "2 of 5 trials finished already",
        "[2/5] trial 2 failed: ValueError:  [31mbad bits; front 2, hypervolume 0.174",
        "[3/5] trial 3: energy.bitserial 2 µJ, accuracy 95% in 0.5 s; "
        f"1.0 trials/min, 2 min 00 s left, front 3, hypervolume {area:.3f}",
        "waiting for 2 trials of other workers",
        "stopping",
    ]
    assert all(line.isprintable() for line in lines)


def test_a_terminal_gets_a_panel_that_shows_all() -> None:
    stream = Terminal()
    progress = make_progress(5, OBJECTIVES, stream)
    assert isinstance(progress, LivePanel)
    with progress:
        for event in EVENTS:
            progress(event)
        progress.notice("stopping soon")
    shown = stream.getvalue()
    for text in (
        "3/5, 1 failed",
        "front 3",
        "hypervolume",
        "best accuracy 99.5%",
        "last trial 3",
        "waiting for 2",
    ):
        assert text in shown
    assert "stopping soon" in shown


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_terminal_is_put_back_however_it_ends(error: type[BaseException]) -> None:
    stream = Terminal()
    with pytest.raises(error), make_progress(5, OBJECTIVES, stream) as progress:
        progress(EVENTS[0])
        raise error
    shown = stream.getvalue()
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # cursor hidden, cursor shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_file_or_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_progress(5, OBJECTIVES, io.StringIO()), PlainLines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(5, OBJECTIVES, Terminal()), PlainLines)


def test_standing_without_trials() -> None:
    standing = Standing(5, OBJECTIVES, lambda: 0.0)
    standing.take(Progress(0, 5))
    assert standing.rate_per_min is None and standing.left_s is None
    assert standing.best() == "no accuracy yet"
    assert standing.summary() == "front 0, hypervolume 0.000"


def test_describe_and_duration() -> None:
    assert describe(FIRST[0], OBJECTIVES) == (
        "trial 0 (float): energy.bitserial 4 µJ, accuracy 99.5% in 0.5 s"
    )
    texts = [duration(s) for s in (0.04, 9.96, 12.4, 59.6, 185, 7800)]
    assert texts == ["0.0 s", "10.0 s", "12 s", "1 min 00 s", "3 min 05 s", "2 h 10 min"]
