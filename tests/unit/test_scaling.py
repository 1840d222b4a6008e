"""Scaling between processes: against the published multipliers, and what every band must keep."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energy.cost import Band
from energy.technology.scaling import (
    area_factor,
    delay_factor,
    energy_factor,
    leakage_factor,
    scale_area,
    scale_delay,
    scale_energy,
    scale_leakage,
    usual_vdd,
)

nodes = st.floats(4, 180)
supplies = st.floats(0.5, 1.5)


@pytest.mark.parametrize(("node", "area"), [(130, 6.4), (65, 1.5), (32, 0.46), (16, 0.19), (7, 0.059)])
def test_area_lies_between_the_published_laws(node: float, area: float) -> None:
    band = area_factor(45, node)
    by_size = (node / 45) ** 2
    assert band.low <= min(area, by_size) + 1e-12 and band.high >= max(area, by_size) - 1e-12
    assert band.nominal == pytest.approx(math.sqrt(band.low * band.high))


def test_energy_by_hand() -> None:
    """45 nm at 1 V to 32 nm at 0.9 V by the three laws."""
    inverter = (0.9559 * 0.81 - 0.7823 * 0.9 + 0.471) / (1.103 - 0.362 + 0.2767)
    capacitance = 32 / 45 * 0.81
    memory = 8.26 / 17.0  # each at the node's own supply, which these are
    band = energy_factor(45, 1.0, 32, 0.9)
    assert band.low == pytest.approx(min(inverter, capacitance, memory))
    assert band.high == pytest.approx(max(inverter, capacitance, memory))
    assert usual_vdd(45) == pytest.approx(1.0) and usual_vdd(32) == pytest.approx(0.9)


@given(nodes, supplies)
def test_nothing_changes_where_nothing_changes(node: float, vdd: float) -> None:
    band = Band(1.0, 2.0, 5.0)
    assert scale_energy(band, node, vdd, node, vdd) == band
    assert scale_area(band, node, node) == band
    assert scale_delay(band, node, vdd, node, vdd) == band
    assert scale_leakage(band, node, vdd, node, vdd) == band


@given(nodes, nodes, supplies, supplies)
def test_there_and_back_is_one(one: float, other: float, v1: float, v2: float) -> None:
    for there, back in (
        (energy_factor(one, v1, other, v2), energy_factor(other, v2, one, v1)),
        (delay_factor(one, v1, other, v2), delay_factor(other, v2, one, v1)),
        (area_factor(one, other), area_factor(other, one)),
    ):
        assert there.nominal * back.nominal == pytest.approx(1.0)
        assert 0 < there.low <= there.nominal <= there.high


@given(nodes, st.floats(1.01, 3), supplies)
def test_smaller_is_smaller_and_faster(node: float, factor: float, vdd: float) -> None:
    larger = node * factor
    assert energy_factor(larger, vdd, node, vdd).nominal < 1 + 1e-9
    assert area_factor(larger, node).nominal < 1
    assert delay_factor(larger, vdd, node, vdd).nominal < 1
    assert leakage_factor(larger, vdd, node, vdd).nominal < 1 + 1e-9


@given(nodes, supplies, st.floats(1.05, 1.5))
def test_more_supply_is_more_energy_and_less_delay(node: float, vdd: float, factor: float) -> None:
    assert energy_factor(node, vdd, node, vdd * factor).high > 1
    assert delay_factor(node, vdd, node, vdd * factor).high < 1
    assert leakage_factor(node, vdd, node, vdd * factor).high > 1
