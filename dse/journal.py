"""The study's journal on disk: one JSON record a line, safe against kills, races and full disks.

The format is the one of Optuna's ``JournalFileBackend``. Differences, each for a reason met in use:
a lock that dies with its holder (theirs blocks everyone for 30 s after a kill); a torn last line is
cut off before the next record is appended (theirs glues the two together, and the file is lost);
a record that did not fit on the disk is taken back; only records that end or open a trial are forced
to the disk, as the others are worthless without them and a forced write of each is slow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressors.parsing import parse_json
from dse.errors import RunFolderError
from dse.locks import FileLock

_BLOCK = 1 << 16


class JournalFile:
    """A journal of JSON records.

    Args:
        path: the file; created when a lock is given, expected to exist otherwise.
        lock: excludes other writers; None opens the journal for reading only.
    """

    def __init__(self, path: Path, lock: FileLock | None) -> None:
        self.path = path
        self._lock = lock
        self._next = (0, 0)  # number and byte offset of the first record not yet read
        if lock is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("ab").close()
            except OSError as error:
                raise _cannot_write(path, error) from error

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """All records from ``log_number_from`` on, without a torn last line.

        Raises:
            RunFolderError: the file cannot be read, was cut short, or holds a line that is no record.
        """
        start = self._next if self._next[0] <= log_number_from else (0, 0)
        try:
            records, size = self._parse(start)
        except _BadLine:
            # Reading without the lock, half of a torn line may be seen with half of what replaced it.
            if self._lock is not None:
                with self._lock:
                    records, size = self._parse(start)
            else:
                records, size = self._parse(start)
        self._next = (start[0] + len(records), start[1] + size)
        return records[log_number_from - start[0] :]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, all or nothing each.

        Raises:
            RunFolderError: the folder is read-only, full or gone; the journal is as it was before.
        """
        if self._lock is None:
            raise RunFolderError(f"{self.path} was opened for reading only; it cannot be appended to")
        with self._lock:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
                try:
                    _cut_torn_tail(fd)
                    for log in logs:
                        _append(fd, json.dumps(log, separators=(",", ":")).encode() + b"\n")
                    if any("state" in log for log in logs):
                        os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                raise _cannot_write(self.path, error) from error

    def _parse(self, start: tuple[int, int]) -> tuple[list[dict[str, Any]], int]:
        number, offset = start
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < offset:
                    raise RunFolderError(
                        f"{self.path} became shorter while the study ran; another program changed it"
                    )
                file.seek(offset)
                data = file.read()
        except OSError as error:
            raise RunFolderError(
                f"cannot read {self.path}: {error.strerror}; expected the journal of a study"
            ) from error
        data = data[: data.rfind(b"\n") + 1]
        lines = data.split(b"\n")[:-1]
        return [_decode(self.path, number + i, line) for i, line in enumerate(lines)], len(data)


class _BadLine(RunFolderError):
    """A line of the journal that is no JSON record."""


def _decode(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise _BadLine(
            f"{path}, line {number + 1}: expected a JSON record, got {line[:60]!r}; the journal is damaged: "
            "restore the file from a copy, or delete that line and all after it"
        )
    return record


def _append(fd: int, record: bytes) -> None:
    before = os.fstat(fd).st_size
    written = 0
    try:
        while written < len(record):
            written += os.write(fd, record[written:])
    finally:
        # A whole record stays whatever happens, as a reader may have seen it already.
        if written < len(record):
            os.ftruncate(fd, before)


def _cut_torn_tail(fd: int) -> None:
    """Cut the file after its last line feed; reads backwards, so that a sound file costs one byte."""
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            os.ftruncate(fd, start + found + 1)
            return
        end = start
    os.ftruncate(fd, 0)


def _cannot_write(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"cannot write {path}: {error.strerror}; nothing finished so far is lost: make the folder writable "
        "and free some space, then give the same command again, or choose another folder"
    )


def describe_missing(run: Path, names: Sequence[str]) -> RunFolderError:
    """The error for a folder without a study; ``names`` are the files it was expected to hold."""
    return RunFolderError(
        f"{run} holds no study (no {' or '.join(names)}); expected one written by `python -m dse sweep`; "
        "give it as run=DIR"
    )
