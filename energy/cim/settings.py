"""Settings of the compute-in-memory machines; what a published chip is described by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range

CELLS = ("sram", "rram", "pcm", "stt", "fefet")
ENCODINGS = ("differential", "offset", "twos_complement")
CODINGS = ("levels", "pulses")
ADDERS = ("tree", "ripple")


def _check_integers(config: Any, ranges: Mapping[str, tuple[int, int]]) -> None:
    for name, (low, high) in ranges.items():
        check_range(f"accelerator.{name}", getattr(config, name), low, high)


def _check_numbers(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise ConfigError(f"accelerator.{name}", value, f"a number from {low:g} to {high:g}")


def _check_choices(config: Any, choices: Mapping[str, tuple[str, ...]]) -> None:
    for name, allowed in choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise UnknownName(name.replace("_", " "), str(value), allowed, key=f"accelerator.{name}")


_PROCESS = {"node_nm": (2.0, 250.0), "vdd_v": (0.2, 5.0)}
_DENSITIES = {"peak_weight_density": (0.0, 1.0), "peak_input_density": (0.0, 1.0)}
_SHARED = {"duplicates": (1, 1 << 16), "residual_bits": (1, 32), "float_units": (1, 1 << 20)}


@dataclass(frozen=True)
class CrossbarConfig:
    """Analog arrays. Settings of 0 take what ``energy/technology/devices`` or a law says.

    Attributes:
        node_nm, vdd_v: process and supply of the whole machine.
        cell: one of ``CELLS``; ``sram`` adds charges, the others currents.
        rows, columns: cells of an array that work at once; all rows are added up on a column.
        cell_bits: bits of a weight in one cell, up to 8.
        encoding: how signs are stored: ``differential`` (a column each for positive and negative, subtracted before
            conversion), ``offset`` (all cells positive), ``twos_complement`` (bits; the leading one subtracted after).
        joined_columns: columns weighted and added up in the array before one conversion.
        depth: sets of weights behind each multiplier, one of them in use at a time.
        dac_bits: bits of an input applied at once, up to 12. input_coding: of several bits: ``levels`` of a converter
            on each row, or ``pulses`` on the row, as many as the digit says.
        adc_bits: 0 for what every sum needs to come out exactly.
        columns_per_adc: conversions that take turns on one converter.
        arrays: of the machine. duplicates: copies of every layer's weights, for as many output pixels at once.
        activation_mhz: inputs applied per second to an array; 0 for as many as its converters follow.
        bipolar_inputs: signed inputs are applied at once, instead of positive and negative ones in turn.
        compute_area_f2: of a cell with its multiplier; capacitors: unit capacitors of a cell; capacitor_ff: each.
        read_voltage_v, read_ns, on_kohm, off_kohm: of resistive cells; where there are pulses, the time is of one.
        dram_gb_s, residual_bits, float_units: of what surrounds the arrays.
        peak_weight_density, peak_input_density: share of ones that published figures are taken at.
    """

    node_nm: float = 28.0
    vdd_v: float = 0.9
    cell: str = "sram"
    rows: int = 128
    columns: int = 128
    cell_bits: int = 1
    encoding: str = "differential"
    joined_columns: int = 1
    depth: int = 1
    dac_bits: int = 1
    input_coding: str = "levels"
    adc_bits: int = 0
    columns_per_adc: int = 1
    arrays: int = 256
    duplicates: int = 1
    activation_mhz: float = 0.0
    bipolar_inputs: bool = False
    compute_area_f2: float = 0.0
    capacitors: float = 1.0
    capacitor_ff: float = 0.0
    read_voltage_v: float = 0.0
    read_ns: float = 0.0
    on_kohm: float = 0.0
    off_kohm: float = 0.0
    dram_gb_s: float = 12.8
    residual_bits: int = 16
    float_units: int = 64
    peak_weight_density: float = 0.5
    peak_input_density: float = 0.5

    def __post_init__(self) -> None:
        ranges = {
            "rows": (1, 1 << 16),
            "columns": (1, 1 << 16),
            "cell_bits": (1, 8),
            "dac_bits": (1, 12),
            "joined_columns": (1, 64),
            "depth": (1, 4096),
            "adc_bits": (0, 16),
            "columns_per_adc": (1, 1 << 16),
            "arrays": (1, 1 << 24),
        }
        _check_integers(self, ranges | _SHARED)
        numbers = {
            "activation_mhz": (0.0, 1e5),
            "compute_area_f2": (0.0, 1e6),
            "capacitors": (0.0, 1e3),
            "capacitor_ff": (0.0, 1e3),
            "read_voltage_v": (0.0, 5.0),
            "read_ns": (0.0, 1e6),
            "on_kohm": (0.0, 1e9),
            "off_kohm": (0.0, 1e9),
            "dram_gb_s": (1e-3, 1e5),
        }
        _check_numbers(self, numbers | _PROCESS | _DENSITIES)
        _check_choices(self, {"cell": CELLS, "encoding": ENCODINGS, "input_coding": CODINGS})
        if self.encoding == "twos_complement" and self.cell_bits > 1:
            raise ConfigError(
                "accelerator.cell_bits", self.cell_bits, "1 with twos_complement, or another encoding"
            )
        if self.columns < self.group_columns:
            raise ConfigError(
                "accelerator.columns", self.columns, f"at least the {self.group_columns} of one conversion"
            )

    @property
    def group_columns(self) -> int:
        """Columns that share one conversion."""
        return self.joined_columns * (2 if self.encoding == "differential" else 1)

    @property
    def groups(self) -> int:
        """Conversions of an array per activation."""
        return self.columns // self.group_columns

    @property
    def weight_encoding(self) -> str:
        return "sign_magnitude" if self.encoding == "differential" else "twos_complement"


@dataclass(frozen=True)
class DigitalCimConfig:
    """Static RAM with adders. Settings of 0 take what ``energy/technology/devices`` or a law says.

    Attributes:
        node_nm, vdd_v: process and supply of the whole machine.
        rows: products added up by one tree, or on one column.
        outputs: trees of a macro; of ``adder: ripple`` its columns of cells, each with an adder.
        column_bits: bits of a weight that one tree takes, up to 16. Wider weights take several trees,
            whose sums are added; with ``ripple`` a weight takes as many columns as it has bits, and those of the carry.
        input_bits_per_cycle: bits of an input per cycle, up to 8. booth: two of them are recoded into one product.
        adder: ``tree``, or ``ripple``: sums pass down the rows.
        rows_per_register: rows between the registers of a column of ripple adders.
        accumulator_bits: 0 for what the longest sum takes.
        depth: sets of weights behind each multiplier, one of them in use at a time.
        macros: of the machine. duplicates: copies of every layer's weights, for as many output pixels at once.
        frequency_mhz: 0 for what the adders' delay allows.
        storage_area_f2: of a cell that stores a bit.
        dram_gb_s, residual_bits, float_units: of what surrounds the macros.
        peak_weight_density, peak_input_density: share of ones that published figures are taken at.
    """

    node_nm: float = 28.0
    vdd_v: float = 0.9
    rows: int = 64
    outputs: int = 16
    column_bits: int = 8
    input_bits_per_cycle: int = 1
    booth: bool = False
    adder: str = "tree"
    rows_per_register: int = 8
    accumulator_bits: int = 0
    depth: int = 1
    macros: int = 256
    duplicates: int = 1
    frequency_mhz: float = 0.0
    storage_area_f2: float = 0.0
    dram_gb_s: float = 12.8
    residual_bits: int = 16
    float_units: int = 64
    peak_weight_density: float = 0.5
    peak_input_density: float = 0.5

    def __post_init__(self) -> None:
        ranges = {
            "rows": (2, 1 << 16),
            "outputs": (1, 1 << 16),
            "column_bits": (1, 16),
            "input_bits_per_cycle": (1, 8),
            "rows_per_register": (1, 1 << 16),
            "accumulator_bits": (0, 64),
            "depth": (1, 4096),
            "macros": (1, 1 << 24),
        }
        _check_integers(self, ranges | _SHARED)
        numbers = {"frequency_mhz": (0.0, 1e5), "storage_area_f2": (0.0, 1e6), "dram_gb_s": (1e-3, 1e5)}
        _check_numbers(self, numbers | _PROCESS | _DENSITIES)
        _check_choices(self, {"adder": ADDERS})
        if self.booth and self.input_bits_per_cycle != 2:
            raise ConfigError(
                "accelerator.input_bits_per_cycle", self.input_bits_per_cycle, "2 where booth is true"
            )
        if self.adder == "ripple" and (self.column_bits > 1 or self.input_bits_per_cycle > 1):
            raise ConfigError(
                "accelerator.adder", self.adder, "tree, where a column or a cycle takes several bits"
            )
