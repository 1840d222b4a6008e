"""Commands as processes of their own: how long they take, how much memory they hold, and how they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SAMPLE_S = 0.05
_SESSION, _RSS_PAGES = 3, 21  # fields of /proc/PID/stat after the command's name, see proc(5)


@dataclass(frozen=True)
class Watched:
    """A process that ended by itself. ``peak_rss_bytes`` is None where the system does not tell."""

    wall_s: float
    peak_rss_bytes: int | None


def dse_command(*words: str) -> list[str]:
    """The command line of ``python -m dse``, with this Python."""
    return [sys.executable, "-m", "dse", *words]


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Run this checkout's code in ``folder``, in a session of its own; output goes to ``output.log`` there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(folder / "output.log", "ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def watch(command: Sequence[str], folder: Path) -> Watched:
    """Run ``command`` to its end, and look at the resident memory of all its processes twenty times a second.

    Raises:
        RuntimeError: it ended with an error; the message holds the end of its output.
    """
    begin, peak = time.perf_counter(), 0
    process = start(command, folder)
    try:
        while process.poll() is None:
            # The kernel's mark of the first process misses nothing between two looks.
            peak = max(peak, session_rss_bytes(process.pid), high_water_bytes(process.pid))
            time.sleep(_SAMPLE_S)
    except BaseException:
        kill(process)
        raise
    wall_s = time.perf_counter() - begin
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{tail(folder)}")
    return Watched(wall_s, peak or None)


def high_water_bytes(pid: int) -> int:
    """Largest resident memory the program of this process has had so far; 0 where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    marks = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(marks[0][1]) * 1024 if marks else 0


def session_rss_bytes(session: int) -> int:
    """Resident memory of every process of a session, shared pages counted in each; 0 where there is no /proc."""
    pages = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold blanks.
            values = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(values[_SESSION]) == session:
            pages += int(values[_RSS_PAGES])
    return pages * os.sysconf("SC_PAGE_SIZE")


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and all it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start_seconds(command: Sequence[str], folder: Path, repeats: int) -> list[float]:
    """Wall seconds of a short command, ``repeats`` times, after one that is not counted."""
    return [_seconds(command, folder) for _ in range(repeats + 1)][1:]


def _seconds(command: Sequence[str], folder: Path) -> float:
    begin = time.perf_counter()
    code = start(command, folder).wait()
    wall_s = time.perf_counter() - begin
    if code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{tail(folder)}")
    return wall_s


def tail(folder: Path, lines: int = 15) -> str:
    text = (folder / "output.log").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])
