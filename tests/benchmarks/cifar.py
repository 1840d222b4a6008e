"""What accuracy is measured on: the pretrained ResNet-20 and CIFAR-10, or digits where those are absent."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dse.data import DataConfig, load_data
from dse.data.splits import Images
from dse.models import ModelConfig, build_model, load_model
from tests.benchmarks.processes import ROOT

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the checkpoint was trained with these
_CHECKPOINT, _TRAIN, _TEST = "cifar10_resnet20.safetensors", "cifar10_train20k.npz", "cifar10_test.npz"
_BATCH = 250


@dataclass(frozen=True)
class Subject:
    """A float network, images to calibrate on, and images to score on.

    Attributes:
        name: of network and data.
        model: in evaluation mode.
        pool: training images without labels; each seed draws its calibration images from them.
        test: images with labels.
    """

    name: str
    model: nn.Module
    pool: Images
    test: Images

    def calibration(self, count: int, seed: int) -> torch.Tensor:
        """``count`` images of the pool, float32 ``[count, channels, height, width]``."""
        drawn = np.random.default_rng(seed).permutation(len(self.pool))[:count]
        return self.pool.take(drawn).tensor()

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with the weights and with the images."""
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        for images in (self.pool, self.test):
            digest.update(f"{images.pixels.shape}".encode() + images.pixels.tobytes())
        return digest.hexdigest()[:12]


def shared_file(name: str) -> Path | None:
    """A file in ``$DSE_SHARED_DATA``, else in ``shared/data`` beside the repository; None where it is absent."""
    folder = Path(os.environ.get("DSE_SHARED_DATA") or ROOT.parent / "shared" / "data")
    return folder / name if (folder / name).is_file() else None


def cifar10_resnet20(test: int | None = None) -> Subject | None:
    """The published network and the test set, or its first ``test`` images; None where a file is absent."""
    checkpoint, training, testing = (shared_file(name) for name in (_CHECKPOINT, _TRAIN, _TEST))
    if checkpoint is None or training is None or testing is None:
        return None
    from safetensors.torch import load_file

    model = build_model(ModelConfig(name="resnet20"), classes=10, channels=3)
    model.load_state_dict(load_file(checkpoint))
    pool = Images(decode(training)[0], None, _MEAN, _STD)
    return Subject("ResNet-20, CIFAR-10", model.eval(), pool, Images(*decode(testing, test), _MEAN, _STD))


def digits_resnet20(test: int | None = None) -> Subject:
    """The network and the scans that come with the project."""
    data = load_data(DataConfig(name="digits", calibration=256, search=1, test=test))
    model = load_model(ModelConfig(name="resnet20"), data)
    return Subject("ResNet-20, digits", model.eval(), data.calibration, data.test)


def decode(path: Path, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` images, uint8 ``[count, 32, 32, 3]``, and their labels.

    The file holds the planes R-G, G, B-G, differenced twice modulo 256.
    """
    with np.load(path, allow_pickle=False) as file:
        residuals, labels = file["x_res"][:, :count], file["y"][:count]
    p = np.cumsum(np.cumsum(residuals, 2, dtype=np.uint8), 3, dtype=np.uint8)
    return np.stack([p[0] + p[1], p[1], p[2] + p[1]], -1), labels.astype(np.int64)


@torch.no_grad()
def percent_right(model: nn.Module, images: Images) -> float:
    """Per cent of ``images`` whose largest logit is at their label."""
    starts = range(0, len(images), _BATCH)
    found = [model(images.tensor(start, min(start + _BATCH, len(images)))).argmax(1) for start in starts]
    return float(100 * np.mean(torch.cat(found).numpy() == images.labels))


class Stopwatch:
    """Wall time of a ``with`` block, in ``seconds``."""

    seconds: float = 0.0

    def __enter__(self) -> Stopwatch:
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begin
