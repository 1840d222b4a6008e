"""The project's one family of errors that a user can cause.

Each message says what was got, what was expected, and what to do about it.
``dse.cli`` prints the message alone (no traceback) and exits with ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DseError(Exception):
    """Base of every error whose cause lies with the input and not with the program."""

    exit_code = 2


class ConfigError(DseError):
    """A configuration key holds a value that cannot be used."""

    def __init__(self, key: str, value: object, expected: str, remedy: str = "") -> None:
        self.key, self.value, self.expected = key, value, expected
        super().__init__(f"{key}={value}: expected {expected}{'; ' + remedy if remedy else ''}")


class UnknownName(DseError):
    """A name that no registry entry, file or group option carries."""

    def __init__(self, kind: str, name: object, available: Iterable[str], key: str = "") -> None:
        names = sorted(available)
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
        where = f"{key}: " if key else ""
        super().__init__(f"{where}unknown {kind} {str(name)!r}; {hint}available: {', '.join(names)}")


class CheckpointError(DseError):
    """A file of weights that is broken, unsafe, or does not fit the model."""


class UnsupportedLayer(DseError):
    """A part of the network that cannot be compressed and was not declared float."""


class BadTensor(DseError):
    """A tensor with NaN, infinity, or a shape that makes no sense."""
