"""What of a precision-scalable array switches in a cycle, and what it is built of, in parts of :mod:`.sharing`.

Adders are counted in bits, weighted with how much they switch:

* glitches: results of long sums change several times before they settle, so an adder costs more behind the sum of ``n``
  multipliers, by ``1 + GLITCH * log2(n)`` up to ``n = 16``;
* idle adders: those of other lanes switch with the share of the word that carries data (its square root: long words
  change together), and the more ways to arrange lanes there are, the more selections they pass through;
* results that are kept apart at every level above pass through whole adders; where they are added up, the levels merge
  into one carry-save tree, which saves ``KEPT_APART`` of the first.

These numbers give the law its shape. They were set once, with all designs in sight and by the errors of all, and are
not refitted; the coefficients in front of the parts are (``energy.published.fits``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from energy.datapath.sharing import UNITS, Design

GLITCH = 0.3
GLITCH_LIMIT = 4
KEPT_APART = 0.35
IDLE = {"level3": 0.4, "level4": 1.0, "outputs": 0.3}
LEVELS = ("level2", "level3", "level4")
_BELOW = {"level3": "level2", "level4": "level3", "outputs": "level4"}
"""The level whose lanes the adders of a level serve."""
_SERIAL_SELECT = 20 * 5  # a result of 20 bits, shifted for one of five precisions


@dataclass(frozen=True)
class LevelBits:
    """Weighted bits of one level: adders in use, adders of fused products that are idle, and selections."""

    adders: float = 0.0
    idle: float = 0.0
    select: float = 0.0


@dataclass(frozen=True)
class Switching:
    """One cycle at one precision.

    Attributes:
        multipliers: of 2 x 2 bits that work.
        levels: adders of each level.
        accumulators: weighted adder bits below the array.
        outputs, outputs_clocked: bits of the accumulators in use, and of all.
        inputs: bits of all other registers.
    """

    multipliers: float
    levels: dict[str, LevelBits]
    accumulators: float
    outputs: float
    outputs_clocked: float
    inputs: float


@dataclass(frozen=True)
class Structure:
    """What an array is built of, in bits.

    ``fused`` and ``adders`` are those of the largest set of lanes, ``idle`` what other sets have beyond it.
    """

    registers: float
    fused: float
    adders: float
    idle: float
    select: float


@lru_cache(maxsize=1024)
def switching(design: Design, weight_bits: int, input_bits: int) -> Switching:
    """What switches when operands of these widths change at random."""
    at = (weight_bits, input_bits)
    active = design.active(weight_bits)
    apart = 1.0 + KEPT_APART * _kept_apart(design)
    two, three = design.level2(*at), design.level3(*at)
    behind2 = _glitches(design.summed(two.number, UNITS**2, weight_bits))
    behind3 = _glitches(design.summed(three.number, UNITS, weight_bits))
    fused, idle, select = (bits * apart for bits in _fused(design, at))
    if design.groups == "L3":
        levels = {
            "level2": LevelBits(UNITS**2 * two.adders),
            "level3": LevelBits(fused * behind2, idle * active * behind2, select),
        }
    else:
        serial = UNITS**2 * two.adders if design.groups == "BS" else 0.0
        levels = {
            "level2": LevelBits(fused + serial, idle * active, select * active),
            "level3": LevelBits(_plain(design, at, "level3", UNITS, behind2, active)),
        }
    levels["level4"] = LevelBits(_plain(design, at, "level4", 1, behind3, active))
    sums = design.outputs(*at)
    idle_sums = _idle(design, at, "outputs") * active
    behind4 = _glitches(design.summed(sums.number, 1, weight_bits))
    return Switching(
        multipliers=UNITS**3 * active,
        levels=levels,
        accumulators=(sums.adders + IDLE["outputs"] * idle_sums) * behind4,
        outputs=sums.adders,
        outputs_clocked=max(design.outputs(*p).adders for p in design.precisions),
        inputs=design.input_bits + design.serial_bits,
    )


def structure(design: Design) -> Structure:
    """What the array is built of."""
    fuses = {"L2": "level2", "L3": "level3", "BS": ""}[design.groups]
    most, beyond, fused = 0.0, 0.0, 0.0
    for name, units in (("level2", UNITS**2), ("level3", UNITS), ("level4", 1), ("outputs", 1)):
        if name == fuses:
            lanes = [getattr(design, name)(*p) for p in design.precisions]
            fused = units * (max(x.first for x in lanes) + max(x.second for x in lanes))
            used, idle, _ = _fused(design, design.precisions[0])
            beyond += used + idle - fused
        elif name == "level2":
            bricks = design.level2(*design.precisions[0])
            most += units * bricks.first
            fused = units * bricks.second  # of serial units: as close together as those of fused products
        else:
            sets = _sets(design, name)
            most += units * max(sets.values())
            beyond += units * (sum(sets.values()) - max(sets.values()))
    _, _, select = _fused(design, design.precisions[0])
    clocked = max(design.outputs(*p).adders for p in design.precisions)
    return Structure(clocked + design.input_bits + design.serial_bits, fused, most, beyond, select)


def _kept_apart(design: Design) -> bool:
    above = (design.l4,) if design.groups == "L3" else (design.l4, design.l3)
    return "out" not in above


def _glitches(summed: float) -> float:
    return 1.0 + GLITCH * min(math.log2(summed), GLITCH_LIMIT)


def _sets(design: Design, name: str) -> dict[int, float]:
    """Number of lanes -> the most adder bits that any precision with so many lanes needs at a level."""
    sets: dict[int, float] = {}
    for p in design.precisions:
        lanes = getattr(design, _BELOW[name])(*p).number
        sets[lanes] = max(sets.get(lanes, 0.0), getattr(design, name)(*p).adders)
    return sets


def _idle(design: Design, at: tuple[int, int], name: str) -> float:
    """Adder bits of other lanes, weighted with what the used ones make them switch."""
    sets = _sets(design, name)
    used, *every = (getattr(design, _BELOW[name])(*p) for p in (at, *design.precisions))
    filled = used.number * used.width / max(lanes.number * lanes.width for lanes in (used, *every))
    others = sum(bits for lanes, bits in sets.items() if lanes != used.number)
    return others * math.sqrt(filled) * (len(sets) - 1) / 2


def _plain(design: Design, at: tuple[int, int], name: str, units: int, behind: float, active: float) -> float:
    """Weighted adder bits of a level that adds up results as they are."""
    idle = IDLE[name] * _idle(design, at, name) * active * (1.0 + GLITCH * GLITCH_LIMIT)
    return units * (getattr(design, name)(*at).adders * behind + idle)


def _fused(design: Design, at: tuple[int, int]) -> tuple[float, float, float]:
    """Adder bits of fused products in use, idle, and bits selected by the precision, in the whole array."""
    if design.groups == "BS":
        return 0.0, 0.0, float(UNITS**2 * _SERIAL_SELECT)
    units, level = (UNITS, design.level3) if design.groups == "L3" else (UNITS**2, design.level2)
    firsts: dict[tuple[int, ...], float] = {}
    for p in design.precisions:  # operands beyond 4 bits are 4 bits to the first stage
        narrow = tuple(min(bits, 4) for bits in p)
        firsts[narrow] = max(firsts.get(narrow, 0.0), level(*p).first)
    every = sum(firsts.values()) + sum(level(*p).second for p in design.precisions)
    used = level(*at).adders
    return units * used, units * (every - used), units * design.selected
