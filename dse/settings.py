"""The configuration of a study as plain frozen data: parsed and validated once, then passed around."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from dse.data import DataConfig
from dse.errors import ConfigError, UnknownName
from dse.models import ModelConfig
from dse.space import SpaceConfig

_MOST_THREADS = 1024  # with very many, the thread library ends the process
ARITHMETICS = ("auto", "integers", "float")


@dataclass(frozen=True)
class StudySettings:
    """``folder/name`` is the run folder; ``n_trials`` the total budget of finished trials."""

    name: str
    folder: str = "results"
    n_trials: int = 100
    seed: int = 0
    max_failures: int = 5

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name or self.name in (".", ".."):
            raise ConfigError("study.name", repr(self.name), "the name of a folder, without slashes")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a candidate is scored.

    ``batch`` images are scored at once; activity is counted on the first ``activity_images`` calibration images;
    ``threads`` is given to torch, None leaves its own choice. ``arithmetic`` is what a network is scored in:
    ``integers``, as it would be run; ``float``, which stands for them up to rounding; ``auto``, integers wherever the
    network can be lowered. Sums are shared within ``reuse_block`` weights, rows by columns; None counts none.
    """

    batch: int = 100
    activity_images: int = 8
    threads: int | None = None
    arithmetic: str = "auto"
    reuse_block: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("activity_images", self.activity_images)):
            if value < 1:
                raise ConfigError(f"evaluation.{name}", value, "a whole number of at least 1")
        if self.threads is not None and not 1 <= self.threads <= _MOST_THREADS:
            raise ConfigError("evaluation.threads", self.threads, f"1 to {_MOST_THREADS}, or null")
        if self.arithmetic not in ARITHMETICS:
            raise UnknownName("arithmetic", self.arithmetic, ARITHMETICS, key="evaluation.arithmetic")
        block = self.reuse_block
        if block is not None and (len(block) != 2 or not all(type(n) is int and n > 0 for n in block)):
            raise ConfigError(
                "evaluation.reuse_block", list(block), "rows and columns of a block, as in [16,144], or null"
            )


@dataclass(frozen=True)
class AcceleratorSettings:
    """``kind`` names a model in ``energy.accelerators``; ``settings`` are its own."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TechnologySettings:
    """A technology file and single constants replaced, in their own units."""

    name: str = "cmos45"
    overrides: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MeterSettings:
    """Which meter, on which device, and the constants of the protocol that differ from its own."""

    name: str = "auto"
    device: int | str = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """All that a candidate's figures depend on, beside the candidate itself."""

    model: ModelConfig
    data: DataConfig
    evaluation: EvaluationSettings
    accelerators: Mapping[str, AcceleratorSettings]
    technology: TechnologySettings
    meter: MeterSettings

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def fingerprint(self) -> dict[str, Any]:
        """What makes a study another study when it changes: not the threads, nor how energy is measured."""
        plain = self.to_dict()
        del (
            plain["meter"],
            plain["evaluation"]["threads"],
            plain["evaluation"]["batch"],
            plain["data"]["download"],
        )
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Setup:
        """Parse and validate; unknown keys are refused.

        Raises:
            ConfigError, UnknownName: what is wrong and where.
        """
        return cls(
            _build(ModelConfig, data, "model"),
            _build(DataConfig, data, "data"),
            _build(EvaluationSettings, data, "evaluation"),
            accelerator_settings(data),
            technology_settings(data),
            _build(MeterSettings, data, "meter"),
        )


@dataclass(frozen=True)
class SweepSettings:
    """Everything `sweep` needs.

    ``max_loss`` is the accuracy a candidate may lose against the float network, as a fraction; one that loses more
    is kept and shown, but is on no front, and the search keeps away from it. None sets no bound.
    """

    study: StudySettings
    setup: Setup
    space: SpaceConfig
    sampler: str
    objectives: tuple[str, ...]
    max_loss: float | None = None

    def __post_init__(self) -> None:
        if self.max_loss is not None and not 0 <= self.max_loss <= 1:
            raise ConfigError("objectives.max_loss", self.max_loss, "a fraction from 0 to 1, or null")

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.study.folder) / self.study.name

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SweepSettings:
        """Parse and validate a resolved configuration.

        Raises:
            ConfigError, UnknownName: what is wrong and where.
        """
        study = {k: v for k, v in _mapping(data, "study").items() if k != "fresh"}
        return cls(
            _build(StudySettings, {"study": study}, "study"),
            Setup.from_dict(data),
            _build(SpaceConfig, data, "space"),
            str(_mapping(data, "sampler").get("name")),
            tuple(_mapping(data, "objectives").get("names", ())),
            _mapping(data, "objectives").get("max_loss"),
        )


def accelerator_settings(data: Mapping[str, Any]) -> dict[str, AcceleratorSettings]:
    """The accelerators of a resolved configuration by name.

    Raises:
        ConfigError, UnknownName: none, or what is wrong and where.
    """
    accelerators = _mapping(data, "accelerators")
    if not accelerators:
        raise ConfigError("accelerators", {}, "at least one accelerator, as in accelerator@accelerators.x: x")
    return {name: _build(AcceleratorSettings, accelerators, name, "accelerators.") for name in accelerators}


def technology_settings(data: Mapping[str, Any]) -> TechnologySettings:
    """The technology of a resolved configuration."""
    return _build(TechnologySettings, data, "technology")


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    if not isinstance(value, Mapping):
        raise ConfigError(key, value, "a mapping")
    return value


def _build(kind: type, data: Mapping[str, Any], key: str, prefix: str = "") -> Any:
    values = _mapping(data, key)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise UnknownName("key", name, fields, key=f"{prefix}{key}")
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    hints = get_type_hints(kind)
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise ConfigError(f"{prefix}{key}.{name}", repr(value), _spelled(hints[name]))
    return kind(**given)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the type that a field declares (its elements are looked at where it is used)."""
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    kind = get_origin(hint) or hint
    if kind is float:
        return type(value) in (int, float)
    return kind is Any or (isinstance(value, kind) and (kind is not int or type(value) is int))


def _spelled(hint: Any) -> str:
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    lists = {tuple: "a list", Mapping: "a mapping"}
    return " or ".join(names.get(o) or lists.get(get_origin(o), str(o)) for o in options)
