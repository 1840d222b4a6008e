"""ResNet-18 with random ternary weights, as work for accelerator models, with its additions counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressors.reuse import adder_graph
from compressors.tensor import SlicedTensor
from energy.activity import ReuseActivity, input_activity, weight_activity
from energy.associative.counts import graph_counts
from energy.workload import LayerWork

BLOCK = (64, 288)
"""Outputs and inputs that share sums: as many outputs as an array group keeps, 32 channels of 3 x 3."""
ACTIVATION_BITS, IMAGE_BITS = 4, 8


@dataclass(frozen=True)
class Shape:
    """A convolution of ResNet-18 (a linear layer is one of 1 x 1 on one pixel)."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    output: int
    added: bool = False


def resnet18() -> list[Shape]:
    """All 21 layers for 224 x 224 images."""
    shapes = [Shape("conv1", 3, 64, 7, 2, 112)]
    channels, size = 64, 56
    for stage, outputs in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            stride = 2 if stage > 1 and block == 0 else 1
            size //= stride
            name = f"layer{stage}.{block}"
            shapes.append(Shape(f"{name}.conv1", channels, outputs, 3, stride, size))
            shapes.append(Shape(f"{name}.conv2", outputs, outputs, 3, 1, size, added=True))
            if stride == 2:
                shapes.append(Shape(f"{name}.downsample", channels, outputs, 1, 2, size))
            channels = outputs
    return [*shapes, Shape("fc", 512, 1000, 1, 1, 1)]


@dataclass(frozen=True)
class Layer:
    """A layer's work, and its additions before and after sharing, per output pixel."""

    work: LayerWork
    before: int
    after: int


def ternary_layer(shape: Shape, sparsity: float, encodings: Sequence[str], seed: int) -> Layer:
    """Random ternary weights, of which ``sparsity`` are zero; random inputs of 4 bits, of 8 for the image."""
    rng = np.random.default_rng(seed)
    size = (shape.outputs, shape.inputs * shape.kernel**2)
    codes = np.where(rng.random(size) >= sparsity, rng.choice([-1, 1], size), 0)
    bits = IMAGE_BITS if shape.name == "conv1" else ACTIVATION_BITS
    graph = adder_graph(codes, BLOCK)
    rows = int((codes != 0).any(1).sum())
    counts = graph_counts(graph, bits, False)
    shared = ReuseActivity(
        adders_before=graph.adders_before,
        adders=graph.adders,
        adder_bits=counts.bit_steps,
        depth=graph.depth,
        scalings=rows,
        combining=0,
        multiplications_before=int(np.count_nonzero(codes)),
        multiplications=rows,
        passes=counts,
    )
    tensor = SlicedTensor.from_terms(codes[None], np.ones((1, size[0], 1), np.float32), size, "ternary")
    work = LayerWork(
        name=shape.name,
        outputs=shape.outputs,
        inputs=shape.inputs,
        groups=1,
        kernel=(shape.kernel, shape.kernel),
        stride=(shape.stride, shape.stride),
        dilation=(1, 1),
        output_size=(shape.output, shape.output),
        weights={e: weight_activity(tensor, e) for e in encodings},
        input=input_activity(rng.integers(0, 1 << bits, (1, 4096)), bits, False),
        output_bits=ACTIVATION_BITS,
        added=shape.added,
        reuse=shared,
    )
    return Layer(work, graph.adders_before, graph.adders)
