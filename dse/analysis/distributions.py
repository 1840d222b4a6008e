"""Which known distribution a layer's weights resemble, and what a method loses on that distribution.

Weights are compared channel by channel, for most methods give each a scale of its own: pooled over channels of
different scales even Gaussian weights would look heavy-tailed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from compressors.registry import MethodConfig, compress
from dse.analysis.records import Histogram, LayerWeights

FAMILIES = ("gauss", "laplace", "uniform")
LONG = 1 << 18
"""Weights of the one channel that stands for infinitely many."""
SHORT = 1 << 16
"""Weights, at least, of a sample in channels as long as a layer's."""
_NEAR_ZERO = 0.1
_EDGES = np.linspace(-4.0, 4.0, 81)


def describe_weights(layer: str, weight: np.ndarray) -> LayerWeights:
    """Moments and likeliest family of ``weight [N, ...]``.

    A channel of zeros tells nothing about shape and is left out; a layer of such channels has no family.
    """
    unit = normalised(weight)
    nats = log_likelihoods(weight)
    return LayerWeights(
        layer,
        tuple(weight.shape),
        float(weight.mean()),
        float(weight.std()),
        _kurtosis_excess(unit),
        float((np.abs(unit) < _NEAR_ZERO).mean()) if unit.size else None,
        max(nats, key=lambda family: nats[family]) if nats else None,
        nats,
    )


def normalised(weight: np.ndarray) -> np.ndarray:
    """The channels of ``weight [N, ...]`` that are not zero, each divided by its root mean square: ``[M, K]``."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    rows = rows[np.abs(rows).max(1) > 0]
    largest = np.abs(rows).max(1, keepdims=True)  # first, or squares of tiny weights would vanish
    rows = rows / largest
    return rows / np.sqrt((rows**2).mean(1, keepdims=True))


def log_likelihoods(weight: np.ndarray) -> dict[str, float]:
    """Family -> mean log-likelihood per weight in nats, the scale of each channel being its likeliest one.

    For ``n`` weights ``w`` of a channel, symmetric about zero: Gauss of variance ``mean(w^2)``, Laplace of scale
    ``mean|w|``, uniform up to ``max|w|``. All have one parameter per channel, so likelihoods compare as they are.
    """
    rows = np.abs(normalised(weight))  # a common factor per channel shifts all three alike
    if not rows.size:
        return {}
    return {
        "gauss": -0.5 * (np.log(2 * np.pi) + 1.0),
        "laplace": float(-(np.log(2 * rows.mean(1)) + 1.0).mean()),
        "uniform": float(-np.log(2 * rows.max(1)).mean()),
    }


@lru_cache(maxsize=8)
def family_sample(family: str, rows: int, columns: int) -> np.ndarray:
    """``float64 [rows, columns]`` of variance one: quantiles at even steps, dealt out by a fixed seed.

    Of so many independent draws the error would scatter more than that of the evenly spaced ones.
    """
    count = rows * columns
    upper = (np.arange(count - count // 2) + 0.5) / count  # probability beyond, up to one half
    if family == "gauss":
        normal = NormalDist()
        side = np.array([-normal.inv_cdf(p) if p < 0.5 else 0.0 for p in upper])
    elif family == "laplace":
        side = -np.log(2 * upper) / np.sqrt(2)
    else:
        side = np.sqrt(3) * (1 - 2 * upper)
    values = np.concatenate([side, -side[: count // 2]])
    sample = np.random.default_rng(0).permutation(values).reshape(rows, columns)
    sample.flags.writeable = False  # shared by all methods
    return sample


def oracle_error(family: str, config: MethodConfig, columns: int | None = None) -> float:
    """Relative squared error of a method on a family of weights.

    Args:
        columns: length of the channels; None takes a single long one.
    """
    shape = (1, LONG) if columns is None else (max(8, -(-SHORT // columns)), columns)
    sample = family_sample(family, *shape)
    error = relative_error(sample, compress(sample, config).to_dense())
    assert error is not None  # a sample is never zero
    return error


def relative_error(exact: np.ndarray, rounded: np.ndarray) -> float | None:
    """``|exact - rounded|^2 / |exact|^2``; None where there is nothing to compare with."""
    largest = np.abs(exact).max(initial=0.0)
    if largest == 0:
        return None
    exact, rounded = exact.astype(np.float64) / largest, rounded.astype(np.float64) / largest
    return float(((exact - rounded) ** 2).sum() / (exact**2).sum())


def stage_histograms(layers: Sequence[LayerWeights], weights: Mapping[str, np.ndarray]) -> list[Histogram]:
    """A histogram per stage of the network; weights beyond its ends are counted in the total alone."""
    found = []
    for stage in dict.fromkeys(layer.stage for layer in layers):
        parts = [normalised(weights[layer.layer]).ravel() for layer in layers if layer.stage == stage]
        values = np.concatenate(parts)
        if values.size:
            counts, _ = np.histogram(values, _EDGES)
            density = counts / values.size / np.diff(_EDGES)
            found.append(Histogram(stage, values.size, tuple(_EDGES.tolist()), tuple(density.tolist())))
    return found


def _kurtosis_excess(unit: np.ndarray) -> float | None:
    if not unit.size:
        return None
    return float((unit**4).mean() / (unit**2).mean() ** 2 - 3.0)
