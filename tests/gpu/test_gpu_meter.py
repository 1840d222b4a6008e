"""NVML on a real GPU: joules that grow with time and work, by the counter and by power alike."""

from __future__ import annotations

import time

import pytest
import torch

from energy.meters import Measurement, NvmlMeter, ProtocolSettings, measure_energy


@pytest.fixture
def meter() -> NvmlMeter:
    found = NvmlMeter(0)
    absent = found.available()
    if absent is not None:
        pytest.skip(str(absent))
    return found


def test_it_says_what_it_reads(meter: NvmlMeter) -> None:
    facts = meter.describe()
    assert facts["device"] and facts["uuid"] and facts["driver"]
    assert "SIMULATED" not in facts["driver"].upper()
    assert meter.method in ("counter", "power")


def test_the_counter_grows_by_what_a_gpu_takes(meter: NvmlMeter) -> None:
    if meter.method != "counter":
        pytest.skip("this GPU has no energy counter")
    first = meter.read()
    time.sleep(2.0)
    second = meter.read()
    assert first.energy_j is not None and second.energy_j is not None
    limit_w = meter.describe()["power_limit_w"] or 1500.0
    mean_w = (second.energy_j - first.energy_j) / (second.time_s - first.time_s)
    assert 1.0 < mean_w < 1.2 * limit_w


def test_work_takes_energy(meter: NvmlMeter, device: torch.device) -> None:
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.float16)
    result = measure_energy(
        meter, lambda: matrix @ matrix, lambda: torch.cuda.synchronize(device), ProtocolSettings()
    )
    assert isinstance(result, Measurement), result
    assert result.energy_j > 0
