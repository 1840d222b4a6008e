"""The search space: what it offers, what it refuses, and that every suggestion is a valid candidate."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compressors.methods.binary import BinaryConfig
from compressors.methods.prune import keep_mask
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from dse.candidate import Candidate
from dse.errors import ConfigError, DseError, UnknownName
from dse.locations import config_dir
from dse.space import Space, SpaceConfig
from dse.weight_choices import choice_label, parse_choice, weight_choices

SHIPPED = sorted((config_dir() / "space").glob("*.yaml"))
SLICES = config_dir() / "space" / "slices.yaml"
LAYERS = (
    "conv1",
    *(f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)),
    "linear",
)
INNER = LAYERS[1:-1]


def shipped(path: Path = SLICES, **changes: Any) -> SpaceConfig:
    return SpaceConfig(**{**yaml.safe_load(path.read_text(encoding="utf-8")), **changes})


def random_trial(seed: int, **user_attrs: Any) -> optuna.trial.Trial:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    for name, value in user_attrs.items():
        trial.set_user_attr(name, value)
    return trial


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("grain", ["network", "stage", "block", "layer"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_suggestion_of_a_shipped_space_is_a_valid_candidate(path: Path, grain: str, seed: int) -> None:
    space = Space(shipped(path, grain=grain), LAYERS)
    candidate = space.suggest(random_trial(seed))
    assert {name for name, _ in candidate.plan.layers} == set(LAYERS)
    assert {name for name, _ in candidate.granularity} == set(LAYERS)
    assert Candidate.from_dict(json.loads(json.dumps(candidate.to_dict()))) == candidate
    for name in INNER:
        plan = candidate.plan[name]
        assert plan.sparsity in space.config.sparsity  # exactly a listed value, no rounding dirt
        assert plan.activation.bits in space.config.activation_bits
        assert dict(candidate.granularity)[name] in space.config.granularity


@pytest.mark.parametrize(("grain", "groups"), [("network", 1), ("stage", 3), ("block", 9), ("layer", 18)])
def test_layers_of_a_group_share_their_choice(grain: str, groups: int) -> None:
    space = Space(shipped(grain=grain), LAYERS)
    trial = random_trial(3)
    candidate = space.suggest(trial)
    assert len(space.groups) == groups
    assert len(trial.params) == 4 * groups
    assert sorted(name for names in space.groups.values() for name in names) == sorted(INNER)
    for group, names in space.groups.items():
        assert {candidate.plan[name] for name in names} == {candidate.plan[names[0]]}
        weights = trial.params[f"{group}.weights"]
        assert candidate.plan[names[0]].weight == parse_choice(weights)


def test_a_fixed_trial_gives_exactly_what_it_says() -> None:
    space = Space(shipped(grain="network"), LAYERS)
    params = {"weights": "binary-2", "activation_bits": 3, "sparsity": 0.3, "granularity": 2}
    trial = optuna.trial.FixedTrial({f"network.{name}": value for name, value in params.items()})
    candidate = space.suggest(trial)
    inner = LayerPlan(BinaryConfig(2), ActivationConfig(3), 0.3)
    edge = LayerPlan(UniformConfig(8), ActivationConfig(8))
    plans = {"conv1": edge, **dict.fromkeys(INNER, inner), "linear": edge}
    assert candidate.plan == CompressionPlan(tuple(plans.items()), "match")
    assert dict(candidate.granularity) == dict.fromkeys(LAYERS, 2)


def test_edges_are_searched_where_they_are_not_fixed() -> None:
    space = Space(shipped(grain="stage", first=None), LAYERS)
    assert list(space.groups) == ["conv1", "layer1", "layer2", "layer3"]
    candidate = space.suggest(random_trial(0))
    assert candidate.plan["linear"].weight == UniformConfig(8)
    both = Space(shipped(grain="stage", first=None, last=None), LAYERS)
    assert list(both.groups) == ["conv1", "layer1", "layer2", "layer3", "linear"]


def test_fixed_edges_run_in_the_mode_of_their_neighbours() -> None:
    space = Space(shipped(grain="stage"), LAYERS)
    fixed = {"weights": "ternary-1", "activation_bits": 8, "sparsity": 0.0}
    params = {f"layer{i}.{name}": value for i in (1, 2, 3) for name, value in fixed.items()}
    params |= {"layer1.granularity": 1, "layer2.granularity": 2, "layer3.granularity": 4}
    modes = dict(space.suggest(optuna.trial.FixedTrial(params)).granularity)
    assert (modes["conv1"], modes["linear"]) == (1, 4)


def test_shipped_baselines_are_what_their_names_say() -> None:
    space = Space(shipped(), LAYERS)
    baselines = {baseline.label: baseline for baseline in space.baselines()}
    assert list(baselines) == ["float", "uniform 8", "uniform 4", "uniform 2", "ternary", "ternary 4"]
    assert baselines["float"].params == {}
    plans = {label: space.baseline(label).plan for label in baselines}
    assert plans["float"] == CompressionPlan((), "keep")
    for bits in (8, 4, 2):
        assert plans[f"uniform {bits}"]["layer2.1.conv1"].weight == UniformConfig(bits)
        assert len(baselines[f"uniform {bits}"].params) == 4 * len(space.groups)
    for label, bits in (("ternary", 8), ("ternary 4", 4)):
        assert plans[label]["layer2.1.conv1"].weight == TernaryConfig(1)
        assert plans[label]["layer2.1.conv1"].activation == ActivationConfig(bits)


def test_baselines_inside_the_space_are_suggested_from_their_parameters() -> None:
    space = Space(shipped(), LAYERS)
    for baseline in space.baselines():
        if baseline.params:
            trial = optuna.trial.FixedTrial(dict(baseline.params))
            assert space.suggest(trial) == space.baseline(baseline.label)


def test_baselines_outside_the_space_are_tried_all_the_same() -> None:
    space = Space(shipped(activation_bits=[2, 3]), LAYERS)
    outside = {b.label for b in space.baselines() if not b.params}
    assert outside == {"float", "uniform 8", "uniform 4", "ternary", "ternary 4"}
    trial = random_trial(0, label="uniform 4")
    candidate = space.suggest(trial)
    assert candidate == space.baseline("uniform 4")
    assert candidate.plan["layer1.0.conv1"].activation == ActivationConfig(4)
    assert trial.params == {}  # a value outside the space would mislead the sampler


def test_numbers_on_an_even_grid_keep_their_order_for_the_sampler() -> None:
    space = Space(shipped(grain="network"), LAYERS)
    trial = random_trial(0)
    space.suggest(trial)
    kinds = {name.partition(".")[2]: type(d).__name__ for name, d in trial.distributions.items()}
    assert kinds == {
        "weights": "CategoricalDistribution",
        "activation_bits": "IntDistribution",
        "sparsity": "FloatDistribution",
        "granularity": "CategoricalDistribution",
    }
    uneven = Space(shipped(grain="network", activation_bits=[2, 4, 8], sparsity=[0.5]), LAYERS)
    trial = random_trial(0)
    uneven.suggest(trial)
    assert trial.distributions["network.activation_bits"].choices == (2, 4, 8)
    assert trial.distributions["network.sparsity"].choices == (0.5,)


def test_weight_choices_are_all_combinations_of_a_methods_settings() -> None:
    weights = {"uniform": {"bits": [2, 4], "clip": ["mse", "minmax"]}, "ternary": {}, "binary": None}
    space = Space(shipped(grain="network", weights=weights, baselines={}), LAYERS)
    trial = random_trial(0)
    space.suggest(trial)
    choices = trial.distributions["network.weights"].choices
    assert choices == ("uniform-2-mse", "uniform-2-minmax", "uniform-4-mse", "uniform-4-minmax", "ternary")


def test_a_baseline_may_name_any_choice_of_the_space() -> None:
    spec = {"weights": "uniform-4-minmax", "activation_bits": 8, "sparsity": 0.0, "granularity": 8}
    weights = {"uniform": {"bits": [4], "clip": ["minmax"]}}
    space = Space(shipped(weights=weights, baselines={"clipless": spec}), LAYERS)
    assert space.baseline("clipless").plan["layer1.0.conv1"].weight == UniformConfig(4, "minmax")


def test_what_choices_are_called() -> None:
    found = weight_choices({"ternary": {"terms": [1, 2]}, "binary": None, "uniform": {"bits": 4}})
    assert found == {label: parse_choice(label) for label in ("ternary-1", "ternary-2", "uniform-4")}
    found = weight_choices({"uniform": {"bits": [4], "clip": ["mse", "kl"]}})  # as the README says
    assert found == {"uniform-4-mse": UniformConfig(4, "mse"), "uniform-4-kl": UniformConfig(4, "kl")}


def dropped(plan: LayerPlan) -> float:
    """Share of an 8x8 layer's weights that a plan prunes."""
    return 1.0 - keep_mask(np.arange(64.0).reshape(8, 8), plan.sparsity, plan.pattern).mean()


@pytest.mark.parametrize("pattern", ["element", "2:4", "4x1", "channel"])
def test_sparsity_0_prunes_nothing_in_any_pattern(pattern: str) -> None:
    space = Space(shipped(grain="network", pattern=pattern, sparsity=[0.0, 0.5]), LAYERS)
    for label in space.config.baselines:
        plan = space.baseline(label).plan
        assert plan == Space(shipped(grain="network"), LAYERS).baseline(label).plan
        assert [dropped(layer) for _, layer in plan.layers] == [0.0] * len(plan.layers)
    params = {"network.weights": "ternary-1", "network.activation_bits": 8, "network.granularity": 1}
    none, half = (
        space.suggest(optuna.trial.FixedTrial({**params, "network.sparsity": s})).plan for s in (0.0, 0.5)
    )
    assert none.digest() != half.digest()
    for name in INNER:
        assert (dropped(none[name]), dropped(half[name])) == (0.0, 0.5)
    assert dropped(half["conv1"]) == dropped(half["linear"]) == 0.0


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "2:3"])
@pytest.mark.parametrize("sparsity", [shipped().sparsity, [0.0]])
def test_what_a_pattern_asks_of_sparsity_is_said_so_that_it_can_be_typed(
    pattern: str, sparsity: list[float]
) -> None:
    with pytest.raises(ConfigError, match="^space.sparsity=") as caught:
        shipped(pattern=pattern, sparsity=sparsity)
    word = re.search(r"give 'space\.sparsity=(\[.*\])'", str(caught.value))
    assert word is not None
    space = Space(shipped(grain="network", pattern=pattern, sparsity=json.loads(word[1])), LAYERS)
    seen = {space.suggest(random_trial(seed)).plan["layer1.0.conv1"].pattern for seed in range(20)}
    assert seen == {"element", pattern}


@pytest.mark.parametrize(
    ("label", "config"),
    [
        ("ternary-2", TernaryConfig(2)),
        ("binary-3", BinaryConfig(3)),
        ("uniform-8", UniformConfig(8)),
        ("uniform", UniformConfig()),
    ],
)
def test_labels_name_methods(label: str, config: object) -> None:
    assert parse_choice(label) == config
    method, _, value = label.partition("-")
    assert choice_label(method, {"x": value} if value else {}) == label


BASELINE = {"weights": "uniform-8", "activation_bits": 8, "sparsity": 0.0, "granularity": 8}
EDGE = {"weights": "uniform-8", "activation_bits": 8}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"grain": "stages"}, UnknownName, "space.grain: unknown grain 'stages'; did you mean 'stage'"),
        (
            {"batch_norm": "mtch"},
            UnknownName,
            "space.batch_norm: unknown repair 'mtch'; did you mean 'match'",
        ),
        ({"weights": {}}, ConfigError, "space.weights={}: expected at least one method"),
        ({"weights": {"binary": None}}, ConfigError, "space.weights={'binary': None}"),
        (
            {"weights": {"ternary": {"terms": [1]}, "uniform": {"bits": []}}},
            ConfigError,
            r"space.weights.uniform.bits=\[\]: expected at least one value to try; space.weights.uniform=null leaves",
        ),
        (
            {"repair": []},
            ConfigError,
            r"space.repair=\[\]: expected a list, at least one of nearest, second_order",
        ),
        ({"repair": ()}, ConfigError, r"space.repair=\[\]: expected a list"),
        ({"repair": "nearest"}, ConfigError, "space.repair=nearest: expected a list"),
        (
            {"weights": {"ternry": {"terms": [1]}}},
            UnknownName,
            "space.weights: unknown compressor 'ternry'; did you mean 'ternary' or 'binary'",
        ),
        (
            {"weights": {"ternary": {"terns": [1]}}},
            UnknownName,
            "space.weights.ternary: unknown setting of 'ternary' 'terns'; did you mean 'terms'",
        ),
        (
            {"weights": {"uniform": {"bits": ["abc"]}}},
            ConfigError,
            "space.weights.uniform.bits=abc: expected an integer from 2 to 8",
        ),
        ({"weights": {"uniform": {"bits": [8, 9]}}}, ConfigError, "space.weights.uniform.bits=9: expected"),
        ({"weights": {"uniform": {"bits": [True]}}}, ConfigError, "space.weights.uniform.bits=True"),
        ({"activation_bits": [0]}, ConfigError, "space.activation_bits=0: expected an integer from 1 to 8"),
        (
            {"activation_bits": [4, 9]},
            ConfigError,
            "space.activation_bits=9: expected an integer from 1 to 8",
        ),
        ({"activation_bits": [4.5]}, ConfigError, "space.activation_bits=4.5"),
        ({"activation_bits": ["abc"]}, ConfigError, "space.activation_bits=abc"),
        ({"activation_bits": "abc"}, ConfigError, "space.activation_bits=abc: expected a list"),
        ({"activation_bits": []}, ConfigError, r"space.activation_bits=\[\]: expected a list"),
        ({"activation_bits": ()}, ConfigError, r"space.activation_bits=\[\]: expected a list"),
        (
            {"sparsity": [1.0]},
            ConfigError,
            "space.sparsity=1.0: expected a number from 0 up to, not including, 1",
        ),
        ({"sparsity": [-0.1]}, ConfigError, "space.sparsity=-0.1"),
        ({"sparsity": [float("nan")]}, ConfigError, "space.sparsity=nan"),
        ({"granularity": [3]}, ConfigError, "space.granularity=3: expected one of 1, 2, 4, 8"),
        ({"granularity": [True]}, ConfigError, "space.granularity=True"),
        ({"first": {"weights": "uniform-8"}}, ConfigError, "space.first=.*the keys weights, activation_bits"),
        ({"first": {**EDGE, "activation_bits": 9}}, ConfigError, "space.first.activation_bits=9"),
        (
            {"last": {**EDGE, "weights": "uniform-9"}},
            ConfigError,
            "space.last.weights=uniform-9: expected uniform.bits to be an integer from 2 to 8",
        ),
        (
            {"last": {**EDGE, "weights": "uniform-x"}},
            ConfigError,
            "space.last.weights=uniform-x: .*METHOD-NUMBER",
        ),
        (
            {"last": {**EDGE, "weights": "uniform-²"}},
            ConfigError,
            "space.last.weights=uniform-²: .*METHOD-NUMBER",
        ),
        (
            {"last": {**EDGE, "weights": "unform-8"}},
            UnknownName,
            "space.last.weights.*did you mean 'uniform'",
        ),
        ({"baselines": {"mine": {"weights": "ternary-1"}}}, ConfigError, "space.baselines.mine=.*the keys"),
        (
            {"baselines": {"a": {**BASELINE, "granularity": 3}}},
            ConfigError,
            "space.baselines.a.granularity=3",
        ),
        ({"baselines": {"a": {**BASELINE, "activation_bits": 20}}}, ConfigError, "a.activation_bits=20"),
        ({"baselines": {"a": {**BASELINE, "sparsity": 2}}}, ConfigError, "space.baselines.a.sparsity=2"),
        (
            {"pattern": "2:4", "sparsity": [0.5], "baselines": {"a": {**BASELINE, "sparsity": 0.3}}},
            ConfigError,
            "space.baselines.a.sparsity=0.3: expected 0 or 0.5",
        ),
        ({"baselines": {"a": {**BASELINE, "weights": "tern"}}}, UnknownName, "space.baselines.a.weights"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_key_and_range(
    changes: dict[str, Any], error: type[DseError], message: str
) -> None:
    with pytest.raises(error, match=message):
        shipped(**changes)


@pytest.mark.parametrize("layers", [(), ("a",), ("a", "b")])
def test_a_network_too_small_to_have_edges_is_refused(layers: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="at least three compressible layers"):
        Space(shipped(), layers)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_comment_and_fill_every_field(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) == {field.name for field in dataclasses.fields(SpaceConfig)}
    assert re.match(r"# \w", text)


def test_one_threshold_for_the_layers_of_a_group() -> None:
    """Magnitudes 1 to 10 over two layers: the smallest six go, wherever they are; no layer loses its last."""
    weights = {name: np.ones((2, 2)) for name in LAYERS}
    first, second = [name for name in LAYERS if name.startswith("layer1")][:2]
    weights[first] = -np.arange(1.0, 5.0).reshape(2, 2)
    weights[second] = np.arange(5.0, 11.0).reshape(2, 3)
    others = [name for name in LAYERS if name not in (first, second)]
    for name in others:
        weights[name] = np.full((2, 2), 100.0)
    config = shipped(grain="network", sparsity=[0.0, 0.1], threshold="group", baselines={})
    space = Space(config, LAYERS, weights=weights)
    total = sum(weights[n].size for names in space.groups.values() for n in names)
    spec = {"weights": "ternary-1", "activation_bits": 4, "sparsity": 6 / total, "granularity": 1}
    plans = dict(space._candidate({"network": spec}, "nearest").plan.layers)
    assert plans[first].sparsity == 3 / 4 and plans[second].sparsity == 3 / 6
    assert all(plans[name].sparsity == 0 for name in others)


def test_thresholds_of_groups_need_weights_and_single_ones() -> None:
    with pytest.raises(UnknownName, match="space.threshold: unknown threshold 'global'"):
        shipped(threshold="global")
    with pytest.raises(ConfigError, match="space.pattern=4x1: expected element"):
        shipped(threshold="group", pattern="4x1")
    with pytest.raises(ConfigError, match="space.threshold=group"):
        Space(shipped(threshold="group"), LAYERS)
