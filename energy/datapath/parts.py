"""A processing element as counts of the parts it is built of, and the law that prices the parts.

The law. An array of ``rows x columns`` elements as in Bit Fusion (Sharma et al., ISCA 2018): inputs pass along a row,
sums fall down a column and are accumulated below it. Its area, its energy per cycle and its leakage are sums over

* ``products``: one-bit partial products with the adder each ends in;
* ``operand_bits``: bits of one operand beside every multiplier, in its registers and in the sum (of two operands, half
  the bits of both);
* ``elements``: what an element has whatever its width;
* ``fusion_bits``: bits of the shift-and-add units that make wide products of narrow ones: four parts of ``s / 2`` bits
  into one of ``s`` bits, level by level;
* ``accumulator_bits`` and ``accumulator_carry``: below a column, in proportion to its width and to the width's square;
* ``forwarded_bits``: registers that hand inputs to the next column.

Coefficients are fitted to the 105 synthesised arrays by ``energy.published.fits`` and lie in
``energy/technology/devices/pe_parts.yaml``. Elements the table does not have (serial ones, ternary, binary) are counted
in the same parts: below 2 bits, and for shapes that were not synthesised, that is an extrapolation.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from energy.cost import Band
from energy.technology import Technology

FIGURES = {"area": "um2", "energy": "pJ/cycle", "leakage": "uW"}
"""What the law gives, and in which unit."""


@dataclass(frozen=True)
class Parts:
    """Counts of parts; see the module's text."""

    products: float = 0.0
    operand_bits: float = 0.0
    elements: float = 0.0
    fusion_bits: float = 0.0
    accumulator_bits: float = 0.0
    accumulator_carry: float = 0.0
    forwarded_bits: float = 0.0

    def __add__(self, other: Parts) -> Parts:
        return Parts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Parts:
        return Parts(*(a * factor for a in astuple(self)))

    __rmul__ = __mul__


PARTS = tuple(f.name for f in fields(Parts))


def multiplier(weight_bits: int, input_bits: int) -> Parts:
    """An element that multiplies digits of these widths and adds the product to the sum that passes."""
    return Parts(weight_bits * input_bits, (weight_bits + input_bits) / 2, 1.0)


def lane(weight_bits: int, input_bits: int, lanes: int) -> Parts:
    """A multiplier of digits among ``lanes`` that feed one adder tree.

    They share what an element has whatever its width: in a systolic array mostly the upper bits of the sum that each
    hands on.
    """
    return Parts(weight_bits * input_bits, (weight_bits + input_bits) / 2, 1 / lanes)


def fused_multiplier(widest: int, narrowest: int) -> Parts:
    """An element that multiplies ``widest`` bits, or as many narrower ones down to ``narrowest`` as fit its area."""
    copies = widest // narrowest
    fusion, size = 0.0, 2 * narrowest
    while size <= widest:
        fusion += (widest / size) ** 2 * size
        size *= 2
    return Parts(widest**2, widest * copies, 1.0, fusion)


def accumulator(weight_bits: int, input_bits: int) -> Parts:
    """What stands below a column of elements that multiply digits of these widths."""
    return Parts(accumulator_bits=(weight_bits + input_bits) / 2, accumulator_carry=weight_bits * input_bits)


def shifter(weight_bits: int, input_bits: int) -> Parts:
    """A shift-and-add unit that puts serial products of these digits together."""
    return Parts(fusion_bits=(weight_bits + input_bits) / 2)


def fused_array(rows: int, columns: int, widest: int, narrowest: int) -> Parts:
    """A whole array of fused elements, as Bit Fusion's table lists them."""
    forwarded = Parts(forwarded_bits=rows * (columns - 1) * widest * (widest // narrowest))
    elements = fused_multiplier(widest, narrowest) * (rows * columns)
    return elements + accumulator(widest, widest) * columns + forwarded


class PartLaw:
    """Area, energy and leakage of parts in a technology."""

    def __init__(self, technology: Technology) -> None:
        self._bands: dict[str, list[tuple[int, Band]]] = {}
        for figure in FIGURES:
            names = [(at, f"pe_parts.{figure}.{part}") for at, part in enumerate(PARTS)]
            known = technology.constants  # a part that a figure does not depend on has no constant
            self._bands[figure] = [(at, known[name].band) for at, name in names if name in known]
        self.node_nm = next(c.node_nm for n, c in technology.constants.items() if n.startswith("pe_parts."))

    def area_mm2(self, parts: Parts) -> Band:
        return self._of("area", parts) * 1e-6

    def energy_j(self, parts: Parts) -> Band:
        """Of one cycle in which all these parts work on operands that change at random."""
        return self._of("energy", parts) * 1e-12

    def leakage_w(self, parts: Parts) -> Band:
        return self._of("leakage", parts) * 1e-6

    def _of(self, figure: str, parts: Parts) -> Band:
        counts = astuple(parts)
        return sum((band * counts[at] for at, band in self._bands[figure]), Band.zero())
