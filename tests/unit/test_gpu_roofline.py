"""The roofline of a GPU, each figure by hand from the data sheet."""

from __future__ import annotations

import pytest

from compressors.errors import ConfigError, UnknownName
from energy.accelerators import make_accelerator
from energy.accelerators.gpu_roofline import GpuRoofline
from energy.technology import load_technology
from tests.energy_workloads import activities, integer_weights, layer, workload


def make(**settings: object) -> GpuRoofline:
    return make_accelerator("gpu_roofline", settings, load_technology("cmos45"))  # type: ignore[return-value]


def test_a_small_layer_waits_for_memory() -> None:
    """32 filters of 72 4-bit weights; 8 x 8 x 8 inputs and 32 x 8 x 8 outputs of a byte; an image of 3 kB."""
    work = layer(weights=activities(integer_weights(32, 72, bits=4, density=1.0, seed=0)))
    cost = make().cost(workload(work), {})
    moved = 32 * 72 * 4 / 8 + 8 * 64 + 32 * 64 + 32 * 32 * 3
    assert cost.total_latency_s == pytest.approx(moved / 3.35e12)
    assert cost.bound == {"conv": "dram"}
    assert cost.utilisation["conv"] == pytest.approx(2 * work.macs / 1978.9e12 / cost.total_latency_s)
    assert cost.total_energy_j.high == pytest.approx(700 * cost.total_latency_s)
    assert cost.total_energy_j.low == pytest.approx(70 * cost.total_latency_s)
    assert cost.total_area_mm2.nominal == 814


def test_a_large_layer_computes_at_the_peak_of_its_format() -> None:
    work = layer(outputs=512, inputs=512, output_size=(64, 64), weights={}, input=None, output_bits=32)
    cost = make(gpu="t4").cost(workload(work), {})
    assert work.macs == 512 * 512 * 9 * 4096
    assert cost.bound == {"conv": "compute"} and cost.utilisation == {"conv": 1.0}
    assert cost.total_latency_s == pytest.approx(2 * work.macs / 8.1e12)
    half = make(gpu="t4", float_format="fp16").cost(workload(work), {})
    assert half.total_latency_s == pytest.approx(2 * work.macs / 65e12)


def test_a_batch_shares_the_weights() -> None:
    work = layer(outputs=512, inputs=512, kernel=(1, 1), output_size=(1, 1))
    alone, many = (make(batch=n).cost(workload(work, image_bits=8), {}).total_latency_s for n in (1, 64))
    weights = 512 * 512 * 4 / 8
    rest = 512 + 512 + 1
    assert alone == pytest.approx((weights + rest) / 3.35e12)
    assert many == pytest.approx((weights / 64 + rest) / 3.35e12)


def test_the_specification_is_the_data_sheet() -> None:
    peak = make().peak(8, 8)
    assert (peak.tops, peak.power_w.nominal, peak.area_mm2.nominal) == pytest.approx((1978.9, 700, 814))


def test_settings_out_of_range() -> None:
    with pytest.raises(UnknownName, match="unknown GPU 'h10'; did you mean 'h100'"):
        make(gpu="h10")
    with pytest.raises(ConfigError, match="accelerator.busy_share"):
        make(idle_share=0.5, busy_share=0.2)
    with pytest.raises(ConfigError, match="accelerator.batch"):
        make(batch=0)
