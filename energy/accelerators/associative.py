"""An associative processor: weights folded into a program of adds, carried out in content-addressable memory.

The machine of "Full-Stack Optimization for CAM-Only DNN Inference" (arXiv 2401.12630, RTM-AP) as far as it is described
there, and the same on CMOS, FeFET and RRAM cells. Weights are never stored: a layer is its adder graph
(sums are shared within blocks of outputs and inputs), and an addition is a handful of compare and write passes per
bit (``energy.associative``) that every row carries out at once. A row holds one output pixel: its patch of inputs, the
sums, the outputs, as words along the columns; rows without a pixel are switched off. On racetracks a column is a
nanowire per row with ``domains`` bits behind ``ports``, and moving along a word shifts it: as far as a word is long,
and a third of what a port serves to find it.

Three levels: arrays of ``rows`` by ``columns``, tiles of arrays behind a bus, a chip with a router, an activation
buffer, a program memory and the units that scale sums. Where a pixel's words do not fit one row, several arrays hold
them and pass partial sums on; where arrays are idle, they take a copy of the inputs and a part of the outputs.

What is left out: error correction, refresh of worn cells, and the controllers that expand instructions into passes.
The constants of arXiv 2401.12630 are not known; the shipped ones and their sources are ``cam.*`` and ``racetrack.*``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from energy.accelerators import register_accelerator
from energy.accelerators.float_unit import NOTE, FloatUnits
from energy.associative.circuits import CamArray
from energy.associative.layers import ENCODING, Placement, Program, patch_bits, place, program
from energy.associative.settings import AssociativeConfig
from energy.associative.tracks import Tracks
from energy.cost import Band, Cost, Ledger
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

_KB = 8 * 1024
_UNKNOWN = (
    "the racetrack and CAM constants of arXiv 2401.12630 are not known: shifts from RTSim, writes from CORUSCANT, "
    "match lines as of a 45 nm FeFET array"
)


@dataclass(frozen=True)
class _Plan:
    """A layer's program and where it runs; ``bits`` of program or of float weights."""

    layer: LayerWork
    program: Program | None
    place: Placement | None
    bits: float

    @property
    def idle(self) -> bool:
        """Nothing to compute: no weight that is not zero."""
        return self.program is not None and self.program.counts.peak_bits == 0


@dataclass(frozen=True)
class _Moved:
    """Bits that move for a layer: read from the buffer, written into rows (a patch per pixel), read out of them, and
    passed on as partial sums between arrays that hold a pixel together."""

    read: float
    loaded: float
    read_out: float
    passed_on: float


@register_accelerator("associative", AssociativeConfig)
class Associative:
    """See the module's text. All energies are per inference of one image."""

    encodings = (ENCODING,)

    def __init__(self, config: AssociativeConfig, technology: Technology) -> None:
        self.config, self.technology = config, technology
        self.reuse_block = config.block
        self.array = CamArray(config.rows, config.columns, config.cell, technology)
        self.tracks = Tracks(config.domains, config.ports)
        self._float = FloatUnits(config.float_units, technology["clock_hz"].value, technology)
        racetrack = config.domains > 1
        self._write = technology["racetrack.write_energy" if racetrack else f"cam.write_energy.{config.cell}"]
        self._write_s = technology["racetrack.write_time"].value * 1e-9 if racetrack else self.array.write_s
        self._shift_s = technology["racetrack.shift_time"].value * 1e-9 if self.tracks.shifted else 0.0

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; granularities are of no matter, as weights are a program."""
        plans = [self._plan(layer) for layer in workload.layers]
        bits = sum(plan.bits for plan in plans)
        held = min(1.0, self.config.program_kb * _KB / bits) if bits else 1.0
        program_kb = bits * held / _KB
        activation_kb = max(self._live_bits(layer) for layer in workload.layers) / _KB
        area, leakage_w = self._area(any(p.program is None for p in plans), program_kb, activation_kb)
        ledger, latency, utilisation, bound = Ledger(), {}, {}, {}
        for plan in plans:
            name = plan.layer.name
            compute_s = self._time_s(plan)
            dram_s = plan.bits * (1.0 - held) / (self.config.dram_gb_s * 8e9)
            latency[name] = max(compute_s, dram_s)
            bound[name] = "dram" if dram_s > compute_s else "compute"
            utilisation[name] = self._utilisation(plan, latency[name])
            self._move(ledger, plan, activation_kb, program_kb, held)
            if plan.program is None:
                ledger.add(name, "float units", self._float.energy_j(plan.layer))
            else:
                self._compute(ledger, plan)
            ledger.add(name, "leakage", leakage_w * latency[name])
        dram = self.technology["dram_energy"].band
        ledger.add(workload.layers[0].name, "dram", dram * (workload.image_bits * 1e-12), "inputs")
        return Cost(
            ledger.energy_j,
            latency,
            area,
            utilisation,
            self._notes(workload, plans, held, program_kb, activation_kb),
            ledger.operand_j,
            bound,
            leakage_w,
            extrapolated=self.config.domains > 1 or self.config.cell != "fefet",
        )

    def _plan(self, layer: LayerWork) -> _Plan:
        if layer.is_float:
            return _Plan(layer, None, None, float(layer.outputs * layer.reduction * FLOAT_BITS))
        c, found = self.config, program(layer)
        where = place(
            layer.pixels,
            layer.outputs,
            found.counts.peak_bits,
            c.rows,
            c.row_bits,
            c.arrays,
            c.outputs_per_array,
        )
        instructions = found.counts.additions + found.scalings
        return _Plan(layer, found, where, float(instructions * c.instruction_bits))

    def _time_s(self, plan: _Plan) -> float:
        """Passes one after another, with the shifts between them; loads and read-out before and after."""
        if plan.program is None:
            return self._float.latency_s(plan.layer)
        if plan.idle:
            return 0.0
        outputs, loads = plan.program.counts.output_bits, self._patch(plan.layer)
        loads += outputs * (plan.place.splits > 1)
        outer_s = loads * (self._write_s + self._shift_s) + outputs * (self.array.search_s + self._shift_s)
        return (self._arithmetic_s(plan) + outer_s) * plan.place.time_share

    def _arithmetic_s(self, plan: _Plan) -> float:
        counts = plan.program.counts
        found = counts.in_place * self.tracks.slowest_seek(2)
        found += (counts.additions - counts.in_place) * self.tracks.slowest_seek(3)
        if self.config.arithmetic == "passes":
            passes_s = counts.compares * self.array.search_s + counts.writes * self._write_s
            return passes_s + (counts.bit_steps + found) * self._shift_s
        read_s = self.technology["racetrack.read_time"].value * 1e-9
        together = self.config.operands - 1
        return (
            counts.bit_steps * (read_s + self._write_s + self._shift_s) + found * self._shift_s
        ) / together

    def _compute(self, ledger: Ledger, plan: _Plan) -> None:
        """Book what the arrays and the scaling units do for an integer layer."""
        layer, counts, name = plan.layer, plan.program.counts, plan.layer.name
        if not plan.idle:
            rows = layer.pixels
            read_out = counts.output_bits * plan.place.splits
            if self.config.arithmetic == "passes":
                self._search(ledger, name, rows, counts.compares, counts.compared_cells)
                ledger.add(
                    name, "cell writes", self._write.band * (counts.written_cells * layer.pixels * 1e-12)
                )
                steps = counts.track_steps + counts.words * self.tracks.seek
                self._shift(ledger, name, rows * steps)
            else:
                per_bit = self.technology["racetrack.addition_energy"].band
                additions = counts.bit_steps / (self.config.operands - 1) * rows
                ledger.add(name, "transverse additions", per_bit * (additions * 1e-12))
            self._search(ledger, name, rows, read_out, read_out)
            self._shift(ledger, name, rows * read_out)
        scaling = self.technology["pe_energy.16/16"].band
        sums = (plan.program.scalings + plan.program.combining + layer.added * layer.outputs) * layer.pixels
        ledger.add(name, "post-processing", scaling * (sums * 1e-12), "outputs")

    def _search(self, ledger: Ledger, name: str, rows: int, compares: int, cells: int) -> None:
        """``compares`` passes over ``rows`` rows, which compare ``cells`` cells of a row in all."""
        if compares:
            compared = cells / compares
            charged = None if self.config.match_line == "row" else compared
            one = self.array.search_j(compared, 2.0**-compared, charged)
            ledger.add(name, "search", one * (compares * rows / self.config.rows))

    def _shift(self, ledger: Ledger, name: str, track_steps: float) -> None:
        if self.tracks.shifted:
            ledger.add(name, "shifts", self.technology["racetrack.shift_energy"].band * (track_steps * 1e-12))

    def _move(
        self, ledger: Ledger, plan: _Plan, activation_kb: float, program_kb: float, held: float
    ) -> None:
        """Book inputs on their way into the arrays, outputs on their way back, and the program."""
        layer, name, sram, tech = plan.layer, plan.layer.name, self.technology.sram, self.technology
        elements = layer.outputs * layer.pixels
        residual = (FLOAT_BITS if layer.is_float else self.config.residual_bits) * elements
        bus, router = (tech[f"cam.{n}_energy"].band * 1e-12 for n in ("bus", "router"))
        moved = self._traffic(plan)
        buffer_j = sram.read_j_per_bit(activation_kb) * (moved.read + layer.added * residual)
        written = elements * layer.output_bits + layer.kept * residual
        ledger.add(name, "activation buffer", buffer_j, "inputs")
        ledger.add(name, "activation buffer", sram.write_j_per_bit(activation_kb) * written, "outputs")
        ledger.add(name, "chip router", router * moved.read, "inputs")
        ledger.add(name, "chip router", router * written, "outputs")
        if moved.loaded:
            ledger.add(name, "tile bus", bus * moved.loaded, "inputs")
            ledger.add(name, "tile bus", bus * (moved.read_out + moved.passed_on), "outputs")
            ledger.add(name, "row loads", self._write.band * (moved.loaded * 1e-12), "inputs")
            ledger.add(name, "row loads", self._write.band * (moved.passed_on * 1e-12), "outputs")
            self._shift(ledger, name, moved.loaded + moved.passed_on)
        rounds = 1 if plan.place is None else plan.place.rounds
        ledger.add(name, "program memory", sram.read_j_per_bit(program_kb) * (plan.bits * rounds), "weights")
        if held < 1.0:
            from_dram = tech["dram_energy"].band * (plan.bits * (1.0 - held) * 1e-12)
            ledger.add(name, "dram", from_dram, "weights")

    def _traffic(self, plan: _Plan) -> _Moved:
        layer = plan.layer
        read = patch_bits(layer, self.config.rows)
        if plan.program is None:
            return _Moved(read, 0.0, 0.0, 0.0)
        if plan.idle:
            return _Moved(0.0, 0.0, 0.0, 0.0)
        outputs = float(plan.program.counts.output_bits * layer.pixels)
        loaded = float(self._patch(layer) * layer.pixels * plan.place.spread)
        return _Moved(read * plan.place.spread, loaded, outputs, outputs * (plan.place.splits - 1))

    @staticmethod
    def _patch(layer: LayerWork) -> int:
        """Bits of the inputs that one output pixel needs."""
        return layer.reduction * layer.groups * layer.input_bits

    def _utilisation(self, plan: _Plan, latency_s: float) -> float:
        """Rows times time in use, of all rows of the machine."""
        if plan.program is None or plan.idle or not latency_s:
            return 1.0
        used_s = self._time_s(plan) / plan.place.time_share * plan.layer.pixels
        return min(used_s / (latency_s * self.config.arrays * self.config.rows), 1.0)

    def _live_bits(self, layer: LayerWork) -> float:
        """Bits the activation buffer holds while a layer runs: its input, its output, the residual stream."""
        elements = layer.outputs * layer.pixels
        consumed = layer.inputs * layer.pixels * layer.stride[0] * layer.stride[1]
        residual_bits = FLOAT_BITS if layer.is_float else self.config.residual_bits
        stream = elements * residual_bits if layer.added or layer.kept else 0
        return float(consumed * layer.input_bits + elements * layer.output_bits + stream)

    def _area(self, has_float: bool, program_kb: float, activation_kb: float) -> tuple[dict[str, Band], Band]:
        c, tech = self.config, self.technology
        area = {"cam arrays": self.array.area_mm2 * c.arrays}
        leakage = self.array.leakage_w * c.arrays
        if c.domains > 1:
            domains = (
                2 * c.domains * c.rows * c.columns * c.arrays
            )  # a track on either side of a ternary cell
            area["racetracks"] = tech["racetrack.domain_area"].band * (domains * 1e-6)
        area["post-processing"] = tech["pe_area.16/16"].band * (c.tiles * 1e-6)
        leakage += tech["pe_leakage.16/16"].band * (c.tiles * 1e-6)
        for name, capacity_kb in (("program memory", program_kb), ("activation buffer", activation_kb)):
            area[name] = tech.sram.area_mm2(capacity_kb)
            leakage += tech.sram.leakage_w(capacity_kb)
        if has_float:
            area["float units"] = self._float.area_mm2
            leakage += self._float.leakage_w
        return area, leakage

    def _notes(
        self,
        workload: Workload,
        plans: list[_Plan],
        held: float,
        program_kb: float,
        activation_kb: float,
    ) -> tuple[str, ...]:
        notes = [_UNKNOWN] if self.config.domains > 1 else []
        if self.config.cell == "rram":
            notes.append("RRAM cells at the nodes they were published for (180 and 90 nm), not rescaled")
        unshared = [p.layer.name for p in plans if p.program is not None and not p.program.shared]
        if unshared:
            notes.append(
                f"{len(unshared)} layers whose sharing was not counted: every output adds its own inputs"
            )
        notes.append("bits of sums are taken as random; what a row matches depends on them")
        if held < 1.0:
            notes.append(f"{1 - held:.0%} of the program comes from DRAM with every inference")
        if any(p.program is None for p in plans):
            notes.append(NOTE)
        for name, capacity_kb in (("program memory", program_kb), ("activation buffer", activation_kb)):
            if self.technology.sram.extrapolates(capacity_kb):
                notes.append(f"{name} of {capacity_kb:.2f} KB lies outside the SRAM table")
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return tuple(notes)
