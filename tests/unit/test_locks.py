"""Locks: exclusion between objects, threads and processes; death of the holder frees the lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dse.errors import RunFolderError
from dse.locks import FileLock, is_held

HOLD = """
import sys, time
from pathlib import Path
from dse.locks import FileLock
FileLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""

HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from dse.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_two_objects_on_one_path_exclude_each_other(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "a.lock"), FileLock(tmp_path / "a.lock")
    with first:
        assert not second.try_acquire()
        assert is_held(tmp_path / "a.lock")
    assert not is_held(tmp_path / "a.lock")
    assert second.try_acquire()
    second.release()


def test_one_object_excludes_threads(tmp_path: Path) -> None:
    lock, counter = FileLock(tmp_path / "deep" / "a.lock"), {"inside": 0, "most": 0, "total": 0}

    def work() -> None:
        for _ in range(50):
            with lock:
                counter["inside"] += 1
                counter["most"] = max(counter["most"], counter["inside"])
                counter["total"] += 1
                counter["inside"] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter == {"inside": 0, "most": 1, "total": 200}


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert is_held(path) and not FileLock(path).try_acquire()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert not is_held(path)
    with FileLock(path):
        assert is_held(path)


def test_a_child_of_a_killed_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_AND_FORK, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        assert is_held(path)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # the child is still there
        assert not is_held(path)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_removed_on_request_and_missing_is_free(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "a.lock")
    lock.acquire()
    lock.release(remove=True)
    assert not lock.path.exists()
    assert not is_held(lock.path)
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()


def test_an_impossible_path_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lock = FileLock(tmp_path / "file" / "a.lock")
    for _ in range(2):  # a failed attempt leaves the object usable
        with pytest.raises(RunFolderError, match=r"a\.lock.*another folder"):
            lock.acquire()
