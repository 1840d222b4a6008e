"""Plans: what is done to each layer. Frozen, hashable, exact through JSON; the digest is the cache key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from compressors.errors import ConfigError, UnknownName
from compressors.methods.prune import check_sparsity, parse_pattern
from compressors.registry import MethodConfig, check_range, config_from_dict, config_to_dict, method_name

BATCH_NORM_REPAIRS = ("match", "reestimate", "keep")
BIAS_REPAIRS = ("match", "keep")
ROUNDINGS = ("nearest", "second_order")
DIMENSION_CHOICES = ("calibrated", "first")
ACTIVATION_CLIPS = ("mse", "minmax", "percentile", "kl", "aciq")


@dataclass(frozen=True)
class ActivationConfig:
    """Grid of a layer's input: unsigned where the input never is negative, else signed; one scale per tensor.

    ``clip`` chooses the scale from the calibration images: ``minmax`` covers them all, ``mse`` minimises the
    squared error (of the layer's output, where the weights are rounded to second order and bits are few); for the
    others see ``compressors.calibration.activation.choose_grid``.
    """

    bits: int = 8
    clip: str = "mse"

    def __post_init__(self) -> None:
        check_range("activation.bits", self.bits, 1, 8)
        _check_choice("activation.clip", self.clip, ACTIVATION_CLIPS)


@dataclass(frozen=True)
class LayerPlan:
    """One layer: ``weight`` None leaves the weights float, ``activation`` None leaves the input float.

    ``sparsity`` of the weights, a number of Python or NumPy, are pruned in ``pattern`` (see
    ``compressors.methods.prune``). ``rounding`` is ``nearest``, or ``second_order``: weights are pruned and rounded for
    what the layer computes on the calibration images (see ``compressors.calibration.second_order``).
    """

    weight: MethodConfig | None = None
    activation: ActivationConfig | None = None
    sparsity: float = 0.0
    pattern: str = "element"
    rounding: str = "nearest"

    def __post_init__(self) -> None:
        _check_method(self.weight)
        _check_kind("activation", self.activation, ActivationConfig)
        sparsity = check_sparsity(self.sparsity, parse_pattern(self.pattern, "pattern"))
        object.__setattr__(self, "sparsity", sparsity)
        _check_choice("rounding", self.rounding, ROUNDINGS)
        if self.sparsity and self.weight is None:
            raise ConfigError("sparsity", self.sparsity, "0 where the weights stay float", "name a method")

    def to_dict(self) -> dict[str, Any]:
        return {
            "weight": None if self.weight is None else config_to_dict(self.weight),
            "activation": None
            if self.activation is None
            else {"bits": self.activation.bits, "clip": self.activation.clip},
            "sparsity": self.sparsity,
            "pattern": self.pattern,
            "rounding": self.rounding,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], key: str = "layer") -> LayerPlan:
        """Parse and validate; ``key`` says in errors where the data stands."""
        _only_keys(data, {"weight", "activation", "sparsity", "pattern", "rounding"}, key)
        weight, activation = data.get("weight"), data.get("activation")
        if activation is not None:
            _only_keys(activation, {"bits", "clip"}, f"{key}.activation")
        return cls(
            None if weight is None else config_from_dict(weight, f"{key}.weight"),
            None if activation is None else ActivationConfig(**activation),
            data.get("sparsity", 0.0),
            data.get("pattern", "element"),
            data.get("rounding", "nearest"),
        )


@dataclass(frozen=True)
class Reconstruction:
    """Block-wise reconstruction (see ``compressors.calibration.reconstruct``).

    ``steps`` gradient steps per unit of the network, each on ``batch`` images.
    """

    steps: int = 400
    batch: int = 64

    def __post_init__(self) -> None:
        check_range("reconstruct.steps", self.steps, 1, 1 << 20)
        check_range("reconstruct.batch", self.batch, 1, 1 << 16)


@dataclass(frozen=True)
class HypervectorPlan:
    """Fewer dimensions for a hyperdimensional classifier: ``dimensions`` of them stay.

    ``choice``: the ``first``, or those that decide most on the calibration samples (``calibrated``, see
    ``compressors.calibration.dimensions``).
    """

    dimensions: int
    choice: str = "calibrated"

    def __post_init__(self) -> None:
        check_range("hypervectors.dimensions", self.dimensions, 1, 1 << 24)
        _check_choice("hypervectors.choice", self.choice, DIMENSION_CHOICES)


@dataclass(frozen=True)
class CompressionPlan:
    """Every layer's plan by its path in the network, and the repairs of the network as a whole.

    ``batch_norm``: ``match`` gives each normalised channel the mean and deviation the float network has on the
    calibration images, ``reestimate`` takes the compressed network's own statistics, ``keep`` changes nothing.
    ``bias``: ``match`` gives each output of a layer that has a bias, and no batch norm behind it, the mean it has in
    the float network. ``equalize`` first evens out the ranges of the channels between layers. ``reconstruct`` is
    None or says how the units of the network are fitted to what they compute in floating point, on ``augment`` versions
    of each calibration image, all but the first shifted and mirrored at random. ``hypervectors`` is None or says what
    stays of the dimensions of a hyperdimensional classifier.
    """

    layers: tuple[tuple[str, LayerPlan], ...] = field(default_factory=tuple)
    batch_norm: str = "match"
    bias: str = "keep"
    equalize: bool = False
    augment: int = 1
    reconstruct: Reconstruction | None = None
    hypervectors: HypervectorPlan | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _checked_layers(self.layers))
        _check_choice("plan.batch_norm", self.batch_norm, BATCH_NORM_REPAIRS)
        _check_choice("plan.bias", self.bias, BIAS_REPAIRS)
        if not isinstance(self.equalize, bool):
            raise ConfigError("plan.equalize", self.equalize, "true or false")
        check_range("plan.augment", self.augment, 1, 64)
        _check_kind("plan.reconstruct", self.reconstruct, Reconstruction)
        _check_kind("plan.hypervectors", self.hypervectors, HypervectorPlan)

    def __getitem__(self, layer: str) -> LayerPlan:
        return dict(self.layers).get(layer, LayerPlan())

    def to_dict(self) -> dict[str, Any]:
        # named only where it is used: digests of other networks' plans stay what they were
        own = {} if self.hypervectors is None else {"hypervectors": asdict(self.hypervectors)}
        return {
            "layers": {n: p.to_dict() for n, p in self.layers},
            "batch_norm": self.batch_norm,
            "bias": self.bias,
            "equalize": self.equalize,
            "augment": self.augment,
            "reconstruct": None if self.reconstruct is None else asdict(self.reconstruct),
            **own,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompressionPlan:
        """Parse and validate; anything unknown is refused.

        Raises:
            ConfigError, UnknownName: what is wrong and where.
        """
        keys = {"layers", "batch_norm", "bias", "equalize", "augment", "reconstruct", "hypervectors"}
        _only_keys(data, keys, "plan")
        layers = data.get("layers", {})
        if not isinstance(layers, Mapping):
            raise ConfigError("plan.layers", layers, "a mapping from layer to its plan")
        parsed = tuple((name, LayerPlan.from_dict(p, f"plan.layers.{name}")) for name, p in layers.items())
        reconstruct = data.get("reconstruct")
        if reconstruct is not None:
            _only_keys(reconstruct, {"steps", "batch"}, "plan.reconstruct")
        vectors = data.get("hypervectors")
        if vectors is not None:
            _only_keys(vectors, {"dimensions", "choice"}, "plan.hypervectors")
            if "dimensions" not in vectors:
                raise ConfigError("plan.hypervectors", dict(vectors), "dimensions, how many stay")
        return cls(
            parsed,
            data.get("batch_norm", "match"),
            data.get("bias", "keep"),
            data.get("equalize", False),
            data.get("augment", 1),
            None if reconstruct is None else Reconstruction(**reconstruct),
            None if vectors is None else HypervectorPlan(**vectors),
        )

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, the same on every machine."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def _checked_layers(layers: Any) -> tuple[tuple[str, LayerPlan], ...]:
    """Pairs of a layer's path and its plan, ordered by path."""
    if isinstance(layers, Mapping):
        raise ConfigError(
            "plan.layers",
            type(layers).__name__,
            "pairs of a layer's path and its LayerPlan",
            "give tuple(layers.items())",
        )
    pairs = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    found: dict[str, LayerPlan] = {}
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[1], LayerPlan):
            raise ConfigError("plan.layers", repr(pair), "a pair of a layer's path and its LayerPlan")
        name, plan = pair
        if not isinstance(name, str):
            raise ConfigError("plan.layers", name, "the path of a layer as text")
        if name in found:
            raise ConfigError("plan.layers", name, "each layer once", "leave out all but one of its plans")
        found[name] = plan
    return tuple(sorted(found.items()))


def _check_method(weight: Any) -> None:
    if weight is None:
        return
    try:
        method_name(weight)
    except UnknownName as error:
        expected = "settings of a registered method, such as TernaryConfig(2), or None"
        raise ConfigError("weight", repr(weight), expected) from error


def _check_kind(key: str, value: Any, kind: type) -> None:
    """Refuse what is neither None nor a ``kind``."""
    if value is not None and not isinstance(value, kind):
        raise ConfigError(key, repr(value), f"settings such as {kind()!r}, or None")


def _check_choice(key: str, value: Any, options: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in options:
        raise ConfigError(key, value, " or ".join(options))


def _only_keys(data: Any, allowed: set[str], key: str) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError(key, data, f"a mapping with the keys {', '.join(sorted(allowed))}")
    for name in data:
        if name not in allowed:
            raise ConfigError(f"{key}.{name}", data[name], f"one of the keys {', '.join(sorted(allowed))}")
