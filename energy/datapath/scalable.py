"""Area and energy of precision-scalable arrays: the parts of :mod:`.sharing` and :mod:`.switching`, priced.

The coefficients are those of 28 nm at 200 MHz, fitted by ``energy.published.fits``. What they say about a structure is
used at other nodes as a ratio to Bit Fusion's, whose elements are also known there (:func:`relative_to_fused`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from energy.datapath.sharing import UNITS, Design
from energy.datapath.switching import structure, switching
from energy.technology import Technology

AREA_PARTS = ("multiplier", "register", "fused", "adder", "idle", "select")
STRUCTURES = {
    "fused": Design("L2", "in", "out", "out"),
    "bit_groups": Design("L3", "in", "out", "out"),
    "sub_word": Design("L2", "in", "out", "out", "sub_word"),
    "temporal": Design("BS", "in", "out", "out"),
}
"""Ways to build an element of 8 bits that splits down to 2: Bit Fusion's, BitBlade's, sub-words, groups in time."""


@dataclass(frozen=True)
class Coefficients:
    """Part -> area in um2, and energy in pJ, per bit; ``idle`` and ``select`` of the latter are shares of adders."""

    area: Mapping[str, float]
    energy: Mapping[str, float]

    @classmethod
    def of(cls, technology: Technology) -> Coefficients:
        found: dict[str, dict[str, float]] = {"area": {}, "energy": {}}
        for name, constant in technology.constants.items():
            if name.startswith("scalable_parts."):
                _, figure, part = name.split(".")
                found[figure][part] = constant.value
        return cls(**found)


@lru_cache(maxsize=256)
def _area_terms(design: Design) -> tuple[float, ...]:
    s = structure(design)
    return (float(UNITS**3), s.registers, s.fused, s.adders, s.idle, s.select)


def area_terms(design: Design) -> np.ndarray:
    """Counts of ``AREA_PARTS``."""
    return np.array(_area_terms(design))


def area_um2(design: Design, coefficients: Coefficients) -> float:
    return sum(
        c * n
        for c, n in zip((coefficients.area.get(p, 0.0) for p in AREA_PARTS), _area_terms(design), strict=True)
    )


def energy_terms(
    design: Design, weight_bits: int, input_bits: int, energy: Mapping[str, float]
) -> dict[str, float]:
    """Energy of a cycle in pJ, by the parts that the benchmark prints."""
    s = switching(design, weight_bits, input_bits)

    def of(name: str) -> float:
        return energy.get(name, 0.0)

    terms = {
        name: of(name) * (bits.adders + of("idle") * bits.idle + of("select") * bits.select)
        for name, bits in s.levels.items()
    }
    return {
        "multipliers": of("multiplier") * s.multipliers,
        **terms,
        "accumulators": of("accumulator") * s.accumulators + of("input_clock") * s.inputs,
        "outputs": of("output") * s.outputs + of("output_clock") * s.outputs_clocked,
        "inputs": of("input") * s.inputs + of("array"),
    }


def energy_per_product_pj(
    design: Design, weight_bits: int, input_bits: int, coefficients: Coefficients
) -> float:
    """Energy of one multiply-accumulate with the array full."""
    total = sum(energy_terms(design, weight_bits, input_bits, coefficients.energy).values())
    return total / design.products(weight_bits, input_bits)


def relative_to_fused(
    structure_name: str, weight_bits: int, input_bits: int, technology: Technology
) -> tuple[float, float]:
    """Area and energy per product of a structure of ``STRUCTURES``, as factors on Bit Fusion's."""
    coefficients = Coefficients.of(technology)
    this, fused = STRUCTURES[structure_name], STRUCTURES["fused"]
    energies = [energy_per_product_pj(d, weight_bits, input_bits, coefficients) for d in (this, fused)]
    areas = [area_um2(d, coefficients) for d in (this, fused)]
    return areas[0] / areas[1], energies[0] / energies[1]
