"""Energy of the processor: Intel's and AMD's running average power limit counters, through Linux's powercap.

A zone counts microjoules and begins again at its range; one zone per package, and one for its memory where the
processor has it. Zones inside a package's (its cores, say) are part of it and are not added. Since CVE-2020-8694
("PLATYPUS") only root may read the counters unless the administrator allows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from compressors.errors import ConfigError
from energy.meters.base import Absent, Meter, MeterError, Method, Reading
from energy.meters.machine import cpu_model

POWERCAP = Path("/sys/class/powercap")
ALL = "all"
_MICRO = 1e-6
_ALLOW = "allow it with: sudo chmod a+r {}/*rapl*/energy_uj (until the next start), or run as root"


@dataclass
class _Zone:
    """One counter; ``total_uj`` goes on where the counter itself begins again."""

    name: str
    file: Path
    range_uj: int
    last_uj: int | None = None
    total_uj: int = 0

    def advance(self) -> int:
        """Microjoules since the first look. A counter that fell has passed its range once.

        More than one turn between two looks cannot be told: at 300 W a range of 262 kJ takes a quarter of an hour.
        """
        now = int(self.file.read_text())
        if self.last_uj is not None:
            self.total_uj += now - self.last_uj if now >= self.last_uj else now + self.range_uj - self.last_uj
        self.last_uj = now
        return self.total_uj


class RaplMeter(Meter):
    """Joules of one package, or of all, with the memory that belongs to it."""

    name: ClassVar[str] = "rapl"

    def __init__(
        self,
        device: int | str = ALL,
        powercap: Path = POWERCAP,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            device: number of the package, or ``all``.
            powercap: where the zones are.

        Raises:
            ConfigError: a device that is neither.
        """
        if device != ALL and (type(device) is not int or device < 0):
            raise ConfigError("meter.device", device, f"the number of a processor package, or {ALL!r}")
        self._device, self._powercap, self._clock = device, powercap, clock
        self._zones: list[_Zone] = []
        self._absent = self._open()

    def available(self) -> Absent | None:
        return self._absent

    @property
    def method(self) -> Method | None:
        return None if self._absent else "counter"

    def read(self) -> Reading:
        if self._absent:
            raise MeterError(self._absent)
        now_s = self._clock()
        try:
            total = sum(zone.advance() for zone in self._zones)
        except (OSError, ValueError) as error:
            raise MeterError(Absent(f"a RAPL counter stopped answering: {error}")) from error
        return Reading(now_s, energy_j=total * _MICRO)

    def describe(self) -> dict[str, Any]:
        if self._absent:
            return {"meter": self.name, "absent": self._absent.reason, "remedy": self._absent.remedy}
        return {
            "meter": self.name,
            "device": cpu_model() or "processor",
            "method": "counter",
            "zones": [zone.name for zone in self._zones],
        }

    def _open(self) -> Absent | None:
        """Find the zones; why there are none otherwise."""
        # a package's own zone has one number behind its name, those inside it two
        found = sorted(p for p in self._powercap.glob("*rapl*:*") if p.name.count(":") in (1, 2))
        packages = [p for p in found if p.name.count(":") == 1 and _text(p / "name").startswith("package-")]
        if not packages:
            return Absent(
                f"no RAPL zones under {self._powercap} (a virtual machine, a container, or not Linux)",
                "run on the machine itself, with the module intel_rapl_common loaded",
            )
        if self._device != ALL:
            wanted = f"package-{self._device}"
            names = [_text(p / "name") for p in packages]
            if wanted not in names:
                return Absent(f"no zone {wanted}", f"set meter.device to one of {', '.join(names)}, or {ALL}")
            packages = [packages[names.index(wanted)]]
        memory = [p for p in found if p.name.count(":") == 2 and _text(p / "name") == "dram"]
        chosen = packages + [m for m in memory if m.name.rpartition(":")[0] in {p.name for p in packages}]
        try:
            for folder in chosen:
                range_uj = int((folder / "max_energy_range_uj").read_text())
                self._zones.append(_Zone(_label(folder, packages), folder / "energy_uj", range_uj))
                self._zones[-1].advance()
        except PermissionError:
            return Absent("the RAPL counters are readable by root alone", _ALLOW.format(self._powercap))
        except (OSError, ValueError) as error:
            return Absent(f"a RAPL zone cannot be read: {error}")
        return None


def _label(folder: Path, packages: list[Path]) -> str:
    own = _text(folder / "name")
    if folder in packages:
        return own
    return f"{_text(folder.parent / folder.name.rpartition(':')[0] / 'name')} {own}"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
