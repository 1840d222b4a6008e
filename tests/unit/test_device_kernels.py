"""Kernels of layers on a device, held against integers counted plainly; all but what a GPU alone has runs here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from device_layers import CPU, drawn, plain_output, plain_sums, read
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from compressors.calibration.activation import ActivationGrid
from compressors.methods.prune import keep_mask
from compressors.operators.device.dense import BFloat16, Dense, Float16, Float32, TensorFloat32
from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.fused import FusedInt8, Popcount
from compressors.operators.device.int8 import Int8Product
from compressors.operators.device.kernel import DeviceKernel, Rounding, patches, rows_of
from compressors.operators.device.registry import KERNELS
from compressors.operators.device.sparse import (
    SparseBFloat16,
    SparseFloat16,
    SparseInt8,
    sparse_obstacle,
    sparse_rows,
)
from compressors.operators.device.unpacked import Unpacked, code_range, pack_codes
from compressors.operators.product import Window

LAYERS: dict[str, tuple[LayerFormat, tuple[int, ...]]] = {
    "linear": (drawn((5, 13)), (3, 13)),
    "rows of tokens": (drawn((4, 6), signed=True), (2, 3, 6)),
    "3x3": (drawn((6, 5, 3, 3), window={"padding": (1, 1)}, relu=True), (2, 5, 6, 4)),
    "strided": (drawn((3, 4, 3, 3), window={"stride": (2, 2), "padding": (1, 1)}), (2, 4, 7, 5)),
    "dilated": (drawn((3, 2, 2, 2), window={"dilation": (2, 2)}, signed=True), (1, 2, 5, 6)),
    "1x1": (drawn((8, 16, 1, 1), relu=True), (2, 16, 4, 4)),
    "8 bits unsigned": (drawn((4, 3, 3, 3), low=-128, high=127, bits=8, window={"padding": (1, 1)}), (2, 3, 5, 5)),
    "8 bits signed": (drawn((4, 20), low=-128, high=127, bits=8, signed=True), (2, 20)),
    "ternary": (drawn((4, 6, 3, 3), low=-1, high=1, bits=2), (2, 6, 4, 4)),
    "binary": (drawn((4, 3, 1, 2), low=-1, high=1, bits=2, terms=1, seed=3), (2, 3, 4, 4)),
    "three terms": (drawn((4, 3, 3, 3), low=-1, high=1, bits=8, terms=3, relu=True), (2, 3, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_int8_sums_are_exact(name: str) -> None:
    layer, shape = LAYERS[name]
    x = read(layer, *shape)
    assert Int8Product.obstacle(layer, CPU) == ""
    sums = Int8Product(layer, CPU).sums(x)
    assert sums.dtype == torch.int32
    assert np.array_equal(sums.numpy(), plain_sums(layer, x))


@pytest.mark.parametrize("kind", [Int8Product, Float32, BFloat16, Float16, Unpacked])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs(name: str, kind: type[DeviceKernel]) -> None:
    layer, shape = LAYERS[name]
    if kind.obstacle(layer, CPU):
        assert (name, kind.name) in {
            ("8 bits unsigned", "fp16"),
            ("8 bits signed", "fp16"),
            ("8 bits unsigned", "unpacked_bf16"),
            ("8 bits signed", "unpacked_bf16"),
        }
        return
    x = read(layer, *shape)
    got, expected = kind(layer, CPU)(x), plain_output(layer, x)
    assert got.dtype == torch.float32 and got.shape == expected.shape
    error = np.sqrt(((got.numpy() - expected) ** 2).mean() / (expected**2).mean())
    assert error <= kind.tolerance
    if kind in (Int8Product, Float32):
        assert np.abs(got.numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kind", [Float32, BFloat16, Float16])
def test_layers_in_floating_point(kind: type[Dense], relu: bool) -> None:
    layer = drawn((4, 3, 3, 3), integers=False, grid=False, relu=relu, window={"padding": (1, 1)})
    x = read(layer, 2, 3, 5, 5)
    plain = functional.conv2d(x.double(), torch.from_numpy(layer.weight), padding=1).numpy()
    plain = plain * layer.after.gain[:, None, None] + layer.after.shift[:, None, None]
    expected = np.maximum(plain, 0) if relu else plain
    got = kind(layer, CPU)(x).numpy()
    assert np.sqrt(((got - expected) ** 2).mean() / (plain**2).mean()) <= kind.tolerance


def test_sixteen_bits_between_layers() -> None:
    layer = replace(drawn((4, 3, 3, 3), integers=False, grid=False, relu=True), values=torch.bfloat16)
    x = read(layer, 2, 3, 5, 5).bfloat16()
    kernel = BFloat16(layer, CPU)
    wide = Float32(replace(layer, values=torch.float32), CPU)(x.float())
    assert kernel(x).dtype == torch.bfloat16
    assert torch.allclose(kernel(x).float(), wide, atol=0.05, rtol=0.02)
    assert "float32, and bfloat16 lies between layers" in Popcount.obstacle(
        replace(drawn((4, 3)), values=torch.bfloat16), CPU
    )


def test_sixteen_bits_multiply_integers_themselves() -> None:
    """Where sums stay below 256 nothing is rounded at all."""
    layer = drawn((4, 3, 2, 2), low=-1, high=1, bits=2)
    x = read(layer, 2, 3, 5, 5)
    expected = plain_output(layer, x)
    for kind in (BFloat16, Float16, Unpacked):
        assert np.allclose(kind(layer, CPU)(x).numpy(), expected, rtol=1e-6, atol=1e-5)


def test_rounding_is_that_of_the_grid() -> None:
    grid = ActivationGrid(4, True, float(np.float32(0.1)))
    x = torch.linspace(-2, 2, 4001)
    assert torch.equal(Rounding(grid, CPU)(x) * grid.scale, grid.round(x))
    assert torch.equal(Rounding(grid, CPU)(x.bfloat16()) * grid.scale, grid.round(x.bfloat16().float()))


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    channels=st.integers(1, 5),
)
def test_patches_are_those_of_torch(
    kernel: tuple[int, int], stride: int, padding: int, dilation: int, channels: int
) -> None:
    x = torch.randn(2, channels, 7, 6)
    window = Window(kernel, (stride, stride), (padding, padding), (dilation, dilation))
    unfolded = functional.unfold(x, kernel, dilation, padding, stride).transpose(1, 2)
    unfolded = unfolded.reshape(-1, channels, kernel[0] * kernel[1]).transpose(1, 2).flatten(1)
    size = (
        (7 + 2 * padding - dilation * (kernel[0] - 1) - 1) // stride + 1,
        (6 + 2 * padding - dilation * (kernel[1] - 1) - 1) // stride + 1,
    )
    assert torch.equal(patches(x, window, size), unfolded)
    wide = patches(x, window, size, multiple=(8, 16), least_rows=40)
    rows, columns = unfolded.shape
    assert wide.shape[0] % 8 == 0 and wide.shape[0] >= max(40, rows) and wide.shape[1] % 16 == 0
    assert torch.equal(wide[:rows, :columns], unfolded)
    assert not wide[rows:].any() and not wide[:, columns:].any()


def test_pixels_side_by_side_are_not_copied() -> None:
    x = torch.randn(2, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    assert patches(x, Window(), (3, 3)).data_ptr() == x.data_ptr()


@settings(max_examples=60, deadline=None)
@given(st.integers(-200, 200), st.integers(1, 9), st.integers(1, 15), st.integers(1, 40), st.integers(0, 99))
def test_packed_codes_come_back(low: int, step: int, most: int, count: int, seed: int) -> None:
    digits = np.random.default_rng(seed).integers(0, most + 1, (2, count))
    digits.flat[0], digits.flat[-1] = 0, most
    codes = low + step * digits
    found = code_range(codes)
    assert found[0] == low and found[1] % step == 0 and (found[2] < 5 or most > 15)
    packed = pack_codes(codes, *found)
    width = found[2]
    assert packed.dtype == np.uint8 and packed.shape[1] == -(-count * width // 8)
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, : count * width].reshape(2, count, width)
    assert np.array_equal(found[0] + found[1] * (bits << np.arange(width)).sum(2, dtype=np.int64), codes)


@pytest.mark.parametrize(
    ("low", "high", "bytes_"), [(-8, 7, 4 * 18 // 2), (-1, 1, 4 * 18 // 4), (0, 3, 4 * 18 // 4)]
)
def test_what_lies_on_the_device_is_packed(low: int, high: int, bytes_: int) -> None:
    layer = drawn((4, 2, 3, 3), low=low, high=high)
    kernel = Unpacked(layer, CPU)
    assert kernel.packed.nbytes == bytes_
    assert layer.codes is not None
    assert np.array_equal(kernel.weight().float().numpy(), layer.codes[0])


def test_binary_weights_take_a_bit() -> None:
    codes = np.random.default_rng(0).choice([-1, 1], (1, 4, 18))
    assert code_range(codes) == (-1, 2, 1)
    assert pack_codes(codes, -1, 2, 1).nbytes == 9
    assert code_range(np.zeros((1, 2, 3), int)) == (0, 1, 1)


def grouped_scales() -> LayerFormat:
    """Ternary weights with a scale for each of three runs of inputs."""
    from compressors.methods.ternary import TernaryConfig
    from compressors.registry import compress

    weight = np.random.default_rng(0).normal(size=(4, 3, 2, 2))
    tensor = compress(weight, TernaryConfig(1, group=4))
    assert tensor.scale.shape == (1, 4, 3)
    layer = drawn((4, 3, 2, 2))
    return replace(layer, tensor=tensor, weight=tensor.to_dense().astype(np.float64))


def test_scales_of_runs_of_inputs_make_terms() -> None:
    layer = grouped_scales()
    assert layer.codes is not None and layer.scales is not None
    grid, x = layer.grid, read(layer, 2, 3, 4, 4)
    assert grid is not None
    expected = functional.conv2d(grid.round(x).double(), torch.from_numpy(layer.weight)).numpy()
    expected = expected * layer.after.gain[:, None, None] + layer.after.shift[:, None, None]
    assert len(layer.codes) == 3
    for kind in (Int8Product, Unpacked, BFloat16, Float32):
        got = kind(layer, CPU)(x).numpy()
        assert np.sqrt(((got - expected) ** 2).mean() / (expected**2).mean()) <= kind.tolerance


def two_of_four(channels: int = 8) -> LayerFormat:
    layer = drawn((5, channels, 3, 3))
    assert layer.tensor is not None
    keep = keep_mask(np.abs(layer.weight), 0.0, "2:4")
    codes = layer.tensor.codes() * keep.reshape(1, 5, -1)
    from compressors.slicing import with_codes

    tensor = with_codes(layer.tensor, codes, layer.tensor.scale)
    return replace(layer, tensor=tensor, weight=tensor.to_dense().astype(np.float64))


@pytest.mark.parametrize("channels", [4, 8, 6])
def test_the_pattern_of_sparse_tensor_cores_is_the_one_that_pruning_makes(channels: int) -> None:
    layer = two_of_four(channels)
    assert sparse_obstacle(layer) == sparse_obstacle(layer, integers=True) == ""
    assert "runs of four inputs keep more than two weights" in sparse_obstacle(drawn((5, 8, 3, 3)))
    for kind in (SparseInt8, SparseBFloat16, SparseFloat16):
        assert kind.obstacle(layer, CPU) == "the device is no GPU"


def test_the_sparse_matrix_is_one_that_torch_compresses() -> None:
    """Its conversion refuses nothing and gives the same matrix back, and the product is the layer's."""
    layer = two_of_four(8)
    assert layer.codes is not None
    rows = sparse_rows(layer.codes[0])
    wide = np.zeros((32, 128))
    wide[:5, : rows.shape[1]] = rows
    dense = torch.from_numpy(wide).half()
    found = sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(dense))
    assert torch.equal(found, dense)
    x = torch.randint(0, 16, (2, 8, 5, 5)).float()
    product = patches(x, layer.window, (3, 3)) @ torch.from_numpy(rows).float().T
    expected = functional.conv2d(x, torch.from_numpy(layer.codes[0]).float())
    assert torch.equal(product.view(2, 3, 3, 5).permute(0, 3, 1, 2), expected)


def test_rows_of_filters_follow_the_order_of_patches() -> None:
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert rows_of(weight)[0].tolist() == [
        weight[0, c, y, x] for y in (0, 1) for x in (0, 1) for c in range(3)
    ]


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        (Int8Product, drawn((4, 3), grid=False), "the input is in floating point"),
        (Int8Product, drawn((4, 3), integers=False), "the weights are in floating point"),
        (Int8Product, drawn((4, 1, 3, 3), window={"groups": 4}), "4 groups of channels"),
        (Int8Product, drawn((4, 3), low=-200, high=7), "weights from -200 to 7 do not fit 8 bits"),
        (Int8Product, drawn((4, 3), bits=9), "inputs of 9 bits do not fit 8"),
        (Int8Product, drawn((4, 3), low=-1, high=1, terms=5), "5 terms .* more than 4 products"),
        (Unpacked, drawn((4, 3), low=-16, high=15), "weights of 5 bits: .* nothing is packed"),
        (Unpacked, drawn((4, 3), integers=False), "the weights are in floating point"),
        (Float16, drawn((4, 200), low=-8, high=7, bits=8), "sums of up to .* are beyond 65504"),
        (TensorFloat32, drawn((4, 3)), "the device is no GPU"),
        (Popcount, drawn((4, 3)), "no GPU, and Numba's simulator is not switched on"),
        (FusedInt8, drawn((4, 3)), "no GPU, and Numba's simulator is not switched on"),
        (FusedInt8, drawn((4, 3), bits=9), "inputs of 9 bits do not fit 8"),
    ],
)
def test_obstacles(kind: type[DeviceKernel], layer: LayerFormat, reason: str) -> None:
    import re

    assert re.search(reason, kind.obstacle(layer, CPU))


def test_sums_that_32_bits_do_not_hold_are_refused() -> None:
    codes = drawn((2, 70000), low=-128, high=127, bits=8)
    assert "do not fit 32 bits" in Int8Product.obstacle(codes, CPU)


def test_every_kernel_says_what_it_is() -> None:
    assert list(KERNELS) == [
        "popcount",
        "int8_sparse",
        "int8_fused",
        "int8",
        "bf16_sparse",
        "fp16_sparse",
        "unpacked_bf16",
        "bf16",
        "fp16",
        "tf32",
        "fp32",
    ]
    assert all(0 < kernel.tolerance <= 1e-2 for kernel in KERNELS.values())
