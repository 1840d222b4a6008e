"""Coefficients of the laws of processing elements, fitted to published synthesis; run to write them anew::

    python -m energy.published.fits

The tables beside this module hold the published figures. What is fitted goes to ``energy/technology/devices``, with the
spread that the fit leaves; targets refit without the designs they judge.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from energy.datapath.parts import FIGURES, PARTS, fused_array
from energy.datapath.scalable import AREA_PARTS, Coefficients, area_terms, energy_terms
from energy.datapath.sharing import UNITS, Design
from energy.datapath.switching import LEVELS, switching
from energy.published.least_squares import nonnegative

FUSED_CLOCK_HZ = 500e6
SHARED_CLOCK_HZ = 200e6
MULTIPLIER_UM2 = 16380 / UNITS**3
"""Area of a 2 x 2 bit multiplier, the same in all 72 designs of the PSMA benchmark."""
_ROUNDS = 15  # of alternation between levels and shares; differences are gone by the tenth
_DIGITS = 5  # that coefficients are stored with


def _table(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@dataclass(frozen=True)
class FusedArray:
    """A synthesised array of Bit Fusion; ``figures`` by name and unit of ``energy.datapath.parts.FIGURES``."""

    rows: int
    columns: int
    widest: int
    narrowest: int
    figures: Mapping[str, float]

    @property
    def configuration(self) -> tuple[int, int]:
        return self.widest, self.narrowest


@cache
def fused_arrays() -> tuple[FusedArray, ...]:
    """The 105 arrays of Bit Fusion's table."""
    found = []
    for row in _table("bitfusion_pe.csv"):
        figures = {
            "area": float(row["area_um2"]),
            "energy": float(row["dynamic_nw"]) * 1e3 / FUSED_CLOCK_HZ,
            "leakage": float(row["leakage_nw"]) * 1e-3,
        }
        shape = (int(row[name]) for name in ("rows", "columns", "widest", "narrowest"))
        found.append(FusedArray(*shape, figures))
    return tuple(found)


def fit_fused(arrays: Sequence[FusedArray], figure: str) -> np.ndarray:
    """Coefficients of the parts, for one figure."""
    terms = np.array([_parts(a) for a in arrays])
    return nonnegative(terms, np.array([a.figures[figure] for a in arrays]))


def predict_fused(coefficients: np.ndarray, array: FusedArray) -> float:
    return float(coefficients @ np.array(_parts(array)))


def _parts(a: FusedArray) -> tuple[float, ...]:
    return astuple(fused_array(a.rows, a.columns, a.widest, a.narrowest))


@dataclass(frozen=True)
class SharedArray:
    """A design of the PSMA benchmark at one precision; energies in pJ per cycle, whole and by part."""

    design: Design
    weight_bits: int
    input_bits: int
    area_um2: float
    energy_pj: float
    parts: Mapping[str, float]

    @property
    def per_product_pj(self) -> float:
        return self.energy_pj / self.design.products(self.weight_bits, self.input_bits)


@cache
def shared_arrays() -> tuple[SharedArray, ...]:
    """The 72 designs at 200 MHz, at all the precisions they were measured at."""
    pj = 1e-3 / SHARED_CLOCK_HZ * 1e12
    found = []
    for row in _table("psma.csv"):
        design = Design(row["groups"], row["l4"], row["l3"], row["l2"], row["unrolling"])
        names = ("multipliers", *LEVELS, "accumulators", "outputs", "inputs")
        parts = {name: float(row[name]) * pj for name in names}
        bits = int(row["weight_bits"]), int(row["input_bits"])
        found.append(SharedArray(design, *bits, float(row["area_um2"]), float(row["power_mw"]) * pj, parts))
    return tuple(found)


def fit_shared(arrays: Sequence[SharedArray]) -> Coefficients:
    """Coefficients of area and energy.

    Every printed part of the power is fitted with the parts that make it up, its errors measured in the whole power.
    """
    scale = np.array([a.energy_pj for a in arrays])
    now = [switching(a.design, a.weight_bits, a.input_bits) for a in arrays]
    printed = {name: np.array([a.parts[name] for a in arrays]) for name in arrays[0].parts}

    def fit(part: str, *terms: Sequence[float]) -> np.ndarray:
        return nonnegative(np.array(terms, float).T, printed[part], scale)

    levels, idle, select = _fit_levels(now, printed, scale)
    accumulator, per_input = fit("accumulators", [s.accumulators for s in now], [s.inputs for s in now])
    output, clocked = fit("outputs", [s.outputs for s in now], [s.outputs_clocked for s in now])
    register, drive = fit("inputs", [s.inputs for s in now], [1.0] * len(now))
    (multiplier,) = fit("multipliers", [s.multipliers for s in now])
    energy = dict(zip(LEVELS, levels, strict=True)) | {
        "idle": idle,
        "select": select,
        "multiplier": multiplier,
        "accumulator": accumulator,
        "output": output,
        "output_clock": clocked,
        "input": register,
        "input_clock": per_input,
        "array": drive,
    }
    designs = {a.design: a.area_um2 for a in arrays}
    terms = np.array([area_terms(d) for d in designs])
    beyond = np.array(list(designs.values())) - MULTIPLIER_UM2 * UNITS**3
    area = nonnegative(terms[:, 1:], beyond, np.array(list(designs.values())))
    return Coefficients(dict(zip(AREA_PARTS, (MULTIPLIER_UM2, *area), strict=True)), energy)


def _fit_levels(
    now: Sequence[Any], printed: Mapping[str, np.ndarray], scale: np.ndarray
) -> tuple[list[float], float, float]:
    """Energy per adder bit at each level, and what idle adders and selections take of it, by alternation."""
    bits = {
        name: np.array([(s.levels[name].adders, s.levels[name].idle, s.levels[name].select) for s in now])
        for name in LEVELS
    }
    shares, levels = np.array([0.5, 0.2]), [0.0] * len(LEVELS)
    for _ in range(_ROUNDS):
        weights = np.array([1.0, *shares])
        levels = [float(nonnegative((bits[n] @ weights)[:, None], printed[n], scale)[0]) for n in LEVELS]
        rest = [printed[n] - e * bits[n][:, 0] for n, e in zip(LEVELS, levels, strict=True)]
        terms = [e * bits[n][:, 1:] for n, e in zip(LEVELS, levels, strict=True)]
        shares = nonnegative(np.concatenate(terms), np.concatenate(rest), np.tile(scale, len(LEVELS)))
    return levels, float(shares[0]), float(shares[1])


def predict_energy(coefficients: Coefficients, array: SharedArray) -> float:
    """pJ per cycle."""
    terms = energy_terms(array.design, array.weight_bits, array.input_bits, coefficients.energy)
    return sum(terms.values())


def fitted() -> dict[str, dict[str, Any]]:
    """File name -> what stands in it: all coefficients, fitted to everything."""
    arrays = fused_arrays()
    source = (
        "non-negative least squares of relative errors over the 105 arrays of the Bit Fusion synthesis table "
        "(Sharma et al., ISCA 2018), energy.published.fits"
    )
    laws: dict[str, Any] = {}
    for figure, unit in FIGURES.items():
        coefficients = fit_fused(arrays, figure)
        spread = _spread([predict_fused(coefficients, a) / a.figures[figure] for a in arrays])
        laws[figure] = _entry(
            dict(zip(PARTS, coefficients, strict=True)), f"{unit} per part", source, spread, 45
        )
    shared = shared_arrays()
    found = fit_shared(shared)
    source = (
        "non-negative least squares over the 72 arrays of Ibrahim et al. (arXiv 2108.04773) at 200 MHz, "
        "energy.published.fits"
    )
    spread = _spread([predict_energy(found, a) / a.energy_pj for a in shared])
    areas = {a.design: a.area_um2 for a in shared}
    area_spread = _spread(
        [float(area_terms(d) @ list(found.area.values())) / area for d, area in areas.items()]
    )
    scalable = {
        "area": _entry(found.area, "um2 per bit", source, area_spread, 28),
        "energy": _entry(
            found.energy, "pJ per bit and cycle; idle, select: of an adder's", source, spread, 28
        ),
    }
    return {"pe_parts": laws, "scalable_parts": scalable}


def _spread(ratios: Sequence[float]) -> tuple[float, float]:
    """Factors on the model's figure that take in nine of ten published ones."""
    low, high = np.quantile(1 / np.array(ratios), (0.05, 0.95))
    return float(min(low, 1.0)), float(max(high, 1.0))


def _entry(
    values: Mapping[str, float], unit: str, source: str, spread: tuple[float, float], node_nm: int
) -> dict[str, Any]:
    bounds = dict(zip(("low", "high"), (round(s, 3) for s in spread), strict=True))
    kept = {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items() if value > 0}
    return {
        "unit": unit,
        "source": source,
        "node_nm": node_nm,
        "values": {name: {"value": v, "status": "derived", **bounds} for name, v in kept.items()},
    }


def write(folder: Path) -> list[Path]:
    """Write the files of :func:`fitted`."""
    written = []
    for name, data in fitted().items():
        path = folder / f"{name}.yaml"
        text = yaml.safe_dump(data, sort_keys=False, width=110)
        path.write_text(
            f"# Written by `python -m energy.published.fits`; do not edit.\n{text}", encoding="utf-8"
        )
        written.append(path)
    return written


if __name__ == "__main__":
    for path in write(Path(str(resources.files("energy.technology").joinpath("devices")))):
        print(path)
