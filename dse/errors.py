"""The error family of the whole project, in one place for the `dse` package."""

from __future__ import annotations

from compressors.errors import (
    BadTensor,
    CheckpointError,
    ConfigError,
    DseError,
    UnknownName,
    UnsupportedLayer,
)

__all__ = [
    "BadTensor",
    "CandidateError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DseError",
    "RunFolderError",
    "StudyMismatch",
    "UnknownName",
    "UnsupportedLayer",
]


class DataError(DseError):
    """A data set that is missing, truncated, or not what it claims to be."""


class RunFolderError(DseError):
    """A results folder that cannot be read, written, or is full."""


class StudyMismatch(DseError):
    """A run folder that holds a study of something else than the configuration asks for."""


class CandidateError(DseError):
    """An exported candidate that is incomplete, altered, or not what it claims to be."""
