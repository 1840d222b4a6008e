"""From a frozen config dataclass to the function that compresses with it.

A method is one file: a frozen dataclass of its settings and a function decorated with ``register``. Third
parties add theirs through the entry point group ``dse.compressors``, whose target is a module that registers.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np

from compressors.errors import BadTensor, ConfigError, UnknownName
from compressors.tensor import SlicedTensor, as_array


class MethodConfig(Protocol):
    """Settings of one weight method: a frozen dataclass, hashable."""

    __dataclass_fields__: Any


Compressor = Callable[[np.ndarray, np.ndarray, Any], SlicedTensor]
Alphabet = Callable[[SlicedTensor, Any], np.ndarray]

_LARGEST_WEIGHT = 1e37  # whatever is made of it (128 steps, sums of terms) still is a finite float32
_BUILT_IN = (
    "uniform",
    "ternary",
    "binary",
    "bit_columns",
    "kmeans",
    "quantile",
    "normal_float",
    "power_of_two",
    "auto",
)
_methods: dict[str, tuple[type, Compressor]] = {}
_alphabets: dict[str, Alphabet | None] = {}
_names: dict[type, str] = {}


def register(name: str, config: type, alphabet: Alphabet | None = None) -> Callable[[Compressor], Compressor]:
    """Make ``compress(weight [N, K], keep [N, K], config)`` the method called ``name``.

    ``alphabet(tensor, config)`` says which codes a weight of that method may take, as ``int64 [terms, N or 1,
    groups or 1, L]``, for the repairs that round weights anew (see ``compressors.grid``); without one they choose
    among the codes that the tensor uses.
    """

    def add(compressor: Compressor) -> Compressor:
        _methods[name] = (config, compressor)
        _alphabets[name] = alphabet
        _names[config] = name
        return compressor

    return add


@cache
def _load() -> None:
    for module in _BUILT_IN:
        importlib.import_module(f"compressors.methods.{module}")
    for point in entry_points(group="dse.compressors"):
        point.load()


def method_names() -> list[str]:
    """Every method there is, sorted."""
    _load()
    return sorted(_methods)


def method_name(config: MethodConfig) -> str:
    """The name ``config``'s method is registered under.

    Raises:
        UnknownName: settings of no registered method.
    """
    _load()
    if type(config) not in _names:
        raise UnknownName("method settings", type(config).__name__, (c.__name__ for c in _names))
    return _names[type(config)]


def make_config(name: str, settings: Mapping[str, Any], key: str = "method") -> MethodConfig:
    """Validated settings of the method called ``name``.

    Raises:
        UnknownName: no such method, or a setting it does not have.
        ConfigError: a value out of range or absent.
    """
    _load()
    if name not in _methods:
        raise UnknownName("compressor", name, _methods, key=key)
    config = _methods[name][0]
    fields = {f.name for f in dataclasses.fields(config)}
    for setting in settings:
        if setting not in fields:
            raise UnknownName(f"setting of {name!r}", setting, fields, key=key)
    for f in dataclasses.fields(config):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in settings:
            raise ConfigError(f"{name}.{f.name}", None, "a value, as it has no default")
    return config(**settings)


def config_to_dict(config: MethodConfig) -> dict[str, Any]:
    """The config as plain JSON data, with its method's name."""
    return {"method": method_name(config), **dataclasses.asdict(config)}


def config_from_dict(data: Mapping[str, Any], key: str = "weight") -> MethodConfig:
    """The inverse of :func:`config_to_dict`, validated."""
    if not isinstance(data, Mapping) or not isinstance(data.get("method"), str):
        raise ConfigError(key, data, "a mapping with the name of a 'method'")
    return make_config(data["method"], {k: v for k, v in data.items() if k != "method"}, f"{key}.method")


def alphabet(tensor: SlicedTensor, config: MethodConfig) -> np.ndarray:
    """The codes a weight of ``tensor``, made with ``config``, may take: ``int64 [terms, N or 1, groups or 1, L]``."""
    own = _alphabets[method_name(config)]
    if own is not None:
        return own(tensor, config)
    used = np.unique(tensor.codes().reshape(tensor.terms, -1), axis=1)
    return used[:, None, None, :]


def check_range(key: str, value: object, low: int, high: int) -> None:
    """Refuse anything but an integer in ``[low, high]``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        shown = repr(value) if isinstance(value, np.generic) else value
        raise ConfigError(key, shown, f"an integer from {low} to {high}")


def compress(weight: np.ndarray, config: MethodConfig, keep: np.ndarray | None = None) -> SlicedTensor:
    """Compress one weight tensor.

    Args:
        weight: float array or torch tensor ``[N, ...]``, output channels first.
        config: settings of a registered method.
        keep: booleans of the same shape, False where a weight is pruned; None keeps all.

    Raises:
        BadTensor: NaN, infinity, a weight that no float32 scale can hold, an empty tensor, or a mask of another shape
            or type.
        UnknownName: settings of no registered method.
    """
    _load()
    weight = as_array(weight, "a weight tensor")
    check_weights(weight)
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    mask = np.ones(rows.shape, bool) if keep is None else _mask(keep, weight.shape).reshape(rows.shape)
    tensor = _methods[method_name(config)][1](rows, mask, config)
    return dataclasses.replace(tensor, shape=tuple(weight.shape))


def _mask(keep: Any, shape: tuple[int, ...]) -> np.ndarray:
    mask = as_array(keep, "a mask")
    if mask.shape != shape:
        raise BadTensor(f"a mask of shape {mask.shape} for weights of shape {shape}: expected the same shape")
    if mask.dtype != bool:
        raise BadTensor(f"a mask of {mask.dtype}: expected booleans, False where a weight is pruned")
    return mask


def check_weights(weight: np.ndarray) -> None:
    """Refuse a weight tensor that cannot be compressed.

    Raises:
        BadTensor: see :func:`compress`.
    """
    if weight.size == 0 or weight.ndim < 2:
        raise BadTensor(
            f"a weight tensor of shape {weight.shape}: expected [outputs, inputs, ...], none empty"
        )
    beyond = ~(np.abs(weight.astype(np.float64)) <= _LARGEST_WEIGHT)  # NaN compares False
    if beyond.any():
        raise BadTensor(
            f"{int(beyond.sum())} of {weight.size} weights are NaN, infinite or beyond {_LARGEST_WEIGHT:g}"
        )
