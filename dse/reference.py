"""Reference results: one row per figure with what was asked of it, whether it is reached or not."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from dse.files import write_atomically


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        check: what was measured, with its conditions.
        ours: its value in ``unit``; None where it was not measured, ``note`` says why.
        bar: what is asked for, reached or not; None where the conditions are other ones.
        better: ``higher`` or ``lower``.
        peer, peer_name: the same figure of another tool in the same run, where there is one.
    """

    check: str
    ours: float | None
    bar: float | None
    better: Literal["higher", "lower"]
    unit: str
    note: str
    peer: float | None = None
    peer_name: str = ""

    @property
    def verdict(self) -> str:
        """``reached``, ``MISSED``, or why neither can be said."""
        if self.ours is None:
            return "not measured"
        if self.bar is None:
            return "no bar"
        reached = self.ours >= self.bar if self.better == "higher" else self.ours <= self.bar
        return "reached" if reached else "MISSED"


_COLUMNS = ("check", "ours", "peer", "peer_name", "bar", "better", "unit", "note")


def table(rows: Sequence[Row]) -> str:
    """The rows as CSV; values to four significant digits, "" for what is absent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        values = dict(zip((f.name for f in fields(row)), astuple(row), strict=True))
        writer.writerow([_cell(values[column]) for column in _COLUMNS])
    return text.getvalue()


def write_table(path: Path, rows: Sequence[Row]) -> Path:
    """Write ``path`` in one step, so that an interrupted benchmark leaves the last whole table."""
    return write_atomically(path, table(rows))


def show(rows: Sequence[Row]) -> str:
    """One line per row for people."""
    return "\n".join(
        f"{row.verdict:<13}{row.check}: {_cell(row.ours) or '–'} {row.unit}"
        + (
            f" (asked: {'at least' if row.better == 'higher' else 'at most'} {row.bar:g})"
            if row.bar is not None
            else ""
        )
        for row in rows
    )


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.4g}"
