"""Settings of the wrong type are refused by name, whatever the machine."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from compressors.errors import DseError
from dse.locations import config_dir
from energy.accelerators import make_accelerator, setting_names
from energy.technology import load_technology

TECHNOLOGY = load_technology("cmos45")
SHIPPED = {path.stem: path for path in sorted((config_dir() / "accelerator").glob("*.yaml"))}
ODD: tuple[Any, ...] = (
    None,
    True,
    "x",
    "",
    [],
    [1],
    {},
    {"a": 1},
    float("nan"),
    float("inf"),
    -1,
    0,
    0.5,
    1 << 40,
)


@pytest.mark.parametrize("name", SHIPPED)
def test_odd_values_are_refused_or_taken_but_never_crash(name: str) -> None:
    shipped = yaml.safe_load(SHIPPED[name].read_text())
    refused = 0
    for setting in setting_names(shipped["kind"]):
        for value in ODD:
            try:
                made = make_accelerator(
                    shipped["kind"], {**shipped["settings"], setting: value}, TECHNOLOGY, "accelerators.odd"
                )
            except DseError as error:
                refused += 1
                assert setting in str(error) or "accelerator" in str(error)
            else:
                assert made.encodings
    assert refused >= 5 * len(setting_names(shipped["kind"]))


@pytest.mark.parametrize(
    ("kind", "setting", "value", "message"),
    [
        ("npu", "zero_gating", "no", "a.zero_gating=no: expected true or false"),
        ("npu", "dataflows", "weight_stationary", "a.dataflows=weight_stationary: expected a list"),
        ("temporal", "local_buffer_kb", None, "a.local_buffer_kb=None: expected a number"),
        ("bitserial", "bit_products", 16384.0, "a.bit_products=16384.0: expected a whole number"),
        ("fpga", "clock_mhz", "fast", "a.clock_mhz=fast: expected a number"),
        ("parallel", "structure", ["fused"], "a.structure=list: expected a name"),
    ],
)
def test_what_is_expected_is_said(kind: str, setting: str, value: Any, message: str) -> None:
    with pytest.raises(DseError) as caught:
        make_accelerator(kind, {setting: value}, TECHNOLOGY, "a")
    assert str(caught.value) == message
