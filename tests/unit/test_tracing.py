"""From networks to workloads: shapes, formats, residual flags, and activity of the codes really read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from compressors.slicing import GRANULARITIES
from dse.models import ModelConfig, build_model
from dse.tracing import trace_workload
from energy.workload import FLOAT_BITS, LayerWork, Workload

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
PlanOf = Callable[[str], LayerPlan]


def compressed(network: nn.Module, plan_of: PlanOf, images: torch.Tensor = IMAGES) -> CompressedModel:
    calibration = calibrate(network, images)
    plans = tuple((layer.name, plan_of(layer.name)) for layer in calibration.layers)
    return convert(network, CompressionPlan(plans, "keep"), calibration)


def activation_bits(name: str) -> int:
    """A different width for each part of the network."""
    return {"conv1": 8, "layer1": 2, "layer2": 3, "layer3": 4, "linear": 6}[name.split(".")[0]]


@pytest.fixture(scope="module")
def resnet20() -> CompressedModel:
    torch.manual_seed(0)
    network = build_model(ModelConfig(), classes=10, channels=3).eval()
    return compressed(network, lambda n: LayerPlan(TernaryConfig(2), ActivationConfig(activation_bits(n))))


@pytest.fixture(scope="module")
def traced(resnet20: CompressedModel) -> Workload:
    return trace_workload(resnet20, IMAGES[:2], ["csd", "sign_magnitude", "csd"])


def by_name(workload: Workload) -> dict[str, LayerWork]:
    return {layer.name: layer for layer in workload.layers}


def test_resnet20_has_the_published_multiply_accumulates(traced: Workload) -> None:
    assert traced.macs == 40_551_040  # 40.55 M: He et al. 2015 and every re-implementation since
    assert len(traced.layers) == 20
    assert traced.image_bits == 32 * 32 * 3 * 8


def test_shapes_follow_the_architecture(traced: Workload) -> None:
    layers = by_name(traced)
    expected = {("conv1", 0, ""): (16, 3, (32, 32), (1, 1))}
    for stage, width, size in ((1, 16, 32), (2, 32, 16), (3, 64, 8)):
        for block in range(3):
            first = stage > 1 and block == 0
            entering = width // 2 if first else width
            expected[f"layer{stage}", block, ".conv1"] = (width, entering, (size,) * 2, (1 + first,) * 2)
            expected[f"layer{stage}", block, ".conv2"] = (width, width, (size,) * 2, (1, 1))
    for (stage, block, conv), figures in expected.items():
        layer = layers[f"{stage}.{block}{conv}" if conv else stage]
        assert (layer.outputs, layer.inputs, layer.output_size, layer.stride) == figures, layer.name
        assert (layer.kernel, layer.dilation, layer.groups) == ((3, 3), (1, 1), 1)
    linear = layers["linear"]
    assert (linear.outputs, linear.inputs, linear.kernel, linear.output_size) == (10, 64, (1, 1), (1, 1))


def test_the_residual_stream_is_added_to_and_kept_where_it_should_be(traced: Workload) -> None:
    layers = by_name(traced)
    assert {name for name, layer in layers.items() if layer.added} == {
        f"layer{s}.{b}.conv2" for s in (1, 2, 3) for b in (0, 1, 2)
    }
    # Every block but the last hands its sum to the next block's add; the stem feeds the first.
    kept = {name for name, layer in layers.items() if layer.kept}
    assert kept == {"conv1", *(f"layer{s}.{b}.conv2" for s in (1, 2, 3) for b in (0, 1, 2))} - {
        "layer3.2.conv2"
    }


def test_outputs_are_written_at_the_bits_they_are_read(traced: Workload) -> None:
    layers = by_name(traced)
    assert layers["conv1"].output_bits == 2  # read by layer1
    assert layers["layer1.2.conv1"].output_bits == 2
    assert layers["layer1.2.conv2"].output_bits == 3  # through the add, by layer2
    assert layers["layer2.2.conv2"].output_bits == 4
    assert layers["layer3.2.conv2"].output_bits == 6  # through pooling, by the linear layer
    assert layers["linear"].output_bits == FLOAT_BITS  # read by nobody
    assert {name: layer.input.bits for name, layer in layers.items()} == {
        n: activation_bits(n) for n in layers
    }


def test_only_the_image_changes_sign(traced: Workload) -> None:
    assert [layer.name for layer in traced.layers if layer.input.signed] == ["conv1"]


def test_activity_is_that_of_the_codes_the_layer_reads(resnet20: CompressedModel, traced: Workload) -> None:
    codes = resnet20.input_codes(IMAGES[:2])
    for layer in traced.layers:
        magnitude = np.abs(codes[layer.name])
        for g in GRANULARITIES:
            for position, fraction in enumerate(layer.input.nonzero[g]):
                digit = (magnitude >> (g * position)) & ((1 << g) - 1)
                assert fraction == pytest.approx((digit != 0).mean(), abs=1e-12)
        planes = resnet20.tensors[layer.name].digits()
        assert set(layer.weights) == {"csd", "sign_magnitude"}
        np.testing.assert_array_equal(layer.weights["csd"].nonzero[4], (planes != 0).sum(2))


def test_a_reader_in_floating_point_makes_its_producer_write_32_bits() -> None:
    torch.manual_seed(0)
    network = build_model(ModelConfig("resnet8"), classes=10, channels=3).eval()

    def plan_of(name: str) -> LayerPlan:
        return LayerPlan() if name == "linear" else LayerPlan(UniformConfig(4), ActivationConfig(4))

    layers = by_name(trace_workload(compressed(network, plan_of), IMAGES[:1], ["csd"]))
    assert layers["layer3.0.conv2"].output_bits == FLOAT_BITS
    assert layers["linear"].is_float and layers["linear"].input is None and layers["linear"].weights == {}
    assert not layers["conv1"].is_float


class _Odd(nn.Module):
    """Grouped, dilated, strided and uneven convolutions, and a linear layer over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 8, (1, 3), stride=(1, 2), padding=(0, 1), groups=2)
        self.deep = nn.Conv2d(8, 8, 3, dilation=2, groups=8)
        self.linear = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.deep(torch.relu(self.wide(x))))


def test_shapes_of_uncommon_layers() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 4, 9, 16)
    model = compressed(_Odd().eval(), lambda n: LayerPlan(UniformConfig(4), ActivationConfig(4)), images)
    layers = by_name(trace_workload(model, images, ["twos_complement"], unpriced=["head"]))
    wide, deep, linear = layers["wide"], layers["deep"], layers["linear"]
    assert (wide.inputs, wide.groups, wide.kernel, wide.stride) == (4, 2, (1, 3), (1, 2))
    assert (wide.output_size, wide.reduction) == ((9, 8), 2 * 3)
    assert (deep.groups, deep.dilation, deep.output_size, deep.reduction) == (8, (2, 2), (5, 4), 9)
    assert (linear.pixels, linear.macs) == (8 * 5, 8 * 5 * 4 * 5)  # one product with every position
    outputs = {"wide": 8 * 9 * 8 * 6, "deep": 8 * 5 * 4 * 9, "linear": 800}
    assert {name: layer.macs for name, layer in layers.items()} == outputs


def test_parts_left_in_floating_point_are_passed_on(resnet20: CompressedModel) -> None:
    assert trace_workload(resnet20, IMAGES[:1], ["csd"], unpriced=("head",)).unpriced == ("head",)
