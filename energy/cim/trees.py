"""Adders of digital compute-in-memory: how many, what they switch, how long they take, and their area.

A full adder is three NAND2 and two XOR2, as in ZigZag-IMC. Per full adder, transitions follow the density of the
products that it adds: ``energy = switched * density of weights * density of inputs``; in a column of ripple adders
glitches add to them (``cim.ripple_activity``). Accumulators and registers switch in every cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from energy.cim.process import Process
from energy.cim.settings import DigitalCimConfig
from energy.cost import Band


def tree_adders(operands: int, bits: int) -> int:
    """Full adders of a tree that sums up ``operands`` numbers of ``bits`` bits, each level a bit wider."""
    adders = 0
    while operands > 1:
        adders += operands // 2 * bits
        operands, bits = -(-operands // 2), bits + 1
    return adders


@dataclass(frozen=True)
class Widths:
    """Bits of what runs through a macro.

    Attributes:
        product: of one product. operands: how many of them a row gives to the tree.
        total: of the sum of a tree. trees: that one weight takes. joined: of the sum of these.
        accumulator: of the sum over all trees of a weight and all digits of an input.
    """

    product: int
    operands: int
    total: int
    trees: int
    joined: int
    accumulator: int

    @classmethod
    def of(cls, config: DigitalCimConfig, weight_bits: int, input_bits: int) -> Widths:
        k, growth = config.input_bits_per_cycle, math.ceil(math.log2(config.rows))
        if config.adder == "ripple":
            total = weight_bits + growth
            return cls(1, 1, total, 1, total, config.accumulator_bits or total + input_bits)
        # a recoded digit is -2 to 2; a bit of weight passes a whole digit; otherwise a product per bit of the digit
        product = config.column_bits + 1 if config.booth else config.column_bits
        product, operands = (k, 1) if config.column_bits == 1 else (product, 1 if config.booth else k)
        total = product + operands - 1 + growth
        trees = -(-weight_bits // config.column_bits)
        joined = total + (trees - 1) * config.column_bits
        return cls(
            product, operands, total, trees, joined, config.accumulator_bits or joined + input_bits - k
        )


@dataclass(frozen=True)
class Adders:
    """Of the ``trees`` that one weight takes.

    Attributes:
        product_j: one product of ones, up to the sum of its tree. fixed_j: what follows that, per cycle.
        area_mm2: of both. delay_s: from operands to accumulator.
    """

    product_j: Band
    fixed_j: Band
    area_mm2: Band
    delay_s: float

    @classmethod
    def of(cls, config: DigitalCimConfig, process: Process, widths: Widths) -> Adders:
        gate_j = process.logic_j("cim.gate_capacitance") * process.value("cim.load")
        count = (
            _ripple(config, process, widths) if config.adder == "ripple" else _tree(config, process, widths)
        )
        area = process.adder_mm2() * count.adders
        area += process.logic_mm2("cim.gate_area") * count.gates
        return cls(
            gate_j * count.per_product, gate_j * count.per_cycle, area, _delay_s(config, process, widths)
        )


@dataclass(frozen=True)
class _Count:
    """Of one tree or column: NAND2 that switch per product and per cycle; adders, and gates beside them in NAND2."""

    per_product: float
    per_cycle: float
    adders: float
    gates: float


def _adder(process: Process) -> float:
    """A full adder in NAND2, by capacitance."""
    return 3.0 + 2.0 * process.value("cim.xor.capacitance")


def _tree(config: DigitalCimConfig, process: Process, widths: Widths) -> _Count:
    full = tree_adders(config.rows * widths.operands, widths.product)
    # of a NOR2 that multiplies the weight's input does not switch; recoding takes a multiplexer beside it
    multipliers = widths.product * widths.operands * (2 if config.booth else 1)
    share = widths.accumulator / widths.trees
    ends = (widths.trees - 1) * widths.joined / widths.trees + share
    return _Count(
        per_product=full * _adder(process) / config.rows + 0.5 * multipliers,
        per_cycle=ends * _adder(process) + share * process.value("cim.flip_flop.capacitance"),
        adders=full + ends,
        gates=multipliers * config.rows + share * process.value("cim.flip_flop.area"),
    )


def _ripple(config: DigitalCimConfig, process: Process, widths: Widths) -> _Count:
    """An adder and an XNOR2 in each cell, whose area is part of the adder's, and a register every few rows.

    The carry runs through further columns, so a product switches ``total / weight bits`` adders per column of weight;
    the caller counts whole columns.
    """
    activity = 1.0 + process.value("cim.ripple_activity.row") * config.rows_per_register
    activity /= process.value("cim.ripple_activity.tree")
    registers = -(-config.rows // config.rows_per_register)
    return _Count(
        per_product=(_adder(process) + process.value("cim.xor.capacitance")) * activity,
        per_cycle=registers * process.value("cim.flip_flop.capacitance"),
        adders=float(config.rows),
        gates=registers * process.value("cim.flip_flop.area"),
    )


def _delay_s(config: DigitalCimConfig, process: Process, widths: Widths) -> float:
    """Sums of all levels but the last, which carries through; the same where sums of trees join; the accumulator.

    Between cells of an array sums and carries pass a multiplexer each: both take as long as a sum, and so does the
    register.
    """
    gate_s, xor = process.time_s("cim.gate_delay"), process.value("cim.xor.delay")
    through, carried = 2.0 * xor, xor + 2.0
    if config.adder == "ripple":
        return gate_s * (1.0 + through * (min(config.rows_per_register, config.rows) + widths.total))
    depth = math.ceil(math.log2(config.rows * widths.operands))
    gates = 1.0 + through * (depth - 1) + carried + 2.0 * (widths.total - 1)
    if widths.trees > 1:
        gates += through * (math.ceil(math.log2(widths.trees)) - 1) + carried + 2.0 * (widths.joined - 1)
    return gate_s * (gates + through + 2.0 * max(widths.accumulator - widths.joined, 0))
