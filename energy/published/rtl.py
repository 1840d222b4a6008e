"""Elements that this project generates and Yosys synthesises, beside the area laws.

The counts were taken by ``tests/benchmarks/rtl.py`` and lie in ``rtl_counts.yaml`` with the tools' versions, so that no
tool is needed here. Every element is priced by laws that were fitted to all the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from energy.fpga.fabric import leave_one_out
from energy.published import Check, register_target
from energy.rtl.catalogue import CATALOGUE

_UNITS = {"ice40": "LUT", "xc7": "LUT", "gates": "gates"}


@dataclass(frozen=True)
class Recorded:
    """What ``rtl_counts.yaml`` holds.

    Attributes:
        tools: tool -> version.
        counts: element -> target -> LUTs or gates, flip-flops, carries.
        periods: element -> bits of its widest sum, and the clock period in ns that nextpnr reached on an iCE40 HX.
    """

    tools: Mapping[str, str]
    counts: Mapping[str, Mapping[str, tuple[int, int, int]]]
    periods: Mapping[str, tuple[int, float]]


@cache
def recorded() -> Recorded:
    """The recorded counts."""
    text = resources.files(__package__).joinpath("rtl_counts.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    counts = {
        name: {target: tuple(values) for target, values in targets.items()}
        for name, targets in data["elements"].items()
    }
    return Recorded(data["tools"], counts, {name: tuple(v) for name, v in data["periods"].items()})


def _checks(*targets: str) -> list[Check]:
    known = recorded()
    made_of = [element.made_of for element in CATALOGUE]
    checks = []
    for target in targets:
        counted = [known.counts[element.name][target][0] for element in CATALOGUE]
        source = f"our own synthesis for {target}, {known.tools['yosys']}"
        for element, number, said in zip(CATALOGUE, counted, leave_one_out(made_of, counted), strict=True):
            checks.append(Check(f"{element.name}: {target}", _UNITS[target], number, said, "blind", source))
    return checks


@register_target("rtl", "LUTs of generated processing elements, each left out of the fit", blind=0.10)
def luts() -> list[Check]:
    """LUTs of four inputs on iCE40, of six on 7-series."""
    return _checks("ice40", "xc7")


@register_target("rtl_gates", "Gates of generated processing elements, each left out of the fit", blind=0.10)
def gates() -> list[Check]:
    """Gates of two inputs and multiplexers; flip-flops are counted apart."""
    return _checks("gates")
