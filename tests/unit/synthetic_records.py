"""Records of a made-up but believable study of a small residual network: accuracy, energy and area."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dse.objectives import Metric, metrics_for, select_objectives
from dse.records import Evaluation, TrialRecord

ACCELERATOR = "bitserial"
METRICS = metrics_for([ACCELERATOR])
OBJECTIVES = select_objectives(["accuracy", "energy.bitserial", "area.bitserial"], [ACCELERATOR])
LAYERS = (
    "conv1",
    *(f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)),
    "linear",
)
NO_GPU = "no NVIDIA driver on this machine; install one, or use meter=none"
_BASELINES = {
    "float": None,
    "uniform 8": (8, 8),
    "uniform 4": (4, 4),
    "uniform 2": (2, 2),
    "ternary": (1.6, 8),
}
_SHARES = {
    "pe array": 0.42,
    "weight buffer": 0.17,
    "activation buffer": 0.14,
    "output buffer": 0.06,
    "dram": 0.15,
    "post-processing": 0.02,
    "leakage": 0.04,
}


def make_records(searched: int, *, seed: int = 0, with_baselines: bool = True) -> list[TrialRecord]:
    """``searched`` sampled trials (every 40th failed) behind the five baselines."""
    rng = np.random.default_rng(seed)
    records = []
    if with_baselines:
        for label, bits in _BASELINES.items():
            evaluation = _float() if bits is None else _evaluation(rng, *bits, granularity=1)
            records.append(TrialRecord(len(records), "COMPLETE", label, {}, evaluation, 0.9))
    for _ in range(searched):
        number = len(records)
        if number % 40 == 39:
            error = "BadTensor: layer2.0.conv1: NaN in weights\nTraceback ...\n"
            records.append(TrialRecord(number, "FAIL", "", _params(rng), None, 0.2, error))
            continue
        params = _params(rng)
        bits = {"ternary": 1.6, "binary": 1.0}.get(params["stage1.method"], params["stage1.bits"])
        evaluation = _evaluation(rng, float(bits), params["activation_bits"], params["granularity"])
        records.append(TrialRecord(number, "COMPLETE", "", params, evaluation, 0.8, seed=number))
    return records


def with_metric(record: TrialRecord, **values: float | None) -> TrialRecord:
    """The record with metrics set (None: taken away); ``energy__bitserial`` means ``energy.bitserial``."""
    metrics: dict[str, float] = dict(record.evaluation.metrics)
    for name, value in values.items():
        metrics.pop(name.replace("__", "."), None)
        if value is not None:
            metrics[name.replace("__", ".")] = value
    return with_evaluation(record, metrics=metrics)


def with_evaluation(record: TrialRecord, **fields: object) -> TrialRecord:
    """The record with these fields of its evaluation replaced."""
    return replace(record, evaluation=replace(record.evaluation, **fields))


def objectives_named(*names: str) -> list[Metric]:
    return select_objectives(names, [ACCELERATOR])


def _params(rng: np.random.Generator) -> dict[str, object]:
    return {
        "stage1.method": str(rng.choice(["ternary", "binary", "uniform"])),
        "stage1.bits": int(rng.integers(2, 9)),
        "activation_bits": int(rng.integers(2, 9)),
        "sparsity": round(float(rng.uniform(0, 0.9)), 3),
        "granularity": int(rng.choice([1, 2, 4, 8])),
    }


def _float() -> Evaluation:
    reason = "the bit-serial array computes integers only"
    absent = {f"{q}.{ACCELERATOR}": reason for q in ("energy", "latency", "area")}
    metrics = {"accuracy": 0.9950, "size": 1.09e6}
    return Evaluation("float32", metrics, absent=absent | {"energy.measured": NO_GPU})


def _evaluation(
    rng: np.random.Generator, bits: float, activation_bits: float, granularity: int
) -> Evaluation:
    lost = 1.1 * math.exp(-0.9 * (bits - 1)) * 0.25 + 1.5 * math.exp(-1.1 * (activation_bits - 1))
    accuracy = 0.10 + 0.895 * math.exp(-lost * float(rng.lognormal(0, 0.7)))
    accuracy = round(accuracy * 400) / 400
    energy_j = 0.25e-6 * (0.6 + bits) * (0.5 + activation_bits) * float(rng.lognormal(0, 0.25))
    metrics = {
        "accuracy": accuracy,
        "size": 34_000.0 * bits * float(rng.lognormal(0, 0.1)) + 9_000,
        f"energy.{ACCELERATOR}": energy_j,
        f"latency.{ACCELERATOR}": 4e-5 * bits * activation_bits / granularity**0.8,
        f"area.{ACCELERATOR}": 0.32 + 0.11 * granularity**1.2,
    }
    breakdown = {ACCELERATOR: _breakdown(rng, energy_j)}
    plan = f"{rng.integers(2**60):015x}"
    absent = {"energy.measured": NO_GPU}
    return Evaluation(plan, metrics, absent=absent, breakdown=breakdown, seconds={"accuracy": 0.3})


def _breakdown(rng: np.random.Generator, energy_j: float) -> Mapping[str, object]:
    layers = rng.dirichlet(np.full(len(LAYERS), 12.0)) * energy_j
    table: dict[str, dict[str, float]] = {}
    for layer, total in zip(LAYERS, layers, strict=True):
        parts = rng.dirichlet(np.array(list(_SHARES.values())) * 60) * total
        table[layer] = {name: float(part) for name, part in zip(_SHARES, parts, strict=True)}
    return {
        "energy_j": table,
        "area_mm2": {"pe array": 0.3, "buffers": 0.2},
        "energy_band_j": [0.75 * energy_j, 1.3 * energy_j],
        "notes": [],
    }
