"""Plans: what is done to each layer. Frozen, hashable, exact through JSON; the digest is the cache key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compressors.errors import ConfigError
from compressors.registry import MethodConfig, check_range, config_from_dict, config_to_dict

BATCH_NORM_REPAIRS = ("match", "reestimate", "keep")
ACTIVATION_CLIPS = ("mse", "minmax")


@dataclass(frozen=True)
class ActivationConfig:
    """Grid of a layer's input: unsigned where the input never is negative, else signed; one scale per tensor.

    ``clip`` chooses the scale from the calibration images: ``minmax`` covers them all, ``mse`` minimises the
    squared error.
    """

    bits: int = 8
    clip: str = "mse"

    def __post_init__(self) -> None:
        check_range("activation.bits", self.bits, 1, 8)
        if self.clip not in ACTIVATION_CLIPS:
            raise ConfigError("activation.clip", self.clip, " or ".join(ACTIVATION_CLIPS))


@dataclass(frozen=True)
class LayerPlan:
    """One layer: ``weight`` None leaves the weights float, ``activation`` None leaves the input float."""

    weight: MethodConfig | None = None
    activation: ActivationConfig | None = None
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        number = isinstance(self.sparsity, (int, float)) and not isinstance(self.sparsity, bool)
        if not number or not 0 <= self.sparsity < 1:
            raise ConfigError("sparsity", self.sparsity, "a number from 0 up to, not including, 1")
        if self.sparsity and self.weight is None:
            raise ConfigError("sparsity", self.sparsity, "0 where the weights stay float", "name a method")

    def to_dict(self) -> dict[str, Any]:
        return {
            "weight": None if self.weight is None else config_to_dict(self.weight),
            "activation": None
            if self.activation is None
            else {"bits": self.activation.bits, "clip": self.activation.clip},
            "sparsity": float(self.sparsity) + 0.0,  # -0.0 equals 0.0, so it has to read the same
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], key: str = "layer") -> LayerPlan:
        """Parse and validate; ``key`` says in errors where the data stands."""
        _only_keys(data, {"weight", "activation", "sparsity"}, key)
        weight, activation = data.get("weight"), data.get("activation")
        if activation is not None:
            _only_keys(activation, {"bits", "clip"}, f"{key}.activation")
        return cls(
            None if weight is None else config_from_dict(weight, f"{key}.weight"),
            None if activation is None else ActivationConfig(**activation),
            data.get("sparsity", 0.0),
        )


@dataclass(frozen=True)
class CompressionPlan:
    """Every layer's plan by its path in the network, and how batch norms are repaired afterwards.

    ``batch_norm``: ``match`` gives each normalised channel the mean and deviation the float network has on the
    calibration images, ``reestimate`` takes the compressed network's own statistics, ``keep`` changes nothing.
    """

    layers: tuple[tuple[str, LayerPlan], ...] = field(default_factory=tuple)
    batch_norm: str = "match"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(sorted(self.layers, key=lambda item: item[0])))
        if self.batch_norm not in BATCH_NORM_REPAIRS:
            raise ConfigError("plan.batch_norm", self.batch_norm, " or ".join(BATCH_NORM_REPAIRS))

    def __getitem__(self, layer: str) -> LayerPlan:
        return dict(self.layers).get(layer, LayerPlan())

    def to_dict(self) -> dict[str, Any]:
        return {"layers": {n: p.to_dict() for n, p in self.layers}, "batch_norm": self.batch_norm}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompressionPlan:
        """Parse and validate; anything unknown is refused.

        Raises:
            ConfigError, UnknownName: what is wrong and where.
        """
        _only_keys(data, {"layers", "batch_norm"}, "plan")
        layers = data.get("layers", {})
        if not isinstance(layers, Mapping):
            raise ConfigError("plan.layers", layers, "a mapping from layer to its plan")
        for name in layers:
            if not isinstance(name, str):
                raise ConfigError("plan.layers", name, "the path of a layer as text")
        parsed = tuple((name, LayerPlan.from_dict(p, f"plan.layers.{name}")) for name, p in layers.items())
        return cls(parsed, data.get("batch_norm", "match"))

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, the same on every machine."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def _only_keys(data: Any, allowed: set[str], key: str) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError(key, data, f"a mapping with the keys {', '.join(sorted(allowed))}")
    for name in data:
        if name not in allowed:
            raise ConfigError(f"{key}.{name}", data[name], f"one of the keys {', '.join(sorted(allowed))}")
