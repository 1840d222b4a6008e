"""Cells of analog arrays: what a product takes, and what they take up.

Cells of static RAM add charges: a product of ones switches a capacitance. Resistive cells are read at a voltage for a
time: ``V**2 * G * t``, so that a cell takes the more the larger the digit it stores; those that store 0 still leak
through their resistance when off.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressors.errors import ConfigError
from energy.cim.process import Process
from energy.cim.settings import CrossbarConfig
from energy.cost import Band
from energy.technology import Constant


@dataclass(frozen=True)
class Cells:
    """Of an array.

    Attributes:
        full_j: a cell with its largest digit and a full input. empty_j: one that stores 0, with a full input.
        line_j: driving an input past a cell. write_j: storing in a cell; None where it is not known.
        write_s: storing in a row. area_mm2: of the array's cells.
    """

    full_j: Band
    empty_j: Band
    line_j: Band
    write_j: Band | None
    write_s: float
    area_mm2: Band

    @classmethod
    def of(cls, config: CrossbarConfig, process: Process) -> Cells:
        full, empty = _charge(config, process) if config.cell == "sram" else _current(config, process)
        known = process.technology.constants
        write = f"nvm.write_energy.{config.cell}"
        time = f"nvm.write_time.{config.cell}"
        # static RAM takes one cycle of the machine around it
        write_s = process.value(time) * 1e-9 if time in known else 1.0 / process.value("clock_hz")
        return cls(
            full_j=full,
            empty_j=empty,
            line_j=process.wire_j("nvm.line_capacitance"),
            write_j=process.band(write) * 1e-12 if write in known else None,
            write_s=write_s,
            area_mm2=_cell_mm2(config, process) * (config.rows * config.columns),
        )


def _charge(config: CrossbarConfig, process: Process) -> tuple[Band, Band]:
    return process.switched_j("nvm.cell_capacitance") * config.capacitors, Band.zero()


def _current(config: CrossbarConfig, process: Process) -> tuple[Band, Band]:
    voltage = _given(config, "read_voltage_v", process, "read_voltage", 1.0)
    if voltage is None:
        return _by_read(config, process)
    time = _given(config, "read_ns", process, "read_time", 1e-9)
    on = _given(config, "on_kohm", process, "on_resistance", 1.0, unit=1e3)
    off = _given(config, "off_kohm", process, "off_resistance", 1.0, unit=1e3)
    missing = {"read_ns": time, "on_kohm": on, "off_kohm": off}
    for name, band in missing.items():
        if band is None:
            raise ConfigError(f"accelerator.{name}", 0, f"a value: none is known of {config.cell}")
    pulses = 2.0**config.dac_bits - 1.0 if config.input_coding == "pulses" else 1.0
    return _read(voltage, time, on) * pulses, _read(voltage, time, off) * pulses


def _by_read(config: CrossbarConfig, process: Process) -> tuple[Band, Band]:
    name = f"nvm.read_energy.{config.cell}"
    if name not in process.technology.constants:
        raise ConfigError("accelerator.read_voltage_v", 0, f"a voltage: none is known of {config.cell}")
    return process.band(name) * 1e-12, Band.zero()


def _read(voltage: Band, time: Band, resistance: Band) -> Band:
    low = voltage.low**2 * time.low / resistance.high
    high = voltage.high**2 * time.high / resistance.low
    return Band(low, voltage.nominal**2 * time.nominal / resistance.nominal, high)


def _given(
    config: CrossbarConfig,
    setting: str,
    process: Process,
    constant: str,
    scale: float,
    unit: float | None = None,
) -> Band | None:
    """The setting (in ``unit``), else the constant of this kind of cell, else None."""
    value = getattr(config, setting) * (scale if unit is None else unit)
    if value:
        return Band(value, value, value)
    found: Constant | None = process.technology.constants.get(f"nvm.{constant}.{config.cell}")
    return None if found is None else found.band * scale


def _cell_mm2(config: CrossbarConfig, process: Process) -> Band:
    """A multiplier with its cells: further sets of weights are drawn to the same rules as the first.

    A cell of static RAM has one capacitor above it; further ones take area of their own. Resistive cells multiply by
    themselves.
    """
    compute = f"nvm.compute_area.{config.cell}"
    if config.compute_area_f2:
        area = Band(1.0, 1.0, 1.0) * (config.compute_area_f2 * process.node_nm**2 * 1e-12)
    else:
        known = compute in process.technology.constants
        area = process.cell_mm2(compute if known else f"nvm.area.{config.cell}")
    area = area * config.depth
    if config.cell != "sram" or config.capacitors <= 1:
        return area
    each = config.capacitor_ff or process.value("nvm.unit_capacitor")
    um2 = (config.capacitors - 1) * each / process.value("nvm.capacitor_density")
    return area + Band(um2, um2, um2) * 1e-6
