"""Files of weights: reading them safely, checking them, and putting them into a network."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from compressors.parsing import parse_json
from dse.data import DataConfig, DataSplits, load_data
from dse.errors import BadTensor, CheckpointError, ConfigError
from dse.models.registry import ModelConfig

_SHIPPED = Path(__file__).parent / "weights"
_SHOWN = 3  # names listed in a message before "and N more"
_PRETRAIN = "python -m dse.models.pretrain --data-seed SEED --out PATH"


def find_weights(config: ModelConfig, data_name: str) -> Path | None:
    """The file of weights ``config`` means, or None where ``target`` brings its own.

    Raises:
        ConfigError: no checkpoint given and none shipped for this network and data set.
    """
    if config.checkpoint is not None:
        return Path(config.checkpoint).expanduser()
    if config.target is not None:
        return None
    shipped = _SHIPPED / f"{config.name}_{data_name}.safetensors"
    if not shipped.exists():
        there = ", ".join(path.stem.replace("_", " on ") for path in sorted(_SHIPPED.glob("*.safetensors")))
        raise ConfigError(
            "model.checkpoint",
            None,
            f"a file of trained weights, as none come with the project for {config.name} on {data_name}",
            f"give model.checkpoint=PATH (weights that are shipped: {there})",
        )
    return shipped


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file by name, as stored, and its metadata (empty for a torch file).

    No code of the file is run: safetensors holds none, and a torch file that holds more than tensors
    is refused. A ``{"state_dict": ...}`` around the tensors and ``module.`` before all names are taken off.

    Raises:
        CheckpointError: missing, truncated, or refused; the message names the file.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}; expected a .safetensors or torch file (model.checkpoint)"
        )
    weights, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_torch(path), {})
    prefix = "module."
    if all(name.startswith(prefix) for name in weights):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            # A copy, because the tensors of a mapped file change or crash with the file under them.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}); it is truncated or of another format"
        ) from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The rest of torch's message tells how to switch the protection off.
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {found[1]}" if found else "no state dict that is safe to read"
        raise CheckpointError(
            f"{path} was refused: it holds something other than tensors, and reading it could run code "
            f"({reason}). Where you trust it, convert it once with "
            "safetensors.torch.save_file(model.state_dict(), PATH)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = re.split(r"\n|\. ", str(error))[0] or type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a torch file ({reason}); it is truncated or of another format"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a state dict (names and tensors), "
            'or one under the key "state_dict"'
        )
    return dict(content)


def apply_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Load ``weights`` (any floating type) into ``model`` after checking all of them.

    Raises:
        CheckpointError: names or shapes differ from the model's, or a tensor has NaN or infinity.
    """
    expected = model.state_dict()
    # Counters of seen batches matter to training alone; old checkpoints lack them.
    needed = {name for name in expected if not name.endswith("num_batches_tracked")}
    problems = []
    if missing := sorted(needed - weights.keys()):
        problems.append(f"missing {_listed(missing)}")
    if unexpected := sorted(weights.keys() - expected.keys()):
        problems.append(f"unexpected {_listed(unexpected)}")
    shapes = [
        (name, tuple(weights[name].shape), tuple(expected[name].shape))
        for name in expected
        if name in weights
    ]
    if wrong := [f"{name} is {got}, expected {want}" for name, got, want in shapes if got != want]:
        problems.append(f"wrong shapes: {_listed(wrong)}")
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(problems)}")
    if bad := _not_finite(weights):
        raise CheckpointError(
            f"{source} has NaN or infinity in {_listed(bad)}; the training it is from diverged"
        )
    model.load_state_dict(
        {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}, strict=False
    )


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _not_finite(weights: Mapping[str, torch.Tensor]) -> list[str]:
    return [n for n, t in weights.items() if t.is_floating_point() and not torch.isfinite(t).all()]


def check_fits(model: nn.Module, config: ModelConfig, data: DataSplits) -> None:
    """Run one image through the model.

    Raises:
        BadTensor: a weight is NaN or infinite.
        ConfigError: the model does not take the image, or does not give one number per class.
    """
    key, value = ("model.target", config.target) if config.target else ("model.name", config.name)
    if bad := _not_finite(model.state_dict()):
        raise BadTensor(f"{key}={value}: NaN or infinity in {_listed(bad)}; give finite weights")
    image = data.calibration.tensor(0, 1)
    wanted = f"a network that takes {tuple(image.shape)} and gives {(1, len(data.classes))} for {data.name}"
    try:
        with torch.no_grad():
            out = model(image)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(key, value, wanted, f"it failed with: {error}") from error
    got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    if got != (1, len(data.classes)):
        raise ConfigError(key, value, wanted, f"it gave {got}")


def refuse_leak(path: Path, metadata: Mapping[str, str], data: DataSplits) -> None:
    """Refuse weights that were trained on images they are now to be scored on.

    Weights written by ``dse.models.pretrain`` say which split they were trained on; files that say
    nothing are taken at the user's word.

    Raises:
        ConfigError: the search or test part shares images with what the weights were trained on.
    """
    if "dse.data" not in metadata or metadata.get("dse.split_digest") == data.digest:
        return
    try:
        trained = DataConfig(**parse_json(metadata["dse.data"]))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its entry dse.data cannot be read ({error}); write it again"
        ) from error
    if trained.name != data.name:
        return
    seen = {image.tobytes() for image in load_data(trained).train.pixels}
    for part, images in (("search", data.search), ("test", data.test)):
        shared = sum(image.tobytes() in seen for image in images.pixels)
        if shared:
            raise ConfigError(
                f"data.{part}",
                len(images),
                f"images that {path.name} was not trained on, but {shared} of them were",
                f"use data.seed={trained.seed} and smaller parts, or train your own weights: {_PRETRAIN}",
            )
