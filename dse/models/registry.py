"""Networks by name or by import path, with their weights: configuration in, ready ``nn.Module`` out."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dse.data.splits import DataSplits
from dse.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[..., "nn.Module"]

MODELS: dict[str, Builder] = {}


@dataclass(frozen=True)
class ModelConfig:
    """Which network to compress, and where its weights are.

    Attributes:
        name: registered name; the network is built for the data's classes and channels.
        target: ``"package.module:callable"`` that returns any ``torch.nn.Module``; wins over ``name``.
        args: keyword arguments of the builder or of ``target``.
        checkpoint: file of weights (safetensors, or a torch file of tensors alone). None takes the
            weights shipped for (name, data), or leaves those that ``target`` made.
        float_layers: paths of layers that stay in floating point.
    """

    name: str | None = "resnet20"
    target: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    float_layers: tuple[str, ...] = ()


def register_model(name: str) -> Callable[[Builder], Builder]:
    """Make the decorated ``builder(classes, channels, **args)`` available as ``model.name=NAME``."""

    def add(builder: Builder) -> Builder:
        MODELS[name] = builder
        return builder

    return add


def load_model(config: ModelConfig, data: DataSplits) -> nn.Module:
    """The network of ``config`` with its weights: float32, on the CPU, in evaluation mode.

    Raises:
        UnknownName: no network of that name.
        ConfigError: ``target`` or ``args`` cannot be used, there are no weights, the network does not
            take these images, or it was trained on images it is to be scored on.
        CheckpointError: the file of weights is missing, broken, unsafe, or does not fit.
    """
    # torch takes seconds to import, and configuration alone does not need it.
    from dse.models import checkpoint

    model = build_model(config, classes=len(data.classes), channels=data.train.pixels.shape[-1])
    path = checkpoint.find_weights(config, data.name)
    if path is not None:
        weights, metadata = checkpoint.read_weights(path)
        checkpoint.refuse_leak(path, metadata, data)
        checkpoint.apply_weights(model, weights, source=str(path))
    model = model.float().cpu().eval()
    checkpoint.check_fits(model, config, data)
    return model


def build_model(config: ModelConfig, classes: int, channels: int) -> nn.Module:
    """The network of ``config`` with freshly initialised weights.

    Raises:
        UnknownName, ConfigError: as ``load_model``.
    """
    from torch import nn

    importlib.import_module("dse.models.resnet")  # registers the networks that come with the project
    if config.target is not None:
        model = _call("model.args", _import_target(config.target), config.args)
        if not isinstance(model, nn.Module):
            got = f"a {type(model).__name__}"
            raise ConfigError(
                "model.target", config.target, f"a callable that returns a torch.nn.Module, got {got}"
            )
        return model
    if config.name is None:
        raise ConfigError(
            "model.name", None, "the name of a network", "or give model.target=package.module:callable"
        )
    if config.name not in MODELS:
        raise UnknownName("model", config.name, MODELS, key="model.name")
    return _call("model.args", MODELS[config.name], {"classes": classes, "channels": channels, **config.args})


def _import_target(target: str) -> Callable[..., Any]:
    """The callable behind ``"package.module:callable"``, with the current directory importable."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigError("model.target", target, "package.module:callable, as in my_models:build")
    # `python -m` puts the working directory on the path, the installed script does not.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise ConfigError(
            "model.target",
            target,
            f"a module that can be imported ({error})",
            f"run from the folder that holds it, here {os.getcwd()}, or install it",
        ) from error
    except AttributeError as error:
        raise ConfigError("model.target", target, f"an attribute that exists ({error})") from error
    if not callable(found):
        raise ConfigError("model.target", target, f"something callable, got a {type(found).__name__}")
    return found


def _call(key: str, builder: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    """``builder(**args)``, with arguments it does not take reported under ``key``."""
    try:
        inspect.signature(builder).bind(**args)
    except ValueError:  # a callable written in C shows no signature
        pass
    except TypeError as error:
        takes = str(inspect.signature(builder))
        raise ConfigError(
            key, dict(args), f"arguments for {getattr(builder, '__name__', builder)}{takes}: {error}"
        ) from error
    return builder(**args)
