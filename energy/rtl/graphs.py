"""A layer's products as the adders they share: Verilog of an :class:`~compressors.adders.AdderGraph`.

One wire or register per node, as wide as its sum can get. Shifts are wiring. Pipelined, every adder has a register
behind it, and what a later adder reads waits in registers, so that all outputs belong to inputs of one cycle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from compressors.adders import AdderGraph, input_range
from compressors.registry import check_range
from compressors.reuse import Block, adder_graph
from energy.rtl.design import Design, Port


def graph_design(
    graph: AdderGraph,
    bits: int,
    signed: bool,
    *,
    name: str = "adder_graph",
    pipelined: bool = True,
    latency: int = 0,
) -> Design:
    """Verilog of an adder graph: port ``x`` holds its inputs, ``y`` its outputs, each as wide as it needs.

    Rows that are empty have no output. :func:`output_fields` says where each row lies in ``y``. Outputs come after the
    graph's depth in cycles, or after ``latency`` where that is more; at once unless ``pipelined``.

    Raises:
        ConfigError: more than 32 bits per input.
    """
    check_range("bits", bits, 1, 32)
    writer = _Writer(graph, bits, signed, pipelined, latency)
    fields = output_fields(graph, bits, signed)
    body = writer.body(fields)
    y_width = max(sum(width for _, width, _ in fields), 1)
    ports = (Port("x", graph.inputs * bits), Port("y", y_width, output=True))
    rows = len(graph.outputs)
    head = (
        f"// {graph.adders} adders for {rows} rows of {graph.inputs} inputs of {bits} bits; "
        f"{graph.adders_before} without sharing.\n"
        f"module {name} (input clk, {', '.join(port.declaration for port in ports)});\n"
    )
    asked = {"rows": rows, "inputs": graph.inputs, "bits": bits, "signed": int(signed)}
    asked |= {"adders": graph.adders, "pipelined": int(pipelined)}
    return Design(name, head + body + "endmodule\n", ports, writer.latency if pipelined else 0, asked)


def ternary_constant(
    weights: np.ndarray, bits: int, signed: bool, *, block: Block = None, pipelined: bool = True
) -> Design:
    """Dot products with constant integer weights ``[N, K]``, ternary ones say, or ``[K]`` for one: shared adders."""
    return graph_design(
        adder_graph(np.atleast_2d(weights), block), bits, signed, name="ternary_constant", pipelined=pipelined
    )


def output_fields(graph: AdderGraph, bits: int, signed: bool) -> list[tuple[int, int, bool]]:
    """Row, width and whether it is two's complement, of every output that ``y`` holds, the lowest first."""
    widths, ranges = graph.output_widths(bits, signed), graph.output_ranges(*input_range(bits, signed))
    filled = (int(row) for row in np.flatnonzero(widths))
    return [(row, int(widths[row]), bool(ranges[row, 0] < 0)) for row in filled]


def delay_bits(graph: AdderGraph, bits: int, signed: bool) -> int:
    """Bits of the registers in which nodes of a pipelined graph wait for later ones."""
    writer = _Writer(graph, bits, signed, True, 0)
    return sum(int(writer.width[node]) * waits for node, waits in writer.waits().items())


class _Writer:
    """The text of one graph, node by node."""

    def __init__(self, graph: AdderGraph, bits: int, signed: bool, pipelined: bool, latency: int) -> None:
        self.latency = max(graph.depth, latency)
        self.graph, self.bits, self.pipelined = graph, bits, pipelined
        self.width = graph.widths(bits, signed)
        self.negative = graph.ranges(*input_range(bits, signed))[:, 0] < 0
        self.depth = graph.node_depth

    def waits(self) -> dict[int, int]:
        """Node -> cycles it must be held for the last one that reads it; none unless pipelined."""
        found: dict[int, int] = defaultdict(int)
        if not self.pipelined:
            return found
        for place, (left, _, right, _, _) in enumerate(self.graph.operations):
            at = int(self.depth[self.graph.inputs + place]) - 1
            for node in (int(left), int(right)):
                found[node] = max(found[node], at - int(self.depth[node]))
        for node, _, _ in self.graph.outputs:
            if node >= 0:
                found[int(node)] = max(found[int(node)], self.latency - int(self.depth[node]))
        return {node: count for node, count in found.items() if count > 0}

    def body(self, fields: Sequence[tuple[int, int, bool]]) -> str:
        lines, registers = [], []
        for node in range(self.graph.inputs):
            if self.width[node]:
                source = f"x[{node * self.bits} +: {self.bits}]"
                lines.append(f"    wire {self._type(node)}n{node} = {source};")
        for place, operation in enumerate(self.graph.operations):
            node = self.graph.inputs + place
            value = self._sum(node, *(int(v) for v in operation))
            if self.pipelined:
                lines.append(f"    reg {self._type(node)}n{node};")
                registers.append(f"n{node} <= {value};")
            else:
                lines.append(f"    wire {self._type(node)}n{node} = {value};")
        for node, count in sorted(self.waits().items()):
            names = [f"n{node}"] + [f"n{node}_{k}" for k in range(1, count + 1)]
            lines.append(f"    reg {self._type(node)}{', '.join(names[1:])};")
            registers += [f"{late} <= {early};" for early, late in zip(names, names[1:], strict=False)]
        if registers:
            lines += [
                "    always @(posedge clk) begin",
                *(f"        {line}" for line in registers),
                "    end",
            ]
        at = 0
        for row, width, _ in fields:
            node, shift, sign = (int(v) for v in self.graph.outputs[row])
            value = self._operand(node, sign, shift, self.latency)
            lines.append(f"    assign y[{at} +: {width}] = {value}; // row {row}")
            at += width
        if not fields:
            lines.append("    assign y = 1'b0; // every row is empty")
        return "\n".join(lines) + "\n"

    def _type(self, node: int) -> str:
        sign = "signed " if self.negative[node] else ""
        return f"{sign}[{self.width[node] - 1}:0] "

    def _sum(self, node: int, left: int, left_sign: int, right: int, right_sign: int, shift: int) -> str:
        at = int(self.depth[node]) - 1
        a = self._operand(left, 1, 0, at)
        b = self._operand(right, 1, shift, at)
        if left_sign < 0 and right_sign < 0:
            return f"-{a} - {b}"
        if left_sign < 0:
            return f"{b} - {a}"
        return f"{a} {'+' if right_sign > 0 else '-'} {b}"

    def _operand(self, node: int, sign: int, shift: int, at: int) -> str:
        """A node as a signed number at cycle ``at``, shifted; the context extends it before it shifts."""
        late = at - int(self.depth[node]) if self.pipelined else 0
        name = f"n{node}_{late}" if late > 0 else f"n{node}"
        text = name if self.negative[node] else f"$signed({{1'b0, {name}}})"
        if sign < 0:
            text = f"-{text}"
        return f"({text} <<< {shift})" if shift else text
