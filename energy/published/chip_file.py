"""Published chips as YAML files: what they are, and the figures printed of them.

::

    name: jia
    source: "Jia et al., JSSC 2020"
    accelerator: {kind: crossbar, settings: {rows: 2304, columns: 256}}
    technology: {name: cmos45, node_nm: 65, vdd_v: 0.85}
    operands: {weight_bits: 1, input_bits: 1}
    published: {tops: 0.874, tops_per_w: 400, shares: {adc: 15.6, cells+row drivers: 84.4}}
    calibrated: {adc.level_capacitance: 4.2}    # constants fitted to this chip; leave out for a blind answer alone
    points:                                     # or several operating points, each with what differs
      - {name: "1.2 V", technology: {vdd_v: 1.2}, published: {tops_per_w: 192}}

Files are untrusted: they are read as plain data, and every key is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compressors.errors import ConfigError, UnknownName
from energy.technology import technology_names

FIGURES = {
    "tops": "TOPS",
    "tops_per_w": "TOPS/W",
    "tops_per_mm2": "TOPS/mm2",
    "area_mm2": "mm2",
    "energy_per_mac_j": "J",
}
"""Published figure -> unit; the names are those of ``energy.cost.Peak``."""
SHARES = ("shares", "area_shares")
_KEYS = (
    "name",
    "title",
    "source",
    "accelerator",
    "technology",
    "operands",
    "published",
    "calibrated",
    "points",
)
_POINT_KEYS = ("name", "settings", "technology", "operands", "published", "calibrated")
_TECHNOLOGY_KEYS = ("name", "node_nm", "vdd_v", "overrides")


@dataclass(frozen=True)
class Point:
    """One operating point.

    Attributes:
        name: empty where a chip has one point.
        settings: of the accelerator, process and supply included where its kind has them.
        technology, node_nm, vdd_v: name of the constants' file, process and supply; None where not given.
        overrides: constants that are part of the specification, as a clock.
        weight_bits, input_bits: of the operands.
        published: of ``FIGURES``. shares, area_shares: percent of energy and area by components joined by ``+``.
        calibrated: constants fitted to this chip.
    """

    name: str
    settings: Mapping[str, Any]
    technology: str
    node_nm: float | None
    vdd_v: float | None
    overrides: Mapping[str, float]
    weight_bits: int
    input_bits: int
    published: Mapping[str, float]
    shares: Mapping[str, float]
    area_shares: Mapping[str, float]
    calibrated: Mapping[str, float]


@dataclass(frozen=True)
class Chip:
    """A published chip; ``name`` is what a fit that must not know it leaves out."""

    name: str
    title: str
    source: str
    kind: str
    points: tuple[Point, ...]


def load_chip(path: Path) -> Chip:
    """Read and check a chip's file.

    Raises:
        ConfigError: no such file, no YAML, or a value of the wrong type.
        UnknownName: a key that is none.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("target", path, "a chip's YAML file that can be read", str(error)) from error
    except yaml.YAMLError as error:
        raise ConfigError("target", path, "YAML", " ".join(str(error).split())) from error
    return parse_chip(data, str(path))


def parse_chip(data: object, where: str) -> Chip:
    """Check a chip's plain data; ``where`` begins the errors' keys."""
    top = _mapping(data, where, _KEYS)
    accelerator = _mapping(top.get("accelerator"), f"{where}: accelerator", ("kind", "settings"))
    base = {
        "settings": _or_empty(accelerator, "settings"),
        **{key: _or_empty(top, key) for key in ("technology", "operands", "published", "calibrated")},
    }
    points = top.get("points", [{}])
    if not isinstance(points, list) or not points:
        raise ConfigError(f"{where}: points", _shown(points), "a list of operating points")
    return Chip(
        _text(top, "name", where),
        _text(top, "name" if top.get("title") is None else "title", where),
        _text(top, "source", where),
        _text(accelerator, "kind", f"{where}: accelerator"),
        tuple(_point(point, base, f"{where}: points[{i}]") for i, point in enumerate(points)),
    )


def _point(data: object, base: Mapping[str, Any], where: str) -> Point:
    own = _mapping(data, where, _POINT_KEYS)
    merged = {
        key: {**_mapping(value, f"{where}.{key}"), **_mapping(_or_empty(own, key), f"{where}.{key}")}
        for key, value in base.items()
    }
    technology = _mapping(merged["technology"], f"{where}: technology", _TECHNOLOGY_KEYS)
    name = technology.get("name", "cmos45")
    if name not in technology_names():
        raise UnknownName("technology", _shown(name), technology_names(), key=f"{where}: technology.name")
    operands = _mapping(merged["operands"], f"{where}: operands", ("weight_bits", "input_bits"))
    published = _mapping(merged["published"], f"{where}: published", (*FIGURES, *SHARES))
    figures = {k: _number(v, f"{where}: published.{k}") for k, v in published.items() if k in FIGURES}
    shares = [_numbers(_or_empty(published, k), f"{where}: published.{k}") for k in SHARES]
    if not figures and not any(shares):
        raise ConfigError(f"{where}: published", dict(published), f"one of {', '.join((*FIGURES, *SHARES))}")
    return Point(
        _text(own, "name", where) if "name" in own else "",
        merged["settings"],
        name,
        _optional(technology, "node_nm", where),
        _optional(technology, "vdd_v", where),
        _numbers(_or_empty(technology, "overrides"), f"{where}: technology.overrides"),
        _bits(operands, "weight_bits", where),
        _bits(operands, "input_bits", where),
        figures,
        *shares,
        _numbers(merged["calibrated"], f"{where}: calibrated"),
    )


def _mapping(data: object, where: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(where, _shown(data), "keys with values")
    for key in data:
        if keys is not None and key not in keys:
            raise UnknownName("key", key, keys, key=where)
    return data


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: {key}", _shown(value), "a text")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        remedy = "YAML takes 2e8 for a text: write 2.0e+8" if isinstance(value, str) else ""
        raise ConfigError(where, _shown(value), "a positive number", remedy)
    return float(value)


def _shown(value: object) -> object:
    """Lists and mappings by their type alone: a few references in a file can make one too long to print."""
    return type(value).__name__ if isinstance(value, (dict, list)) else value


def _or_empty(data: Mapping[str, Any], key: str) -> Any:
    """What stands under a key that may be left out."""
    return {} if data.get(key) is None else data[key]


def _numbers(data: object, where: str) -> dict[str, float]:
    return {key: _number(value, f"{where}.{key}") for key, value in _mapping(data, where).items()}


def _optional(data: Mapping[str, Any], key: str, where: str) -> float | None:
    return None if data.get(key) is None else _number(data[key], f"{where}: technology.{key}")


def _bits(data: Mapping[str, Any], key: str, where: str) -> int:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 32:
        raise ConfigError(f"{where}: operands.{key}", _shown(value), "an integer from 1 to 32")
    return value
