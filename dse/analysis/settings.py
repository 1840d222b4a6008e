"""What ``analyze`` needs beside the settings of a sweep: parsed and validated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressors.plan import ROUNDINGS
from compressors.registry import MethodConfig, check_range
from dse.errors import ConfigError, UnknownName
from dse.space import REPAIRS


@dataclass(frozen=True)
class AnalyzeSettings:
    """What is looked at.

    Attributes:
        layers: paths of the layers to compress one at a time; None takes them all.
        choices: labels of the weight choices to try, see ``dse.weight_choices``; None tries all of the space.
        roundings: ways of rounding weights to compare.
        activation_bits: bits of the input to try on each layer.
        repairs: recipes to try on the baselines of the space, beside the configured one; may be empty.
    """

    layers: tuple[str, ...] | None = None
    choices: tuple[str, ...] | None = None
    roundings: tuple[str, ...] = ROUNDINGS
    activation_bits: tuple[int, ...] = (8, 4, 3, 2)
    repairs: tuple[str, ...] = ("nearest", "second_order")

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise ConfigError("analyze.layers", [], "paths of layers, or null for all of them")
        if self.choices is not None and not self.choices:
            raise ConfigError("analyze.choices", [], "labels of weight choices, or null for all of them")
        if not self.roundings:
            raise ConfigError("analyze.roundings", [], f"at least one of {', '.join(ROUNDINGS)}")
        for name in self.roundings:
            if name not in ROUNDINGS:
                raise UnknownName("rounding", name, ROUNDINGS, key="analyze.roundings")
        for name in self.repairs:
            if name not in REPAIRS:
                raise UnknownName("repair", name, REPAIRS, key="analyze.repairs")
        for bits in self.activation_bits:
            check_range("analyze.activation_bits", bits, 1, 8)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AnalyzeSettings:
        """Parse and validate the resolved ``analyze`` of a configuration; what is named twice counts once.

        Raises:
            ConfigError, UnknownName: what is wrong and where.
        """
        for name in data:
            if name not in cls.__dataclass_fields__:
                raise UnknownName("key", name, cls.__dataclass_fields__, key="analyze")
        return cls(**{k: tuple(dict.fromkeys(v)) if isinstance(v, list) else v for k, v in data.items()})

    def some_of(self, choices: Mapping[str, MethodConfig]) -> dict[str, MethodConfig]:
        """The weight choices to try, in the order of the space.

        Raises:
            UnknownName: a label that is none of the space's.
        """
        for label in self.choices or ():
            if label not in choices:
                raise UnknownName("weight choice", label, choices, key="analyze.choices")
        return {label: c for label, c in choices.items() if self.choices is None or label in self.choices}

    def chosen(self, layers: Sequence[str]) -> tuple[str, ...]:
        """The layers to look at, in the order the network runs them.

        Raises:
            UnknownName: one of them is not a compressible layer of the network.
        """
        if self.layers is None:
            return tuple(layers)
        for name in self.layers:
            if name not in layers:
                raise UnknownName("layer", name, layers, key="analyze.layers")
        return tuple(name for name in layers if name in self.layers)
