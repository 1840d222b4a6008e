"""Real photographs and the real pretrained ResNet-20, where the shared data is present."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dse.data import DataConfig, DataSplits, load_data
from dse.models import ModelConfig, load_model
from dse.models.pretrain import accuracy

_CALIBRATION_POOL = 2000


def decode(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` images, uint8 ``[count, 32, 32, 3]``, of the residual coding the manifest gives."""
    with np.load(path, allow_pickle=False) as file:
        residuals, labels = file["x_res"][:, :count], file["y"][:count]
    p = np.cumsum(np.cumsum(residuals, 2, dtype=np.uint8), 3, dtype=np.uint8)
    return np.stack([p[0] + p[1], p[1], p[2] + p[1]], -1), labels


@pytest.fixture(scope="module")
def cifar10(shared_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> DataSplits:
    x_train, y_train = decode(shared_data("cifar10_train20k.npz"), _CALIBRATION_POOL)
    x_test, y_test = decode(shared_data("cifar10_test.npz"), 10_000)
    path = tmp_path_factory.mktemp("data") / "cifar10.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return load_data(DataConfig(name="cifar10", root=str(path), search=1000, test=1000))


def test_pretrained_resnet20_reaches_its_published_accuracy(
    cifar10: DataSplits, shared_data: Callable[[str], Path]
) -> None:
    """91.73 % on all 10,000: on 2,000 of them the standard error is 0.6 points."""
    path = shared_data("cifar10_resnet20.safetensors")
    model = load_model(ModelConfig(checkpoint=str(path)), cifar10)
    reached = np.mean([accuracy(model, cifar10.search), accuracy(model, cifar10.test)])
    assert 0.90 < reached < 0.935
    assert accuracy(model, cifar10.train.take(np.arange(500))) > 0.99


def test_parts_hold_real_photographs(cifar10: DataSplits) -> None:
    assert len(cifar10.calibration) == 256 and len(cifar10.train) == _CALIBRATION_POOL - 256
    # Neighbouring pixels of a photograph are alike; a wrong decoding or channel order is noise.
    pixels = cifar10.search.pixels.astype(np.int16)
    assert np.abs(np.diff(pixels, axis=2)).mean() < 15
    assert set(cifar10.search.labels.tolist()) == set(range(10))
