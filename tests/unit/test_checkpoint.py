"""Files of weights: every form that is read, and every kind of damage that is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dse.data import DataConfig, DataSplits, load_data
from dse.errors import CheckpointError, ConfigError
from dse.models import ModelConfig, build_model, load_model
from dse.models import pretrain as pretraining
from dse.models.checkpoint import find_weights, read_weights

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data(DataConfig())


@pytest.fixture
def weights() -> Weights:
    torch.manual_seed(1)
    return build_model(ModelConfig(name="resnet8"), classes=10, channels=3).state_dict()


def load(path: Path, digits: DataSplits) -> Weights:
    return load_model(ModelConfig(name="resnet8", checkpoint=str(path)), digits).state_dict()


def assert_same(got: Weights, expected: Weights) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", ["safetensors", "plain", "wrapped", "parallel"])
def test_forms_of_one_checkpoint(form: str, weights: Weights, digits: DataSplits, tmp_path: Path) -> None:
    path = tmp_path / ("net.safetensors" if form == "safetensors" else "net.pt")
    if form == "safetensors":
        save_file(weights, path)
    elif form == "plain":
        torch.save(weights, path)
    elif form == "wrapped":
        torch.save({"state_dict": weights, "epoch": 3}, path)
    else:
        torch.save({"state_dict": {f"module.{name}": t for name, t in weights.items()}}, path)
    assert_same(load(path, digits), weights)


def test_half_precision_becomes_float32(weights: Weights, digits: DataSplits, tmp_path: Path) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in weights.items()}
    save_file(half, tmp_path / "net.safetensors")
    got = load(tmp_path / "net.safetensors", digits)
    assert got["conv1.weight"].dtype == torch.float32
    assert torch.equal(got["conv1.weight"], weights["conv1.weight"].half().float())


def test_counters_of_batch_norm_may_be_missing(weights: Weights, digits: DataSplits, tmp_path: Path) -> None:
    old = {n: t for n, t in weights.items() if not n.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "net.pt")
    assert_same(load(tmp_path / "net.pt", digits), weights)


class RunsCode:
    """Pickled as a call of ``os.mkdir``: an attack whose success can be seen."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(
    form: str, weights: Weights, digits: DataSplits, tmp_path: Path
) -> None:
    path, trace = tmp_path / "net.pt", tmp_path / "it_ran"
    content = {"state_dict": weights, "extra": RunsCode(trace)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content["extra"], protocol=2))
    with pytest.raises(CheckpointError) as caught:
        load(path, digits)
    assert not trace.exists()
    message = str(caught.value)
    assert str(path) in message and "refused" in message and "safetensors" in message
    assert "weights_only" not in message
    assert form == "pickle" or "asks for" in message and "mkdir" in message


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_file(
    suffix: str, share: float, weights: Weights, digits: DataSplits, tmp_path: Path
) -> None:
    path = tmp_path / f"net.{suffix}"
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=str(path)):
        load(path, digits)


def test_missing_file(digits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.pt"):
        load(tmp_path / "gone.pt", digits)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_torch_file_of_something_else(content: object, digits: DataSplits, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        load(tmp_path / "net.pt", digits)


def test_all_misfits_are_listed(weights: Weights, digits: DataSplits, tmp_path: Path) -> None:
    for name in ("conv1.weight", "bn1.weight", "bn1.bias", "linear.bias", "layer1.0.conv1.weight"):
        del weights[name]
    weights["fc.bias"] = torch.zeros(10)
    weights["linear.weight"] = torch.zeros(100, 64)
    save_file(weights, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "net.safetensors", digits)
    message = str(caught.value)
    assert "missing bn1.bias, bn1.weight, conv1.weight and 2 more" in message
    assert "unexpected fc.bias" in message
    assert "linear.weight is (100, 64), expected (10, 64)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_is_named(value: float, weights: Weights, digits: DataSplits, tmp_path: Path) -> None:
    weights["layer2.0.conv2.weight"][3, 1, 0, 2] = value
    save_file(weights, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"NaN or infinity in layer2\.0\.conv2\.weight"):
        load(tmp_path / "net.safetensors", digits)


def test_shipped_weights_refuse_images_they_were_trained_on() -> None:
    with pytest.raises(ConfigError, match=r"data\.search=400.*not trained on.*data\.seed=0.*pretrain"):
        load_model(ModelConfig(), load_data(DataConfig(seed=1)))


def test_shipped_weights_allow_smaller_parts_of_their_split() -> None:
    """Test and search come first in the permuted order, so smaller ones never reach the training images."""
    load_model(ModelConfig(), load_data(DataConfig(search=50, test=40, calibration=20)))


def test_shipped_metadata_tells_how_they_were_made(digits: DataSplits) -> None:
    path = find_weights(ModelConfig(), "digits")
    assert path is not None
    tensors, metadata = read_weights(path)
    assert metadata["dse.split_digest"] == digits.digest
    assert float(metadata["accuracy_test"]) >= 0.985
    assert {"seed", "epochs", "torch", "accuracy_train", "accuracy_search"} <= metadata.keys()
    assert all(t.dtype == torch.float32 for t in tensors.values() if t.is_floating_point())


def test_pretraining_writes_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command end to end, on another split, which the file then remembers."""
    path = tmp_path / "own.safetensors"
    pretraining.main(["--epochs", "1", "--data-seed", "5", "--out", str(path)])
    assert "accuracy_test" in capsys.readouterr().out
    config = ModelConfig(checkpoint=str(path))
    model = load_model(config, load_data(DataConfig(seed=5)))
    assert_same(model.state_dict(), load_file(path))
    with pytest.raises(ConfigError, match=r"data\.seed=5"):
        load_model(config, load_data(DataConfig(seed=0)))


def test_pretraining_wants_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretraining.main(["--epochs", "0"])
    assert "--epochs: expected at least 1" in capsys.readouterr().err


def test_training_lowers_the_loss_and_repeats_exactly(
    digits: DataSplits, capsys: pytest.CaptureFixture[str]
) -> None:
    small = DataSplits(
        "digits",
        digits.classes,
        *(
            part.take(np.arange(32))
            for part in (digits.train, digits.calibration, digits.search, digits.test)
        ),
        digest="",
    )
    first = pretraining.pretrain(small, seed=3, epochs=2).state_dict()
    again = pretraining.pretrain(small, seed=3, epochs=2).state_dict()
    assert_same(again, first)
    other = pretraining.pretrain(small, seed=4, epochs=2).state_dict()
    assert not torch.equal(other["conv1.weight"], first["conv1.weight"])
    losses = [float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[1] < losses[0]
