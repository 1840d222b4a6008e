"""Whole networks lowered for a device: what is chosen and why, what is refused, and that nothing else changes."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from device_layers import CPU, drawn, read
from networks import TwoHeads, network, smooth_images
from torch import nn

from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.errors import BadTensor, ConfigError, UnknownName, UnsupportedLayer
from compressors.graph import find_layers
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.operators.device import (
    DeviceSettings,
    KernelMismatch,
    NoKernel,
    lower_for_device,
)
from compressors.operators.device import choice as choosing
from compressors.operators.device import network as networks
from compressors.operators.device.dense import BFloat16, Float32
from compressors.operators.device.folding import fold
from compressors.operators.device.int8 import Int8Product
from compressors.operators.device.reference import LayerReference, relative, spread
from compressors.operators.device.registry import KERNELS
from compressors.operators.device.replay import Replay, record, seconds_each
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from compressors.registry import MethodConfig

QUICK = {"rounds": 1, "round_s": 0.0}


def compressed(
    name: str, weight: MethodConfig | None = None, bits: int | None = 4, float_layers: Sequence[str] = ()
) -> CompressedModel:
    model, batch = network(name), smooth_images(24)
    layers = find_layers(model, batch[:1], float_layers)
    activation = None if bits is None else ActivationConfig(bits)
    plans = tuple((layer.name, LayerPlan(weight or UniformConfig(4), activation)) for layer in layers)
    plan = CompressionPlan(plans, batch_norm="match", bias="match")
    return convert(model, plan, calibrate(model, batch, float_layers=tuple(float_layers)))


def only(*kernels: str, **settings: Any) -> DeviceSettings:
    return DeviceSettings(kernels=kernels, **QUICK, **settings)


@pytest.mark.parametrize("name", ["residual", "separable", "vgg", "perceptron", "flattened"])
@pytest.mark.parametrize("kernel", ["int8", "unpacked_bf16", "bf16", "fp16", "fp32"])
def test_networks_answer_as_the_candidate_does(name: str, kernel: str) -> None:
    model, images = compressed(name, bits=8), smooth_images(9, seed=5)
    settings = only(kernel, "fp32") if kernel in ("int8", "fp16") else only(kernel)
    lowered = lower_for_device(model, images, "cpu", settings)
    exact = kernel in ("int8", "fp32")
    with torch.no_grad():
        expected = model(images)
    found = lowered(images)
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert error == pytest.approx(lowered.relative_error, rel=1e-3, abs=1e-9)
    # a code may fall otherwise at a threshold, where 16 bits rounded what the layer reads
    assert error < (1e-4 if exact else 0.05)
    assert lowered.max_error == pytest.approx(
        float((found - expected).abs().max() / expected.abs().max()), rel=1e-3
    )
    assert lowered.agreement == pytest.approx(float((found.argmax(1) == expected.argmax(1)).double().mean()))
    assert [layer.name for layer in model.layers] == list(lowered.kernels)


def test_the_candidate_itself_stays_as_it_is() -> None:
    model, images = compressed("residual"), smooth_images(4, seed=5)
    before, state = model(images), copy.deepcopy(model.state_dict())
    hooks = {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}
    lower_for_device(model, images, "cpu", only("fp32"))
    assert torch.equal(model(images), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert hooks == {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}


def test_batches_of_other_sizes() -> None:
    model = compressed("vgg", bits=8)
    lowered = lower_for_device(model, smooth_images(4, seed=5), "cpu", only("fp32", "int8"))
    images = smooth_images(7, seed=6)
    with torch.no_grad():
        assert torch.allclose(lowered(images), model(images), atol=1e-4)
    with pytest.raises(BadTensor, match="no image"):
        lowered(images[:0])


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
    """Let each kernel take the given time, whatever the machine does."""

    def times(runs: Sequence[Any], *_: Any) -> list[float]:
        for run in runs:
            run()
        return [seconds[run.func.name] for run in runs]

    monkeypatch.setattr(choosing, "seconds_each", times)


def test_the_fastest_kernel_is_taken_and_the_others_are_accounted_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed(monkeypatch, {"int8": 2e-6, "unpacked_bf16": 3e-6, "bf16": 4e-6, "fp16": 5e-6, "fp32": 6e-6})
    lowered = lower_for_device(compressed("separable"), smooth_images(4), "cpu")
    assert lowered.summary == "int8 x 4, unpacked_bf16 x 2"
    choice = lowered.kernels["pointwise1.0"]
    assert choice.reason == (
        "the fastest of 5 on this device with this batch: 2 us, then unpacked_bf16 with 3 us"
    )
    assert set(choice.passed_over) | {"int8"} == set(KERNELS)
    assert list(choice.passed_over) == [name for name in KERNELS if name != "int8"]
    assert choice.passed_over["bf16"] == "4 us, while int8 takes 2 us"
    assert choice.passed_over["tf32"] == "the device is no GPU"
    assert lowered.kernels["depthwise1.0"].passed_over["int8"].startswith("8 groups of channels")


def test_of_equal_times_the_first_kernel_of_the_registry_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, dict.fromkeys(KERNELS, 1e-6))
    lowered = lower_for_device(compressed("perceptron"), smooth_images(4), "cpu")
    assert lowered.summary == "int8 x 3"
    floats = compressed("perceptron", bits=None)
    assert lower_for_device(floats, smooth_images(4), "cpu").summary == "unpacked_bf16 x 3"


class OffByOne(Int8Product):
    """One sum of the last image is one too large, in an output that hardly shows it."""

    name = "off_by_one"

    def sums(self, x: torch.Tensor) -> torch.Tensor:
        found = super().sums(x).clone()
        found[0, -1, -1] += 1
        return found


class TooFar(Float32):
    name = "too_far"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 1.01


class NotANumber(Float32):
    name = "nan"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


class Refuses(Float32):
    name = "refuses"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image\nfor this device")


def test_kernels_that_are_wrong_or_fail_are_named_and_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (OffByOne, TooFar, NotANumber, Refuses):
        monkeypatch.setitem(KERNELS, kind.name, kind)
    timed(monkeypatch, {"fp32": 1.0})
    settings = only("off_by_one", "too_far", "nan", "refuses", "fp32")
    lowered = lower_for_device(compressed("perceptron"), smooth_images(4), "cpu", settings)
    assert lowered.summary == "fp32 x 3"
    choice = next(iter(lowered.kernels.values()))
    assert choice.reason == "the only kernel that can run the layer and is right"
    assert re.fullmatch(r"it is wrong: error 0\.0\d+, above 5e-05", choice.passed_over["too_far"])
    assert choice.passed_over == {
        "off_by_one": "it is wrong: its integer sums are not exact",
        "too_far": choice.passed_over["too_far"],
        "nan": "it is wrong: error inf, above 5e-05",
        "refuses": "it fails: RuntimeError: CUDA error: no kernel image",
    }


def test_without_a_kernel_that_is_right_every_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "refuses", Refuses)
    model, settings = compressed("perceptron", bits=None), only("refuses", "int8")
    told = r"layer 1: no kernel can run it on cpu \(int8: the input is in floating point; refuses: it fails: Runtime"
    with pytest.raises(NoKernel, match=told):
        lower_for_device(model, smooth_images(4), "cpu", settings)


def test_what_cannot_be_asked_for() -> None:
    model, images = compressed("perceptron"), smooth_images(4)
    with pytest.raises(UnknownName, match="device.kernels: unknown kernel 'int9'; did you mean 'int8'"):
        lower_for_device(model, images, "cpu", only("int9"))
    with pytest.raises(BadTensor, match="no image in the example"):
        lower_for_device(model, images[:0], "cpu")
    with pytest.raises(ConfigError, match="device.values=int8: expected float32 or bfloat16 or float16"):
        DeviceSettings(values="int8")
    for wrong in ({"rounds": 0}, {"checked": 0}, {"round_s": -1.0}, {"kernels": ()}):
        with pytest.raises(ConfigError, match=f"device.{next(iter(wrong))}"):
            DeviceSettings(**wrong)


def test_networks_with_several_outputs_are_refused() -> None:
    model, images = TwoHeads().eval(), smooth_images(4)
    heads = CompressedModel(model, find_layers(model, images[:1]), {}, {})
    with pytest.raises(UnsupportedLayer, match="several outputs"):
        lower_for_device(heads, images, "cpu", only("fp32"))


def test_a_network_that_computes_something_else_is_refused() -> None:
    """A hook that is no rounding hides behind the layer: its answer is not that of its weights."""
    model, images = compressed("perceptron"), smooth_images(4)
    model.network[1].register_forward_hook(lambda *args: args[2] * 1.5)
    with pytest.raises(KernelMismatch, match="layer 1: the network's own answer is 0.33 away"):
        lower_for_device(model, images, "cpu", only("fp32"))


def test_logits_that_are_far_off_are_refused() -> None:
    """A hook on a module between layers is lost when the network is traced."""
    model, images = compressed("perceptron"), smooth_images(4)
    model.network[2].register_forward_hook(lambda *args: args[2] * -20.0)
    with pytest.raises(KernelMismatch, match="away from the candidate.s, .* with fp32 x 3"):
        lower_for_device(model, images, "cpu", only("fp32"))


def test_batch_norms_and_relus_become_part_of_layers() -> None:
    model = compressed("vgg")
    folded = fold(model)
    kinds = [
        type(folded.network.get_submodule(str(n.target)))
        for n in folded.network.graph.nodes
        if n.op == "call_module"
    ]
    assert folded.obstacle == ""
    assert nn.BatchNorm2d not in kinds and nn.ReLU not in kinds and kinds.count(nn.MaxPool2d) == 2
    assert [folded.after[layer.name].relu for layer in model.layers] == [True, True, True, False]
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_what_others_read_is_not_folded() -> None:
    """The third convolution of the network goes into an add: its batch norm is its own, the ReLU is the sum's."""
    folded = fold(compressed("residual"))
    assert not folded.after["conv3"].relu and (folded.after["conv3"].gain != 1).any()
    assert folded.after["conv1"].relu and folded.after["conv2"].relu


class Branching(nn.Module):
    """Its block decides by what it reads, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.block = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Deciding()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(torch.relu(self.norm(self.conv(x))))
        return self.linear(x.view(x.size(0), 4, -1).mean(2))


class Deciding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_networks_that_cannot_be_traced_keep_their_batch_norms() -> None:
    model, images = Branching().eval(), smooth_images(8)
    layers = find_layers(model, images[:1], ("block",))
    plan = CompressionPlan(tuple((n.name, LayerPlan(UniformConfig(4), ActivationConfig(8))) for n in layers))
    candidate = convert(model, plan, calibrate(model, images, float_layers=("block",)))
    assert "branch" in fold(candidate).obstacle or "trace" in fold(candidate).obstacle
    lowered = lower_for_device(candidate, images, "cpu", only("int8", "fp32"))
    assert any(isinstance(m, nn.BatchNorm2d) for m in lowered.modules())
    with torch.no_grad():
        assert torch.allclose(lowered(images), candidate(images), atol=1e-5)


@pytest.mark.parametrize("values", ["bfloat16", "float16"])
def test_float_networks_with_sixteen_bits_between_layers(values: str) -> None:
    model, images = network("residual"), smooth_images(16, seed=2)
    floats = CompressedModel(model, find_layers(model, images[:1]), {}, {})
    kernel = "bf16" if values == "bfloat16" else "fp16"
    lowered = lower_for_device(floats, images, "cpu", only(kernel, values=values))
    found = lowered(images)
    assert found.dtype == torch.float32 and lowered.record()["values"] == values
    with torch.no_grad():
        expected = model(images)
    assert 0 < float((found - expected).abs().max() / expected.abs().max()) < 0.03


def test_records_are_json() -> None:
    lowered = lower_for_device(compressed("vgg"), smooth_images(4), "cpu", DeviceSettings(**QUICK))
    record_ = json.loads(json.dumps(lowered.record()))
    assert record_["device"] == "processor" and record_["batch"] == [4, 3, 8, 8]
    assert record_["graph"] == "CUDA graphs need a GPU, and the device is a processor"
    assert set(record_["kernels"]) == set(lowered.kernels)
    for layer in record_["kernels"].values():
        assert layer["seconds"][layer["name"]] == min(layer["seconds"].values()) > 0
        assert set(layer["passed_over"]) == set(KERNELS) - {layer["name"]}


def recorded(monkeypatch: pytest.MonkeyPatch, stale: bool) -> None:
    """A graph as the processor can play one: its answer lies in one place and follows its input, or does not."""

    def fake(run: Any, _: torch.device) -> Replay:
        answer = run().clone()
        return Replay(lambda: None if stale else answer.copy_(run()), answer, "")

    monkeypatch.setattr(networks, "record", fake)


def test_a_replay_is_used_where_it_answers_as_the_kernels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, stale=False)
    model, images = compressed("perceptron"), smooth_images(4)
    lowered = lower_for_device(model, images, "cpu", only("fp32"))
    assert lowered.graph is True
    first, others = lowered(images), smooth_images(4, seed=8)
    kept = first.clone()
    second = lowered(others)
    assert second.data_ptr() == first.data_ptr() and not torch.equal(second, kept)
    with torch.no_grad():
        assert torch.allclose(kept, model(images), atol=1e-5)
        assert torch.allclose(second, model(others), atol=1e-5)
        assert torch.allclose(lowered(others[:3]), model(others[:3]), atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(lowered(images), kept)


def test_a_replay_that_does_not_follow_its_input_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, stale=True)
    model, images = compressed("perceptron"), smooth_images(4)
    lowered = lower_for_device(model, images, "cpu", only("fp32"))
    assert "its replay is" in str(lowered.graph)
    with torch.no_grad():
        assert torch.allclose(lowered(images), model(images), atol=1e-5)
    assert lower_for_device(model, images, "cpu", only("fp32", graph=False)).graph == "not asked for"


def test_candidates_may_be_lowered_in_inference_mode() -> None:
    model = compressed("vgg")
    with torch.inference_mode():
        images = smooth_images(4)
        lowered = lower_for_device(model, images, "cpu", only("int8", "fp32"))
        first = lowered(images)
    assert torch.allclose(lowered(images), first)


def test_references_look_at_both_ends_of_a_batch() -> None:
    assert spread(100, 5).tolist() == [0, 25, 50, 74, 99]
    assert spread(3, 8).tolist() == [0, 1, 2] and spread(1, 4).tolist() == [0]


def test_a_reference_sees_every_kind_of_error() -> None:
    layer = drawn((4, 3, 3, 3), window={"padding": (1, 1)})
    x = read(layer, 6, 3, 5, 5)
    reference = LayerReference(layer, x, 3, None)
    assert reference.images.tolist() == [0, 2, 5]
    assert reference.wrong(Int8Product(layer, CPU), x)[1] == ""
    assert reference.wrong(BFloat16(layer, CPU), x)[1] == ""
    assert "not exact" in reference.wrong(OffByOne(layer, CPU), x)[1]
    assert relative(torch.zeros(3), 0.0) == 0.0 and relative(torch.ones(3), 0.0) == float("inf")
    assert relative(torch.tensor([float("nan")]), 1.0) == float("inf")


def test_times_are_medians_of_calls() -> None:
    calls = [0, 0]

    def call(which: int) -> None:
        calls[which] += 1

    found = seconds_each([lambda: call(0), lambda: call(1)], CPU, 3, 0.0)
    assert len(found) == 2 and min(found) > 0
    assert calls == [1 + 1 + 3, 1 + 1 + 3]  # once to warm up, once to count, then the rounds
    assert record(lambda: None, CPU).obstacle.startswith("CUDA graphs need a GPU")


def test_ternary_networks_of_two_terms() -> None:
    model, images = compressed("residual", TernaryConfig(2), bits=8), smooth_images(5, seed=4)
    lowered = lower_for_device(model, images, "cpu", only("int8", "unpacked_bf16"))
    assert lowered.kernels["depthwise"].name == "unpacked_bf16"
    assert lowered.relative_error < 0.03
