"""Compute-in-memory chips beside the models: what each reaches at its peak, calibrated and blind.

* ``cim``: Jia, Wang and Colonnade, at all their supplies; ``cim-shares``: how their energy and area divide. Calibrated
  with constants fitted to each; blind with those that the other designs give (``energy.published.cim_fit``).
* ``dimc``: digital macros of ISSCC described in full; calibrated with one set of constants for them together.
* ``colonnade``: its whole table of energies and rates, by widths, supplies and rows between registers.
* ``cim-survey``: macros known by their peak figures alone, blind. Most were taken at data that are not stated, and
  often sparse; the models take half of the bits to be one.
* ``isaac``: components of ISAAC.

The laws of the models, how they go with node, supply and width, were chosen with all these figures in sight; blind
means that no constant has seen the chip that it is held against.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

from energy.accelerators import make_accelerator
from energy.cim.converters import conversion_j
from energy.cim.process import Process
from energy.cost import Peak
from energy.published import Check, Kind, register_target
from energy.published.chips import blind_constants, chip_checks
from energy.published.cim_fit import settings_of, shipped_chip
from energy.technology import load_technology

SURVEY = (
    "sinangil",
    "papistas",
    "neurram",
    "jia_isscc21",
    "lee",
    "zhang",
    "valavi",
    "c3sram",
    "dct_ram",
    "chih",
    "fujiwara",
    "mori",
)
ISAAC = "Shafiee et al., ISCA 2016, Table I, as tabulated by hwcomponents"


def _both(*names: str) -> list[Check]:
    kinds: tuple[Kind, ...] = ("calibrated", "blind")
    return [check for kind in kinds for name in names for check in chip_checks(shipped_chip(name), kind)]


@register_target("cim", "Compute-in-memory chips: Jia, Wang, Colonnade", calibrated=0.05, blind=0.30)
def cim() -> list[Check]:
    """Rates, efficiencies and areas. Jia's rates follow from its clock and are exact in both kinds."""
    return [check for check in _both("jia", "wang", "colonnade") if check.unit != "points"]


@register_target("cim-shares", "Where energy and area of compute-in-memory chips go: Jia, Wang")
def cim_shares() -> list[Check]:
    """Shares of converters, cells and drivers."""
    return [check for check in _both("jia", "wang") if check.unit == "points"]


@register_target("dimc", "Digital compute-in-memory macros of 28 nm (ISSCC)", calibrated=0.10, blind=0.30)
def dimc() -> list[Check]:
    """Efficiency, area and rate; the clock is the adders' delay."""
    return _both("tu", "guo")


@register_target("cim-survey", "Compute-in-memory macros known by peak figures alone")
def survey() -> list[Check]:
    """What would be said of a macro that nobody calibrated to."""
    return [check for name in SURVEY for check in chip_checks(shipped_chip(name), "blind")]


@cache
def colonnade_table() -> tuple[dict[str, str], ...]:
    """Rows of Colonnade's published energies and rates."""
    text = resources.files(__package__).joinpath("colonnade.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _colonnade_peak(row: dict[str, str], kind: Kind) -> Peak:
    chip = shipped_chip("colonnade")
    point = next(p for p in chip.points if p.vdd_v == float(row["vdd_v"]))
    fitted = point.calibrated if kind == "calibrated" else blind_constants(chip.name)
    settings = {**settings_of(point), "rows_per_register": int(row["rows_per_register"])}
    if row["figure"] == "rate":
        settings["frequency_mhz"] = 0.0
    machine = make_accelerator(chip.kind, settings, load_technology(point.technology, fitted))
    return machine.peak(int(row["weight_bits"]), int(row["input_bits"]))


@register_target("colonnade", "Colonnade: energies and rates at 1 to 16 bits", calibrated=0.05, blind=0.30)
def colonnade() -> list[Check]:
    """All rows of the table."""
    source, checks = shipped_chip("colonnade").source, []
    kinds: tuple[Kind, ...] = ("calibrated", "blind")
    for kind in kinds:
        for row in colonnade_table():
            peak, printed = _colonnade_peak(row, kind), float(row["value"])
            name = f"{row['weight_bits']} x {row['input_bits']} bits"
            if row["figure"] == "energy":
                name, unit, model = f"{name} {row['vdd_v']} V", "fJ", peak.energy_per_mac_j * 1e15
            else:
                name, unit, model = (
                    f"{name} register per {row['rows_per_register']} rows",
                    "GOPS",
                    peak.tops * 1e3,
                )
            checks.append(Check(f"{row['figure']} {name} {kind}", unit, printed, model, kind, source))
    return checks


@register_target("isaac", "Parts of ISAAC, 32 nm")
def isaac() -> list[Check]:
    """Converter and crossbar; the chip's own totals are not sourced well enough to be shipped."""
    technology = load_technology("cmos45", blind_constants("isaac"))
    process = Process(technology, 32.0, 1.0)
    array = {
        "node_nm": 32.0,
        "vdd_v": 1.0,
        "cell": "rram",
        "cell_bits": 2,
        "encoding": "offset",
        "adc_bits": 8,
    }
    resistors = {"on_kohm": 22.0, "off_kohm": 3020.0, "read_voltage_v": 0.3, "read_ns": 1.0}
    machine = make_accelerator("crossbar", {**array, **resistors, "arrays": 1}, technology)
    energy = machine.peak_energy_j(16, 16)
    # 2.4 mW for eight crossbars with a read of 100 ns each
    crossbar_pj = 2.4e-3 / 8 * 100e-9 * 1e12
    return [
        Check("converter of 8 bits", "pJ", 1.667, conversion_j(process, 8).nominal * 1e12, "blind", ISAAC),
        Check("crossbar 128x128, a read", "pJ", crossbar_pj, energy["cells"].nominal * 1e12, "blind", ISAAC),
    ]
