"""What a meter is: something that reads joules or watts, or says why it cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Literal

from compressors.errors import DseError

Method = Literal["counter", "power"]


@dataclass(frozen=True)
class Absent:
    """A value that could not be had here: why, and what the user can do about it."""

    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


class MeterError(DseError):
    """A meter that stopped answering, or was asked although it is absent."""

    def __init__(self, absent: Absent) -> None:
        self.absent = absent
        super().__init__(str(absent))


@dataclass(frozen=True)
class Reading:
    """One look at the sensor.

    Attributes:
        time_s: when, on the meter's monotonic clock.
        energy_j: joules since an arbitrary start; None where there is no counter or this look gave nothing.
        power_w: watts; None where the counter is used or this look gave nothing.
    """

    time_s: float
    energy_j: float | None = None
    power_w: float | None = None


class Meter(ABC):
    """Reads one device. Use as a context manager, or call ``close`` when done.

    ``name`` is what ``meter.name`` in a config says.
    """

    name: ClassVar[str]
    origin: ClassVar[str] = "measured"

    @abstractmethod
    def available(self) -> Absent | None:
        """None when the device can be read, else the reason it cannot."""

    @property
    @abstractmethod
    def method(self) -> Method | None:
        """``counter`` (cumulative joules), ``power`` (watts to be integrated), None when absent."""

    @abstractmethod
    def read(self) -> Reading:
        """One reading. A look that gave nothing this once has both values None.

        Raises:
            MeterError: the meter is absent, or the device was lost.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a record must say of the meter: device, uuid, driver and method, or why it is absent."""

    def close(self) -> None:  # noqa: B027 - most meters hold nothing open
        """Let go of the device; a later use opens it again."""

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
