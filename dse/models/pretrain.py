"""Train the weights that come with the project: ``python -m dse.models.pretrain``.

The schedule is fixed in advance: nothing is stopped, selected or tuned by the search or test part, whose
accuracy is computed once, at the end, for the record in the file's metadata.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from dse.data import DataConfig, DataSplits, Images, load_data
from dse.errors import DseError
from dse.models.registry import ModelConfig, build_model

_DEALT = ("calibration", "search", "test")
_LABELLED = ("train", "search", "test")
_BATCH = 64
_PEAK_RATE = 0.1
_SHIFT = 3  # pixels of the 32x32 image
_DEFAULT_OUT = Path(__file__).parent / "weights" / "resnet20_digits.safetensors"


def main(arguments: list[str] | None = None) -> None:
    """Train, report the accuracies, and write the weights."""
    parser = argparse.ArgumentParser(prog="python -m dse.models.pretrain", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, batches and shifts")
    parser.add_argument("--data-seed", type=int, default=0, help="data.seed of the split to train for")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=_DEFAULT_OUT)
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"argument --epochs: expected at least 1, got {options.epochs}")
    config = DataConfig(seed=options.data_seed)
    try:
        data = load_data(config)
    except DseError as error:
        parser.error(str(error))
    model = pretrain(data, seed=options.seed, epochs=options.epochs)
    split = {"name": data.name, "seed": config.seed, **{part: len(getattr(data, part)) for part in _DEALT}}
    metadata = {
        "model": "resnet20",
        "dse.data": json.dumps(split),
        "dse.split_digest": data.digest,
        "seed": str(options.seed),
        "epochs": str(options.epochs),
        "torch": torch.__version__,
        **{f"accuracy_{part}": f"{accuracy(model, getattr(data, part)):.4f}" for part in _LABELLED},
    }
    write(options.out, model, metadata)
    print(json.dumps(metadata, indent=2))
    print(f"wrote {options.out}")


def write(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """Write the float32 state of ``model`` as safetensors, readable by everyone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path, metadata)
    path.chmod(0o644)  # safetensors writes for the owner alone, and a package is read by all


def pretrain(data: DataSplits, seed: int, epochs: int) -> nn.Module:
    """ResNet-20 after ``epochs`` passes of SGD over shifted images of ``data.train``, in evaluation mode.

    The same seed gives the same weights with the same torch, processor and number of threads.
    """
    torch.manual_seed(seed)
    model = build_model(ModelConfig(), classes=len(data.classes), channels=data.train.pixels.shape[-1])
    images, labels = data.train.tensor(), torch.from_numpy(_labels(data.train))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=_PEAK_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = epochs * -(-len(labels) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps, pct_start=0.2)
    model.train()
    for epoch in range(epochs):
        losses = []
        for index in torch.randperm(len(labels)).split(_BATCH):
            loss = functional.cross_entropy(
                model(shifted(images[index])), labels[index], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}: training loss {np.mean(losses):.4f}", flush=True)
    settle_batch_norm(model, images)
    return model.eval()


def shifted(batch: torch.Tensor) -> torch.Tensor:
    """``[n, c, h, w]`` with each image moved by its own -3..3 pixels in both directions, edges repeated."""
    count, _, height, width = batch.shape
    padded = functional.pad(batch, (_SHIFT,) * 4, mode="replicate")
    down, right = torch.randint(2 * _SHIFT + 1, (2, count)).tolist()
    moved = zip(padded, down, right, strict=True)
    return torch.stack([image[:, y : y + height, x : x + width] for image, y, x in moved])


@torch.no_grad()
def settle_batch_norm(model: nn.Module, images: torch.Tensor) -> None:
    """Set all running statistics to those of ``images`` as they are, without shifts.

    Statistics re-estimated from clean calibration images then agree with the stored ones.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    model.train()
    for batch in images.split(256):
        model(batch)
    for norm in norms:
        norm.momentum = 0.1


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Share of ``images`` whose largest logit is at their label, 0..1."""
    predicted = [model(images.tensor(start, start + 256)).argmax(1) for start in range(0, len(images), 256)]
    return float(np.mean(torch.cat(predicted).numpy() == _labels(images)))


def _labels(images: Images) -> np.ndarray:
    if images.labels is None:
        raise ValueError("this part of the data carries no labels")
    return images.labels


if __name__ == "__main__":
    main()
