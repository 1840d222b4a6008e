"""Plans: what is done to each layer. Frozen, hashable, exact through JSON; the digest is the cache key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from compressors.errors import ConfigError
from compressors.methods.prune import check_sparsity, parse_pattern
from compressors.registry import MethodConfig, check_range, config_from_dict, config_to_dict

BATCH_NORM_REPAIRS = ("match", "reestimate", "keep")
BIAS_REPAIRS = ("match", "keep")
ROUNDINGS = ("nearest", "second_order")
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
        if self.clip not in ACTIVATION_CLIPS:
            raise ConfigError("activation.clip", self.clip, " or ".join(ACTIVATION_CLIPS))


@dataclass(frozen=True)
class LayerPlan:
    """One layer: ``weight`` None leaves the weights float, ``activation`` None leaves the input float.

    ``sparsity`` of the weights are pruned in ``pattern`` (see ``compressors.methods.prune``). ``rounding`` is
    ``nearest``, or ``second_order``: weights are pruned and rounded for what the layer computes on the calibration
    images (see ``compressors.calibration.second_order``).
    """

    weight: MethodConfig | None = None
    activation: ActivationConfig | None = None
    sparsity: float = 0.0
    pattern: str = "element"
    rounding: str = "nearest"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, parse_pattern(self.pattern, "pattern"))
        if self.rounding not in ROUNDINGS:
            raise ConfigError("rounding", self.rounding, " or ".join(ROUNDINGS))
        if self.sparsity and self.weight is None:
            raise ConfigError("sparsity", self.sparsity, "0 where the weights stay float", "name a method")

    def to_dict(self) -> dict[str, Any]:
        return {
            "weight": None if self.weight is None else config_to_dict(self.weight),
            "activation": None
            if self.activation is None
            else {"bits": self.activation.bits, "clip": self.activation.clip},
            "sparsity": float(self.sparsity) + 0.0,  # -0.0 equals 0.0, so it has to read the same
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
class CompressionPlan:
    """Every layer's plan by its path in the network, and the repairs of the network as a whole.

    ``batch_norm``: ``match`` gives each normalised channel the mean and deviation the float network has on the
    calibration images, ``reestimate`` takes the compressed network's own statistics, ``keep`` changes nothing.
    ``bias``: ``match`` gives each output of a layer that has a bias, and no batch norm behind it, the mean it has in
    the float network. ``equalize`` first evens out the ranges of the channels between layers. ``reconstruct`` is
    None or says how the units of the network are fitted to what they compute in floating point, on ``augment`` versions
    of each calibration image, all but the first shifted and mirrored at random.
    """

    layers: tuple[tuple[str, LayerPlan], ...] = field(default_factory=tuple)
    batch_norm: str = "match"
    bias: str = "keep"
    equalize: bool = False
    augment: int = 1
    reconstruct: Reconstruction | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(sorted(self.layers, key=lambda item: item[0])))
        if self.batch_norm not in BATCH_NORM_REPAIRS:
            raise ConfigError("plan.batch_norm", self.batch_norm, " or ".join(BATCH_NORM_REPAIRS))
        if self.bias not in BIAS_REPAIRS:
            raise ConfigError("plan.bias", self.bias, " or ".join(BIAS_REPAIRS))
        if not isinstance(self.equalize, bool):
            raise ConfigError("plan.equalize", self.equalize, "true or false")
        check_range("plan.augment", self.augment, 1, 64)

    def __getitem__(self, layer: str) -> LayerPlan:
        return dict(self.layers).get(layer, LayerPlan())

    def to_dict(self) -> dict[str, Any]:
        return {
            "layers": {n: p.to_dict() for n, p in self.layers},
            "batch_norm": self.batch_norm,
            "bias": self.bias,
            "equalize": self.equalize,
            "augment": self.augment,
            "reconstruct": None if self.reconstruct is None else asdict(self.reconstruct),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompressionPlan:
        """Parse and validate; anything unknown is refused.

        Raises:
            ConfigError, UnknownName: what is wrong and where.
        """
        _only_keys(data, {"layers", "batch_norm", "bias", "equalize", "augment", "reconstruct"}, "plan")
        layers = data.get("layers", {})
        if not isinstance(layers, Mapping):
            raise ConfigError("plan.layers", layers, "a mapping from layer to its plan")
        for name in layers:
            if not isinstance(name, str):
                raise ConfigError("plan.layers", name, "the path of a layer as text")
        parsed = tuple((name, LayerPlan.from_dict(p, f"plan.layers.{name}")) for name, p in layers.items())
        reconstruct = data.get("reconstruct")
        if reconstruct is not None:
            _only_keys(reconstruct, {"steps", "batch"}, "plan.reconstruct")
        return cls(
            parsed,
            data.get("batch_norm", "match"),
            data.get("bias", "keep"),
            data.get("equalize", False),
            data.get("augment", 1),
            None if reconstruct is None else Reconstruction(**reconstruct),
        )

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
