"""The circuits of one layer of an exported network, as files of Verilog with testbenches that check themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from dse.errors import CandidateError, UnknownName
from energy.rtl.layers import LayerFormat, layer_element, layer_graph, layer_graph_steps, module_name
from energy.rtl.simulate import self_checking

if TYPE_CHECKING:
    from compressors.model import CompressedModel

FOLDER = "verilog"


def layer_files(
    model: CompressedModel, layer: str, granularity: Mapping[str, int], block: tuple[int, ...] | None
) -> dict[str, str]:
    """Path -> text: the layer's adder graph, the element that would run it serially, a testbench of each, and ports.

    Args:
        model: the compressed network.
        layer: which.
        granularity: layer -> bits of a digit.
        block: rows and columns of weights that share sums; None: all of them.

    Raises:
        UnknownName: no such layer.
        CandidateError: a layer in floating point, which has no such circuit.
    """
    layers = {one.name: one for one in model.layers}
    if layer not in layers:
        raise UnknownName("layer", layer, layers, key="layer")
    if layer not in model.tensors or layer not in model.grids:
        what = "weights" if layer not in model.tensors else "inputs"
        raise CandidateError(
            f"layer {layer}: its {what} are in floating point, which has no Verilog here; choose another layer or trial"
        )
    tensor, grid = model.tensors[layer], model.grids[layer]
    layout = LayerFormat(grid.bits, grid.signed, layers[layer].groups)
    name = module_name(layer)
    graph, fields = layer_graph(tensor, layout, name, None if block is None else (block[0], block[1]))
    element, steps = layer_element(tensor, layout, granularity.get(layer, 1))
    described = {
        "layer": layer,
        "adder graph": {**graph.describe(), "outputs in y": [asdict(field) for field in fields]},
        "element": element.describe(),
    }
    files = {
        f"{name}.v": graph.text,
        f"{name}_testbench.v": self_checking(graph, layer_graph_steps(graph, fields, tensor, layout)),
        f"{name}_element.v": element.text,
        f"{name}_element_testbench.v": self_checking(element, steps),
        f"{name}.json": json.dumps(described, indent=2) + "\n",
    }
    return {f"{FOLDER}/{path}": text for path, text in files.items()}
