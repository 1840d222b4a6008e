"""Costs add up, and keep where they come from."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energy.cost import Band, Cost, Ledger, Peak

numbers = st.floats(0, 1e6, allow_nan=False)
bands = st.tuples(numbers, numbers, numbers).map(lambda values: Band(*sorted(values)))


@given(bands, bands, numbers)
def test_bands_add_and_scale_end_by_end(a: Band, b: Band, factor: float) -> None:
    assert a + b == Band(a.low + b.low, a.nominal + b.nominal, a.high + b.high)
    assert a * factor == factor * a == Band(a.low * factor, a.nominal * factor, a.high * factor)
    assert a + Band.zero() == a


@given(
    st.dictionaries(st.sampled_from("abcd"), st.dictionaries(st.sampled_from("xyz"), bands)),
    st.dictionaries(st.sampled_from("xyz"), bands),
)
def test_totals_are_the_sums_of_the_parts(energy: dict, area: dict) -> None:
    latency = {name: 0.5 for name in energy}
    cost = Cost(energy, latency, area)
    parts = [band for components in energy.values() for band in components.values()]
    for end in ("low", "nominal", "high"):
        assert getattr(cost.total_energy_j, end) == pytest.approx(sum(getattr(b, end) for b in parts))
        assert getattr(cost.total_area_mm2, end) == pytest.approx(sum(getattr(b, end) for b in area.values()))
    assert cost.total_latency_s == 0.5 * len(energy)


def test_breakdown_is_plain_data_with_nominal_parts_and_bands_of_the_totals() -> None:
    energy = {"conv": {"dram": Band(1.0, 2.0, 4.0), "leakage": Band(0.5, 1.0, 1.5)}}
    cost = Cost(
        energy,
        {"conv": 0.25},
        {"pe array": Band(5.0, 6.0, 9.0)},
        {"conv": 0.75},
        ("assumed",),
        {"conv": {"dram": {"weights": Band(1.0, 2.0, 4.0)}}},
        {"conv": "dram"},
        Band(1.0, 4.0, 6.0),
    )
    assert json.loads(json.dumps(cost.breakdown())) == {
        "energy_j": {"conv": {"dram": 2.0, "leakage": 1.0}},
        "operand_j": {"conv": {"dram": {"weights": 2.0}}},
        "latency_s": {"conv": 0.25},
        "bound": {"conv": "dram"},
        "area_mm2": {"pe array": 6.0},
        "utilisation": {"conv": 0.75},
        "leakage_w": 4.0,
        "energy_band_j": [1.5, 5.5],
        "area_band_mm2": [5.0, 9.0],
        "extrapolated": False,
        "notes": ["assumed"],
    }


def test_a_ledger_adds_up_by_component_and_operand() -> None:
    ledger = Ledger()
    ledger.add("conv", "buffer", Band(1.0, 2.0, 3.0), "weights")
    ledger.add("conv", "buffer", Band(1.0, 1.0, 1.0), "inputs")
    ledger.add("conv", "buffer", Band(0.5, 1.0, 2.0), "weights")
    ledger.add("conv", "leakage", Band(4.0, 4.0, 4.0))
    assert ledger.energy_j == {"conv": {"buffer": Band(2.5, 4.0, 6.0), "leakage": Band(4.0, 4.0, 4.0)}}
    assert ledger.operand_j == {
        "conv": {"buffer": {"weights": Band(1.5, 3.0, 5.0), "inputs": Band(1.0, 1.0, 1.0)}}
    }


def test_figures_of_a_specification() -> None:
    """4 TOPS at 2 W on 8 mm2: 2 TOPS/W, 0.5 TOPS/mm2, and a multiply-accumulate (two operations) at 1 pJ."""
    peak = Peak(4e12, Band(1.0, 2.0, 3.0), Band(8.0, 8.0, 8.0))
    assert (peak.tops, peak.tops_per_w, peak.tops_per_mm2) == (4.0, 2.0, 0.5)
    assert peak.energy_per_mac_j == 1e-12
