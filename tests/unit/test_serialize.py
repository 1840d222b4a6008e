"""Packed files: exact, and anything broken is refused as a broken file."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import images, residual
from safetensors import safe_open
from safetensors.numpy import save
from torch import nn

from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.errors import BadTensor, CheckpointError
from compressors.graph import find_layers
from compressors.methods.binary import BinaryConfig
from compressors.methods.kmeans import KmeansConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from compressors.registry import MethodConfig
from compressors.serialize import FORMAT, load, to_bytes
from compressors.slicing import ENCODINGS, GRANULARITIES, reslice

PLANS = {
    "float": CompressionPlan(),
    "mixed": CompressionPlan(
        (
            ("conv1", LayerPlan(UniformConfig(8), ActivationConfig(8))),
            ("conv2", LayerPlan(TernaryConfig(2), ActivationConfig(3), 0.4)),
            ("conv3", LayerPlan(BinaryConfig(2), None, 0.2)),
            ("depthwise", LayerPlan(None, ActivationConfig(4))),
            ("linear", LayerPlan(UniformConfig(3))),
        )
    ),
}
Arrays = dict[str, np.ndarray]
Facts = dict[str, Any]


def compressed(plan: str) -> CompressedModel:
    model = residual()
    return convert(model, PLANS[plan], calibrate(model, images()))


def read(path: Path, network: nn.Module | None = None) -> CompressedModel:
    network = residual(seed=1) if network is None else network
    return load(path, network, find_layers(network, images(1)))


@pytest.fixture(scope="module")
def good() -> bytes:
    return to_bytes(compressed("mixed"))


@pytest.fixture
def file(tmp_path: Path, good: bytes) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(good)
    return path


@pytest.mark.parametrize("plan", PLANS)
def test_exact_round_trip(plan: str, tmp_path: Path) -> None:
    model, path = compressed(plan), tmp_path / "weights.safetensors"
    path.write_bytes(to_bytes(model))
    again = read(path)
    batch = images(9, seed=8)
    with torch.no_grad():
        assert torch.equal(again(batch), model(batch))
    assert again.grids == model.grids
    assert {n: t.digest() for n, t in again.tensors.items()} == {
        n: t.digest() for n, t in model.tensors.items()
    }
    assert again.size_bytes() == model.size_bytes()
    assert to_bytes(again) == to_bytes(model) == path.read_bytes()
    first, second = model.input_codes(batch), again.input_codes(batch)
    assert all(np.array_equal(first[name], second[name]) for name in model.grids)


def test_packed_planes_are_smaller_than_the_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 256, bias=False)).eval()
    plan = CompressionPlan((("1", LayerPlan(TernaryConfig())),))
    packed = len(to_bytes(convert(model, plan, calibrate(model, images()))))
    assert packed < 256 * 192 * 4 / 10  # two bits of 32, and a scale per row


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 0.3, 0.6, 0.9, -64, -8, -1])
def test_truncated(file: Path, good: bytes, length: float) -> None:
    cut = int(length * len(good)) if isinstance(length, float) else length
    file.write_bytes(good[:cut])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read(file)


def test_longer_than_it_says(file: Path, good: bytes) -> None:
    file.write_bytes(good + b"\0" * 8)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read(file)


def test_something_else_altogether(tmp_path: Path, file: Path) -> None:
    for content in (b"not a checkpoint at all", pickle.dumps({"weight": [1.0]}), b"\xff" * 64, b"{}" * 40):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            read(file)
    with pytest.raises(CheckpointError, match="missing.safetensors"):
        read(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError):
        read(tmp_path)


@pytest.mark.parametrize(("kind", "size"), [("BF16", 2), ("F8_E4M3", 1)])
def test_number_formats_that_do_not_belong(file: Path, kind: str, size: int) -> None:
    header = json.dumps({"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * size))
    with pytest.raises(CheckpointError):
        read(file)


def parts(path: Path) -> tuple[Arrays, Facts]:
    with safe_open(path, framework="np") as opened:
        metadata = opened.metadata()
        arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)
    return arrays, json.loads(metadata[FORMAT])


def rewrite(path: Path, change: Callable[[Arrays, Facts], None]) -> None:
    arrays, facts = parts(path)
    change(arrays, facts)
    path.write_bytes(save(arrays, metadata={FORMAT: json.dumps(facts)}))


def test_weights_in_another_memory_order(tmp_path: Path) -> None:
    """Convolutions left in floating point, as channels-last networks hold them."""
    network = residual().to(memory_format=torch.channels_last)
    assert not network.conv2.weight.is_contiguous()
    batch = images()
    model = convert(network, CompressionPlan(), calibrate(network, batch))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(to_bytes(model))
    with torch.no_grad():
        assert torch.allclose(read(path)(batch), network(batch), atol=1e-5)


def test_rewriting_alone_breaks_nothing(file: Path) -> None:
    rewrite(file, lambda arrays, facts: None)
    assert read(file).tensors


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"format": "pt"}, {"dse-sliced-0": "{}"}]
    + [
        {FORMAT: text}
        for text in ("", "{", "[]", "3", "null", "{}", '{"tensors": {}}', '{"tensors": [], "grids": {}}')
    ]
    + [{FORMAT: '{"tensors": {}, "grids": ' + "[" * depth + "]" * depth + "}"} for depth in (80, 50_000)],
    ids=lambda metadata: str(metadata)[:60],
)
def test_metadata_that_says_nothing(file: Path, metadata: dict[str, str] | None) -> None:
    arrays, _ = parts(file)
    file.write_bytes(save(arrays, metadata=metadata))
    with pytest.raises(CheckpointError):
        read(file)


HEADER_FIELDS = [
    *[
        ("tensors", "conv2", "shape", v)
        for v in (
            *([6, 6, 3], [6, 54], [5, 6, 3, 3], [], [-6, 6, 3, 3], "abcd", None, 6),
            *([6.0, 6, 3, 3], [6, 6, 3, 10**40], [6, True, 3, 18]),
        )
    ],
    *[("tensors", "conv2", "encoding", v) for v in ("quaternary", "", None, 3, ["ternary"])],
    *[("tensors", "conv2", "bits", v) for v in (0, -1, 99, "x", None, 2.5, True, [])],
    *[("grids", "conv2", "bits", v) for v in (0, 9, -3, "x", None, 2.5, True)],
    *[("grids", "conv2", "signed", v) for v in ("no", 0, None, [])],
    *[("grids", "conv2", "scale", v) for v in (0, -1.0, float("nan"), float("inf"), 1e-60, "x", None, [])],
    *[("grids", "conv2", "scale", v) for v in (1e300, 10**39, 10**299, 10**400, "0.5", True)],
    *[("tensors", "conv2", field, None) for field in ("-shape", "-encoding", "-bits")],
    *[("grids", "conv2", field, None) for field in ("-bits", "-signed", "-scale")],
]


@pytest.mark.parametrize(
    ("group", "layer", "field", "value"), HEADER_FIELDS, ids=lambda part: repr(part)[:40]
)
def test_header_fields_that_are_wrong(file: Path, group: str, layer: str, field: str, value: object) -> None:
    def change(_: Arrays, facts: Facts) -> None:
        if field.startswith("-"):
            del facts[group][layer][field[1:]]
        else:
            facts[group][layer][field] = value

    rewrite(file, change)
    with pytest.raises(CheckpointError):
        read(file)


def largest_scale(file: Path) -> float:
    """Of the grid of conv2, so that float32 still holds all its levels."""
    grid = read(file).grids["conv2"]
    return float(np.finfo(np.float32).max) / max(-grid.low, grid.high)


def test_the_largest_grid_scale_is_read(file: Path) -> None:
    scale = largest_scale(file)
    rewrite(file, lambda _, facts: facts["grids"]["conv2"].update({"scale": scale}))
    grid = read(file).grids["conv2"]
    assert torch.isfinite(grid.round(torch.full((1, 1), torch.inf))).all()


@pytest.mark.parametrize("factor", [1.000001, 1e100])
def test_a_grid_scale_beyond_float32_is_refused_by_layer_and_value(file: Path, factor: float) -> None:
    scale = factor * largest_scale(file)
    rewrite(file, lambda _, facts: facts["grids"]["conv2"].update({"scale": scale}))
    with pytest.raises(CheckpointError, match=re.escape(f"grids.conv2.scale={scale!r}, expected")) as caught:
        read(file)
    assert str(file) in str(caught.value) and "write it again" in str(caught.value)


# what the header says of planes that say something else
CONTRADICTIONS: list[tuple[str, dict[str, Any]]] = [
    *[("conv1", {"bits": bits}) for bits in (1, 4, 7, 9, 16, 32)],
    *[("conv1", {"encoding": encoding}) for encoding in ("ternary", "binary", "csd", "sign_magnitude")],
    *[("conv2", {"bits": bits}) for bits in (2, 8)],
    *[("conv2", {"encoding": encoding}) for encoding in ("binary", *ENCODINGS)],
    *[("conv3", {"bits": bits}) for bits in (2, 32)],
    *[("conv3", {"encoding": encoding}) for encoding in ENCODINGS],
    *[("linear", {"bits": bits}) for bits in (1, 2, 4, 8)],
    ("linear", {"bits": 1, "encoding": "ternary"}),
]


@pytest.mark.parametrize(("layer", "said"), CONTRADICTIONS, ids=str)
def test_a_header_that_contradicts_the_planes(file: Path, layer: str, said: dict[str, Any]) -> None:
    rewrite(file, lambda _, facts: facts["tensors"][layer].update(said))
    with pytest.raises(CheckpointError, match=f"{file}.*{layer}: .*planes|{file}.*digit of magnitude"):
        read(file)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3"])
@pytest.mark.parametrize("said", [{"bits": 3}, {"encoding": "csd"}], ids=str)
def test_what_could_not_be_read_is_not_written(layer: str, said: dict[str, Any]) -> None:
    model = compressed("mixed")
    model.tensors[layer] = dataclasses.replace(model.tensors[layer], **said)
    with pytest.raises(BadTensor, match=layer):
        to_bytes(model)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_other_digits_are_read_as_well(file: Path, encoding: str, granularity: int) -> None:
    model = compressed("mixed")
    sliced = {name: reslice(tensor, encoding, granularity) for name, tensor in model.tensors.items()}
    file.write_bytes(to_bytes(CompressedModel(model.network, model.layers, sliced, model.grids)))
    again = read(file)
    assert {n: t.digest() for n, t in again.tensors.items()} == {n: t.digest() for n, t in sliced.items()}
    assert again.size_bytes() == model.size_bytes()


LOPSIDED: list[MethodConfig] = [
    UniformConfig(2, symmetric=False),
    UniformConfig(4, symmetric=False, group=9),
    UniformConfig(8, symmetric=False, per="tensor"),
    KmeansConfig(2),
    BinaryConfig(3),
]


@pytest.mark.parametrize("config", LOPSIDED, ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "second_order"])
def test_codes_beside_a_zero_point_are_read(tmp_path: Path, config: MethodConfig, rounding: str) -> None:
    network, path = residual(), tmp_path / "weights.safetensors"
    with torch.no_grad():
        network.conv1.weight.add_(0.5)
        network.conv2.weight.sub_(0.5)
    layers = tuple((name, LayerPlan(config, None, 0.2, rounding=rounding)) for name in ("conv1", "conv2"))
    model = convert(network, CompressionPlan(layers), calibrate(network, images()))
    path.write_bytes(to_bytes(model))
    assert read(path).size_bytes() == model.size_bytes()
    assert to_bytes(read(path)) == path.read_bytes()


def set_array(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays, Facts], None]:
    # safetensors writes views with other strides as they happen to lie in memory
    return lambda arrays, _: arrays.update({name: np.ascontiguousarray(make(arrays[name]))})


def poison(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def make(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[0] = value
        return array

    return make


def padding_bit(array: np.ndarray) -> np.ndarray:
    """A one behind the 54th and last column."""
    array = array.copy()
    array.flat[0] |= np.uint64(1 << 60)
    return array


CHANGES: dict[str, Callable[[Arrays, Facts], None]] = {
    **{
        f"{p} missing": lambda arrays, _, p=p: arrays.pop(p)
        for p in ("conv2|scale", "conv2|term", "conv2|sign")
    },
    **{f"{p} missing": lambda arrays, _, p=p: arrays.pop(p) for p in ("bn1.weight", "linear.bias")},
    "nan scale": set_array("conv2|scale", poison(np.nan)),
    "infinite scale": set_array("conv2|scale", poison(np.inf)),
    "scale beyond float32": set_array("conv1|scale", poison(3e38)),
    "scale of no groups": set_array("conv2|scale", lambda a: a[..., :0]),
    "scale of another rank": set_array("conv2|scale", lambda a: a[..., 0]),
    "scale in float64": set_array("conv2|scale", lambda a: a.astype(np.float64)),
    "term too large": set_array("conv2|term", lambda a: a + 5),
    "term negative": set_array("conv2|term", lambda a: a - 1),
    "term too short": set_array("conv2|term", lambda a: a[:-1]),
    "term of another rank": set_array("conv2|term", lambda a: a[:, None]),
    "factor too short": set_array("conv2|factor", lambda a: a[:-1]),
    "magnitude of fewer rows": set_array("conv2|magnitude", lambda a: a[:, :, :-1]),
    "magnitude of fewer planes": set_array("conv2|magnitude", lambda a: a[:-1]),
    "magnitude of another rank": set_array("conv2|magnitude", lambda a: a[0]),
    "sign of a zero": lambda arrays, _: arrays.update(
        {"conv2|sign": ~arrays["conv2|magnitude"][:, 0] & np.uint64(2**54 - 1)}
    ),
    "factor of another power": set_array("conv1|factor", lambda a: 2 * a),
    "planes in another order": lambda arrays, _: arrays.update(
        {f"conv1|{p}": arrays[f"conv1|{p}"][::-1].copy() for p in ("magnitude", "sign", "factor", "term")}
    ),
    "digits of no bits": set_array("conv2|magnitude", lambda a: a[:, :0]),
    "magnitude in int64": set_array("conv2|magnitude", lambda a: a.astype(np.int64)),
    "magnitude past the last column": set_array("conv2|magnitude", padding_bit),
    "sign past the last column": set_array("conv2|sign", padding_bit),
    "nan in a batch norm": set_array("bn2.running_var", poison(np.nan)),
    "infinity in a bias": set_array("linear.bias", poison(np.inf)),
    "misshapen batch norm": set_array("bn2.running_mean", lambda a: a[:-1]),
    "batch norm in float64": set_array("bn2.running_mean", lambda a: a.astype(np.float64)),
    "one entry more": lambda arrays, _: arrays.update({"conv9.weight": np.zeros((2, 2), np.float32)}),
    "weights beside their slices": lambda arrays, _: arrays.update(
        {"conv2.weight": np.zeros((6, 6, 3, 3), np.float32)}
    ),
    "slices without a description": lambda _, facts: facts["tensors"].pop("conv2"),
    "description without slices": lambda _, facts: facts["tensors"].update(
        {"depthwise": {"shape": [6, 1, 3, 3], "encoding": "ternary", "bits": 1}}
    ),
    "a grid of an unknown layer": lambda _, facts: facts["grids"].update({"conv9": facts["grids"]["conv2"]}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_contents_that_are_wrong(file: Path, change: str) -> None:
    rewrite(file, CHANGES[change])
    with pytest.raises(CheckpointError, match=str(file)):
        read(file)


class Wider(nn.Module):
    """Layers of the same names as the residual network's first, in other shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn1(self.conv1(x))


@pytest.mark.parametrize("network", [Wider(), nn.Sequential(nn.Conv2d(3, 6, 3))], ids=["wider", "sequential"])
@pytest.mark.parametrize("plan", PLANS)
def test_another_network(tmp_path: Path, plan: str, network: nn.Module) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(to_bytes(compressed(plan)))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(
        CheckpointError, match="not in the network|has shape|missing, unexpected or misshapen"
    ):
        read(path, network.eval())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_any_flipped_bit_is_refused_or_harmless(file: Path, good: bytes) -> None:
    chance = random.Random(0)
    header = 8 + int.from_bytes(good[:8], "little")
    network = residual(seed=1)
    layers = find_layers(network, images(1))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    refused = 0
    for _ in range(250):
        place = chance.randrange(header) if chance.random() < 0.7 else chance.randrange(header, len(good))
        broken = bytearray(good)
        broken[place] ^= 1 << chance.randrange(8)
        file.write_bytes(broken)
        network.load_state_dict(state)
        try:
            model = load(file, network, layers)
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.isfinite(value).all() for value in model.network.state_dict().values())
            assert all(0 < grid.scale < np.inf for grid in model.grids.values())
            for module in network.modules():
                module._forward_pre_hooks.clear()
    assert 100 < refused < 250
