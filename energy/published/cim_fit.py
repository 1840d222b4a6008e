"""Constants of compute-in-memory machines, from published figures of parts and macros.

Analog constants come from designs that print the energy of their parts: peak figures of whole macros are taken at data
that are mostly not stated, and cannot be divided. Areas, which do not depend on data, come from whole macros, too; so
do those of digital ones, whose adders are counted. Every design counts once, and a constant is the geometric mean over
designs. ``python -m energy.published.cim_fit`` prints what ``energy/technology/devices`` must say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from energy.accelerators import make_accelerator
from energy.cim.process import Process
from energy.published.chip_file import Chip, Point, load_chip
from energy.technology import Technology, load_technology

CHIPS = "chips"
"""Folder of the chip files that come with the project."""
_DENSITY = 0.5  # of ones, where it is not stated


@cache
def _parts() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("cim_parts.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@cache
def shipped_chip(name: str) -> Chip:
    """A chip that comes with the project."""
    with resources.as_file(resources.files(__package__).joinpath(CHIPS, f"{name}.yaml")) as path:
        return load_chip(Path(path))


def by_design(
    rows: Iterable[Mapping[str, Any]], without: str | None, value: Callable[[Mapping[str, Any]], float]
) -> dict[str, float]:
    """Design -> geometric mean of its rows' values."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["design"] != without:
            found.setdefault(row["design"], []).append(value(row))
    return {design: _mean(values) for design, values in found.items()}


def _mean(values: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(values)))))


@cache
def _plain() -> Technology:
    """Fitted capacitances of 1 fF, factors of 1."""
    units = ("adc.bit_capacitance", "nvm.cell_capacitance", "cim.load", "cim.overhead")
    return load_technology("cmos45", dict.fromkeys(units, 1.0))


def _capacitances(without: str | None) -> dict[str, float]:
    def process(row: Mapping[str, Any]) -> Process:
        return Process(_plain(), row["node_nm"], row["vdd_v"])

    def step(row: Mapping[str, Any]) -> float:
        at = process(row)
        noise = at.switched_j("adc.noise_capacitance").nominal * 4.0 ** row["bits"]
        return (row["energy_pj"] * 1e-12 - noise) / (
            at.switched_j("adc.bit_capacitance").nominal * row["bits"]
        )

    def cell(row: Mapping[str, Any]) -> float:
        line = process(row).wire_j("nvm.line_capacitance").nominal * _DENSITY * row["lines"]
        one = process(row).switched_j("nvm.cell_capacitance").nominal * row["capacitors"] * _DENSITY**2
        return (row["energy_fj"] * 1e-15 - line) / one

    parts = _parts()
    return {
        "adc.bit_capacitance": _mean(by_design(parts["converters"], without, step).values()),
        "nvm.cell_capacitance": _mean(by_design(parts["arrays"], without, cell).values()),
    }


def _analog_areas(without: str | None) -> dict[str, float]:
    parts = _parts()
    bit, node = (_plain()[f"adc.area_growth.{name}"].value for name in ("bit", "node"))

    def growth(row: Mapping[str, Any]) -> float:
        return (row["node_nm"] / 28.0) ** node * bit ** (row["bits"] - 8)

    with_area = [row for row in parts["converters"] if "area_um2" in row]
    converter = _mean(by_design(with_area, without, lambda r: r["area_um2"] / growth(r)).values())
    control = _mean(by_design(parts["control"], without, lambda r: r["share"]).values())

    def cell_f2(row: Mapping[str, Any]) -> float:
        cells = row["area_mm2"] * 1e6 * (1.0 - control) - row["converters"] * converter * growth(row)
        return cells / row["cells"] / (row["node_nm"] * 1e-3) ** 2

    return {
        "adc.area_8b": converter,
        "cim.control.area": control,
        "adc.dac_area": _mean(by_design(parts["dacs"], without, lambda r: r["area_um2"] / 8).values()),
        "nvm.compute_area.sram": _mean(by_design(parts["analog_areas"], without, cell_f2).values()),
    }


def _load(point: Point) -> float:
    """What adders must switch, over what their gates do, for a point's energy per product to come out."""
    settings = settings_of(point)
    machine = make_accelerator("digital_cim", settings, _plain())
    bits = point.weight_bits, point.input_bits
    peak, parts = machine.peak(*bits), machine.peak_energy_j(*bits)
    per_mac = peak.energy_per_mac_j / sum(band.nominal for band in parts.values())
    fixed = parts["row drivers"].nominal * per_mac
    published = point.published.get("energy_per_mac_j") or 2e-12 / point.published["tops_per_w"]
    return (published - fixed) / (peak.energy_per_mac_j - fixed)


def _overhead(point: Point) -> float:
    peak = make_accelerator("digital_cim", settings_of(point), _plain()).peak(
        point.weight_bits, point.input_bits
    )
    printed = point.published
    area = printed["area_mm2"] if "area_mm2" in printed else peak.tops / printed["tops_per_mm2"]
    return area / peak.area_mm2.nominal


def settings_of(point: Point) -> dict[str, Any]:
    """Settings with process and supply."""
    return {**point.settings, "node_nm": point.node_nm, "vdd_v": point.vdd_v}


def _digital(without: str | None) -> dict[str, float]:
    def design(name: str, keys: tuple[str, ...], value: Callable[[Point], float]) -> float:
        points = [p for p in shipped_chip(name).points if any(key in p.published for key in keys)]
        return _mean(value(point) for point in points)

    energy, area = ("energy_per_mac_j", "tops_per_w"), ("area_mm2", "tops_per_mm2")
    names = _parts()
    return {
        "cim.load": _mean(design(n, energy, _load) for n in names["digital"] if n != without),
        "cim.overhead": _mean(design(n, area, _overhead) for n in names["digital_areas"] if n != without),
    }


@cache
def fit(without: str | None = None) -> Mapping[str, float]:
    """Fitted constants by name, of all designs but one."""
    return {**_capacitances(without), **_analog_areas(without), **_digital(without)}


def known_designs() -> frozenset[str]:
    """Designs that the constants were fitted to."""
    parts = _parts()
    rows = (r for key in ("converters", "arrays", "dacs", "control", "analog_areas") for r in parts[key])
    return frozenset({r["design"] for r in rows} | set(parts["digital"]) | set(parts["digital_areas"]))


if __name__ == "__main__":
    for constant, value in fit().items():
        print(f"{constant}: {value:.4g}")
