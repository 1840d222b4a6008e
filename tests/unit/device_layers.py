"""Layers drawn at random for the tests of device kernels, and their sums counted plainly."""

from __future__ import annotations

import naive
import numpy as np
import torch

from compressors.calibration.activation import ActivationGrid
from compressors.operators.device.formats import Affine, LayerFormat
from compressors.operators.product import Window
from compressors.slicing import from_codes
from compressors.tensor import SlicedTensor

CPU = torch.device("cpu")


def drawn(
    weights: tuple[int, ...],
    *,
    low: int = -8,
    high: int = 7,
    bits: int = 4,
    signed: bool = False,
    terms: int = 1,
    window: dict[str, tuple[int, int] | int] | None = None,
    relu: bool = False,
    integers: bool = True,
    grid: bool = True,
    seed: int = 0,
) -> LayerFormat:
    """A layer with weights of shape ``weights``: two axes for a linear one, four for a convolution.

    Codes lie between ``low`` and ``high``, both of which occur.
    """
    rng = np.random.default_rng(seed)
    outputs, columns = weights[0], int(np.prod(weights[1:]))
    codes = rng.integers(low, high + 1, (terms, outputs, columns))
    codes[:, 0, 0], codes[:, -1, -1] = low, high
    scale = rng.uniform(0.5, 1.5, (terms, outputs, 1)).astype(np.float32) / 8
    if set(np.unique(codes)) <= {-1, 0, 1}:
        encoding = "ternary" if (codes == 0).any() else "binary"
        tensor = SlicedTensor.from_terms(codes, scale, weights, encoding)
    else:
        needed = max(high + 1, -low, 1)
        tensor = from_codes(codes, scale, shape=weights, bits=(needed - 1).bit_length() + 1)
    dense = tensor.to_dense().astype(np.float64)
    after = Affine(rng.uniform(0.5, 2.0, outputs), rng.normal(0, 1, outputs), relu)
    kernel = tuple(weights[2:]) or (1, 1)
    found = None if not grid else ActivationGrid(bits, signed, float(np.float32(0.3)))
    return LayerFormat(
        "drawn",
        len(weights) == 2,
        dense.reshape(*weights, *[1] * (4 - len(weights))),
        Window(kernel, **(window or {})),
        after,
        tensor if integers else None,
        found,
    )


def read(layer: LayerFormat, *shape: int, seed: int = 1) -> torch.Tensor:
    """Values that a layer reads, many of them beyond its grid or right between two codes."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 3
    if layer.grid is not None:
        reach = layer.grid.high + 3
        codes = torch.randint(-2 * reach, 2 * reach, shape, generator=generator)
        values = torch.where(values > 0, codes * (layer.grid.scale / 2), values)
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def plain_sums(layer: LayerFormat, x: torch.Tensor) -> np.ndarray:
    """``int64 [terms, rows, N]`` by Python's integers."""
    assert layer.tensor is not None and layer.grid is not None
    grid, window = layer.grid, layer.window
    codes = np.clip(np.rint(x.numpy() / np.float32(grid.scale)), grid.low, grid.high).astype(np.int64)
    weights = layer.tensor.codes().reshape(-1, *layer.weight.shape)
    if layer.linear:
        rows = codes.reshape(-1, codes.shape[-1]).tolist()
        return np.array([
            [[sum(map(int.__mul__, row, w)) for w in term.reshape(len(term), -1).tolist()] for row in rows]
            for term in weights
        ])  # fmt: skip
    options = {
        "stride": window.stride[0],
        "padding": window.padding[0],
        "dilation": window.dilation[0],
        "groups": window.groups,
    }
    found = [[naive.convolution(image, term, **options) for image in codes] for term in weights]
    return np.array(found).transpose(0, 1, 3, 4, 2).reshape(len(weights), -1, layer.outputs)


def plain_output(layer: LayerFormat, x: torch.Tensor) -> np.ndarray:
    """``float64`` in the shape of the layer's output, from :func:`plain_sums`."""
    assert layer.tensor is not None and layer.grid is not None
    scale = layer.tensor.scale[:, :, 0].astype(np.float64) * layer.grid.scale
    sums = (plain_sums(layer, x) * scale[:, None]).sum(0)
    values = sums * layer.after.gain + layer.after.shift
    values = np.maximum(values, 0) if layer.after.relu else values
    if layer.linear:
        return values.reshape(*x.shape[:-1], -1)
    size = layer.out_size((x.shape[2], x.shape[3]))
    return values.reshape(len(x), *size, -1).transpose(0, 3, 1, 2)
