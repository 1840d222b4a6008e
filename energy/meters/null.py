"""The meter of a machine that has none: it says why, and never answers with a number."""

from __future__ import annotations

from typing import Any, ClassVar

from energy.meters.base import Absent, Meter, MeterError, Reading


class NullMeter(Meter):
    """Stands wherever a meter is expected, and is absent with the given reason."""

    name: ClassVar[str] = "none"

    def __init__(self, reason: str | Absent) -> None:
        self._absent = Absent(reason) if isinstance(reason, str) else reason

    def available(self) -> Absent:
        return self._absent

    @property
    def method(self) -> None:
        return None

    def read(self) -> Reading:
        raise MeterError(self._absent)

    def describe(self) -> dict[str, Any]:
        return {"meter": self.name, "absent": self._absent.reason, "remedy": self._absent.remedy}
