"""Arrays of content-addressable memory: what a search, a write and the silicon cost.

A search precharges every match line, raises one of two search lines per compared column and lets the rows that differ
discharge. Its energy is that of the lines, ``rows * (columns * (1 - matched) * E_match + compared * E_search)``: a
masked column raises no search line but still hangs on every match line. Its time, for FeFET cells, is computed from
the lines too: the match line through one conducting cell and the wire, its precharge, the search line's wire, and what
drivers and sense amplifier add, which is fitted (``energy/published/cam.py``), as is the area by cells and lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from energy.cost import Band
from energy.technology import Technology

CELLS = ("fefet", "cmos", "rram", "mtj")
FIT_LINES = 64 + 64
"""Lines of the array that the leakage is given for."""


@dataclass(frozen=True)
class Lines:
    """Geometry of a 45 nm cell and what hangs on its lines.

    Attributes:
        height_um, width_um: of the cell, along the match line and along the search line.
        match_ff, search_ff: capacitance per cell of the match line, and of one search line.
    """

    height_um: float
    width_um: float
    match_ff: float
    search_ff: float

    @classmethod
    def of(cls, technology: Technology, cell_area_um2: float) -> Lines:
        def value(name: str) -> float:
            return technology[f"cam.{name}"].value

        height = math.sqrt(cell_area_um2 * value("aspect_ratio"))
        width = cell_area_um2 / height
        wire = value("wire_capacitance")
        return cls(
            height,
            width,
            wire * height + value("drain_capacitance"),
            wire * width + value("gate_capacitance"),
        )

    def energy_fj(self, voltage: float) -> tuple[float, float]:
        """Of one cell's match line and of its search line, charged to ``voltage`` once."""
        return self.match_ff * voltage**2, self.search_ff * voltage**2


def line_time_ns(technology: Technology, lines: Lines, entries: int, bits: int) -> float:
    """What the lines of an array take: the precharge, the discharge through one cell, the wire of a search line."""
    wire, on, precharge, drain = (
        technology[f"cam.{name}"].value
        for name in ("wire_resistance", "on_resistance", "precharge_resistance", "drain_capacitance")
    )
    match_wire = wire * lines.height_um * bits  # ohm
    match_line = lines.match_ff * bits  # fF
    tau = on * (match_line + drain * bits) + match_wire * (drain * bits + match_line / 2)
    tau += precharge * match_line
    tau += wire * lines.width_um * entries * lines.search_ff * entries / 2
    return math.log(2) * tau * 1e-6  # ohm fF to ns


@dataclass(frozen=True)
class CamArray:
    """``rows`` words of ``columns`` cells of a kind; see the module's text."""

    rows: int
    columns: int
    cell: str
    technology: Technology

    def _band(self, name: str) -> Band:
        return self.technology[f"cam.{name}.{self.cell}"].band

    @property
    def lines(self) -> int:
        return self.rows + self.columns

    def search_j(self, compared: float, matched: float, charged: float | None = None) -> Band:
        """One search of all rows that compares ``compared`` columns and matches a share ``matched`` of the rows.

        ``charged`` columns hang on the part of a match line that is charged; all unless it says otherwise.
        """
        hanging = self.columns if charged is None else charged
        discharged = self._band("match_line_energy") * (self.rows * hanging * (1.0 - matched))
        raised = self._band("search_line_energy") * (self.rows * compared)
        return (discharged + raised) * 1e-15

    @property
    def search_s(self) -> float:
        """Time from the precharge to the sensed match lines."""
        if self.cell != "fefet":
            return self.technology[f"cam.search_time.{self.cell}"].value * 1e-9
        lines = Lines.of(self.technology, self.technology["cam.cell_area.fefet"].value)
        driving = self.technology["cam.driver_time"].value * math.log2(self.rows)
        return (line_time_ns(self.technology, lines, self.rows, self.columns) + driving) * 1e-9

    def write_j(self, cells: float) -> Band:
        return self._band("write_energy") * (cells * 1e-12)

    @property
    def write_s(self) -> float:
        """Of a row or a column."""
        return self.technology[f"cam.write_time.{self.cell}"].value * 1e-9

    @property
    def area_mm2(self) -> Band:
        cells = self._band("cell_area") * (
            self.rows * self.columns * self.technology["cam.area_factor"].value
        )
        return (cells + self.technology["cam.line_area"].band * self.lines) * 1e-6

    @property
    def leakage_w(self) -> Band:
        """Of the periphery, in proportion to its lines; cells are taken not to leak."""
        return self.technology["cam.leakage.logic"].band * (self.lines / FIT_LINES * 1e-6)
