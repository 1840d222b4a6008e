"""Similarity search in content-addressable memory: what one query costs, over as many arrays as it takes.

Words longer than an array are divided over arrays side by side (horizontal merge: match flags are combined, partial
distances added), more words than rows over arrays one below the other (vertical merge: winners compared), after C4CAM
(arXiv 2309.06418) and CAMASim (arXiv 2403.03442), whose adders, registers, comparators and encoders merge the answers.

A match line falls the faster the more bits differ. Exact search looks once; threshold and best search look ``levels``
times while it falls, so each array tells distances up to ``levels`` apart and takes larger ones for equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from compressors.errors import UnknownName
from compressors.registry import check_range
from energy.associative.circuits import CELLS, CamArray
from energy.cost import Band, Cost, Ledger
from energy.technology import Technology

Match = Literal["exact", "best", "threshold"]
MATCHES = ("exact", "best", "threshold")
SUBARRAYS = {"tcam": 1, "mcam2": 2, "mcam3": 3}
"""Cells of CAMASim's tables, and the bits that each holds."""


@dataclass(frozen=True)
class SearchWork:
    """Searches of one memory in an inference, as in a model of hyperdimensional computing.

    Attributes:
        name: of the memory.
        entries, bits: words, and components of each.
        planes: bits of a stored component, each in a cell of its own where cells hold one bit.
        query_planes: bits of a query's component, searched one after the other.
        queries: per inference.
        match: ``exact``, ``best`` (the nearest) or ``threshold`` (all near enough).
        top_k: how many of the nearest are wanted.
    """

    name: str
    entries: int
    bits: int
    planes: int = 1
    query_planes: int = 1
    queries: int = 1
    match: Match = "best"
    top_k: int = 1

    def __post_init__(self) -> None:
        for name in ("entries", "bits", "planes", "query_planes", "queries", "top_k"):
            check_range(f"{self.name}.{name}", getattr(self, name), 1, 1 << 31)
        if self.match not in MATCHES:
            raise UnknownName("match", self.match, MATCHES, key=f"{self.name}.match")


@dataclass(frozen=True)
class Subarray:
    """A FeFET subarray as CAMASim tabulates it; the interface of :class:`CamArray`.

    Tabulated are as many rows as columns; energy is taken to go with the rows. Area and leakage are those of the line
    model, as CAMASim has none.
    """

    rows: int
    columns: int
    cell: str
    technology: Technology

    def _grown(self, name: str) -> Band:
        growth = self.technology[f"cam.subarray_growth.{name}"].value
        return self.technology[f"cam.subarray_{name}.{self.cell}"].band * ((self.columns / 64) ** growth)

    def search_j(self, compared: float, matched: float) -> Band:
        """One search of all rows, whatever it compares and matches."""
        del compared, matched
        return self._grown("search_energy") * (self.rows / self.columns * 1e-12)

    def write_j(self, cells: float) -> Band:
        return self._grown("write_energy") * (cells / self.columns * 1e-12)

    @property
    def search_s(self) -> float:
        return self._grown("search_time").nominal * 1e-9

    @property
    def area_mm2(self) -> Band:
        return CamArray(self.rows, self.columns, "fefet", self.technology).area_mm2

    @property
    def leakage_w(self) -> Band:
        return CamArray(self.rows, self.columns, "fefet", self.technology).leakage_w


def make_array(rows: int, columns: int, cell: str, technology: Technology) -> CamArray | Subarray:
    """An array of ``cell``, of the line model or as tabulated.

    Raises:
        UnknownName: no such cell.
    """
    if cell in SUBARRAYS:
        return Subarray(rows, columns, cell, technology)
    if cell not in CELLS:
        raise UnknownName("cell", cell, (*CELLS, *SUBARRAYS), key="accelerator.cell")
    return CamArray(rows, columns, cell, technology)


@dataclass(frozen=True)
class Layout:
    """Arrays of a memory: ``horizontal`` per word, ``vertical`` for the words; ``cells`` in use."""

    horizontal: int
    vertical: int
    cells: int

    @property
    def arrays(self) -> int:
        return self.horizontal * self.vertical


@dataclass(frozen=True)
class Searcher:
    """Arrays of one shape; ``levels`` distances that each tells apart."""

    array: CamArray | Subarray
    levels: int

    @property
    def technology(self) -> Technology:
        return self.array.technology

    def layout(self, entries: int, bits: int, planes: int = 1) -> Layout:
        """Planes lie in arrays of their own, as their distances count differently."""
        planes = -(-planes // SUBARRAYS.get(self.array.cell, 1))
        return Layout(
            -(-bits // self.array.columns) * planes,
            -(-entries // self.array.rows),
            entries * bits * planes,
        )

    def search_j(self, layout: Layout, compared: float = 1.0) -> Band:
        """All arrays search once; ``compared`` is the share of the columns whose search lines are raised."""
        return self.array.search_j(self.array.columns * compared, 0.0) * layout.arrays

    def merge_j(self, layout: Layout, entries: int, match: Match, top_k: int = 1) -> Band:
        """What becomes of the match lines of all arrays, once per search."""
        unit = {
            n: self.technology[f"cam.merge_energy.{n}"].band * 1e-15
            for n in ("adder", "register", "comparator", "encoder")
        }
        looks = 1 if match == "exact" else self.levels
        merged = unit["register"] * (entries * layout.horizontal * looks)
        merged += unit["encoder"] * (layout.vertical * top_k)
        if match != "exact":
            width = self.distance_bits(layout)
            merged += unit["adder"] * ((layout.horizontal - 1) * entries * width)
            compared = entries if match == "threshold" else (entries - 1) * top_k
            merged += unit["comparator"] * (compared * width)
        return merged

    def distance_bits(self, layout: Layout) -> int:
        """Bits of a whole word's distance."""
        return (self.levels * layout.horizontal).bit_length()

    def merge_s(self, layout: Layout, entries: int, match: Match, top_k: int = 1) -> float:
        """Time from the match lines to the answer: a tree of adders, a tree of comparators per winner."""
        time = {
            n: self.technology[f"cam.merge_time.{n}"].value * 1e-9
            for n in ("adder", "register", "comparator", "encoder")
        }
        total = time["register"] + time["encoder"]
        if match != "exact":
            total += time["adder"] * math.ceil(math.log2(layout.horizontal))
            comparing = 1 if match == "threshold" else math.ceil(math.log2(entries)) * top_k
            total += time["comparator"] * comparing
        return total


def search_cost(works: list[SearchWork], searcher: Searcher) -> Cost:
    """Cost of one inference's searches, each memory in arrays of its own.

    Loading the memories is not part of an inference; ``load_j`` prices it.
    """
    tech, array = searcher.technology, searcher.array
    move = tech["cam.router_energy"].band + tech["cam.bus_energy"].band
    layouts = {w.name: searcher.layout(w.entries, w.bits, w.planes) for w in works}
    arrays = sum(layout.arrays for layout in layouts.values())
    leakage_w = array.leakage_w * arrays
    ledger, latency, utilisation = Ledger(), {}, {}
    for work in works:
        layout = layouts[work.name]
        searches = work.queries * work.query_planes
        ledger.add(work.name, "search", searcher.search_j(layout) * searches)
        merge_j = searcher.merge_j(layout, work.entries, work.match, work.top_k)
        ledger.add(work.name, "merge", merge_j * searches)
        queried = work.queries * work.query_planes * work.bits * layout.vertical
        answered = work.queries * work.top_k * max(work.entries - 1, 1).bit_length()
        ledger.add(work.name, "interconnect", move * (queried * 1e-12), "inputs")
        ledger.add(work.name, "interconnect", move * (answered * 1e-12), "outputs")
        merge_s = searcher.merge_s(layout, work.entries, work.match, work.top_k)
        latency[work.name] = work.queries * (work.query_planes * array.search_s + merge_s)
        utilisation[work.name] = layout.cells / (layout.arrays * array.rows * array.columns)
        ledger.add(work.name, "leakage", leakage_w * latency[work.name])
    return Cost(
        ledger.energy_j,
        latency,
        {"cam arrays": array.area_mm2 * arrays},
        utilisation,
        notes=search_notes(works, searcher),
        operand_j=ledger.operand_j,
        bound=dict.fromkeys(latency, "compute"),
        leakage_w=leakage_w,
    )


def load_j(works: list[SearchWork], searcher: Searcher) -> Band:
    """Writing all memories once."""
    cells = sum(searcher.layout(w.entries, w.bits, w.planes).cells for w in works)
    return searcher.array.write_j(cells)


def search_notes(works: list[SearchWork], searcher: Searcher) -> tuple[str, ...]:
    notes = ["loading the memory is not part of an inference"]
    coarse = [w.name for w in works if w.match != "exact" and w.bits > searcher.levels]
    if coarse:
        notes.append(f"distances beyond {searcher.levels} per array are not told apart: {', '.join(coarse)}")
    return tuple(notes)
