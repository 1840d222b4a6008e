"""The search space: from config to Optuna suggestions to candidates."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna

from compressors.methods.prune import Pattern, check_sparsity, global_sparsity, parse_pattern
from compressors.plan import (
    ACTIVATION_CLIPS,
    BATCH_NORM_REPAIRS,
    BIAS_REPAIRS,
    ActivationConfig,
    CompressionPlan,
    LayerPlan,
    Reconstruction,
)
from compressors.registry import MethodConfig, check_range
from compressors.slicing import GRANULARITIES
from dse.candidate import Candidate
from dse.errors import ConfigError, UnknownName
from dse.search import Baseline
from dse.weight_choices import parse_choice, weight_choices

GRAINS = ("network", "stage", "block", "layer")
THRESHOLDS = ("layer", "group")
REPAIRS = ("nearest", "second_order", "reconstruct")
_REPAIR = "network.repair"
FLOAT = "float"


@dataclass(frozen=True)
class SpaceConfig:
    """What may be chosen, per group of layers.

    Attributes:
        grain: which layers share a choice: all (``network``), those of a ``stage`` (first part of the path), of
            a ``block`` (first two parts), or none (``layer``).
        weights: method -> setting -> values to try, e.g. ``{"ternary": {"terms": [1, 2, 3]}}``.
        activation_bits: bits of each layer's input.
        sparsity: fractions of weights pruned before the grid is fitted; at 0 none is, whatever the pattern.
        granularity: bits of one digit on the accelerator.
        first, last: fixed plan of the first and last layer as ``{"weights": choice, "activation_bits": bits}``;
            None searches them like any other.
        pattern: in which weights are pruned, see ``compressors.methods.prune``; N:M allows the sparsity it makes, and
            0; ``channel`` takes effect where channels can be taken out, and other layers are not pruned then.
        threshold: of magnitudes below which weights go: one for each ``layer``, or one for each ``group`` of layers
            that share a choice (for the whole network with ``grain=network``), single weights alone.
        activation_clip: how input grids are chosen, see ``compressors.plan``.
        repair: recipes for the whole network to choose from: ``nearest``, ``second_order``, ``reconstruct`` (which
            includes ``second_order``).
        batch_norm, bias, equalize, reconstruct, augment: see ``compressors.plan``; ``reconstruct`` holds its steps.
        baselines: label -> one value of each of the four for all searched layers, and of ``repair`` if not the first;
            ``weights: float`` leaves the whole network as it is.
    """

    grain: str = "stage"
    weights: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    activation_bits: Sequence[int] = (8,)
    sparsity: Sequence[float] = (0.0,)
    granularity: Sequence[int] = GRANULARITIES
    first: Mapping[str, Any] | None = None
    last: Mapping[str, Any] | None = None
    pattern: str = "element"
    threshold: str = "layer"
    activation_clip: str = "mse"
    repair: Sequence[str] = ("nearest",)
    batch_norm: str = "match"
    bias: str = "keep"
    equalize: bool = False
    reconstruct: int = 300
    augment: int = 1
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)


class Space:
    """The space of a network: which layers there are, what each may become."""

    def __init__(
        self,
        config: SpaceConfig,
        layers: Sequence[str],
        removable: Collection[str] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            config: what may be chosen.
            layers: in the order they run.
            removable: layers that channels can be taken out of; None for all.
            weights: of the float network's layers, which thresholds over several layers are taken from.
        """
        if config.threshold == "group" and weights is None:
            raise ConfigError(
                "space.threshold", "group", "layer, where the network's weights are not at hand"
            )
        self._magnitudes = {name: np.abs(weight) for name, weight in (weights or {}).items()}
        self.config = config
        self._removable = frozenset(layers if removable is None else removable)
        self.layers = tuple(layers)
        self._weights = weight_choices(config.weights)
        if len(self.layers) < 3:
            raise ConfigError("model", list(self.layers), "a network of at least three compressible layers")
        fixed = {name: edge for name, edge in self._edges() if edge is not None}
        self._fixed = {name: self._edge_plan(edge) for name, edge in fixed.items()}
        self.groups: dict[str, list[str]] = {}
        for name in self.layers:
            if name not in self._fixed:
                self.groups.setdefault(_group(name, config.grain), []).append(name)

    def baselines(self) -> list[Baseline]:
        """The labelled candidates to try first; with parameters where they lie in the space."""
        return [Baseline(label, self._baseline_params(label)) for label in self.config.baselines]

    def baseline(self, label: str) -> Candidate:
        """The candidate of a labelled baseline."""
        spec = self.config.baselines[label]
        if spec["weights"] == FLOAT:
            return Candidate(CompressionPlan((), "keep"), tuple((name, 8) for name in sorted(self.layers)))
        return self._candidate(
            {group: spec for group in self.groups}, spec.get("repair", self.config.repair[0])
        )

    def suggest(self, trial: optuna.trial.Trial) -> Candidate:
        """The candidate of a trial: its baseline's if it carries the label of one outside the space."""
        label = trial.user_attrs.get("label")
        if label is not None and not self._baseline_params(label):
            return self.baseline(label)
        choices = {group: self._suggest_group(trial, group) for group in self.groups}
        recipes = list(self.config.repair)
        repair = trial.suggest_categorical(_REPAIR, recipes) if len(recipes) > 1 else recipes[0]
        return self._candidate(choices, repair)

    def _suggest_group(self, trial: optuna.trial.Trial, group: str) -> dict[str, Any]:
        c = self.config
        return {
            "weights": trial.suggest_categorical(f"{group}.weights", list(self._weights)),
            "activation_bits": _suggest_number(trial, f"{group}.activation_bits", c.activation_bits),
            "sparsity": _suggest_number(trial, f"{group}.sparsity", c.sparsity),
            "granularity": trial.suggest_categorical(f"{group}.granularity", list(c.granularity)),
        }

    def _baseline_params(self, label: str) -> dict[str, Any]:
        spec, c = self.config.baselines[label], self.config
        inside = (
            spec["weights"] in self._weights
            and spec["activation_bits"] in c.activation_bits
            and spec["sparsity"] in c.sparsity
            and spec["granularity"] in c.granularity
        )
        repair = spec.get("repair", c.repair[0])
        if not inside or repair not in c.repair:
            return {}
        names = ("weights", "activation_bits", "sparsity", "granularity")
        params = {f"{g}.{name}": spec[name] for g in self.groups for name in names}
        return {**params, _REPAIR: repair} if len(c.repair) > 1 else params

    def _candidate(self, choices: Mapping[str, Mapping[str, Any]], repair: str) -> Candidate:
        c = self.config
        rounding = "nearest" if repair == "nearest" else "second_order"
        plans, granularity = {n: replace(p, rounding=rounding) for n, p in self._fixed.items()}, {}
        for group, names in self.groups.items():
            choice = choices[group]
            method = self._method(choice["weights"])
            inputs = ActivationConfig(choice["activation_bits"], c.activation_clip)
            shares = self._shares(names, choice["sparsity"])
            for name in names:
                plans[name] = LayerPlan(method, inputs, *self._pruning(name, shares[name]), rounding)
                granularity[name] = choice["granularity"]
        for name in self._fixed:
            granularity[name] = granularity[self._neighbour(name)]
        fit = Reconstruction(c.reconstruct) if repair == "reconstruct" else None
        plan = CompressionPlan(tuple(plans.items()), c.batch_norm, c.bias, c.equalize, c.augment, fit)
        return Candidate(plan, tuple(sorted(granularity.items())))

    def _shares(self, names: Sequence[str], sparsity: float) -> dict[str, float]:
        """What each layer of a group loses."""
        if self.config.threshold == "layer":
            return dict.fromkeys(names, sparsity)
        return global_sparsity({name: self._magnitudes[name] for name in names}, sparsity)

    def _pruning(self, name: str, sparsity: float) -> tuple[float, str]:
        """Sparsity and pattern of a layer; one that is not pruned has no pattern, as N:M would prune by itself."""
        pattern = self.config.pattern
        if sparsity == 0 or (pattern == "channel" and name not in self._removable):
            return 0.0, "element"
        return float(sparsity), pattern

    def _neighbour(self, name: str) -> str:
        """The searched layer next to a fixed one: its array mode is taken over, or the array would need one more."""
        searched = [n for n in self.layers if n not in self._fixed]
        return searched[0] if name == self.layers[0] else searched[-1]

    def _edges(self) -> list[tuple[str, Mapping[str, Any] | None]]:
        return [(self.layers[0], self.config.first), (self.layers[-1], self.config.last)]

    def _edge_plan(self, edge: Mapping[str, Any]) -> LayerPlan:
        inputs = ActivationConfig(edge["activation_bits"], self.config.activation_clip)
        return LayerPlan(self._method(edge["weights"]), inputs)

    def _method(self, label: str) -> MethodConfig:
        return self._weights[label] if label in self._weights else parse_choice(label)


def _group(layer: str, grain: str) -> str:
    parts = layer.split(".")
    return {"network": "network", "stage": parts[0], "block": ".".join(parts[:2]), "layer": layer}[grain]


def _suggest_number(trial: optuna.trial.Trial, name: str, values: Sequence[float]) -> float:
    """An even grid as a number, so that the sampler sees its order; anything else as a choice."""
    ordered = sorted(set(values))
    steps = {round(b - a, 9) for a, b in itertools.pairwise(ordered)}
    if len(steps) != 1:
        return trial.suggest_categorical(name, ordered)
    step = steps.pop()
    if all(isinstance(v, int) for v in ordered):
        return trial.suggest_int(name, ordered[0], ordered[-1], step=int(step))
    return round(trial.suggest_float(name, ordered[0], ordered[-1], step=step), 9)


def _check(c: SpaceConfig) -> None:
    """Refuse what no network could use, before one is loaded."""
    if c.grain not in GRAINS:
        raise UnknownName("grain", c.grain, GRAINS, key="space.grain")
    if c.batch_norm not in BATCH_NORM_REPAIRS:
        raise UnknownName("repair", c.batch_norm, BATCH_NORM_REPAIRS, key="space.batch_norm")
    if not isinstance(c.repair, (list, tuple)) or not c.repair:
        raise ConfigError("space.repair", _shown(c.repair), f"a list, at least one of {', '.join(REPAIRS)}")
    for recipe in c.repair:
        if recipe not in REPAIRS:
            raise UnknownName("repair", recipe, REPAIRS, key="space.repair")
    if c.activation_clip not in ACTIVATION_CLIPS:
        raise UnknownName("clip", c.activation_clip, ACTIVATION_CLIPS, key="space.activation_clip")
    if c.bias not in BIAS_REPAIRS:
        raise UnknownName("repair", c.bias, BIAS_REPAIRS, key="space.bias")
    check_range("space.reconstruct", c.reconstruct, 1, 1 << 20)
    check_range("space.augment", c.augment, 1, 64)
    pattern = parse_pattern(c.pattern, "space.pattern")
    if c.threshold not in THRESHOLDS:
        raise UnknownName("threshold", c.threshold, THRESHOLDS, key="space.threshold")
    if c.threshold == "group" and c.pattern != "element":
        raise ConfigError(
            "space.pattern", c.pattern, "element, as space.threshold=group takes single weights"
        )
    choices = weight_choices(c.weights)
    for name in _RANGES:
        _check_values(f"space.{name}", getattr(c, name), name)
    _check_pruning(c.sparsity, pattern)
    for name, edge in (("first", c.first), ("last", c.last)):
        if edge is not None:
            _check_choice(f"space.{name}", edge, ("activation_bits",), choices)
    for label, spec in c.baselines.items():
        if spec != {"weights": FLOAT}:
            _check_choice(f"space.baselines.{label}", spec, tuple(_RANGES), {*choices, FLOAT})
            check_sparsity(spec["sparsity"], pattern, f"space.baselines.{label}.sparsity")


def _check_pruning(sparsity: Sequence[float], pattern: Pattern) -> None:
    """Refuse what an N:M pattern contradicts, and one that would never prune."""
    remedy = f"give 'space.sparsity=[0,{pattern.fixed_sparsity or 0:g}]', where 0 prunes nothing"
    for value in sparsity:
        try:
            check_sparsity(value, pattern, "space.sparsity")
        except ConfigError as error:
            raise ConfigError(error.key, error.value, error.expected, remedy) from error
    if pattern.fixed_sparsity is not None and not any(sparsity):
        expected = f"{pattern.fixed_sparsity:g} among them, which is what space.pattern drops"
        raise ConfigError("space.sparsity", _shown(sparsity), expected, remedy)


def _shown(values: Any) -> Any:
    """A list as it was given: settings hold it as a tuple."""
    return list(values) if isinstance(values, tuple) else values


def _is_activation_bits(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 8


def _is_sparsity(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _is_granularity(value: Any) -> bool:
    return not isinstance(value, bool) and value in GRANULARITIES


_RANGES = {
    "activation_bits": ("an integer from 1 to 8", _is_activation_bits),
    "sparsity": ("a number from 0 up to, not including, 1", _is_sparsity),
    "granularity": ("one of 1, 2, 4, 8", _is_granularity),
}


def _check_values(key: str, values: Any, name: str) -> None:
    expected, valid = _RANGES[name]
    if not isinstance(values, (list, tuple)) or not values:
        raise ConfigError(key, _shown(values), f"a list, each item {expected}")
    for value in values:
        if not valid(value):
            raise ConfigError(key, value, expected)


def _check_choice(key: str, data: Any, names: tuple[str, ...], choices: Collection[str]) -> None:
    """``data`` holds one weight choice and one value of each of ``names``."""
    keys = ("weights", *names)
    if not isinstance(data, Mapping) or set(data) - {"repair"} != set(keys):
        raise ConfigError(key, data, f"a mapping with the keys {', '.join(keys)}")
    if data["weights"] not in choices:
        parse_choice(data["weights"], f"{key}.weights")
    if data.get("repair", REPAIRS[0]) not in REPAIRS:
        raise UnknownName("repair", data["repair"], REPAIRS, key=f"{key}.repair")
    for name in names:
        _check_values(f"{key}.{name}", [data[name]], name)
