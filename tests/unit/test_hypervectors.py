"""Hyperdimensional classifiers as networks: packed vectors, exact grids, fewer dimensions, integers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressors.calibration.activation import ActivationGrid, InputStatistics, choose_grid
from compressors.calibration.dimensions import ENCODER, choose_dimensions, narrow
from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.errors import BadTensor, ConfigError
from compressors.hypervectors import (
    Alphabet,
    Encoder,
    EncoderWork,
    HypervectorClassifier,
    PackedVectors,
    pack,
)
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.plan import ActivationConfig, CompressionPlan, HypervectorPlan, LayerPlan
from compressors.serialize import load, to_bytes

FEATURES, SAMPLES = 12, 120


class Signs(Encoder):
    """Signs of sums of features with random signs, plainly; ternary ones drop small sums."""

    def __init__(self, matrix: np.ndarray, alphabet: Alphabet) -> None:
        super().__init__()
        self.matrix, self.dimensions, self.alphabet = matrix, matrix.shape[1], alphabet

    def packed(self, samples: torch.Tensor) -> PackedVectors:
        sums = samples.double().numpy() @ self.matrix
        signs = np.where(sums >= 0, 1, -1)
        return pack(signs if self.alphabet == "binary" else signs * (np.abs(sums) > 1), self.alphabet)

    def select(self, index: np.ndarray) -> Signs:
        return Signs(self.matrix[:, index], self.alphabet)

    def work(self) -> EncoderWork:
        return EncoderWork(FEATURES, 2, 8, True, FEATURES)


def classifier(
    alphabet: Alphabet = "binary", dimensions: int = 333, classes: int = 5, centroids: int = 1, seed: int = 0
) -> tuple[HypervectorClassifier, torch.Tensor]:
    """Class vectors bundled from samples of clusters, and the samples."""
    rng = np.random.default_rng(seed)
    encoder = Signs(rng.choice([-1.0, 1.0], (FEATURES, dimensions)), alphabet)
    rows = classes * centroids
    which = np.arange(SAMPLES) % rows
    centres = rng.normal(size=(rows, FEATURES))
    samples = torch.from_numpy(
        (centres[which] + 0.4 * rng.normal(size=(SAMPLES, FEATURES))).astype(np.float32)
    )
    vectors = encoder(samples)
    memory = torch.stack([vectors[which == row].sum(0) for row in range(rows)])
    return HypervectorClassifier(encoder, memory, centroids), samples


def plan_of(weight: object, **settings: object) -> CompressionPlan:
    return CompressionPlan((("memory", LayerPlan(weight, ActivationConfig(8))),), **settings)  # type: ignore[arg-type]


@given(st.integers(1, 5), st.integers(1, 200), st.sampled_from(["binary", "ternary"]), st.integers(0, 99))
def test_packing_is_exact(count: int, dimensions: int, alphabet: Alphabet, seed: int) -> None:
    low = -1 if alphabet == "ternary" else 0
    values = np.random.default_rng(seed).integers(low, 2, (count, dimensions))
    values = values if alphabet == "ternary" else 2 * values - 1
    assert (pack(values, alphabet).dense() == values).all()


def test_other_values_are_refused() -> None:
    with pytest.raises(BadTensor, match="-1 and 1"):
        pack(np.array([[1, 0, -1]]), "binary")
    with pytest.raises(BadTensor, match="-1, 0 and 1"):
        pack(np.array([[2, 0, -1]]), "ternary")


def test_class_vectors_must_fit_the_encoder() -> None:
    encoder = Signs(np.ones((FEATURES, 10)), "binary")
    with pytest.raises(BadTensor, match=r"expected \[classes \* 2, 10\]"):
        HypervectorClassifier(encoder, torch.ones(3, 10), 2)


def test_the_nearest_centroid_counts() -> None:
    model, samples = classifier(centroids=3)
    scores = model.encoder(samples) @ model.memory.weight.T
    assert torch.equal(
        model(samples), torch.stack([scores[:, 3 * c : 3 * c + 3].amax(1) for c in range(5)], 1)
    )


@pytest.mark.parametrize("bits", [2, 8])
def test_inputs_of_few_levels_get_the_grid_of_these(bits: int) -> None:
    signs = InputStatistics(-2.5, 2.5, np.array([-2.5, -2.5, 2.5], np.float32))
    assert choose_grid(signs, ActivationConfig(bits)) == ActivationGrid(1, True, 2.5, signs=True)
    trits = InputStatistics(-1.0, 1.0, np.array([-1.0, 0.0, 1.0], np.float32))
    assert choose_grid(trits, ActivationConfig(bits)) == ActivationGrid(2, True, 1.0)
    others = InputStatistics(-1.0, 1.0, np.array([-1.0, 0.5, 1.0], np.float32))
    assert choose_grid(others, ActivationConfig(8)).bits == 8


def test_a_grid_of_signs_has_no_zero() -> None:
    grid = ActivationGrid(1, True, 0.5, signs=True)
    assert grid.round(torch.tensor([-3.0, -0.1, 0.0, 0.2])).tolist() == [-0.5, -0.5, 0.5, 0.5]
    with pytest.raises(BadTensor, match="1 signed bit"):
        ActivationGrid(2, True, 0.5, signs=True)


METHODS = [
    BinaryConfig(1),
    BinaryConfig(2),
    TernaryConfig(1),
    TernaryConfig(3),
    UniformConfig(3),
    UniformConfig(8),
]


@pytest.mark.parametrize("alphabet", ["binary", "ternary"])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("family", [None, "plain"])
def test_a_lowered_classifier_computes_the_sums_of_its_integers(
    alphabet: Alphabet, method: object, family: str | None
) -> None:
    model, samples = classifier(alphabet, centroids=2)
    compressed = convert(model, plan_of(method), calibrate(model, samples))
    tensor = compressed.tensors["memory"]
    vectors = model.encoder.packed(samples).dense().astype(np.int64)
    sums = np.einsum("nd,tcd->tnc", vectors, tensor.codes().reshape(tensor.terms, tensor.shape[0], -1))
    exact = (sums * tensor.scale[:, None, :, 0].astype(np.float64)).sum(0).reshape(SAMPLES, 5, 2).max(2)
    exact *= compressed.grids["memory"].scale
    lowered = compressed.lower(family=family)(samples).numpy()
    # the per-class factor is a fixed-point number of 24 bits
    np.testing.assert_allclose(lowered, exact, rtol=0, atol=np.abs(exact).max() * 2**-22)
    step = compressed.lower(family=family).executed(tuple(samples.shape))
    assert step["encoder"].additions == SAMPLES * 333 * FEATURES


@pytest.mark.parametrize("dimensions", [1, 63, 64, 65, 129])
def test_any_number_of_dimensions_is_lowered(dimensions: int) -> None:
    model, samples = classifier(dimensions=dimensions)
    compressed = convert(model, plan_of(TernaryConfig(1)), calibrate(model, samples))
    torch.testing.assert_close(compressed.lower()(samples), compressed(samples), rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 333), st.sampled_from(["first", "calibrated"]), st.integers(0, 9))
def test_fewer_dimensions_are_those_columns(count: int, choice: str, seed: int) -> None:
    model, samples = classifier(seed=seed)
    index = choose_dimensions(model, samples, HypervectorPlan(count, choice))
    assert len(np.unique(index)) == count and (np.sort(index) == index).all()
    part = narrow(model, index)
    assert torch.equal(part.encoder(samples), model.encoder(samples)[:, torch.from_numpy(index)])
    assert torch.equal(part.memory.weight, model.memory.weight[:, torch.from_numpy(index)])


def test_chosen_dimensions_keep_as_many_decisions_as_the_first() -> None:
    model, samples = classifier(dimensions=2000, classes=10)
    whole = model(samples).argmax(1)

    def kept(choice: str) -> int:
        part = narrow(model, choose_dimensions(model, samples, HypervectorPlan(8, choice)))
        return int((part(samples).argmax(1) == whole).sum())

    assert kept("calibrated") > kept("first")


def test_a_narrowed_classifier_survives_its_file(tmp_path: Path) -> None:
    model, samples = classifier(centroids=2)
    calibration = calibrate(model, samples)
    plan = plan_of(TernaryConfig(2), hypervectors=HypervectorPlan(100))
    assert CompressionPlan.from_dict(plan.to_dict()) == plan
    compressed = convert(model, plan, calibration)
    assert compressed.kept[ENCODER].sum() == 100 and compressed.tensors["memory"].shape == (10, 100)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(to_bytes(compressed))
    read = load(file, model, calibration.layers)
    assert isinstance(read, CompressedModel) and read.grids == compressed.grids
    assert torch.equal(read(samples), compressed(samples))
    assert torch.equal(read.lower()(samples), compressed.lower()(samples))


def test_plans_of_other_networks_keep_their_digests() -> None:
    assert "hypervectors" not in plan_of(TernaryConfig(1)).to_dict()
    with_fewer = plan_of(TernaryConfig(1), hypervectors=HypervectorPlan(9))
    assert with_fewer.digest() != plan_of(TernaryConfig(1)).digest()


def test_what_cannot_be_is_refused() -> None:
    model, samples = classifier()
    with pytest.raises(ConfigError, match="at most the 333 dimensions"):
        choose_dimensions(model, samples, HypervectorPlan(334))
    network = nn.Sequential(nn.Linear(FEATURES, 4))
    with pytest.raises(ConfigError, match="a hyperdimensional classifier"):
        convert(network, CompressionPlan((), hypervectors=HypervectorPlan(3)), calibrate(network, samples))
    with pytest.raises(ConfigError, match="dimensions"):
        HypervectorPlan(0)
    with pytest.raises(ConfigError, match="calibrated or first"):
        HypervectorPlan(3, "best")
    with pytest.raises(ConfigError, match=r"plan\.hypervectors"):
        CompressionPlan.from_dict({"hypervectors": {"choice": "first"}})
