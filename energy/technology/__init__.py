"""Constants of a technology as data: value, unit, source, status and spread, read from one YAML file each.

Files of ``devices/`` hold what is no part of a logic process (memory cells, converters, FPGA fabrics); their constants
belong to every technology, under the file's name and a dot, and say themselves at which node and voltage they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from compressors.errors import ConfigError, UnknownName
from energy.cost import Band


@dataclass(frozen=True)
class Constant:
    """One value with its origin; ``low`` and ``high`` are factors on ``value``.

    ``status`` is ``published``, ``derived``, ``extrapolated`` or ``user`` (overridden in the configuration).
    ``node_nm`` and ``vdd_v`` say what process and supply it holds for; None where that is the technology's own, or has
    no meaning.
    """

    name: str
    value: float
    unit: str
    source: str
    status: str
    low: float
    high: float
    node_nm: float | None = None
    vdd_v: float | None = None

    @property
    def band(self) -> Band:
        return Band(self.value * self.low, self.value, self.value * self.high)


@dataclass(frozen=True)
class Sram:
    """Static RAM of one 64-bit port, interpolated monotonically in log-log between table points.

    Outside the table the nearest segment's slope continues; :meth:`extrapolates` says where that is so.
    """

    capacity_kb: np.ndarray
    columns: Mapping[str, np.ndarray]
    low: float
    high: float

    def _interpolate(self, column: str, capacity_kb: float) -> float:
        x, y = np.log(self.capacity_kb), np.log(self.columns[column])
        at = np.log(max(capacity_kb, 1e-3))
        i = int(np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2))
        return float(np.exp(y[i] + (y[i + 1] - y[i]) / (x[i + 1] - x[i]) * (at - x[i])))

    def _band(self, value: float) -> Band:
        return Band(value * self.low, value, value * self.high)

    def extrapolates(self, capacity_kb: float) -> bool:
        return not self.capacity_kb[0] <= capacity_kb <= self.capacity_kb[-1]

    def read_j_per_bit(self, capacity_kb: float) -> Band:
        return self._band(self._interpolate("read_pj", capacity_kb) * 1e-12 / 64)

    def write_j_per_bit(self, capacity_kb: float) -> Band:
        return self._band(self._interpolate("write_pj", capacity_kb) * 1e-12 / 64)

    def area_mm2(self, capacity_kb: float) -> Band:
        return self._band(self._interpolate("area_mm2", capacity_kb))

    def leakage_w(self, capacity_kb: float) -> Band:
        return self._band(self._interpolate("leakage_mw", capacity_kb) * 1e-3)


@dataclass(frozen=True)
class Technology:
    """All constants of one technology by dotted name, e.g. ``pe_energy.8/2``."""

    name: str
    node_nm: float
    constants: Mapping[str, Constant]
    sram: Sram

    def __getitem__(self, name: str) -> Constant:
        if name not in self.constants:
            raise UnknownName(f"constant of technology {self.name!r}", name, self.constants)
        return self.constants[name]


def _entries(data: Mapping[str, Any], prefix: str = "") -> Iterator[Constant]:
    for name, entry in data.items():
        if name in ("node_nm", "vdd_v", "sram"):
            continue
        at = {k: entry[k] for k in ("node_nm", "vdd_v") if k in entry}
        if "values" not in entry:
            fields = (entry[k] for k in ("value", "unit", "source", "status", "low", "high"))
            yield Constant(prefix + name, *fields, **at)
            continue
        for key, value in entry["values"].items():
            rule = f"{entry['source']}; {value['rule']}" if "rule" in value else entry["source"]
            yield Constant(
                f"{prefix}{name}.{key}",
                value["value"],
                entry["unit"],
                rule,
                value["status"],
                value["low"],
                value["high"],
                **at,
            )


def technology_names() -> list[str]:
    """Names of the technologies that come with the project."""
    files = resources.files(__package__).iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


@cache
def _devices() -> tuple[Constant, ...]:
    """Constants of every file of ``devices/``."""
    found: list[Constant] = []
    folder = resources.files(__package__).joinpath("devices")
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
            found += _entries(data, file.name.removesuffix("yaml"))
    return tuple(found)


@cache
def _read(name: str) -> dict[str, Any]:
    if name not in technology_names():
        raise UnknownName("technology", name, technology_names(), key="technology.name")
    return yaml.safe_load(resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def load_technology(name: str, overrides: Mapping[str, float] | None = None) -> Technology:
    """Read a technology and replace single values.

    Args:
        name: a file of this package, without ``.yaml``.
        overrides: dotted constant name -> value in the constant's own unit; such constants say ``user``.

    Raises:
        UnknownName: no such technology or constant.
        ConfigError: an override that is not a positive number.
    """
    data = _read(name)
    constants = {c.name: c for c in (*_entries(data), *_devices())}
    for key, value in (overrides or {}).items():
        if key not in constants:
            raise UnknownName("constant", key, constants, key="technology.overrides")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ConfigError(
                f"technology.overrides.{key}", value, f"a positive number of {constants[key].unit}"
            )
        old = constants[key]
        constants[key] = replace(
            old, value=float(value), source="set in the configuration", status="user", low=1.0, high=1.0
        )
    table = data["sram"]
    columns = {c: np.array(table[c]) for c in ("read_pj", "write_pj", "area_mm2", "leakage_mw")}
    sram = Sram(np.array(table["capacity_kb"], float), columns, table["low"], table["high"])
    return Technology(name, data["node_nm"], constants, sram)
