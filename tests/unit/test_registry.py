"""The registry of weight methods, and a method of a third party in it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressors import registry
from compressors.errors import BadTensor, ConfigError, UnknownName
from compressors.methods.ternary import TernaryConfig
from compressors.plan import CompressionPlan, LayerPlan
from compressors.registry import (
    check_range,
    check_weights,
    compress,
    config_from_dict,
    config_to_dict,
    make_config,
    method_name,
    method_names,
    register,
)
from compressors.tensor import SlicedTensor

METHODS = Path(registry.__file__).parent / "methods"


@dataclass(frozen=True)
class SignConfig:
    """Settings of the method below; the first has no default."""

    step: float
    times: int = 1


@pytest.fixture
def sign_method(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A third party's method, registered for one test."""
    method_names()  # the built-in ones are there before the copies are made
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    monkeypatch.setattr(registry, "_names", dict(registry._names))

    @register("sign", SignConfig)
    def compress_sign(weight: np.ndarray, keep: np.ndarray, config: SignConfig) -> SlicedTensor:
        codes = np.where(keep, np.sign(weight), 0).astype(np.int64)
        return SlicedTensor.from_terms(
            codes[None], np.full((1, len(codes), 1), config.step * config.times), weight.shape, "ternary"
        )

    yield "sign"


def test_built_in_methods() -> None:
    assert method_names() == sorted(registry._BUILT_IN)
    assert {"binary", "ternary", "uniform"} < set(registry._BUILT_IN)
    for name in registry._BUILT_IN:  # each in a file of its own, usable without any setting
        assert (METHODS / f"{name}.py").is_file()
        assert method_name(make_config(name, {})) == name
    assert method_name(TernaryConfig(3)) == "ternary"


def test_a_third_partys_method(sign_method: str) -> None:
    assert sign_method in method_names()
    config = make_config(sign_method, {"step": 0.5, "times": 3})
    tensor = compress(np.array([[[1.0], [-2.0]]]), config)
    assert tensor.to_dense().tolist() == [[[1.5], [-1.5]]]
    assert config_from_dict(config_to_dict(config)) == config
    plan = CompressionPlan((("a", LayerPlan(config)),))
    assert CompressionPlan.from_dict(plan.to_dict()) == plan


def test_a_setting_without_default_must_be_given(sign_method: str) -> None:
    with pytest.raises(ConfigError, match="sign.step"):
        make_config(sign_method, {"times": 2})


def test_unknown_names() -> None:
    known = ", ".join(method_names())
    with pytest.raises(
        UnknownName, match=f"unknown compressor 'ternry'; did you mean 'ternary'.*{re.escape(known)}"
    ):
        make_config("ternry", {})
    with pytest.raises(UnknownName, match="setting of 'uniform' 'bit'; did you mean 'bits'.*bits, clip"):
        make_config("uniform", {"bit": 4})
    with pytest.raises(UnknownName, match="'SignConfig'; .*TernaryConfig"):
        method_name(SignConfig(1.0))


@pytest.mark.parametrize("name", registry._BUILT_IN)
def test_the_first_setting_is_the_number_of_labels(name: str) -> None:
    config = make_config(name, {})
    first = dataclasses.fields(config)[0]
    assert type(getattr(config, first.name)) is int
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    hash(config)


@pytest.mark.parametrize("value", [1, 6, 2.0, "3", None, True, float("nan"), [3]])
def test_ranges(value: object) -> None:
    with pytest.raises(ConfigError, match="key=.*: expected an integer from 2 to 5"):
        check_range("key", value, 2, 5)


def test_range_ends_belong() -> None:
    check_range("key", 2, 2, 5)
    check_range("key", 5, 2, 5)


def test_the_mask_has_the_weights_shape() -> None:
    weight, keep = np.ones((2, 2, 2)), np.ones((2, 2, 2), bool)
    keep[1, 0, 1] = False
    assert compress(weight, TernaryConfig(), keep).to_dense().tolist() == keep.astype(float).tolist()


@pytest.mark.parametrize("shape", [(2, 8), (2, 2, 2, 2), (4, 4), (8, 2), (2, 2, 3), (2, 4, 2), (16,), ()])
@pytest.mark.parametrize("kind", [np.ones, torch.ones])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...], kind: Callable[..., Any]) -> None:
    keep = kind(shape) > 0
    with pytest.raises(BadTensor, match=re.escape(f"a mask of shape {shape} for weights of shape (4, 2, 2)")):
        compress(np.ones((4, 2, 2)), TernaryConfig(), keep)


@pytest.mark.parametrize(
    "keep", [np.ones((2, 3)), torch.ones(2, 3, dtype=torch.uint8), [[1, 0, 1]] * 2], ids=str
)
def test_a_mask_of_numbers_is_refused(keep: Any) -> None:
    with pytest.raises(BadTensor, match="a mask of (float64|uint8|int64): expected booleans, False where"):
        compress(np.ones((2, 3)), TernaryConfig(), keep)


def test_masks_and_weights_of_torch_are_those_of_numpy() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    keep = np.random.default_rng(1).random(weight.shape) < 0.6
    expected = compress(weight, TernaryConfig(2), keep).digest()
    tensor, mask = torch.from_numpy(weight), torch.from_numpy(keep)
    for some in (weight, tensor, torch.nn.Parameter(tensor)):
        for other in (keep, mask, keep.tolist()):
            assert compress(some, TernaryConfig(2), other).digest() == expected
    compress(torch.nn.Parameter(tensor), TernaryConfig(2), mask)


@pytest.mark.parametrize(
    "value", [None, "weights", [[1.0], [1.0, 2.0]], np.array([["a"]]), np.ones((2, 2)) * 1j], ids=str
)
def test_what_is_no_array_is_refused(value: Any) -> None:
    with pytest.raises(BadTensor, match="a weight tensor .*array"):
        compress(value, TernaryConfig())
    if value is not None:
        with pytest.raises(BadTensor, match="a mask .*array"):
            compress(np.ones((2, 2)), TernaryConfig(), value)


def test_how_many_weights_are_bad() -> None:
    weight = np.ones((2, 4))
    weight[0, 1:3] = np.nan, np.inf
    for refused in (lambda: compress(weight, TernaryConfig()), lambda: check_weights(weight)):
        with pytest.raises(BadTensor, match="2 of 8 weights are NaN, infinite"):
            refused()
    check_weights(np.ones((2, 4)))
