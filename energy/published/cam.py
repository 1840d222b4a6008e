"""Arrays of content-addressable memory: Eva-CAM's and CAMASim's figures, and the line model beside them.

Eva-CAM prints figures of a 2FeFET TCAM of 45 nm for three arrays. Three constants are fitted to them: the factor on the
cells' area, the area of a line, and the drivers' time. For the blind rows they are fitted without the array in
question. Everything else (capacitances, resistances, the cell) is what the tool is given, so the search energy is blind
throughout. The last rows are the circuit simulation that Eva-CAM's own paper holds itself against, of 64 x 64 cells,
smaller ones: blind too, so fitted without that array.

CAMASim tabulates FeFET subarrays of 64 and 128 columns (SPICE): energy and time grow with a power of the columns, the
same for all kinds of cells. Blind rows know the other kinds at both sizes, and the kind in question at the other size.
It has no areas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from energy.associative.circuits import Lines, line_time_ns
from energy.published import Check, Kind, register_target
from energy.technology import Technology, load_technology

EVA_CAM = "Eva-CAM (github.com/eva-cam/EvaCAM), 2FeFET_TCAM at 45 nm HP, 350 K, as its console prints it"
DATE22 = "Liu et al., Eva-CAM, DATE 2022, Table II"
CAMASIM = "CAMASim (arXiv 2403.03442), performance/cost_config.json"


@dataclass(frozen=True)
class EvaArray:
    """``entries`` words of ``bits`` bits, and what Eva-CAM prints; energies only where they were noted."""

    entries: int
    bits: int
    area_um2: float
    search_ns: float
    search_pj: float | None = None

    @property
    def name(self) -> str:
        return f"{self.entries}x{self.bits}"


EVA_ARRAYS = (
    EvaArray(64, 64, 3217.0, 0.38, 2.34),
    EvaArray(256, 64, 12148.0, 0.48),
    EvaArray(128, 128, 12271.0, 0.64),
)
SIMULATED_CELL_UM2 = 0.15
"""Cell of the circuit that Eva-CAM's paper compares itself with (TCAS-II 2019): 64 x 64, 45 nm."""

SUBARRAYS = {
    "search energy": ("pJ", {"tcam": (1.28, 2.56), "mcam2": (1.73, 3.45), "mcam3": (1.84, 3.68)}),
    "search time": ("ns", {"tcam": (2.6, 4.2), "mcam2": (3.5, 5.8), "mcam3": (3.5, 5.8)}),
    "write energy": ("pJ", {"tcam": (23.5, 47.0), "mcam2": (23.2, 46.3), "mcam3": (28.9, 57.9)}),
}
"""Figure -> unit and kind of cell -> (64 columns, 128 columns)."""


def fit_area(technology: Technology, arrays: Sequence[EvaArray]) -> tuple[float, float]:
    """Factor on the cells and um2 per line that minimise the squares of the relative errors."""
    cell = technology["cam.cell_area.fefet"].value
    terms = np.array([[a.entries * a.bits * cell, a.entries + a.bits] for a in arrays])
    relative = terms / np.array([[a.area_um2] for a in arrays])
    factor, line = np.linalg.lstsq(relative, np.ones(len(arrays)), rcond=None)[0]
    return float(factor), float(line)


def fit_driver(technology: Technology, arrays: Sequence[EvaArray]) -> float:
    """ns per doubling of the entries, likewise."""
    lines = Lines.of(technology, technology["cam.cell_area.fefet"].value)
    printed = np.array([a.search_ns for a in arrays])
    beyond = printed - [line_time_ns(technology, lines, a.entries, a.bits) for a in arrays]
    doublings = np.array([math.log2(a.entries) for a in arrays])
    return float((doublings / printed) @ (beyond / printed) / ((doublings / printed) ** 2).sum())


def array_figures(
    technology: Technology, array: EvaArray, area: tuple[float, float], driver_ns: float, cell_um2: float
) -> tuple[float, float, float]:
    """Area in um2, search time in ns, search energy in pJ of the model with these constants."""
    lines = Lines.of(technology, cell_um2)
    area_um2 = area[0] * array.entries * array.bits * cell_um2 + area[1] * (array.entries + array.bits)
    search_ns = line_time_ns(technology, lines, array.entries, array.bits)
    search_ns += driver_ns * math.log2(array.entries)
    energy_fj = sum(lines.energy_fj(technology["cam.voltage"].value))
    return area_um2, search_ns, array.entries * array.bits * energy_fj * 1e-3


@register_target(
    "eva-cam", "FeFET TCAM arrays: area, search time and energy (Eva-CAM)", calibrated=0.15, blind=0.15
)
def eva_cam() -> list[Check]:
    """Area, time and energy of three arrays and of the simulated circuit."""
    technology = load_technology("cmos45")
    cell = technology["cam.cell_area.fefet"].value
    checks = []
    for held_out in (None, *EVA_ARRAYS):
        kind: Kind = "calibrated" if held_out is None else "blind"
        known = [a for a in EVA_ARRAYS if a is not held_out]
        area, driver = fit_area(technology, known), fit_driver(technology, known)
        for array in EVA_ARRAYS if held_out is None else (held_out,):
            area_um2, search_ns, search_pj = array_figures(technology, array, area, driver, cell)
            name = f"{array.name} {kind}"
            checks.append(Check(f"area {name}", "um2", array.area_um2, area_um2, kind, EVA_CAM))
            checks.append(Check(f"search time {name}", "ns", array.search_ns, search_ns, kind, EVA_CAM))
            if array.search_pj is not None and kind == "blind":
                checks.append(Check(f"search energy {name}", "pJ", array.search_pj, search_pj, kind, EVA_CAM))
    return checks + _against_circuit_simulation(technology, cell)


def _against_circuit_simulation(technology: Technology, cell_um2: float) -> list[Check]:
    """What Eva-CAM's paper reports of its array of 64 x 64, and the HSPICE figures that is held against."""
    array, *known = EVA_ARRAYS
    area, driver = fit_area(technology, known), fit_driver(technology, known)
    _, search_ns, search_pj = array_figures(technology, array, area, driver, SIMULATED_CELL_UM2)
    area_um2, _, _ = array_figures(technology, array, area, driver, cell_um2)
    return [
        Check("search time 64x64 HSPICE", "ns", 0.350, search_ns, "blind", DATE22),
        Check("search energy 64x64 HSPICE", "pJ", 1.5, search_pj, "blind", DATE22),
        Check("area 64x64 as reported", "um2", 3274.0, area_um2, "blind", DATE22),
    ]


def growth(rows: Sequence[tuple[float, float]]) -> float:
    """Exponent on the columns: mean of those between 64 and 128."""
    return float(np.mean([math.log2(large / small) for small, large in rows]))


@register_target("camasim", "FeFET TCAM and MCAM subarrays (CAMASim)", calibrated=0.15, blind=0.15)
def camasim() -> list[Check]:
    """Every row of the table but those that depend on nothing."""
    checks = []
    for figure, (unit, kinds) in SUBARRAYS.items():

        def add(name: str, printed: float, model: float, kind: Kind, unit: str = unit) -> None:
            checks.append(Check(f"{name} {kind}", unit, printed, model, kind, CAMASIM))

        everything = growth(list(kinds.values()))
        for cell, (small, large) in kinds.items():
            add(f"{figure} {cell} 128", large, small * 2**everything, "calibrated")
            others = growth([rows for name, rows in kinds.items() if name != cell])
            add(f"{figure} {cell} 128", large, small * 2**others, "blind")
            add(f"{figure} {cell} 64", small, large / 2**others, "blind")
    return checks
