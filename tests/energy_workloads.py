"""Layers and workloads for tests of accelerator models: any shape, real activity of random integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from compressors.slicing import ENCODINGS, from_codes
from compressors.tensor import SlicedTensor
from energy.activity import InputActivity, WeightActivity, input_activity, weight_activity
from energy.workload import LayerWork, Workload


def integer_weights(outputs: int, reduction: int, *, bits: int, density: float, seed: int) -> SlicedTensor:
    """Codes of ``bits`` bits; each weight is nonzero with probability ``density``, nested in ``density``."""
    rng = np.random.default_rng(seed)
    largest = (1 << (bits - 1)) - 1
    codes = rng.integers(1, largest + 1, (outputs, reduction)) * rng.choice([-1, 1], (outputs, reduction))
    codes = np.where(rng.random((outputs, reduction)) < density, codes, 0)
    scale = np.ones((1, outputs, 1), np.float32)
    return from_codes(codes[None], scale, shape=codes.shape, bits=bits)


def ternary_weights(outputs: int, reduction: int, *, terms: int, density: float, seed: int) -> SlicedTensor:
    rng = np.random.default_rng(seed)
    shape = (terms, outputs, reduction)
    codes = np.where(rng.random(shape) < density, rng.choice([-1, 1], shape), 0)
    return SlicedTensor.from_terms(codes, np.ones((terms, outputs, 1)), (outputs, reduction), "ternary")


def activities(tensor: SlicedTensor) -> dict[str, WeightActivity]:
    return {encoding: weight_activity(tensor, encoding) for encoding in ENCODINGS}


def inputs(*, bits: int = 8, density: float = 0.6, seed: int = 0, signed: bool = False) -> InputActivity:
    rng = np.random.default_rng(seed)
    top = (1 << (bits - signed)) - 1
    codes = np.where(rng.random((2, 500)) < density, rng.integers(1, top + 1, (2, 500)), 0)
    return input_activity(codes, bits, signed)


def layer(name: str = "conv", **changes: Any) -> LayerWork:
    """A 3x3 convolution from 8 to 32 channels on 8x8 outputs, 4-bit weights; ``changes`` replace fields."""
    plain = LayerWork(
        name=name,
        outputs=32,
        inputs=8,
        groups=1,
        kernel=(3, 3),
        stride=(1, 1),
        dilation=(1, 1),
        output_size=(8, 8),
        weights={},
        input=inputs(),
        output_bits=8,
    )
    plain = replace(plain, **changes)
    if "weights" not in changes:
        tensor = integer_weights(plain.outputs, plain.reduction, bits=4, density=0.5, seed=1)
        plain = replace(plain, weights=activities(tensor))
    return plain


def workload(*layers: LayerWork, image_bits: int = 32 * 32 * 3 * 8) -> Workload:
    return Workload(tuple(layers), image_bits)
