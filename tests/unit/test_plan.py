"""Plans: exact through JSON, one digest for equal plans, and malformed input is named."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError, DseError, UnknownName
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.plan import (
    ACTIVATION_CLIPS,
    BATCH_NORM_REPAIRS,
    BIAS_REPAIRS,
    ROUNDINGS,
    ActivationConfig,
    CompressionPlan,
    LayerPlan,
    Reconstruction,
)
from compressors.registry import make_config, method_names

methods = st.one_of(
    st.builds(TernaryConfig, st.integers(1, 8)),
    st.builds(BinaryConfig, st.integers(1, 8)),
    st.builds(UniformConfig, st.integers(2, 8), st.sampled_from(["mse", "minmax"])),
    st.sampled_from(method_names()).map(lambda name: make_config(name, {})),
)
activations = st.none() | st.builds(ActivationConfig, st.integers(1, 8), st.sampled_from(ACTIVATION_CLIPS))
free_patterns = st.sampled_from(["element", "channel", "4x1", "1x16"])
roundings = st.sampled_from(ROUNDINGS)
layer_plans = st.one_of(
    st.builds(
        LayerPlan,
        methods,
        activations,
        st.floats(0, 1, exclude_max=True) | st.just(0),
        free_patterns,
        roundings,
    ),
    st.builds(LayerPlan, methods, activations, st.sampled_from([0.0, 0.5]), st.just("2:4"), roundings),
    st.builds(LayerPlan, st.none(), activations, st.just(0.0), free_patterns, roundings),
)
plans = st.builds(
    CompressionPlan,
    st.dictionaries(st.text(max_size=5), layer_plans, max_size=4).map(lambda d: tuple(d.items())),
    st.sampled_from(BATCH_NORM_REPAIRS),
    st.sampled_from(BIAS_REPAIRS),
    st.booleans(),
    st.integers(1, 64),
    st.none() | st.builds(Reconstruction, st.integers(1, 1 << 20), st.integers(1, 1 << 16)),
)

VALID: dict[str, Any] = {
    "layers": {
        "conv": {
            "weight": {"method": "uniform", "bits": 4, "clip": "mse"},
            "activation": {"bits": 8, "clip": "minmax"},
            "sparsity": 0.5,
            "pattern": "2:4",
            "rounding": "second_order",
        },
        "linear": {"weight": {"method": "ternary", "terms": 2}, "activation": None, "sparsity": 0.0},
    },
    "batch_norm": "match",
    "bias": "match",
    "equalize": True,
    "augment": 4,
    "reconstruct": {"steps": 100, "batch": 32},
}


@settings(max_examples=100, deadline=None)
@given(plans)
def test_exact_through_json(plan: CompressionPlan) -> None:
    again = CompressionPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.digest() == plan.digest()


@settings(max_examples=50, deadline=None)
@given(plans, st.randoms(use_true_random=False))
def test_order_of_layers_does_not_matter(plan: CompressionPlan, random: Any) -> None:
    layers = list(plan.layers)
    random.shuffle(layers)
    other = dataclasses.replace(plan, layers=tuple(layers))
    assert other == plan and other.digest() == plan.digest()


def test_digest_is_that_of_the_canonical_json() -> None:
    uniform = '"bits":4,"clip":"mse","group":0,"method":"uniform","per":"channel","percentile":99.9,"symmetric":true'
    ternary = '"asymmetric":false,"group":0,"method":"ternary","per":"channel","refine":"greedy"'
    ternary += ',"rule":"optimal","terms":2'
    canonical = (
        '{"augment":4,"batch_norm":"match","bias":"match","equalize":true,"layers":{'
        '"conv":{"activation":{"bits":8,"clip":"minmax"},"pattern":"2:4","rounding":"second_order","sparsity":0.5,'
        '"weight":{' + uniform + "}},"
        '"linear":{"activation":null,"pattern":"element","rounding":"nearest","sparsity":0.0,'
        '"weight":{' + ternary + '}}},"reconstruct":{"batch":32,"steps":100}}'
    )
    digest = CompressionPlan.from_dict(VALID).digest()
    assert digest == hashlib.sha256(canonical.encode()).hexdigest()


@settings(max_examples=100, deadline=None)
@given(plans, plans)
def test_other_plans_have_other_digests(one: CompressionPlan, other: CompressionPlan) -> None:
    assert (one == other) == (one.digest() == other.digest())


CHANGES: dict[str, Any] = {
    "batch_norm": "keep",
    "bias": "keep",
    "equalize": False,
    "augment": 5,
    "reconstruct": None,
    "reconstruct.steps": 101,
    "reconstruct.batch": 31,
    "layers.conv.pattern": "element",
    "layers.conv.rounding": "nearest",
    "layers.conv.sparsity": 0,
    "layers.conv.activation.bits": 7,
    "layers.conv.weight.bits": 5,
}


@pytest.mark.parametrize("path", CHANGES)
def test_every_field_counts(path: str) -> None:
    changed = CompressionPlan.from_dict(altered(path, CHANGES[path]))
    assert changed != CompressionPlan.from_dict(VALID)
    assert changed.digest() != CompressionPlan.from_dict(VALID).digest()
    assert CompressionPlan.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def test_equal_plans_have_one_digest() -> None:
    def plan(sparsity: float) -> CompressionPlan:
        return CompressionPlan((("a", LayerPlan(TernaryConfig(), None, sparsity)),))

    assert plan(0) == plan(0.0) == plan(-0.0)
    assert len({plan(0).digest(), plan(0.0).digest(), plan(-0.0).digest()}) == 1
    assert plan(0.1).digest() != plan(0.2).digest()


def test_layers_and_defaults() -> None:
    plan = CompressionPlan.from_dict(VALID)
    assert plan["linear"] == LayerPlan(TernaryConfig(2))
    assert plan["not in the plan"] == LayerPlan(None, None, 0.0)
    assert CompressionPlan.from_dict({}) == CompressionPlan((), "match", "keep", False, 1, None)
    assert CompressionPlan.from_dict({"reconstruct": {}}).reconstruct == Reconstruction(400, 64)
    assert LayerPlan.from_dict({}) == LayerPlan(None, None, 0.0, "element", "nearest")
    assert LayerPlan.from_dict({"activation": {}}) == LayerPlan(None, ActivationConfig(8, "mse"))


def altered(path: str, value: Any) -> dict[str, Any]:
    """``VALID`` with the entry at the dotted ``path`` replaced."""
    data = copy.deepcopy(VALID)
    *parents, last = path.split(".")
    target = data
    for parent in parents:
        target = target[parent]
    target[last] = value
    return data


NOT_MAPPINGS = [None, [], ["conv"], "conv", 3, True, 0.5]
MALFORMED = [
    *[("layers", value) for value in NOT_MAPPINGS],
    *[("layers.conv", value) for value in NOT_MAPPINGS],
    *[("layers.conv.weight", value) for value in [*NOT_MAPPINGS[1:], {}, {"bits": 4}, {"method": None}]],
    *[("layers.conv.activation", value) for value in NOT_MAPPINGS[1:]],
    *[("layers.conv.weight.method", value) for value in [None, 3, ["uniform"], {}]],
    *[("layers.conv.weight.bits", value) for value in ["abc", "4", True, 2.0, None, 1, 9, -3, [4], {}]],
    *[("layers.conv.weight.clip", value) for value in ["max", None, 3, ["mse"], {}]],
    *[("layers.linear.weight.terms", value) for value in [0, 9, "2", 1.5, False, None]],
    *[("layers.conv.activation.bits", value) for value in ["abc", True, 8.0, None, 0, 9, [8]]],
    *[("layers.conv.activation.clip", value) for value in ["", None, 1, []]],
    *[
        ("layers.conv.sparsity", value)
        for value in [1.0, 1, -0.1, float("nan"), float("inf"), "0.5", True, None, [0.5]]
    ],
    *[("batch_norm", value) for value in ["fold", None, 1, [], {}]],
    *[("bias", value) for value in ["matched", None, 1, True, [], {}]],
    *[("equalize", value) for value in ["yes", None, 1, 0, [], {}]],
    *[("augment", value) for value in [0, 65, -1, 2.0, "2", True, None, [2], {}]],
    *[("reconstruct", value) for value in NOT_MAPPINGS[1:]],
    *[("reconstruct.steps", value) for value in [0, -1, (1 << 20) + 1, 1.5, "400", True, None, [4]]],
    *[("reconstruct.batch", value) for value in [0, (1 << 16) + 1, 64.0, "64", False, None, {}]],
    ("reconstruct.rate", 0.1),
    *[
        ("layers.conv.pattern", value)
        for value in ["", "2:2", "4:2", "0:4", "2:", "x4", "4x0", "2:4:8", "row", "1:4", None, 4, ["2:4"], {}]
    ],
    *[("layers.conv.rounding", value) for value in ["up", "second-order", None, 2, True, [], {}]],
    ("layers.conv.prune", "2:4"),
    ("layers.conv.weights", {}),
    ("layers.conv.activation.scale", 1.0),
    ("bits", 4),
]


@pytest.mark.parametrize(("path", "value"), MALFORMED, ids=lambda part: repr(part))
def test_malformed_input_is_a_config_error(path: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        CompressionPlan.from_dict(altered(path, value))
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("data", NOT_MAPPINGS, ids=repr)
def test_no_plan_at_all(data: object) -> None:
    with pytest.raises(ConfigError, match="plan=.*a mapping with the keys augment, batch_norm, bias"):
        CompressionPlan.from_dict(data)  # type: ignore[arg-type]


def test_paths_of_layers_are_text() -> None:
    with pytest.raises(ConfigError, match="plan.layers=1: expected the path"):
        CompressionPlan.from_dict({"layers": {1: {}, "a": {}}})


def test_unknown_method_and_setting_name_the_nearest_and_the_place() -> None:
    with pytest.raises(UnknownName, match="plan.layers.linear.weight.*'ternry'; did you mean 'ternary'"):
        CompressionPlan.from_dict(altered("layers.linear.weight.method", "ternry"))
    with pytest.raises(UnknownName, match="plan.layers.linear.*'term'; did you mean 'terms'"):
        CompressionPlan.from_dict(altered("layers.linear.weight.term", 2))


WRONG_LAYERS: list[dict[str, Any]] = [
    *[
        {"weight": value}
        for value in (8, "ternary", True, TernaryConfig, {"method": "ternary"}, ActivationConfig())
    ],
    *[{"activation": value} for value in (8, True, {"bits": 8}, {}, ActivationConfig, TernaryConfig())],
    *[
        {"sparsity": value}
        for value in ("0.5", True, None, np.True_, np.float32(1.0), np.array([0.5]), 10**400)
    ],
    *[{"pattern": value} for value in (None, 4, ["2:4"], np.array(["2:4", "1:4"]))],
    *[{"rounding": value} for value in (None, True, ["nearest"], np.array(["nearest", "up"]))],
]


@pytest.mark.parametrize("wrong", WRONG_LAYERS, ids=str)
def test_a_layer_is_as_strict_when_built_by_hand(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(ConfigError, match=f"^{key}=.*expected"):
        LayerPlan(**{"weight": TernaryConfig(), **wrong})


LAYER = ("conv", LayerPlan(TernaryConfig()))
WRONG_PLANS: list[dict[str, Any]] = [
    *[
        {"layers": value}
        for value in (dict([LAYER]), {}, None, 3, "conv", LAYER, ["conv"], [LAYER, "linear"])
    ],
    *[
        {"layers": [value]}
        for value in (("conv", TernaryConfig()), ("conv", None), ("conv", {}), (*LAYER, 1))
    ],
    *[{"layers": [(value, LAYER[1])]} for value in (1, None, b"conv", ("conv",))],
    {"layers": [LAYER, ("linear", LayerPlan()), ("conv", LayerPlan())]},
    *[
        {"reconstruct": value}
        for value in (5, True, False, {"steps": 5}, {}, Reconstruction, ActivationConfig())
    ],
    *[{"batch_norm": value} for value in (None, True, ["keep"])],
    *[{"equalize": value} for value in (1, None, np.True_)],
    *[{"augment": value} for value in (True, 2.0, np.int64(2), np.float32(2.0))],
]


@pytest.mark.parametrize("wrong", WRONG_PLANS, ids=str)
def test_a_plan_is_as_strict_when_built_by_hand(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(ConfigError, match=rf"^plan\.{key}=.*expected"):
        CompressionPlan(**wrong)


def test_what_is_wrong_is_told_with_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"activation=8: expected settings such as ActivationConfig\(bits"):
        LayerPlan(TernaryConfig(), 8)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"plan\.layers=dict: .*; give tuple\(layers\.items\(\)\)"):
        CompressionPlan(dict([LAYER]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="plan.layers=conv: expected each layer once"):
        CompressionPlan((LAYER, LAYER))
    with pytest.raises(ConfigError, match=r"plan\.augment=np\.int64\(2\): expected an integer"):
        CompressionPlan(augment=np.int64(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64, np.int64, np.uint8, int])
def test_sparsity_by_other_kinds_of_numbers(number: type) -> None:
    sparsity = number(0.25) if np.issubdtype(number, np.floating) else number(0)
    layer, plain = (
        LayerPlan(TernaryConfig(), None, sparsity),
        LayerPlan(TernaryConfig(), None, float(sparsity)),
    )
    assert type(layer.sparsity) is float
    assert layer == plain and hash(layer) == hash(plain) and repr(layer) == repr(plain)
    plan = CompressionPlan((("conv", layer),))
    assert plan.digest() == CompressionPlan((("conv", plain),)).digest()
    assert CompressionPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@settings(max_examples=50, deadline=None)
@given(plans)
def test_copies_are_the_same_plan(plan: CompressionPlan) -> None:
    built = CompressionPlan(
        [list(pair) for pair in plan.layers], *dataclasses.astuple(plan)[1:5], plan.reconstruct
    )
    for other in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan), dataclasses.replace(plan), built):
        assert other == plan and hash(other) == hash(plan) and other.digest() == plan.digest()


def test_a_fixed_pattern_and_another_sparsity_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="sparsity=0.3: expected 0 or 0.5, which is what 2:4 drops"):
        LayerPlan(TernaryConfig(), None, 0.3, "2:4")
    assert LayerPlan(TernaryConfig(), None, 0.75, "1:4").sparsity == 0.75


def test_sparsity_needs_a_method() -> None:
    with pytest.raises(ConfigError, match="sparsity=0.5: expected 0 where the weights stay float"):
        LayerPlan(None, None, 0.5)


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda children: (
        st.lists(children, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["layers", "weight", "method", "bits", "activation", "sparsity", "pattern", "steps", "a"]
            ),
            children,
            max_size=3,
        )
    ),
    max_leaves=6,
)
paths = st.sampled_from(sorted({path for path, _ in MALFORMED}))


@settings(max_examples=300, deadline=None)
@given(paths, json_data)
def test_any_data_parses_or_is_refused_with_a_message(path: str, value: object) -> None:
    try:
        plan = CompressionPlan.from_dict(altered(path, value))
    except DseError as error:
        assert str(error)
    else:
        assert CompressionPlan.from_dict(plan.to_dict()) == plan
