"""What weights may become: the choices that a space's methods and their settings make, and what they are called."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from compressors.registry import MethodConfig, make_config
from dse.errors import ConfigError

_KEY = "space.weights"


def choice_label(method: str, settings: Mapping[str, Any]) -> str:
    """How a weight choice is called: ``ternary-2``, ``uniform-4``, ``uniform-4-minmax``.

    The name of the method, then a value of each setting that is listed, in that order.
    """
    return "-".join([method, *(str(value) for value in settings.values())])


def parse_choice(label: Any, key: str = "weights") -> MethodConfig:
    """The method behind a label such as ``ternary-2`` or ``uniform-8``: name and first setting.

    Raises:
        UnknownName, ConfigError: no such method, or a setting out of range.
    """
    method, _, value = str(label).partition("-")
    config = make_config(method, {}, key)
    first = next(iter(config.__dataclass_fields__))
    if value and not (value.isascii() and value.isdigit()):
        raise ConfigError(key, label, f"METHOD-NUMBER, such as {method}-2, whose number is its {first!r}")
    try:
        return make_config(method, {first: int(value)} if value else {}, key)
    except ConfigError as error:
        raise ConfigError(key, label, f"{error.key} to be {error.expected}") from error


def weight_choices(weights: Mapping[str, Mapping[str, Any] | None]) -> dict[str, MethodConfig]:
    """Label -> settings of every choice: all combinations of the values listed for a method's settings.

    Args:
        weights: method -> setting -> values to try, or one value; None leaves a method out, as
            ``space.weights.binary=null`` does on the command line.

    Raises:
        UnknownName, ConfigError: no such method or setting, a value out of range, a setting without a value to try, or
            no method at all.
    """
    choices: dict[str, MethodConfig] = {}
    for method, settings in weights.items():
        if settings is None:
            continue
        make_config(method, {}, _KEY)
        for values in itertools.product(*_lists(method, settings)):
            chosen = dict(zip(settings, values, strict=True))
            try:
                choices[choice_label(method, chosen)] = make_config(method, chosen, f"{_KEY}.{method}")
            except (
                ConfigError
            ) as error:  # a method names its own settings, which here stand below space.weights
                raise ConfigError(f"{_KEY}.{error.key}", error.value, error.expected) from error
    if not choices:
        raise ConfigError(_KEY, dict(weights), "at least one method with values to try")
    return choices


def _lists(method: str, settings: Mapping[str, Any]) -> list[Sequence[Any]]:
    lists = [values if isinstance(values, (list, tuple)) else [values] for values in settings.values()]
    for setting, values in zip(settings, lists, strict=True):
        if not values:
            raise ConfigError(
                f"{_KEY}.{method}.{setting}",
                "[]",
                "at least one value to try",
                f"{_KEY}.{method}=null leaves the method out",
            )
    return lists
