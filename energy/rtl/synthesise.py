"""Count what a design takes: LUTs and flip-flops of an FPGA fabric, or gates of a generic library, by Yosys."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from compressors.errors import UnknownName
from energy.rtl.design import Design, Port
from energy.rtl.tools import ToolError, tool

GATES = "AND,NAND,OR,NOR,XOR,XNOR,MUX"
"""The generic library: gates of two inputs, and a multiplexer."""
SCRIPTS = {
    "ice40": "synth_ice40 -top {top}",
    "xc7": "synth_xilinx -family xc7 -nodsp -noiopad -noclkbuf -flatten -top {top}",
    "gates": f"synth -flatten -top {{top}}; abc -g {GATES}; opt_clean",
}
"""Target -> Yosys commands: LUTs of four inputs with carry chains, LUTs of six with carry chains, gates."""


@dataclass(frozen=True)
class Counts:
    """Cells of a synthesised design.

    Attributes:
        logic: LUTs, or gates; those inside carry chains are cells of their own and not counted here.
        flip_flops: registers of one bit.
        carries: bits of carry chains on ``ice40``, chains of four bits on ``xc7``.
    """

    logic: int
    flip_flops: int
    carries: int


def synthesise(design: Design, target: str) -> Counts:
    """Synthesise ``design`` for ``ice40``, ``xc7`` or ``gates`` and count.

    Raises:
        UnknownName: another target.
        ToolError: Yosys is missing, or refuses the text.
    """
    if target not in SCRIPTS:
        raise UnknownName("target", target, SCRIPTS)
    with tempfile.TemporaryDirectory(prefix="dse-rtl-") as folder:
        at = Path(folder)
        (at / "design.v").write_text(design.text, encoding="utf-8")
        script = f"read_verilog design.v; {SCRIPTS[target].format(top=design.name)}; tee -o cells.txt stat"
        tool("yosys").run("-q", "-p", script, cwd=at)
        return count(_cells((at / "cells.txt").read_text(encoding="utf-8")))


def count(cells: dict[str, int]) -> Counts:
    """Sort cells by name into logic, flip-flops and carries.

    Raises:
        ToolError: a kind of cell that is none of them, so that nothing is left out in silence.
    """
    logic = flip_flops = carries = 0
    for name, number in cells.items():
        if name == "$scopeinfo":  # what was flattened away, no cell
            continue
        if re.fullmatch(r"SB_LUT4|LUT\d|INV|MUXF\d|\$_(AND|NAND|OR|NOR|XOR|XNOR|MUX|NOT)_", name):
            # a multiplexer between LUTs is no LUT, and an inverter goes into the cell behind it
            logic += number * (not name.startswith(("MUXF", "INV")) and name != "$_NOT_")
        elif re.fullmatch(r"SB_DFF\w*|FD[RSCP]E(_1)?|\$_S?DFFE?_\w+", name):
            flip_flops += number
        elif re.fullmatch(r"SB_CARRY|CARRY4", name):
            carries += number
        elif re.fullmatch(r"SRL16E|SRLC32E", name):
            logic += number  # a LUT that holds a chain of registers
        else:
            raise ToolError(f"Yosys left {number} cells of the kind {name}, which are not counted")
    return Counts(logic, flip_flops, carries)


def _cells(text: str) -> dict[str, int]:
    """Cells by kind from what ``stat`` prints, whose columns differ between versions."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        old = re.fullmatch(r"\s+([A-Z$][\w$]*)\s+(\d+)", line)
        new = re.fullmatch(r"\s+(\d+)\s+(?:[\d.eE+-]+\s+)?([A-Z$][\w$]*)", line)
        if old:
            found[old.group(1)] = int(old.group(2))
        elif new:
            found[new.group(2)] = int(new.group(1))
    if not found:
        raise ToolError(f"Yosys printed no cells: {text.strip()[-400:]}")
    return found


def top_speed_mhz(design: Design, *, seed: int = 1, device: str = "hx8k", package: str = "ct256") -> float:
    """Clock that nextpnr reaches on an iCE40 with registers around the design, in MHz, after place and route.

    Raises:
        ToolError: a tool is missing, or the design does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="dse-rtl-") as folder:
        at = Path(folder)
        (at / "design.v").write_text(design.text + "\n" + _harness(design), encoding="utf-8")
        script = "read_verilog design.v; synth_ice40 -top harness -json design.json"
        tool("yosys").run("-q", "-p", script, cwd=at)
        arguments = (f"--{device}", "--package", package, "--json", "design.json", "--freq", "400")
        tool("nextpnr-ice40").run(
            *arguments, "--seed", str(seed), "--timing-allow-fail", "--report", "report.json", "-q", cwd=at
        )
        report = (at / "report.json").read_text(encoding="utf-8")
    found = re.findall(r'"achieved":\s*([\d.]+)', report)
    if not found:
        raise ToolError("nextpnr reports no clock")
    return min(float(value) for value in found)


def _harness(design: Design) -> str:
    """A module that feeds the inputs through a shift register and folds the outputs into one pin."""
    wide_in = sum(port.width for port in design.inputs)
    wide_out = sum(port.width for port in design.outputs)
    wires = [
        f".{p.name}({part})" for p, part in zip(design.inputs, _parts(design.inputs, "given"), strict=True)
    ]
    wires += [
        f".{p.name}({part})" for p, part in zip(design.outputs, _parts(design.outputs, "made"), strict=True)
    ]
    return f"""\
module harness (input clk, input in, output reg out);
    reg [{wide_in - 1}:0] given;
    wire [{wide_out - 1}:0] made;
    reg [{wide_out - 1}:0] taken, folded;
    {design.name} dut (.clk(clk), {", ".join(wires)});
    always @(posedge clk) begin
        given <= {{given, in}};
        taken <= made;
        folded <= taken ^ {{folded, 1'b0}}; // a chain, so that reading the outputs is never the slowest path
        out <= folded[{wide_out - 1}];
    end
endmodule
"""


def _parts(ports: tuple[Port, ...], word: str) -> list[str]:
    parts, low = [], 0
    for port in ports:
        parts.append(f"{word}[{low} +: {port.width}]")
        low += port.width
    return parts
