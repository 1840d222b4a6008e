"""Clipping points: published multiples, a numerical search, and the divergence in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from compressors.clipping import DISTRIBUTIONS, aciq_clip, aciq_multiple, kl_clip

PUBLISHED = {  # Banner et al., arXiv 1810.05723, recomputed from their equations
    "laplace": {2: 2.831, 3: 3.897, 4: 5.029, 5: 6.205, 6: 7.413, 8: 9.897},
    "gauss": {2: 1.711, 3: 2.152, 4: 2.559, 5: 2.936, 6: 3.287, 8: 3.924},
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_published_multiples(distribution: str) -> None:
    for bits, multiple in PUBLISHED[distribution].items():
        assert aciq_multiple(bits, distribution) == pytest.approx(multiple, abs=6e-4)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12])
def test_multiples_are_where_the_error_is_least(distribution: str, bits: int) -> None:
    density = {"laplace": stats.laplace, "gauss": stats.norm}[distribution].pdf

    def error(a: float) -> float:
        clipped = 2 * integrate.quad(lambda x: (x - a) ** 2 * density(x), a, a + 60, epsabs=1e-14)[0]
        return clipped + a**2 / (3 * 4**bits)

    best = aciq_multiple(bits, distribution)
    assert error(best) <= min(error(best * factor) for factor in (0.9, 0.99, 1.01, 1.1))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_distribution_is_recognised(distribution: str, scale: float) -> None:
    rng = np.random.default_rng(0)
    values = np.abs({"laplace": rng.laplace, "gauss": rng.normal}[distribution](size=20_000)) * scale
    assert aciq_clip(values, 4) == pytest.approx(scale * aciq_multiple(4, distribution), rel=0.03)
    assert aciq_clip(np.zeros(3), 4) == 0.0


def naive_divergence(values: np.ndarray, length: int, levels: int) -> float:
    """TensorRT's divergence for clipping after ``length`` of 2,048 bins."""
    width = values.max() / 2048
    counts = [0] * length
    beyond = 0
    for value in values:
        place = max(math.ceil(value / width) - 1, 0)  # a bin holds its right edge
        if place < length:
            counts[place] += 1
        else:
            beyond += 1
    reference = counts[:-1] + [counts[-1] + beyond]
    quantized = [0.0] * length
    for level in range(levels):
        run = range(level * length // levels, (level + 1) * length // levels)
        used = [i for i in run if reference[i]]
        for i in used:
            quantized[i] = sum(counts[j] for j in run) / len(used)
    total, inside = sum(reference), sum(quantized)
    divergence = 0.0
    for r, q in zip(reference, quantized, strict=True):
        if r:
            divergence += r / total * math.log(r / total / max(q / inside, 1e-4))
    return divergence


@pytest.mark.parametrize("levels", [2, 8, 128])
@pytest.mark.parametrize("name", ["laplace", "normal", "uniform"])
def test_the_least_divergence_wins(levels: int, name: str) -> None:
    values = np.sort(np.abs(getattr(np.random.default_rng(1), name)(size=3000)))
    clip = kl_clip(values, levels)
    chosen = round(clip / values[-1] * 2048)
    assert clip == pytest.approx(chosen * values[-1] / 2048)
    least = naive_divergence(values, chosen, levels)
    for length in [max(levels, 16), *range(256, 2049, 256)]:
        # the search tries one length in 16, so a length in between may be a little better
        assert least <= naive_divergence(values, length, levels) + 0.02
    assert least <= naive_divergence(values, 2048, levels) + 1e-12


@pytest.mark.parametrize("levels", [16, 128])
@pytest.mark.parametrize("seed", range(10))
def test_an_outlier_is_clipped(seed: int, levels: int) -> None:
    values = np.sort(np.append(np.abs(np.random.default_rng(seed).normal(size=20_000)), 60.0))
    assert 1.5 < kl_clip(values, levels) < 15.0


def test_zeros_do_not_count_and_nothing_is_beyond_the_largest() -> None:
    values = np.sort(np.abs(np.random.default_rng(3).normal(size=500)))
    assert kl_clip(np.concatenate([np.zeros(5000), values]), 8) == kl_clip(values, 8)
    assert kl_clip(np.zeros(4), 8) == 0.0
    assert kl_clip(values, 4096) == values[-1]
    assert kl_clip(np.full(5, 1e-40, np.float32), 8) == pytest.approx(1e-40, rel=1e-4)
    assert kl_clip(values.astype(np.float32), 8) <= values[-1] * (1 + 1e-7)
