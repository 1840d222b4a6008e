"""Compressed networks in safetensors files: packed planes, scales, and what stayed float."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from compressors.calibration.activation import ActivationGrid
from compressors.calibration.dimensions import ENCODER, narrow
from compressors.errors import BadTensor, CheckpointError, DseError
from compressors.graph import Layer, find_layers
from compressors.hypervectors import HypervectorClassifier
from compressors.model import CompressedModel
from compressors.parsing import parse_json
from compressors.registry import check_range
from compressors.shrink import shrink
from compressors.slicing import ENCODINGS, with_codes
from compressors.tensor import SlicedTensor

FORMAT = "dse-sliced-1"
_LONGEST_AXIS = 1 << 31
_ARRAYS = {
    "scale": np.float32,
    "term": np.int64,
    "factor": np.int64,
    "magnitude": np.uint64,
    "sign": np.uint64,
}


def to_bytes(model: CompressedModel) -> bytes:
    """The network as the content of a safetensors file.

    Layers with sliced weights store ``LAYER|scale``, ``|term``, ``|factor``, ``|magnitude`` and ``|sign``
    (see ``SlicedTensor``); every other entry of the network's state dict stands under its own name.

    Raises:
        BadTensor: planes that are not what a tensor's ``bits`` and ``encoding`` say, so that :func:`load` would refuse
            them.
    """
    arrays: dict[str, np.ndarray] = {}
    tensors: dict[str, Any] = {}
    for name, tensor in model.tensors.items():
        _check_planes(name, tensor)
        tensors[name] = {"shape": list(tensor.shape), "encoding": tensor.encoding, "bits": tensor.bits}
        for part in _ARRAYS:
            arrays[f"{name}|{part}"] = np.ascontiguousarray(getattr(tensor, part))
    sliced = {f"{name}.weight" for name in model.tensors}
    for key, value in model.network.state_dict().items():
        if key not in sliced:
            arrays[key] = value.contiguous().numpy()  # other strides would be written as they lie in memory
    grids = {name: _grid_facts(grid) for name, grid in model.grids.items()}
    kept = {name: np.flatnonzero(mask).tolist() for name, mask in model.kept.items()}
    header = json.dumps({"tensors": tensors, "grids": grids, "kept": kept}, sort_keys=True)
    # one entry: safetensors writes several in another order each time, and equal networks give equal files
    return save(arrays, metadata={FORMAT: header})


def load(
    path: Path,
    network: nn.Module,
    layers: tuple[Layer, ...],
    example: torch.Tensor | None = None,
    float_layers: Collection[str] = (),
) -> CompressedModel:
    """Read a compressed network back.

    Args:
        path: a file written from :func:`to_bytes`.
        network: the same architecture with any weights; becomes the compressed network.
        layers: its layers, from ``compressors.graph.find_layers``.
        example: a batch of the network's input, for shapes alone; what the first layer reads without one. Needed
            where channels were taken out behind something that changes the image's shape.
        float_layers: paths left in floating point.

    Raises:
        CheckpointError: a broken file, or one that does not fit the network.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (
        SafetensorError,
        OSError,
        TypeError,
        AttributeError,
    ) as error:  # the latter two: types numpy lacks
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    if FORMAT not in metadata:
        raise CheckpointError(f"{path}: not a compressed network, expected one in the format {FORMAT!r}")
    try:
        header = parse_json(metadata[FORMAT])
        tensors = {name: _tensor(name, facts, arrays) for name, facts in header["tensors"].items()}
        grids = {name: _grid(name, facts) for name, facts in header["grids"].items()}
        kept = {name: _mask(name, places, layers) for name, places in header.get("kept", {}).items()}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, DseError) as error:
        told = error if isinstance(error, (ValueError, DseError)) else repr(error)
        raise CheckpointError(
            f"{path}: broken description of the sliced layers: {told}; the file was altered after it was written: "
            "write it again"
        ) from error
    if ENCODER in kept and isinstance(network, HypervectorClassifier):
        network = narrow(network, np.flatnonzero(kept[ENCODER]))
        shape = tuple(network.memory.weight.shape)
        layers = (replace(layers[0], weight_shape=shape, input_shape=shape[1:]),)
    channels = {name: mask for name, mask in kept.items() if name != ENCODER}
    if channels:
        example = torch.zeros(1, *layers[0].input_shape) if example is None else example
        try:
            network = shrink(network, channels, example, float_layers)
        except DseError as error:
            raise CheckpointError(f"{path}: its channels do not fit the network: {error}") from error
        layers = find_layers(network, example, float_layers)
    _fit(path, network, layers, tensors, grids, arrays)
    return CompressedModel(network, layers, tensors, grids, kept=kept)


def _mask(name: str, places: Any, layers: tuple[Layer, ...]) -> np.ndarray:
    """Booleans over a layer's outputs, from the indices of those that stay."""
    sizes = {layer.name: layer.weight_shape[0] for layer in layers}
    mask = np.zeros({**sizes, ENCODER: layers[0].input_shape[0]}[name], bool)
    if not isinstance(places, list) or not all(type(i) is int and 0 <= i < len(mask) for i in places):
        raise ValueError(f"{name} keeps the channels {places!r}, expected indices below {len(mask)}")
    mask[places] = True
    return mask


def _tensor(name: str, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> SlicedTensor:
    if facts["encoding"] not in (*ENCODINGS, "ternary", "binary"):
        raise ValueError(f"{name} has the unknown encoding {facts['encoding']!r}")
    parts = {}
    for part, dtype in _ARRAYS.items():
        parts[part] = arrays.pop(f"{name}|{part}")
        if parts[part].dtype != dtype:
            raise ValueError(f"{name}|{part} holds {parts[part].dtype}, expected {np.dtype(dtype)}")
    if not np.isfinite(parts["scale"]).all():
        raise ValueError(f"{name}|scale holds NaN or infinity")
    check_range(f"{name}.bits", facts["bits"], 1, 32)
    for length in facts["shape"]:
        check_range(f"{name}.shape", length, 1, _LONGEST_AXIS)
    tensor = SlicedTensor(tuple(facts["shape"]), facts["encoding"], facts["bits"], **parts)
    used = tensor.columns % 64
    if used and any(np.any(words[..., -1] >> np.uint64(used)) for words in (tensor.magnitude, tensor.sign)):
        raise ValueError(f"{name} has bits past its last column")
    with np.errstate(over="ignore"):
        if not np.isfinite(tensor.to_dense()).all():
            raise ValueError(f"{name} has a scale that takes its weights beyond float32")
    _check_planes(name, tensor)
    return tensor


def _check_planes(name: str, tensor: SlicedTensor) -> None:
    """Refuse planes that are not the tensor's codes as its ``bits`` and ``encoding`` write them.

    Size and cost are counted by ``bits`` and ``encoding``, which must not say something else than the planes.
    """
    codes = tensor.codes()
    if tensor.encoding == "binary":  # a weight is pruned in all terms or in none
        fits = bool((codes.any(0) == codes.all(0)).all())
    elif tensor.encoding == "ternary":
        fits = True
    else:
        runs = codes.reshape(*tensor.scale.shape, -1)
        span = runs.max(3).clip(0) - runs.min(3).clip(None, 0)  # 0 is part of every grid
        fits = bool((span < 1 << tensor.bits).all())
    if not fits or with_codes(tensor, codes, tensor.scale).digest() != tensor.digest():
        raise BadTensor(
            f"{name}: its planes do not hold what bits={tensor.bits} and encoding={tensor.encoding!r} say; expected "
            "the digits that compressors.slicing writes for them"
        )


def _grid_facts(grid: ActivationGrid) -> dict[str, Any]:
    """``signs`` stands only where it is true, so that files of other networks stay what they were."""
    return {key: value for key, value in asdict(grid).items() if key != "signs" or value}


def _grid(name: str, facts: dict[str, Any]) -> ActivationGrid:
    bits, signed, scale, signs = facts["bits"], facts["signed"], facts["scale"], facts.get("signs", False)
    if not isinstance(signs, bool):
        raise ValueError(f"grids.{name}.signs={signs!r}, expected true or false")
    check_range(f"grids.{name}.bits", bits, 1, 8)
    if not isinstance(signed, bool):
        raise ValueError(f"grids.{name}.signed={signed!r}, expected true or false")
    reach = 1 << (bits - 1) if signed else (1 << bits) - 1
    limits = np.finfo(np.float32)
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    # compared as they are: an integer may be too large to become a float
    if not number or not float(limits.tiny) <= scale <= float(limits.max) / reach:
        raise ValueError(
            f"grids.{name}.scale={reprlib.repr(scale)}, expected a number whose {reach}-fold float32 holds"
        )
    return ActivationGrid(bits, signed, float(scale), signs)


def _fit(
    path: Path,
    network: nn.Module,
    layers: tuple[Layer, ...],
    tensors: dict[str, SlicedTensor],
    grids: dict[str, ActivationGrid],
    rest: dict[str, np.ndarray],
) -> None:
    shapes = {layer.name: layer.weight_shape for layer in layers}
    for name in {**tensors, **grids}:
        if name not in shapes:
            raise CheckpointError(f"{path}: layer {name!r} is not in the network")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name]:
            raise CheckpointError(f"{path}: {name} has shape {tensor.shape}, the network {shapes[name]}")
    state = {key: torch.from_numpy(value.copy()) for key, value in rest.items()}
    sliced = {f"{name}.weight" for name in tensors}
    own = network.state_dict()
    wrong = sorted(
        (set(own) - sliced) ^ set(state)
        | {key for key in set(own) & set(state) if _form(own[key]) != _form(state[key])}
    )
    if wrong:
        raise CheckpointError(f"{path}: missing, unexpected or misshapen entries: {', '.join(wrong[:5])}")
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {key} holds NaN or infinity")
    network.load_state_dict(state, strict=False)


def _form(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype
