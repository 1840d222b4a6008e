"""The Verilog of one compressed layer: its adder graph, and the small element that would run it serially."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressors.adders import AdderGraph, input_range
from compressors.reuse import Block, reuse
from compressors.slicing import from_codes, narrowed, reslice
from compressors.tensor import SlicedTensor
from energy.rtl.design import Design, Port, levels
from energy.rtl.graphs import graph_design, output_fields
from energy.rtl.simulate import Step
from energy.rtl.steps import graph_steps, popcount_steps, serial_steps, ternary_steps
from energy.rtl.trees import bit_serial, popcount_dot, ternary_mux_add

LANES = 16
VECTORS = 16
"""Lanes of the element, and steps that its testbench and the graph's play."""


@dataclass(frozen=True)
class LayerFormat:
    """How a layer reads its input: ``bits`` per value, two's complement if ``signed``; ``groups`` of channels."""

    bits: int
    signed: bool
    groups: int


@dataclass(frozen=True)
class Field:
    """Bits ``[low, low + width)`` of a layer's output: the sum of a term, run of inputs with one scale, and channel."""

    term: int
    run: int
    channel: int
    low: int
    width: int
    signed: bool


def module_name(layer: str) -> str:
    """A Verilog identifier for a layer's path."""
    name = re.sub(r"\W", "_", layer)
    return name if re.match(r"[A-Za-z_]", name) else f"layer_{name}"


def layer_graph(
    tensor: SlicedTensor, layout: LayerFormat, name: str, block: Block = None
) -> tuple[Design, list[Field]]:
    """All adder graphs of a layer in one module, for one position of its output.

    Port ``x`` holds the inputs that a position reads, ``groups * reduction`` numbers in the weights' order (channel,
    then row and column of the kernel); ``y`` the sums before any scale, where the fields say.

    Args:
        tensor: weights ``[N, ...]`` of ``groups`` channel groups.
        layout: of the input.
        name: of the module.
        block: rows and columns of weights that share sums, as in ``compressors.reuse``.
    """
    graphs = _graphs(tensor, layout.groups, block)
    depth = max(graph.depth for _, _, _, graph in graphs)
    texts, wires, fields, low = [], [], [], 0
    for number, (term, run, first, graph) in enumerate(graphs):
        rows = output_fields(graph, layout.bits, layout.signed)
        if not rows:
            continue
        part = graph_design(graph, layout.bits, layout.signed, name=f"{name}_{number}", latency=depth)
        column = _first_column(tensor, layout.groups, first, run)
        x = f"x[{column * layout.bits} +: {graph.inputs * layout.bits}]"
        wires.append(
            f"    {part.name} part{number} (.clk(clk), .x({x}), .y(y[{low} +: {part.outputs[0].width}]));"
        )
        texts.append(part.text)
        for row, width, signed in rows:
            fields.append(Field(term, run, first + row, low, width, signed))
            low += width
    inputs = layout.groups * tensor.columns
    ports = (Port("x", inputs * layout.bits), Port("y", max(low, 1), output=True))
    adders = sum(graph.adders for _, _, _, graph in graphs)
    head = (
        f"// {name}: {tensor.shape[0]} channels of {tensor.columns} inputs, {tensor.terms} terms; {adders} adders, "
        f"{sum(graph.adders_before for _, _, _, graph in graphs)} without sharing. Sums come {depth} cycles later.\n"
        f"module {name} (input clk, {', '.join(port.declaration for port in ports)});\n"
    )
    body = "\n".join(wires) if wires else "    assign y = 1'b0; // every weight is zero"
    asked = {"channels": tensor.shape[0], "inputs": inputs, "bits": layout.bits, "signed": int(layout.signed)}
    text = head + body + "\nendmodule\n" + "".join(f"\n{part}" for part in texts)
    return Design(name, text, ports, depth if wires else 0, {**asked, "adders": adders}), fields


def layer_graph_steps(
    design: Design, fields: Sequence[Field], tensor: SlicedTensor, layout: LayerFormat, seed: int = 0
) -> list[Step]:
    """Inputs drawn evenly, both ends of their range first, and the sums by plain integer products."""
    low, high = input_range(layout.bits, layout.signed)
    x = np.random.default_rng(seed).integers(low, high + 1, (layout.groups * tensor.columns, VECTORS))
    x[:, 0], x[:, 1] = low, high
    sums = layer_sums(tensor, layout.groups, x)
    rows = np.array([sums[f.term, f.run, f.channel] for f in fields]).reshape(len(fields), VECTORS)
    places = [(place, field.width, field.signed) for place, field in enumerate(fields)]
    return graph_steps(x, layout.bits, rows, places)


def layer_sums(tensor: SlicedTensor, groups: int, x: np.ndarray) -> np.ndarray:
    """``int64 [terms, runs, N, M]``: sums of ``x [groups * K, M]`` per term and run of inputs with one scale."""
    runs, per_group = tensor.scale.shape[2], tensor.shape[0] // groups
    codes = tensor.codes().reshape(tensor.terms, tensor.shape[0], runs, -1)
    parts = x.reshape(groups, runs, -1, x.shape[1])
    of_row = parts[np.arange(tensor.shape[0]) // per_group]
    return np.einsum("tnrk,nrkm->trnm", codes, of_row)


def layer_element(
    tensor: SlicedTensor, layout: LayerFormat, granularity: int, seed: int = 0
) -> tuple[Design, list[Step]]:
    """The element that suits a layer's format, and steps that play its first channels' first weights (first term).

    Ternary and binary weights are masks and signs in front of a tree of adders; where binary ones meet bits, both are
    counted. Other codes are taken in digits of ``granularity`` bits, sign and magnitude.
    """
    lanes = min(LANES, tensor.columns)
    rng = np.random.default_rng(seed)
    low, high = input_range(layout.bits, layout.signed)
    codes = tensor.codes()[0, :VECTORS, :lanes]
    x = rng.integers(low, high + 1, (len(codes), lanes))
    if tensor.encoding == "binary" and layout.bits == 1 and not layout.signed:
        design = popcount_dot(lanes, xnor=False)
        return design, popcount_steps(codes > 0, x, ((codes > 0) * x).sum(1))
    if tensor.encoding in ("ternary", "binary"):
        design = ternary_mux_add(lanes, layout.bits, signed=layout.signed)
        return design, ternary_steps(design, codes, x, (codes * x).sum(1))
    first = from_codes(
        codes[None],
        np.ones((1, len(codes), 1)),
        shape=codes.shape,
        bits=tensor.bits,
        encoding="sign_magnitude",
        granularity=granularity,
    )
    total = levels(lanes) + int(np.abs(codes).max(initial=1)).bit_length() + layout.bits + 1
    design = bit_serial(lanes, granularity, max(total, 2 * granularity + levels(lanes) + 2))
    return design, serial_steps(design, first, x[0], codes @ x[0])


def _graphs(tensor: SlicedTensor, groups: int, block: Block) -> list[tuple[int, int, int, AdderGraph]]:
    """Term, run of inputs with one scale, first channel, and graph, of every graph of a layer."""
    tensor = reslice(tensor, "csd", 1)
    per_group = tensor.shape[0] // groups
    every = np.ones(tensor.shape[1], bool)
    found = []
    for group in range(groups):
        rows = np.arange(tensor.shape[0]) // per_group == group
        part = tensor if groups == 1 else narrowed(tensor, rows, every)
        for term, graphs in enumerate(reuse(part, block).graphs):
            found += [(term, run, group * per_group, graph) for run, graph in enumerate(graphs)]
    return found


def _first_column(tensor: SlicedTensor, groups: int, channel: int, run: int) -> int:
    """Where in the inputs of all groups a graph's own begin."""
    group = channel // (tensor.shape[0] // groups)
    return group * tensor.columns + run * (tensor.columns // tensor.scale.shape[2])
