"""Every kernel of a layer on a GPU, held against integers counted plainly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compressors.methods.prune import keep_mask
from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.registry import KERNELS
from compressors.operators.device.replay import record
from compressors.slicing import with_codes
from tests.unit.device_layers import drawn, plain_output, plain_sums, read


def sparse(layer: LayerFormat) -> LayerFormat:
    """The layer with two of every four weights gone."""
    assert layer.tensor is not None
    keep = keep_mask(np.abs(layer.weight), 0.0, "2:4")
    codes = layer.tensor.codes() * keep.reshape(1, layer.outputs, -1)
    tensor = with_codes(layer.tensor, codes, layer.tensor.scale)
    return replace(
        layer, tensor=tensor, weight=tensor.to_dense().astype(np.float64).reshape(layer.weight.shape)
    )


LAYERS = {
    "linear": (drawn((40, 72), relu=True), (33, 72)),
    "one row": (drawn((10, 64)), (1, 64)),
    "3x3": (drawn((24, 20, 3, 3), window={"padding": (1, 1)}, relu=True), (4, 20, 8, 8)),
    "strided": (drawn((16, 8, 3, 3), window={"stride": (2, 2), "padding": (1, 1)}), (3, 8, 9, 9)),
    "dilated": (drawn((8, 8, 3, 3), window={"dilation": (2, 2)}, signed=True), (2, 8, 9, 9)),
    "8 bits": (drawn((16, 16, 3, 3), low=-128, high=127, bits=8, window={"padding": (1, 1)}), (2, 16, 6, 6)),
    "ternary": (drawn((33, 70, 1, 1), low=-1, high=1, bits=2), (2, 70, 5, 5)),
    "binary": (drawn((16, 64), low=-1, high=1, bits=1, terms=2, seed=3), (40, 64)),
    "depthwise": (drawn((8, 1, 3, 3), low=-1, high=1, window={"groups": 8, "padding": (1, 1)}), (2, 8, 6, 6)),
    "2:4": (sparse(drawn((32, 64, 3, 3), window={"padding": (1, 1)})), (2, 64, 8, 8)),
    "2:4 linear": (sparse(drawn((64, 128), bits=8)), (48, 128)),
}  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", LAYERS)
def test_kernels_equal_the_reference(name: str, kernel: str, device: torch.device) -> None:
    layer, shape = LAYERS[name]
    obstacle = KERNELS[kernel].obstacle(layer, device)
    if obstacle:
        pytest.skip(obstacle)
    x = read(layer, *shape)
    built = KERNELS[kernel](layer, device)
    expected = plain_output(layer, x)
    found = built(x.to(device)).cpu().numpy()
    assert found.shape == expected.shape
    error = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
    assert error <= built.tolerance
    sums = built.sums(x.to(device))
    if sums is not None:
        assert np.array_equal(sums.cpu().numpy(), plain_sums(layer, x))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_recorded_kernel_answers_as_it_does_by_itself(kernel: str, device: torch.device) -> None:
    layer, shape = LAYERS["2:4"]
    obstacle = KERNELS[kernel].obstacle(layer, device)
    if obstacle:
        pytest.skip(obstacle)
    x = read(layer, *shape).to(device).contiguous(memory_format=torch.channels_last)
    built = KERNELS[kernel](layer, device)
    replay = record(lambda: built(x), device)
    assert replay.obstacle == ""
    x.copy_(read(layer, *shape, seed=7))
    replay.run()
    assert torch.allclose(replay.answer, built(x), rtol=1e-3, atol=1e-3)
