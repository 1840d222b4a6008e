"""Operations that a lowered network executes, against those that the accelerator models price."""

from __future__ import annotations

import pytest
import torch
from networks import settled
from torch import nn

from compressors.calibration.observe import calibrate
from compressors.convert import convert
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.model import CompressedModel
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from compressors.registry import MethodConfig
from dse.tracing import trace_workload
from energy.accelerators.bitserial import BitSerial, BitSerialConfig
from energy.technology import load_technology
from energy.workload import Workload

BITS = 4
IMAGES = torch.rand(16, 32, 8, 8, generator=torch.Generator().manual_seed(0))


def converted(weight: MethodConfig) -> CompressedModel:
    """A network whose channels fill words of 32."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Conv2d(64, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
        )
    settled(network, IMAGES)
    calibration = calibrate(network, IMAGES)
    plan = LayerPlan(weight, ActivationConfig(BITS))
    return convert(network, CompressionPlan(tuple((n.name, plan) for n in calibration.layers)), calibration)


@pytest.fixture(
    scope="module",
    params=[TernaryConfig(1), TernaryConfig(2), BinaryConfig(2), UniformConfig(4), UniformConfig(8)],
    ids=lambda config: f"{type(config).__name__}-{getattr(config, 'terms', getattr(config, 'bits', ''))}",
)
def model(request: pytest.FixtureRequest) -> CompressedModel:
    return converted(request.param)


@pytest.fixture
def workload(model: CompressedModel) -> Workload:
    return trace_workload(model, IMAGES[:1], ["sign_magnitude"])


def test_popcounts_are_the_one_bit_products(model: CompressedModel, workload: Workload) -> None:
    executed = model.lower(method="popcount").executed((1, *IMAGES.shape[1:]))
    for layer in workload.layers:
        assert 32 * executed[layer.name].popcounts == layer.bit_products("sign_magnitude")


def test_scaled_sums_are_the_multiplications(model: CompressedModel, workload: Workload) -> None:
    executed = model.lower().executed((1, *IMAGES.shape[1:]))
    for layer in workload.layers:
        terms = layer.weights["sign_magnitude"].terms
        assert executed[layer.name].multiplications == terms * layer.outputs * layer.pixels


def test_an_array_that_skips_nothing_is_priced_for_the_same_products(workload: Workload) -> None:
    array = BitSerial(BitSerialConfig(skip="none"), load_technology("cmos45"))
    for layer in workload.layers:
        assert array._counts(layer, 1, skip=False).products == layer.bit_products("sign_magnitude")
