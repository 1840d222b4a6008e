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
        total: of the sum of a tree. trees: that one weight takes.
        accumulator: of the sum over all trees of a weight and all digits of an input.
    """

    product: int
    operands: int
    total: int
    trees: int
    accumulator: int

    @classmethod
    def of(cls, config: DigitalCimConfig, weight_bits: int, input_bits: int) -> Widths:
        k, growth = config.input_bits_per_cycle, math.ceil(math.log2(config.rows))
        if config.adder == "ripple":
            total = weight_bits + growth
            return cls(1, 1, total, 1, config.accumulator_bits or total + input_bits)
        # a recoded digit is -2 to 2; a bit of weight passes a whole digit; otherwise a product per bit of the digit
        product = config.column_bits + 1 if config.booth else config.column_bits
        product, operands = (k, 1) if config.column_bits == 1 else (product, 1 if config.booth else k)
        total = product + operands - 1 + growth
        trees = -(-weight_bits // config.column_bits)
        longest = total + (trees - 1) * config.column_bits + input_bits - k
        return cls(product, operands, total, trees, config.accumulator_bits or longest)


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
        gate_j = process.logic_j("cim.gate_capacitance")
        load = process.value("cim.load")
        capacitance, area = (_adder(process, figure) for figure in ("capacitance", "area"))
        register = process.value("cim.flip_flop.capacitance")
        if config.adder == "ripple":
            per_product, fixed, gates_area = _ripple(config, process, widths)
        else:
            full = _tree(config, widths)
            bits = widths.product * widths.operands * (2 if config.booth else 1)
            # of a multiplier's NOR2 the weight's input does not switch
            per_product = (full * capacitance + bits * 0.5 * config.rows) / config.rows
            joins = (widths.trees - 1) / widths.trees * widths.accumulator
            ends = joins + widths.accumulator / widths.trees
            fixed = ends * capacitance + widths.accumulator / widths.trees * register
            gates_area = (full + ends) * area + bits * config.rows
            gates_area += widths.accumulator / widths.trees * process.value("cim.flip_flop.area")
        return cls(
            gate_j * (per_product * load),
            gate_j * (fixed * load),
            process.logic_mm2("cim.gate_area") * gates_area,
            _delay_s(config, process, widths),
        )


def _adder(process: Process, figure: str) -> float:
    """A full adder in NAND2."""
    return 3.0 + 2.0 * process.value(f"cim.xor.{figure}")


def _tree(config: DigitalCimConfig, widths: Widths) -> int:
    return tree_adders(config.rows * widths.operands, widths.product)


def _ripple(config: DigitalCimConfig, process: Process, widths: Widths) -> tuple[float, float, float]:
    """NAND2 switched per product and per cycle, and in area, of one column: an adder and an XNOR2 in each cell.

    The carry runs through further columns, so a product switches ``total / weight bits`` adders per column of weight;
    the caller counts whole columns.
    """
    activity = 1.0 + process.value("cim.ripple_activity.row") * config.rows_per_register
    activity /= process.value("cim.ripple_activity.tree")
    capacitance = _adder(process, "capacitance") + process.value("cim.xor.capacitance")
    registers = -(-config.rows // config.rows_per_register)
    fixed = registers * process.value("cim.flip_flop.capacitance")
    area = config.rows * (_adder(process, "area") + process.value("cim.xor.area"))
    area += registers * process.value("cim.flip_flop.area")
    return capacitance * activity, fixed, area


def _delay_s(config: DigitalCimConfig, process: Process, widths: Widths) -> float:
    """Sums of all levels but the last, which carries through; then the accumulator's least significant sum."""
    gate_s, xor = process.time_s("cim.gate_delay"), process.value("cim.xor.delay")
    through, carried = 2.0 * xor, xor + 2.0
    if config.adder == "ripple":
        levels = config.rows_per_register
    else:
        levels = math.ceil(math.log2(config.rows * widths.operands))
    carry = carried + 2.0 * (widths.total - 1)
    return gate_s * (1.0 + through * (levels - 1) + carry + through)
