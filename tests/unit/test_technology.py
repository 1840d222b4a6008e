"""Constants with their origin: against the published tables, and against their own stated rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dse.errors import ConfigError, UnknownName
from energy.technology import Technology, load_technology, technology_names

STATUSES = {"published", "derived", "extrapolated"}
ELEMENTS_OF_ARRAY, CLOCK_HZ = 16, 500e6


@pytest.fixture(scope="module")
def cmos45() -> Technology:
    return load_technology("cmos45")


@pytest.mark.parametrize("name", technology_names())
def test_every_constant_says_its_unit_source_status_and_spread(name: str) -> None:
    technology = load_technology(name)
    assert technology.node_nm > 0 and technology.constants
    for key, constant in technology.constants.items():
        assert constant.name == key
        assert constant.value > 0 and math.isfinite(constant.value)
        assert constant.unit and len(constant.source) > 10, key
        assert constant.status in STATUSES, key
        assert 0 < constant.low <= 1 <= constant.high, key
        band = constant.band
        assert band.low <= band.nominal == constant.value <= band.high
        assert constant.status != "published" or "times" not in constant.source.split(";")[-1], key


def test_elements_equal_the_published_synthesis(
    cmos45: Technology, shared_data: Callable[[str], Path]
) -> None:
    table = pd.read_csv(shared_data("accelerators/bitfusion_systolic_array_synth.csv")).drop_duplicates()
    rows = table[(table["N"] == ELEMENTS_OF_ARRAY) & (table["M"] == 1) & (table["Frequency"] == CLOCK_HZ)]
    compared = 0
    for _, row in rows.iterrows():
        key = f"{row['Max Precision (bits)']}/{row['Min Precision (bits)']}"
        if f"pe_energy.{key}" not in cmos45.constants:
            continue
        compared += 1
        dynamic_pj = row["Dynamic Power (nW)"] * 1e-9 / ELEMENTS_OF_ARRAY / CLOCK_HZ * 1e12
        expected = {
            "pe_energy": dynamic_pj,
            "pe_area": row["Area (um^2)"] / ELEMENTS_OF_ARRAY,
            "pe_leakage": row["Leakage Power (nW)"] * 1e-3 / ELEMENTS_OF_ARRAY,
        }
        for name, value in expected.items():
            constant = cmos45[f"{name}.{key}"]
            assert constant.status == "published"
            assert constant.value == pytest.approx(value, rel=2e-3), constant.name
    assert compared == 6
    published = [c for c in cmos45.constants.values() if c.status == "published" and c.name[:3] == "pe_"]
    assert len(published) == 3 * compared  # nothing else may call itself published
    assert cmos45["clock_hz"].value == CLOCK_HZ


def test_memory_equals_the_cacti_table(cmos45: Technology, shared_data: Callable[[str], Path]) -> None:
    table = pd.read_csv(shared_data("accelerators/sram_cacti7_itrs_lstp_64bit.csv"))
    table = table[table["node_nm"] == cmos45.node_nm]
    sram = cmos45.sram
    assert list(sram.capacity_kb) == list(table["capacity_kb"])
    for _, row in table.iterrows():
        size = row["capacity_kb"]
        assert sram.read_j_per_bit(size).nominal == pytest.approx(row["read_pj_per_64b"] * 1e-12 / 64)
        assert sram.write_j_per_bit(size).nominal == pytest.approx(row["write_pj_per_64b"] * 1e-12 / 64)
        assert sram.area_mm2(size).nominal == pytest.approx(row["area_mm2"])
        if (
            row["leakage_mw"] > 0
        ):  # printed with four decimals: small ones are in proportion to capacity instead
            assert sram.leakage_w(size).nominal == pytest.approx(row["leakage_mw"] * 1e-3)


@pytest.mark.parametrize("quantity", ["pe_energy", "pe_area", "pe_leakage"])
def test_extrapolated_elements_follow_their_stated_rules(cmos45: Technology, quantity: str) -> None:
    value = {k: cmos45[f"{quantity}.{k}"].value for k in ("1/1", "2/1", "4/1", "8/1", "2/2", "4/2", "8/2")}
    value |= {k: cmos45[f"{quantity}.{k}"].value for k in ("4/4", "8/4", "8/8")}
    step, span = value["2/2"] / value["4/4"], value["4/2"] / value["4/4"]
    assert value["1/1"] == pytest.approx(value["2/2"] * step, rel=2e-3)
    assert value["2/1"] == pytest.approx(value["2/2"] * span, rel=2e-3)
    assert value["4/1"] == pytest.approx(value["4/2"] * span, rel=2e-3)
    assert value["8/1"] == pytest.approx(value["8/2"] * span, rel=2e-3)
    if quantity == "pe_leakage":
        assert value["8/4"] == pytest.approx(math.sqrt(value["8/8"] * value["8/2"]), rel=2e-3)
    else:
        exponent = {"pe_energy": 0.531, "pe_area": 0.745}[quantity]
        assert value["8/4"] == pytest.approx(value["8/8"] * 2**exponent, rel=2e-3)


def test_float_units_and_multipliers_follow_their_stated_rules(cmos45: Technology) -> None:
    area, leakage = cmos45["pe_area.16/16"].value, cmos45["pe_leakage.16/16"].value
    assert cmos45["fp32_mac_area"].value == pytest.approx(area * 1.5**1.620, rel=2e-3)
    assert cmos45["fp32_mac_leakage"].value == pytest.approx(leakage * 1.5**1.827, rel=5e-3)
    assert cmos45["fp32_mac_energy"].value == pytest.approx(3.7 + 0.9)
    for bits in (1, 2, 4, 8):
        expected = 0.0029948 * bits**2 + 0.0010417 * bits
        assert cmos45[f"multiplier_energy.{bits}"].value == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("quantity", ["pe_energy", "pe_area", "pe_leakage"])
def test_wider_and_more_flexible_elements_cost_more(cmos45: Technology, quantity: str) -> None:
    def value(widest: int, narrowest: int) -> float:
        return cmos45[f"{quantity}.{widest}/{narrowest}"].value

    for a, b in pairwise((1, 2, 4, 8)):
        assert value(a, a) < value(b, b) < value(b, a)
    assert value(8, 4) < value(8, 2) < value(8, 1)


@given(st.floats(0.05, 4096), st.floats(1.001, 4))
def test_memory_grows_with_capacity(size: float, factor: float) -> None:
    sram = load_technology("cmos45").sram
    for quantity in ("read_j_per_bit", "write_j_per_bit", "area_mm2", "leakage_w"):
        small, large = getattr(sram, quantity)(size), getattr(sram, quantity)(size * factor)
        assert 0 < small.low <= small.nominal <= small.high
        assert small.nominal <= large.nominal * (1 + 1e-12)
        assert quantity == "leakage_w" or small.nominal < large.nominal


def test_memory_stays_between_its_neighbours_in_the_table(cmos45: Technology) -> None:
    points = cmos45.sram.capacity_kb
    for a, b in pairwise(points):
        middle = cmos45.sram.read_j_per_bit(math.sqrt(a * b)).nominal
        ends = cmos45.sram.read_j_per_bit(a).nominal, cmos45.sram.read_j_per_bit(b).nominal
        assert middle == pytest.approx(math.sqrt(ends[0] * ends[1]))  # a straight line in log-log


def test_outside_the_table_says_so(cmos45: Technology) -> None:
    assert [cmos45.sram.extrapolates(kb) for kb in (0.2, 0.25, 3, 1024, 1025)] == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_an_override_is_flagged_and_has_no_spread(cmos45: Technology) -> None:
    changed = load_technology("cmos45", {"dram_energy": 4, "pe_energy.8/2": 0.5})
    for name, value in (("dram_energy", 4.0), ("pe_energy.8/2", 0.5)):
        constant = changed[name]
        assert (constant.value, constant.status, constant.unit) == (value, "user", cmos45[name].unit)
        assert constant.band.low == constant.band.high == value
    rest = {k: v for k, v in changed.constants.items() if k not in ("dram_energy", "pe_energy.8/2")}
    assert all(cmos45[name] == constant for name, constant in rest.items())
    assert load_technology("cmos45")["dram_energy"].status == "published"  # the file's own value is untouched


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "4", None])
def test_an_override_that_is_no_positive_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"technology\.overrides\.dram_energy=.*positive number of pJ/bit"):
        load_technology("cmos45", {"dram_energy": value})


def test_unknown_names_are_answered_with_the_nearest(cmos45: Technology) -> None:
    with pytest.raises(
        UnknownName, match="technology.name: unknown technology 'cmos54'; did you mean 'cmos45'"
    ):
        load_technology("cmos54")
    with pytest.raises(
        UnknownName, match="technology.overrides: unknown constant 'drm_energy'.*'dram_energy'"
    ):
        load_technology("cmos45", {"drm_energy": 1.0})
    with pytest.raises(UnknownName, match="constant of technology 'cmos45' 'pe_energy.3/3'"):
        cmos45["pe_energy.3/3"]
