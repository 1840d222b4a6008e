"""From a compressed torch model to the workload that accelerator models price."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch

from compressors.graph import Layer
from compressors.model import CompressedModel
from energy.activity import input_activity, reuse_activity, weight_activity
from energy.bit_columns import ColumnRequest
from energy.workload import FLOAT_BITS, LayerWork, Workload

IMAGE_BITS = 8
"""Bits per pixel and channel of the images as they arrive."""


def trace_workload(
    model: CompressedModel,
    images: torch.Tensor,
    encodings: Iterable[str],
    unpriced: Collection[str] = (),
    reuse_block: tuple[int, ...] | None = None,
    columns: Collection[ColumnRequest] = (),
) -> Workload:
    """Shapes, formats and popcounted activity of every layer of ``model``.

    Args:
        model: the compressed network.
        images: float32 ``[n, channels, height, width]``; the inputs' activity is counted on them.
        encodings: weight encodings the accelerators ask for.
        unpriced: parts of the network left in floating point by the user, passed on to the cost's notes.
        reuse_block: rows and columns of weights that share sums; None: what they share is not counted.
        columns: bit columns the accelerators ask for.
    """
    encodings = tuple(dict.fromkeys(encodings))
    codes = model.input_codes(images)
    read_bits = {layer.name: _input_bits(model, layer.name) for layer in model.layers}
    works = []
    for layer in model.layers:
        grid, tensor = model.grids.get(layer.name), model.tensors.get(layer.name)
        shared = None
        if reuse_block is not None and tensor is not None and grid is not None:
            shared = reuse_activity(tensor, layer.groups, reuse_block, grid.bits, grid.signed)
        works.append(
            LayerWork(
                name=layer.name,
                **_shape(layer),
                weights={}
                if tensor is None
                else {e: weight_activity(tensor, e, columns, layer.groups) for e in encodings},
                input=None if grid is None else input_activity(codes[layer.name], grid.bits, grid.signed),
                output_bits=max((read_bits[name] for name in layer.consumers), default=FLOAT_BITS),
                added=layer.added,
                kept=layer.kept,
                reuse=shared,
            )
        )
    return Workload(tuple(works), int(images[0].numel()) * IMAGE_BITS, tuple(unpriced))


def _input_bits(model: CompressedModel, name: str) -> int:
    grid = model.grids.get(name)
    return FLOAT_BITS if grid is None else grid.bits


def _shape(layer: Layer) -> dict[str, object]:
    if layer.kind == "linear":
        outputs, inputs = layer.weight_shape
        positions = layer.output_shape[:-1]  # a linear layer may run over a sequence
        count = 1
        for size in positions:
            count *= size
        return {
            "outputs": outputs,
            "inputs": inputs,
            "groups": 1,
            "kernel": (1, 1),
            "stride": (1, 1),
            "dilation": (1, 1),
            "output_size": (1, count),
        }
    return {
        "outputs": layer.weight_shape[0],
        "inputs": layer.input_shape[0],
        "groups": layer.groups,
        "kernel": layer.weight_shape[2:],
        "stride": layer.stride,
        "dilation": layer.dilation,
        "output_size": layer.output_shape[1:],
    }
