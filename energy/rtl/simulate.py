"""Run a design with Icarus Verilog on given inputs, and compare its outputs bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from energy.rtl.design import Design, Port
from energy.rtl.tools import ToolError, tool


@dataclass(frozen=True)
class Step:
    """One cycle: a number per input port, and per output port what must be there ``latency`` cycles later.

    Outputs that are not named may hold anything.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int] = field(default_factory=dict)


def self_checking(design: Design, steps: Sequence[Step]) -> str:
    """A module ``testbench`` that plays the steps and prints every mismatch, then ``passed`` or ``failed``."""
    cycles = len(steps) + design.latency
    declared = [f"    {'wire' if p.output else 'reg'} {_range(p)}{p.name};" for p in design.ports]
    stored, checks, drives, data = [], [], [], []
    for port in design.ports:
        stored.append(f"    reg {_range(port)}{port.name}_at [0:{cycles - 1}];")
        if port.output:
            stored.append(f"    reg {port.name}_known [0:{cycles - 1}];")
            checks.append(
                f"            if ({port.name}_known[cycle] && {port.name} !== {port.name}_at[cycle]) begin\n"
                f"                failures = failures + 1;\n"
                f'                $display("cycle %0d: {port.name} is %h, expected %h", cycle, {port.name}, '
                f"{port.name}_at[cycle]);\n            end"
            )
        else:
            drives.append(f"            {port.name} = {port.name}_at[cycle];")
        data += _data(design, port, steps, cycles)
    wires = ", ".join(f".{name}({name})" for name in ("clk", *(p.name for p in design.ports)))
    return "\n".join(
        [
            f"// Plays {len(steps)} steps into {design.name}.",
            "`timescale 1ns/1ns",
            "module testbench;",
            "    reg clk;",
            *declared,
            *stored,
            "    integer cycle, failures;",
            f"    {design.name} dut ({wires});",
            "    initial begin",
            "        clk = 0;",
            "        failures = 0;",
            *data,
            f"        for (cycle = 0; cycle < {cycles}; cycle = cycle + 1) begin",
            *drives,
            "            #4;",
            *checks,
            "            #1 clk = 1;",
            "            #5 clk = 0;",
            "        end",
            '        if (failures) $display("failed"); else $display("passed");',
            "        $finish;",
            "    end",
            "endmodule",
            "",
        ]
    )


def simulate(design: Design, steps: Sequence[Step]) -> list[str]:
    """Mismatches in words; none where every output is as it must be.

    Raises:
        ToolError: Icarus Verilog is missing, or refuses the text.
    """
    return simulate_text(design.text, self_checking(design, steps))


def simulate_text(*texts: str) -> list[str]:
    """The same of Verilog that holds a testbench already."""
    with tempfile.TemporaryDirectory(prefix="dse-rtl-") as folder:
        at = Path(folder)
        for number, text in enumerate(texts):
            (at / f"part{number}.v").write_text(text, encoding="utf-8")
        names = [f"part{number}.v" for number in range(len(texts))]
        tool("iverilog").run("-g2001", "-Wall", "-s", "testbench", "-o", "run.vvp", *names, cwd=at)
        said = tool("vvp").run("run.vvp", cwd=at).splitlines()
    if not any(line.strip() in ("passed", "failed") for line in said):
        raise ToolError(f"the simulation ended without a verdict: {' '.join(said)[-600:]}")
    return [line for line in said if line.startswith("cycle ")]


def _range(port: Port) -> str:
    return f"[{port.width - 1}:0] " if port.width > 1 else ""


def _data(design: Design, port: Port, steps: Sequence[Step], cycles: int) -> list[str]:
    """Assignments of what a port is given, or must hold, in every cycle."""
    lines = []
    for cycle in range(cycles):
        if not port.output:
            value = steps[min(cycle, len(steps) - 1)].inputs[port.name]
            lines.append(f"        {port.name}_at[{cycle}] = {_literal(value, port.width)};")
            continue
        due = cycle - design.latency
        known = due >= 0 and port.name in steps[due].outputs
        lines.append(f"        {port.name}_known[{cycle}] = {known:d};")
        if known:
            value = steps[due].outputs[port.name]
            lines.append(f"        {port.name}_at[{cycle}] = {_literal(value, port.width)};")
    return lines


def _literal(value: int, width: int) -> str:
    return f"{width}'h{value & ((1 << width) - 1):x}"
