"""From one process and supply to another: a band between published laws, never a point.

Every law is a ratio; the lowest and the highest of them bound the band, and their geometric mean is its nominal value.
Nothing changes where process and supply stay.

* Energy: Stillmaker and Baas; capacitance in proportion to feature size, times the square of the supply (Dennard); the
  slope of CACTI's SRAM.
* Area: Stillmaker and Baas; the square of the feature size; CACTI's SRAM.
* Delay: in proportion to feature size, or not at all, as wires; a power of the supply.
* Leakage: as area, or as energy (Accelergy and CiMLoop do that), in proportion to the supply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import yaml

from energy.cost import Band

_SAME = Band(1.0, 1.0, 1.0)


@cache
def _laws() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("laws", "nodes.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _log_log(at: float, nodes: Sequence[float], values: Sequence[float]) -> float:
    """Straight lines in log-log between nodes in descending order; the last segment's slope continues outside."""
    upper = next((i for i in range(1, len(nodes) - 1) if nodes[i] <= at), len(nodes) - 1)
    x = [math.log(n) for n in nodes[upper - 1 : upper + 1]]
    y = [math.log(v) for v in values[upper - 1 : upper + 1]]
    return math.exp(y[0] + (y[1] - y[0]) / (x[1] - x[0]) * (math.log(at) - x[0]))


def between(ratios: Sequence[float]) -> Band:
    """The band between laws: their lowest, their highest, and the geometric mean of these two."""
    low, high = min(ratios), max(ratios)
    return Band(low, math.sqrt(low * high), high)


def _times(band: Band, factor: Band) -> Band:
    return Band(band.low * factor.low, band.nominal * factor.nominal, band.high * factor.high)


def _stillmaker_energy(node_nm: float, vdd_v: float) -> float:
    law = _laws()["stillmaker_baas"]
    values = [a * vdd_v**2 + b * vdd_v + c for a, b, c in law["energy"]]
    return _log_log(node_nm, law["node_nm"], values)


def usual_vdd(node_nm: float) -> float:
    """Supply in V that processes of this feature size are made for."""
    law = _laws()["stillmaker_baas"]
    return _log_log(node_nm, law["node_nm"], law["usual_vdd_v"])


def _energy_ratios(from_nm: float, from_v: float, to_nm: float, to_v: float) -> list[float]:
    cacti = _laws()["cacti"]
    memory = [_log_log(n, cacti["node_nm"], cacti["read_pj"]) / usual_vdd(n) ** 2 for n in (from_nm, to_nm)]
    supply = (to_v / from_v) ** 2
    return [
        _stillmaker_energy(to_nm, to_v) / _stillmaker_energy(from_nm, from_v),
        to_nm / from_nm * supply,
        memory[1] / memory[0] * supply,
    ]


def _area_ratios(from_nm: float, to_nm: float) -> list[float]:
    logic, cacti = _laws()["stillmaker_baas"], _laws()["cacti"]
    return [
        _log_log(to_nm, logic["node_nm"], logic["area"]) / _log_log(from_nm, logic["node_nm"], logic["area"]),
        (to_nm / from_nm) ** 2,
        _log_log(to_nm, cacti["node_nm"], cacti["area_mm2"])
        / _log_log(from_nm, cacti["node_nm"], cacti["area_mm2"]),
    ]


@lru_cache(maxsize=4096)
def energy_factor(from_nm: float, from_v: float, to_nm: float, to_v: float) -> Band:
    """Ratio of switching energies."""
    if (from_nm, from_v) == (to_nm, to_v):
        return _SAME
    return between(_energy_ratios(from_nm, from_v, to_nm, to_v))


@lru_cache(maxsize=4096)
def area_factor(from_nm: float, to_nm: float) -> Band:
    """Ratio of areas of the same circuit."""
    return _SAME if from_nm == to_nm else between(_area_ratios(from_nm, to_nm))


@lru_cache(maxsize=4096)
def delay_factor(from_nm: float, from_v: float, to_nm: float, to_v: float) -> Band:
    """Ratio of gate delays."""
    if (from_nm, from_v) == (to_nm, to_v):
        return _SAME
    slower = [(from_v / to_v) ** e for e in _laws()["delay"]["voltage_exponents"]]
    return between([size * supply for size in (to_nm / from_nm, 1.0) for supply in slower])


@lru_cache(maxsize=4096)
def leakage_factor(from_nm: float, from_v: float, to_nm: float, to_v: float) -> Band:
    """Ratio of the power of the same circuit at rest."""
    if (from_nm, from_v) == (to_nm, to_v):
        return _SAME
    by_area = [ratio * to_v / from_v for ratio in _area_ratios(from_nm, to_nm)]
    return between(by_area + _energy_ratios(from_nm, from_v, to_nm, to_v))


def scale_energy(band: Band, from_nm: float, from_v: float, to_nm: float, to_v: float) -> Band:
    """``band``, an energy at ``from_nm`` and ``from_v``, at ``to_nm`` and ``to_v``."""
    return _times(band, energy_factor(from_nm, from_v, to_nm, to_v))


def scale_area(band: Band, from_nm: float, to_nm: float) -> Band:
    """``band``, an area at ``from_nm``, at ``to_nm``."""
    return _times(band, area_factor(from_nm, to_nm))


def scale_delay(band: Band, from_nm: float, from_v: float, to_nm: float, to_v: float) -> Band:
    """``band``, a time at ``from_nm`` and ``from_v``, at ``to_nm`` and ``to_v``."""
    return _times(band, delay_factor(from_nm, from_v, to_nm, to_v))


def scale_leakage(band: Band, from_nm: float, from_v: float, to_nm: float, to_v: float) -> Band:
    """``band``, a power at rest at ``from_nm`` and ``from_v``, at ``to_nm`` and ``to_v``."""
    return _times(band, leakage_factor(from_nm, from_v, to_nm, to_v))
