"""What follows from an analysis: the nearest choice at each size, how good cheap proxies are, medians by choice."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from dse.analysis.records import Analysis, Sensitivity

PROXIES = ("own_error", "output_error", "kl_nats")
_LEAST_ROWS = 3  # a rank correlation of fewer says nothing


@dataclass(frozen=True)
class Chosen:
    """A choice for a layer that nothing as small computes as well, and the best of the others that small."""

    layer: str
    storage_bits_per_weight: float
    choice: str
    rounding: str
    output_error: float
    instead_of: str | None
    instead_of_output_error: float | None


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a proxy with what it stands for; None where one of them never changes.

    Attributes:
        rows: ``nearest`` or ``second_order`` for weights so rounded, or ``input``.
        scope: ``all`` compares everything with everything; ``layers`` is the median over choices of the correlation
            over the layers at one choice, which is what choosing the layers to spare asks for.
        count: comparisons: rows, or choices that have a correlation.
        distinct: different values that the target takes.
    """

    rows: str
    proxy: str
    target: str
    scope: str
    spearman: float | None
    count: int
    distinct: int


@dataclass(frozen=True)
class ChoiceSummary:
    """Medians over layers of one choice, and the layer whose compression hurts most by divergence."""

    part: str
    choice: str
    rounding: str
    own_error: float | None
    oracle_error: float | None
    output_error: float | None
    kl_nats: float
    accuracy_drop_points: float
    worst_layer: str
    worst_kl_nats: float
    seconds_s: float


def fronts(analysis: Analysis) -> list[Chosen]:
    """For each layer the choices of least output error at their storage size, smallest first."""
    chosen = []
    for layer in analysis.layers:
        rows = [r for r in _of(analysis, "weights") if r.layer == layer.layer and r.output_error is not None]
        rows.sort(key=lambda r: (r.storage_bits_per_weight, r.output_error))
        best = float("inf")
        for row in rows:
            if row.output_error < best:
                best = row.output_error
                chosen.append(_chosen(row, rows))
    return chosen


def _chosen(row: Sensitivity, rows: Sequence[Sensitivity]) -> Chosen:
    size = row.storage_bits_per_weight
    others = [r for r in rows if r.choice != row.choice and r.storage_bits_per_weight <= size]
    second = min(others, key=lambda r: r.output_error, default=None)
    return Chosen(
        row.layer,
        row.storage_bits_per_weight,
        row.choice,
        row.rounding,
        row.output_error,
        None if second is None else f"{second.choice} {second.rounding}",
        None if second is None else second.output_error,
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation, ties sharing their mean rank; None where either has one value only."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    spread = [r - r.mean() for r in ranks]
    scale = float(np.sqrt((spread[0] ** 2).sum() * (spread[1] ** 2).sum()))
    return float((spread[0] * spread[1]).sum()) / scale if scale > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[place]


def correlations(analysis: Analysis) -> list[Correlation]:
    """How well each proxy ranks the drop of accuracy, and the two cheap ones the divergence."""
    found = []
    for name, rows in _row_groups(analysis).items():
        for target, proxies in (("accuracy_drop_points", PROXIES), ("kl_nats", PROXIES[:2])):
            for proxy in proxies:
                found += _correlated(name, rows, proxy, target)
    return found


def _row_groups(analysis: Analysis) -> dict[str, list[Sensitivity]]:
    groups: dict[str, list[Sensitivity]] = {}
    for row in analysis.sensitivities:
        groups.setdefault(row.rounding or row.part, []).append(row)
    return groups


def _correlated(name: str, rows: Sequence[Sensitivity], proxy: str, target: str) -> list[Correlation]:
    usable = [r for r in rows if getattr(r, proxy) is not None]
    distinct = len({getattr(r, target) for r in usable})
    whole = _over(usable, proxy, target)
    by_choice = [
        value
        for choice in dict.fromkeys(r.choice for r in usable)
        if (value := _over([r for r in usable if r.choice == choice], proxy, target)) is not None
    ]
    middle = median(by_choice) if by_choice else None
    return [
        Correlation(name, proxy, target, "all", whole, len(usable), distinct),
        Correlation(name, proxy, target, "layers", middle, len(by_choice), distinct),
    ]


def _over(rows: Sequence[Sensitivity], proxy: str, target: str) -> float | None:
    if len(rows) < _LEAST_ROWS:
        return None
    return spearman([getattr(r, proxy) for r in rows], [getattr(r, target) for r in rows])


def by_choice(analysis: Analysis) -> list[ChoiceSummary]:
    """One row for each choice and rounding, in the order they were measured."""
    ordered = sorted(analysis.sensitivities, key=lambda r: r.part == "input")
    keys = dict.fromkeys((r.part, r.choice, r.rounding) for r in ordered)
    found = []
    for part, choice, rounding in keys:
        rows = [r for r in ordered if (r.part, r.choice, r.rounding) == (part, choice, rounding)]
        oracle = [o.oracle_error_same_shape for o in analysis.oracles if o.choice == choice]
        worst = max(rows, key=lambda r: r.kl_nats)
        found.append(
            ChoiceSummary(
                part,
                choice,
                rounding,
                _median(r.own_error for r in rows),
                _median(oracle),
                _median(r.output_error for r in rows),
                median(r.kl_nats for r in rows),
                median(r.accuracy_drop_points for r in rows),
                worst.layer,
                worst.kl_nats,
                sum(r.seconds_s for r in rows),
            )
        )
    return found


def on_fronts(chosen: Iterable[Chosen]) -> list[tuple[str, str, int]]:
    """Choice, rounding, and on the fronts of how many layers it lies; most frequent first."""

    def name(c: Chosen) -> tuple[str, str]:
        return c.choice, c.rounding

    groups = itertools.groupby(sorted(chosen, key=name), name)
    return sorted(((*key, len(list(rows))) for key, rows in groups), key=lambda item: -item[2])


def most_sensitive(analysis: Analysis) -> tuple[str, float] | None:
    """The layer whose divergence, at the median over its choices of weights, is largest; with that divergence."""
    rows = _of(analysis, "weights")
    layers = dict.fromkeys(r.layer for r in rows)
    medians = {layer: median(r.kl_nats for r in rows if r.layer == layer) for layer in layers}
    name = max(medians, key=lambda n: medians[n], default=None)
    return None if name is None else (name, medians[name])


def _of(analysis: Analysis, part: str) -> list[Sensitivity]:
    return [r for r in analysis.sensitivities if r.part == part]


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None
