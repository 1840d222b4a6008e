"""Locks between processes that the operating system releases when their holder dies.

A lock is a file held with ``flock``: unlike a lock that *is* a file, it cannot outlive a process
that was killed, so nobody has to guess from a process id or a time stamp whether the holder lives.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from pathlib import Path
from types import TracebackType

from dse.errors import RunFolderError

try:
    import fcntl
except ImportError:  # only POSIX systems have it
    fcntl = None  # type: ignore[assignment]

_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock on a file, between processes and between threads.

    Two objects on one path exclude each other, also inside one process; one object shared by
    threads does so as well. It is not re-entrant. The file's folder is created when missing.

    Raises:
        RunFolderError: on taking the lock, when the file cannot be opened or its file system
            has no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._threads = threading.Lock()
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock, waiting for as long as somebody else holds it."""
        self._threads.acquire()
        self._take_or_undo(blocking=True)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; False, at once, if somebody holds it."""
        return self._threads.acquire(blocking=False) and self._take_or_undo(blocking=False)

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back; ``remove`` deletes the file (only where nobody else will want it)."""
        if self._fd is None:
            raise RuntimeError(f"the lock {self.path} is not held")
        fd, self._fd = self._fd, None
        _HELD.discard(self)
        if remove:
            self.path.unlink(missing_ok=True)
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
        self._threads.release()

    def _take_or_undo(self, *, blocking: bool) -> bool:
        try:
            self._fd = _open_locked(self.path, blocking=blocking)
        finally:
            if self._fd is None:
                self._threads.release()
        if self._fd is None:
            return False
        _HELD.add(self)
        return True

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on ``path``; a missing file is held by nobody."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        return not _flock(fd, path, blocking=False)
    finally:
        os.close(fd)


def _open_locked(path: Path, *, blocking: bool) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unusable(path, error) from error
    taken = False
    try:
        taken = _flock(fd, path, blocking=blocking)
    finally:
        if not taken:
            os.close(fd)
    return fd if taken else None


def _flock(fd: int, path: Path, *, blocking: bool) -> bool:
    if fcntl is None:
        raise RunFolderError(f"cannot lock {path}: this system has no flock; run the study on Linux or macOS")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not blocking and error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise _unusable(path, error) from error
    return True


def _unusable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"cannot lock {path}: {error.strerror}; the run folder must be writable, have space left and lie "
        "on a file system with file locks; free it or choose another folder"
    )


def _drop_inherited() -> None:
    # A forked child (a data loader's worker) shares the open file and would keep the lock alive
    # after its parent was killed. Closing its copy leaves the parent's lock as it is.
    for lock in list(_HELD):
        if lock._fd is not None:
            os.close(lock._fd)
        lock._fd, lock._threads = None, threading.Lock()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited)
