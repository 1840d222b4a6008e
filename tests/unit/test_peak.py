"""What an array is specified with is what it does on a layer that fills it: rate and energy, at every width."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from energy.accelerators import make_accelerator
from energy.technology import load_technology
from energy.workload import Workload
from energy.workload_file import parse_workload

TECHNOLOGY = load_technology("cmos45")
SERIAL = [
    ("temporal", {"serial": serial, "digit": digit, "encoding": encoding})
    for serial in ("inputs", "weights", "both")
    for digit in (1, 2)
    for encoding in ("twos_complement", "sign_magnitude", "csd")
]
ARRAYS: list[tuple[str, dict[str, Any]]] = [
    *SERIAL,
    ("parallel", {}),
    ("parallel", {"narrowest": 2}),
    ("ternary", {}),
    ("ternary", {"encoding": "sign_magnitude", "input_bits": 4}),
    ("binary", {}),
    ("binary", {"encoding": "sign_magnitude"}),
    *(("columns", {"skip": "none", "encoding": e}) for e in ("twos_complement", "sign_magnitude")),
    *(("columns", {"skip": "column", "encoding": e}) for e in ("twos_complement", "sign_magnitude")),
]


def filling(weight_bits: int, input_bits: int) -> Workload:
    """A layer of 64 times as many operands of every kind as the arrays have places, none of them zero."""
    layer = {
        "name": "a",
        "outputs": 64,
        "inputs": 1024,
        "output_size": [8, 8],
        "weights": {"bits": weight_bits},
        "input": {"bits": input_bits},
    }
    return parse_workload(yaml.safe_dump({"image_bits": 8, "layers": [layer]}))


@pytest.mark.parametrize(
    ("weight_bits", "input_bits"), [(8, 8), (8, 3), (5, 8), (4, 4), (2, 8), (3, 1), (8, 16)]
)
@pytest.mark.parametrize(("kind", "settings"), ARRAYS)
def test_the_peak_is_what_a_full_array_does(
    kind: str, settings: dict[str, Any], weight_bits: int, input_bits: int
) -> None:
    machine = make_accelerator(kind, {"filters": 16, "lanes": 16, "pixels": 4, **settings}, TECHNOLOGY)
    work, peak = filling(weight_bits, input_bits), machine.peak(weight_bits, input_bits)
    cost = machine.cost(work, {})
    assert cost.bound["a"] == "compute"
    assert peak.ops_per_s == pytest.approx(2 * work.macs / cost.total_latency_s)
    _, leakage_w = machine._area(has_float=False)
    array_w = cost.energy_j["a"]["pe array"].nominal / cost.total_latency_s
    assert peak.power_w.nominal - leakage_w.nominal == pytest.approx(array_w)
