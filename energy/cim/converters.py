"""Converters of analog arrays, and the adder behind each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from energy.cim.process import Process
from energy.cim.settings import CrossbarConfig
from energy.cost import Band


def required_bits(config: CrossbarConfig) -> int:
    """Bits that tell every sum of a group of columns from every other.

    The largest sum is ``rows`` times the largest digit of the input times the largest of the joined weight digits; with
    columns of both signs it may be negative, too.
    """
    weight = (1 << (config.cell_bits * config.joined_columns)) - 1
    largest = config.rows * weight * ((1 << config.dac_bits) - 1)
    sums = 2 * largest + 1 if config.encoding == "differential" else largest + 1
    return math.ceil(math.log2(sums))


@dataclass(frozen=True)
class Converters:
    """Of one array: ``dac_j`` per bit, the others per conversion; areas of all its converters."""

    adc_bits: int
    adc_j: Band
    dac_j: Band
    shift_add_j: Band
    activation_s: float
    adc_mm2: Band
    dac_mm2: Band
    shift_add_mm2: Band

    @classmethod
    def of(cls, config: CrossbarConfig, process: Process) -> Converters:
        bits = config.adc_bits or required_bits(config)
        width = bits + config.dac_bits
        shared = min(config.columns_per_adc, config.groups)
        adcs = -(-config.groups // shared)
        step = process.time_s("adc.conversion_time.base")
        step += process.time_s("adc.conversion_time.row") * config.rows
        by_adc_s = shared * bits * step
        return cls(
            adc_bits=bits,
            adc_j=conversion_j(process, bits),
            dac_j=_dac_j(config, process),
            shift_add_j=process.energy_j("adc.shift_add_energy") * width,
            activation_s=1e-6 / config.activation_mhz if config.activation_mhz else by_adc_s,
            adc_mm2=_adc_mm2(bits, process) * adcs,
            dac_mm2=process.band("adc.dac_area") * (_dac_bits(config) * config.rows * 1e-6),
            shift_add_mm2=process.logic_mm2("adc.shift_add_area") * (width * adcs),
        )


def conversion_j(process: Process, bits: int) -> Band:
    """One analog-to-digital conversion: a step per bit, and what keeps noise below the last of them (ZigZag-IMC)."""
    steps = process.switched_j("adc.bit_capacitance") * bits
    return steps + process.switched_j("adc.noise_capacitance") * 4.0**bits


def _dac_bits(config: CrossbarConfig) -> int:
    """A single bit, or pulses, need no converter: the line's driver is enough."""
    return config.dac_bits if config.dac_bits > 1 and config.input_coding == "levels" else 0


def _dac_j(config: CrossbarConfig, process: Process) -> Band:
    if not _dac_bits(config):
        return Band.zero()
    supply = config.vdd_v ** process.value("cim.voltage_exponent")
    return process.band("adc.dac_capacitance") * (supply * 1e-15)


def _adc_mm2(bits: int, process: Process) -> Band:
    constant = process.technology["adc.area_8b"]
    size = (process.node_nm / constant.node_nm) ** process.value("adc.area_growth.node")
    return constant.band * (size * process.value("adc.area_growth.bit") ** (bits - 8) * 1e-6)
