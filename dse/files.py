"""Writing a file of a run folder so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

from dse.errors import RunFolderError

_REMEDY = {
    errno.ENOSPC: "free some space there, or choose another run folder",
    errno.EROFS: "the file system is read-only: choose a run folder that can be written to",
    errno.EACCES: "give yourself write permission there, or choose another run folder",
    errno.EPERM: "give yourself write permission there, or choose another run folder",
    errno.ENOTDIR: "a part of the path is a file: move it away, or choose another run folder",
    errno.EEXIST: "a part of the path is a file: move it away, or choose another run folder",
}


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write ``content`` (text as UTF-8) to ``path``, making missing folders; returns ``path``.

    The bytes go to a temporary file beside ``path`` which then takes its place in one step.

    Raises:
        RunFolderError: the disk is full, the folder read-only, or part of the path is a file.
            What ``path`` held before is still there, and no temporary file is left.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        remedy = _REMEDY.get(error.errno or 0, "check the folder, or choose another run folder")
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path
