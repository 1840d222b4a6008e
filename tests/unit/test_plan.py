"""Plans: exact through JSON, one digest for equal plans, and malformed input is named."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.errors import ConfigError, DseError, UnknownName
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan

methods = st.one_of(
    st.builds(TernaryConfig, st.integers(1, 8)),
    st.builds(BinaryConfig, st.integers(1, 8)),
    st.builds(UniformConfig, st.integers(2, 8), st.sampled_from(["mse", "minmax"])),
)
activations = st.none() | st.builds(ActivationConfig, st.integers(1, 8), st.sampled_from(["mse", "minmax"]))
layer_plans = st.one_of(
    st.builds(LayerPlan, methods, activations, st.floats(0, 1, exclude_max=True) | st.just(0)),
    st.builds(LayerPlan, st.none(), activations),
)
plans = st.builds(
    CompressionPlan,
    st.dictionaries(st.text(max_size=5), layer_plans, max_size=4).map(lambda d: tuple(d.items())),
    st.sampled_from(["match", "reestimate", "keep"]),
)

VALID: dict[str, Any] = {
    "layers": {
        "conv": {
            "weight": {"method": "uniform", "bits": 4, "clip": "mse"},
            "activation": {"bits": 8, "clip": "minmax"},
            "sparsity": 0.5,
        },
        "linear": {"weight": {"method": "ternary", "terms": 2}, "activation": None, "sparsity": 0.0},
    },
    "batch_norm": "match",
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
    other = CompressionPlan(tuple(layers), plan.batch_norm)
    assert other == plan and other.digest() == plan.digest()


def test_digest_is_that_of_the_canonical_json() -> None:
    canonical = (
        '{"batch_norm":"match","layers":{'
        '"conv":{"activation":{"bits":8,"clip":"minmax"},"sparsity":0.5,'
        '"weight":{"bits":4,"clip":"mse","method":"uniform"}},'
        '"linear":{"activation":null,"sparsity":0.0,"weight":{"method":"ternary","terms":2}}}}'
    )
    digest = CompressionPlan.from_dict(VALID).digest()
    assert digest == hashlib.sha256(canonical.encode()).hexdigest()
    assert digest == "9f17c17c7573de25f1df0ff96ce920ca05fc6d2f9a9defca3aa1cb798603ca21"


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
    assert CompressionPlan.from_dict({}) == CompressionPlan((), "match")
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


def test_sparsity_needs_a_method() -> None:
    with pytest.raises(ConfigError, match="sparsity=0.5: expected 0 where the weights stay float"):
        LayerPlan(None, None, 0.5)


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda children: (
        st.lists(children, max_size=2)
        | st.dictionaries(
            st.sampled_from(["layers", "weight", "method", "bits", "activation", "sparsity", "a"]),
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
