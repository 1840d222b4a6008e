"""Whole conversions: to the last bit alike on any number of threads, redone only where something changed, and never
worse than the cheap plan."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Residual, images, network, settled, smooth_images
from safetensors import safe_open
from safetensors.numpy import save

from compressors import conversion
from compressors.calibration.observe import Calibration, calibrate
from compressors.calibration.variants import augmented
from compressors.convert import convert
from compressors.errors import CheckpointError
from compressors.graph import find_layers
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.parallel import lanes
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan, Reconstruction
from compressors.registry import compress, make_config, method_names
from compressors.serialize import FORMAT, load, to_bytes

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("conv1", "conv2", "conv3", "depthwise", "linear")
NEAREST = LayerPlan(TernaryConfig(1), ActivationConfig(8))
SECOND = replace(NEAREST, rounding="second_order")


def plan(
    layer: LayerPlan = NEAREST, changes: Mapping[str, LayerPlan] | None = None, **options
) -> CompressionPlan:  # type: ignore[no-untyped-def]
    return CompressionPlan(tuple((n, (changes or {}).get(n, layer)) for n in LAYERS), **options)


RECIPES: dict[str, CompressionPlan] = {
    "nearest": plan(),
    "second order": plan(SECOND),
    "coarse inputs": plan(replace(SECOND, activation=ActivationConfig(3))),
    "pruned": plan(replace(SECOND, sparsity=0.5)),
    "reconstructed": plan(SECOND, reconstruct=Reconstruction(6, 20), augment=2),
    "structured": plan(SECOND, {"conv2": replace(SECOND, sparsity=0.5, pattern="channel")}),
    "equalised": plan(SECOND, equalize=True, bias="match"),
    "reestimated": plan(NEAREST, batch_norm="reestimate"),
}


def digest(model: CompressedModel) -> str:
    """Of everything in it."""
    state = hashlib.sha256(to_bytes(model))
    for name, tensor in sorted(model.tensors.items()):
        state.update(f"{name}{tensor.digest()}".encode())
    state.update(
        repr((model.report.divergence, model.report.layer_errors, model.report.unit_errors)).encode()
    )
    return state.hexdigest()


def from_scratch(recipe: CompressionPlan) -> CompressedModel:
    model = network("residual")
    return convert(model, recipe, calibrate(model, smooth_images(70)))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return network("residual")


@pytest.fixture(scope="module")
def calibration(model: torch.nn.Module) -> Calibration:
    return calibrate(model, smooth_images(40))


@pytest.mark.parametrize("recipe", RECIPES)
def test_alike_to_the_last_bit_on_any_number_of_threads(recipe: str) -> None:
    before, found = torch.get_num_threads(), set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.add(digest(from_scratch(RECIPES[recipe])))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_alike_to_the_last_bit_in_another_process() -> None:
    """With two threads from the start, in all libraries."""
    recipe = "reconstructed"
    code = (
        "from unit.test_conversion import RECIPES, digest, from_scratch\n"
        f"print(digest(from_scratch(RECIPES[{recipe!r}])))"
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
    environment = {**os.environ, **threads, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest(from_scratch(RECIPES[recipe]))


@pytest.mark.parametrize("recipe", RECIPES)
def test_plans_travel_as_json(model: torch.nn.Module, calibration: Calibration, recipe: str) -> None:
    travelled = CompressionPlan.from_dict(json.loads(json.dumps(RECIPES[recipe].to_dict())))
    assert travelled == RECIPES[recipe] and travelled.digest() == RECIPES[recipe].digest()
    first, second = (convert(model, p, calibration) for p in (RECIPES[recipe], travelled))
    assert digest(first) == digest(second)


@pytest.mark.parametrize("method", method_names())
def test_every_method_goes_through_a_file(
    model: torch.nn.Module, calibration: Calibration, method: str, tmp_path: Path
) -> None:
    layer = LayerPlan(make_config(method, {}), ActivationConfig(8), 0.3, "element", "second_order")
    made = convert(model, plan(layer), calibration)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(to_bytes(made))
    again = load(path, network("residual", 1), find_layers(network("residual", 1), images(1)))
    assert {n: t.digest() for n, t in again.tensors.items()} == {
        n: t.digest() for n, t in made.tensors.items()
    }
    with torch.no_grad():
        assert torch.equal(again(images(5)), made(images(5)))
    assert all(tensor.sparsity >= 0.3 - 0.5 / tensor.columns for tensor in made.tensors.values())


@pytest.mark.parametrize("method", method_names())
def test_second_order_is_closer_for_every_method(method: str) -> None:
    """The output error of each layer that the images go through first, and of the network as a whole."""
    model = network("vgg")
    batch = smooth_images(64)
    calibration = calibrate(model, batch)
    config = make_config(method, {})
    errors = {}
    for rounding in ("nearest", "second_order"):
        layers = (("0", LayerPlan(config, rounding=rounding)),)
        made = convert(model, CompressionPlan(layers), calibration)
        with torch.no_grad():
            gap = (made.network[0](batch) - model[0](batch)).transpose(0, 1).flatten(1)
        errors[rounding] = float((gap - gap.mean(1, keepdim=True)).square().sum())
    assert errors["second_order"] < errors["nearest"]


def new_keys(cache: dict, model: torch.nn.Module, recipe: CompressionPlan, calibration: Calibration) -> list:  # type: ignore[type-arg]
    """The cache's keys that a conversion added."""
    before = set(cache)
    convert(model, recipe, calibration, cache)
    return [key for key in cache if key not in before]


@pytest.mark.parametrize("changed", LAYERS)
def test_nearest_redoes_the_changed_layer_alone(
    model: torch.nn.Module, calibration: Calibration, changed: str
) -> None:
    cache: dict = {}
    first = convert(model, plan(), calibration, cache)
    other = plan(NEAREST, {changed: LayerPlan(TernaryConfig(2))})
    assert len(new_keys(cache, model, other, calibration)) == 1
    second = convert(model, other, calibration, cache)
    assert [n for n in LAYERS if second.tensors[n] is not first.tensors[n]] == [changed]
    assert digest(second) == digest(convert(model, other, calibration))


@pytest.mark.parametrize("changed", LAYERS)
def test_second_order_redoes_what_comes_later(
    model: torch.nn.Module, calibration: Calibration, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache: dict = {}
    first = convert(model, plan(SECOND), calibration, cache)
    other = plan(SECOND, {changed: replace(SECOND, weight=TernaryConfig(2))})
    rounded = []
    real = conversion.round_second_order
    monkeypatch.setattr(
        conversion, "round_second_order", lambda w, *rest: rounded.append(w.shape) or real(w, *rest)
    )
    second = convert(model, other, calibration, cache)
    later = LAYERS[LAYERS.index(changed) :]
    assert rounded == [first.tensors[name].shape for name in later]
    assert first.report.kept == second.report.kept == "as planned"
    assert [n for n in LAYERS if second.tensors[n] is not first.tensors[n]] == list(later)
    monkeypatch.undo()
    assert digest(second) == digest(convert(model, other, calibration))


@pytest.mark.parametrize(
    ("changed", "redone"), [("conv1", 4), ("conv3", 3), ("depthwise", 2), ("linear", 1)], ids=str
)
def test_reconstruction_redoes_the_units_that_come_later(
    model: torch.nn.Module, calibration: Calibration, changed: str, redone: int
) -> None:
    cache: dict = {}
    options = {"reconstruct": Reconstruction(2, 8)}
    convert(model, plan(**options), calibration, cache)
    other = plan(NEAREST, {changed: LayerPlan(TernaryConfig(2))}, **options)
    kinds = [key[0] for key in new_keys(cache, model, other, calibration)]
    assert sorted(kinds) == ["layer", *["unit"] * redone]
    cached = convert(model, other, calibration, cache)
    assert digest(cached) == digest(convert(model, other, calibration))


def test_the_cache_tells_repairs_apart(model: torch.nn.Module, calibration: Calibration) -> None:
    cache: dict = {}
    for recipe in RECIPES.values():
        assert digest(convert(model, recipe, calibration, cache)) == digest(
            convert(model, recipe, calibration)
        )
    for recipe in RECIPES.values():
        assert not new_keys(cache, model, recipe, calibration)


@pytest.mark.parametrize("reconstruct", [None, Reconstruction(2, 8)])
def test_the_cheap_plan_wins_where_the_dear_one_is_worse(
    model: torch.nn.Module,
    calibration: Calibration,
    monkeypatch: pytest.MonkeyPatch,
    reconstruct: Reconstruction | None,
) -> None:
    cheap = convert(model, plan(), calibration)
    monkeypatch.setattr(
        conversion, "round_second_order", lambda weight, config, keep, *_: compress(-weight, config, keep)
    )
    dear = convert(model, plan(SECOND, reconstruct=reconstruct), calibration)
    assert dear.report.kept == "without repairs"
    scores = dear.report.divergence
    assert scores["without repairs"] < scores["as planned"]
    assert to_bytes(dear) == to_bytes(cheap)
    assert {"without repairs", "second order"} <= set(dear.report.seconds)
    with torch.no_grad():
        assert torch.equal(dear(images(5)), cheap(images(5)))


def test_a_recipe_whose_answers_explode_loses(
    model: torch.nn.Module, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(weight, config, keep, *_):  # type: ignore[no-untyped-def]
        tensor = compress(weight, config, keep)
        return replace(tensor, scale=np.full_like(tensor.scale, 3e38))

    monkeypatch.setattr(conversion, "round_second_order", broken)
    made = convert(model, plan(NEAREST, {"linear": SECOND}), calibration)
    assert made.report.kept == "without repairs" and made.report.divergence["as planned"] > 1e30


def test_a_cheap_plan_has_nothing_to_compete_with(model: torch.nn.Module, calibration: Calibration) -> None:
    report = convert(model, plan(), calibration).report
    assert report.kept == "as planned" and not report.divergence and not report.unit_errors


def test_the_divergence_reported_is_that_of_the_answers(
    model: torch.nn.Module, calibration: Calibration
) -> None:
    made = convert(model, plan(SECOND), calibration)
    assert made.report.kept == "as planned"
    with torch.no_grad():
        p, q = (m(calibration.images).double().softmax(1).numpy() for m in (model, made))
    expected = (p * np.log(p / q)).sum(1).mean()
    assert made.report.divergence["as planned"] == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_layer_errors_are_relative_and_not_negative(model: torch.nn.Module, calibration: Calibration) -> None:
    for bits in (2, 4, 8):
        errors = convert(
            model, plan(LayerPlan(UniformConfig(bits), rounding="second_order")), calibration
        ).report.layer_errors
        assert set(errors) == set(LAYERS) and all(0 <= error < 0.6 for error in errors.values())
    assert max(errors.values()) < 1e-3


@pytest.mark.parametrize("count", [20, 64, 70])
def test_versions_of_images_train_and_do_no_more(count: int) -> None:
    """Batch norms are matched, and layers rounded, on the images as they are."""
    model = network("residual")
    calibration = calibrate(model, smooth_images(count))
    made = {}
    for augment in (1, 3):
        recipe = plan(SECOND, reconstruct=Reconstruction(1, 8), augment=augment)
        with torch.no_grad(), lanes() as pool:
            run = conversion.Conversion(model, recipe, calibration, {}, pool)
            made[augment] = run.run().network.bn1, run.layers["conv1"].tensor
    (first, tensor), (third, other) = made[1], made[3]
    assert tensor.digest() == other.digest()
    assert torch.allclose(first.running_mean, third.running_mean, atol=1e-6)
    assert torch.allclose(first.running_var, third.running_var, rtol=1e-5)
    assert len(augmented(calibration.images, 3)) == 3 * count


@pytest.mark.parametrize(
    "kept",
    [{"conv2": [6]}, {"conv2": [-1]}, {"conv2": []}, {"conv2": "all"}, {"conv2": [True]}, {"conv3": [1]}]
    + [{"conv9": [1]}, {"conv2": [0, 1]}, {"conv2": [0.0, 1.0]}, [1], {"conv2": None}],
    ids=str,
)
def test_a_file_that_says_other_channels_is_refused(
    model: torch.nn.Module, calibration: Calibration, tmp_path: Path, kept: object
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(to_bytes(convert(model, RECIPES["structured"], calibration)))
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()[FORMAT])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    assert list(header["kept"]) == ["conv2"] and len(header["kept"]["conv2"]) == 3
    header["kept"] = kept
    path.write_bytes(save(arrays, metadata={FORMAT: json.dumps(header)}))
    other = network("residual", 1)
    with pytest.raises(CheckpointError):
        load(path, other, find_layers(other, images(1)))


def test_frozen_and_shared_networks_stay_as_they_were() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = settled(Residual(), images(16)).requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    recipe = plan(SECOND, reconstruct=Reconstruction(2, 8), bias="match", equalize=True)
    convert(model, recipe, calibrate(model, images(20)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
