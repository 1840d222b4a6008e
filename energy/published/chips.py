"""Published chips beside what their machines answer: any accelerator with ``peak`` will do.

Two answers, kept apart. ``calibrated``: with the constants that the chip's file says were fitted to it. ``blind``: with
constants that know nothing of it; those fitted to published chips are fitted anew without it, by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from compressors.errors import ConfigError, UnknownName
from energy.accelerators import Specified, make_accelerator, setting_names, specified_kinds
from energy.cost import Band, Peak
from energy.published import Check, Kind, Target
from energy.published.chip_file import FIGURES, Chip, Point, load_chip
from energy.published.cim_fit import fit, known_designs
from energy.technology import Technology, load_technology
from energy.technology.scaling import area_factor, energy_factor, usual_vdd

__all__ = ["chip_checks", "chip_target", "load_chip"]


def chip_checks(chip: Chip, kind: Kind) -> list[Check]:
    """A row for every published figure; none where ``kind`` is ``calibrated`` and nothing was calibrated.

    Raises:
        UnknownName: no such accelerator, setting, constant, or component.
        ConfigError: a setting out of range, or a machine that does not say what it reaches.
    """
    checks = []
    for point in chip.points:
        if kind == "calibrated" and not point.calibrated:
            continue
        fitted = point.calibrated if kind == "calibrated" else blind_constants(chip.name)
        checks += _point_checks(chip, point, kind, fitted)
    return checks


def blind_constants(name: str) -> Mapping[str, float]:
    """Constants fitted without the chip; none to change where it was not among those fitted to."""
    return fit(name) if name in known_designs() else {}


def chip_target(path: Path) -> Target:
    """A chip of the user's as a target of ``validate``."""
    chip = load_chip(path)

    def run() -> list[Check]:
        return chip_checks(chip, "calibrated") + chip_checks(chip, "blind")

    return Target(f"chip {chip.name}", f"{chip.title} ({chip.source})", {}, run)


def _point_checks(chip: Chip, point: Point, kind: Kind, fitted: Mapping[str, float]) -> list[Check]:
    technology = load_technology(point.technology, {**fitted, **point.overrides})
    machine = _machine(chip, point, technology)
    peak = machine.peak(point.weight_bits, point.input_bits)
    if not _has_process(chip.kind):
        peak = _at_process(peak, point, technology)
    name = f"{chip.name} {point.name}".strip()

    def check(figure: str, unit: str, printed: float, model: float) -> Check:
        return Check(f"{name} {figure} {kind}", unit, printed, model, kind, chip.source)

    rows = [check(f, FIGURES[f], printed, _figure(peak, f)) for f, printed in point.published.items()]
    for title, printed, parts in (
        ("energy share of", point.shares, lambda: _energy_parts(chip, point, machine)),
        ("area share of", point.area_shares, lambda: machine.area_mm2),
    ):
        if printed:
            rows += [check(f"{title} {c}", "points", p, _share(parts(), c)) for c, p in printed.items()]
    return rows


def _machine(chip: Chip, point: Point, technology: Technology) -> Specified:
    settings = dict(point.settings)
    if _has_process(chip.kind):
        for key, value in (("node_nm", point.node_nm), ("vdd_v", point.vdd_v)):
            if value is not None:
                settings[key] = value
            elif key not in settings:
                raise ConfigError(
                    f"{chip.name}: technology.{key}", None, f"the chip's, which {chip.kind} needs"
                )
    machine = make_accelerator(chip.kind, settings, technology, key=f"{chip.name}: accelerator")
    if not hasattr(machine, "peak"):
        known = ", ".join(specified_kinds())
        raise ConfigError(
            f"{chip.name}: accelerator.kind",
            chip.kind,
            f"a machine that says what it reaches at its peak: {known}",
        )
    return machine


def _has_process(kind: str) -> bool:
    """Process and supply are settings of machines of this kind; others are built at the technology's own."""
    return {"node_nm", "vdd_v"} <= setting_names(kind)


def _at_process(peak: Peak, point: Point, technology: Technology) -> Peak:
    """Power at the same rate, and area, at the chip's process; its rate is that of the machine's clock."""
    own = technology.node_nm
    node = point.node_nm or own
    supply = point.vdd_v or usual_vdd(node)
    power, area = energy_factor(own, usual_vdd(own), node, supply), area_factor(own, node)
    return dataclasses.replace(
        peak, power_w=_times(peak.power_w, power), area_mm2=_times(peak.area_mm2, area)
    )


def _times(band: Band, factor: Band) -> Band:
    return Band(band.low * factor.low, band.nominal * factor.nominal, band.high * factor.high)


def _figure(peak: Peak, name: str) -> float:
    value = getattr(peak, name)
    return value.nominal if isinstance(value, Band) else value


def _energy_parts(chip: Chip, point: Point, machine: Specified) -> Mapping[str, Band]:
    if not hasattr(machine, "peak_energy_j"):
        raise ConfigError(
            f"{chip.name}: published.shares",
            dict(point.shares),
            f"none: {chip.kind} does not divide its peak",
        )
    return machine.peak_energy_j(point.weight_bits, point.input_bits)


def _share(parts: Mapping[str, Band], components: str) -> float:
    """Percent of the whole in components joined by ``+``."""
    names = [name.strip() for name in components.split("+")]
    for name in names:
        if name not in parts:
            raise UnknownName("component", name, parts, key="published.shares")
    whole = sum(band.nominal for band in parts.values())
    return 100.0 * sum(parts[name].nominal for name in names) / whole
