"""Uniform grid of ``b`` bits with one scale per output channel, group of inputs or tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.clipping import aciq_clip, kl_clip
from compressors.errors import ConfigError
from compressors.methods.integers import code_runs, integer_tensor
from compressors.methods.planes import check_layout, to_rows
from compressors.registry import check_range, register
from compressors.tensor import SlicedTensor

CLIPS = ("mse", "minmax", "percentile", "kl", "aciq")
_CLIP_FRACTIONS = np.linspace(1.0, 0.2, 41)  # of the largest weight; below 0.2 no real tensor gains
_END_FACTORS = np.linspace(0.75, 1.2, 10)  # by which either end of an asymmetric grid is moved on its own
_END_ROUNDS = 3

_SMALLEST_WEIGHT = 1e-35  # a 127th of it times 0.2 still is a normal float32; below, a channel counts as zero


@dataclass(frozen=True)
class UniformConfig:
    """Integers of ``bits`` bits times a scale.

    Attributes:
        bits: of a code.
        clip: how the scale is chosen. ``minmax`` keeps the largest weight. ``mse`` takes the clipping point with the
            least squared error of a search over 41 fractions of it. ``percentile`` covers that share of the weights,
            ``kl`` loses least information (see ``compressors.clipping.kl_clip``), ``aciq`` is the optimum for a Gauss
            or Laplace distribution, whichever is the likelier (see ``compressors.clipping.aciq_multiple``).
        symmetric: signed integers ``[-2**(bits-1), 2**(bits-1) - 1]``; else ``[-z, 2**bits - 1 - z]`` with a zero
            point ``z`` for every scale, so that both ends of the grid can follow the weights.
        per: ``channel``, or ``tensor`` for one scale in all channels.
        group: 0 for one scale per channel, else a scale per run of the largest length up to ``group`` that divides
            the inputs.
        percentile: share of the weights, in per cent, that ``clip="percentile"`` covers.
    """

    bits: int = 8
    clip: str = "mse"
    symmetric: bool = True
    per: str = "channel"
    group: int = 0
    percentile: float = 99.9

    def __post_init__(self) -> None:
        check_range("uniform.bits", self.bits, 2, 8)
        if self.clip not in CLIPS:
            raise ConfigError("uniform.clip", self.clip, " or ".join(CLIPS))
        if not isinstance(self.symmetric, bool):
            raise ConfigError("uniform.symmetric", self.symmetric, "true or false")
        check_layout("uniform", self.group, self.per)
        number = isinstance(self.percentile, (int, float)) and not isinstance(self.percentile, bool)
        if not number or not 0 < self.percentile <= 100:
            raise ConfigError("uniform.percentile", self.percentile, "a number above 0, at most 100")


def _alphabet(tensor: SlicedTensor, config: UniformConfig) -> np.ndarray:
    """All codes; beside a zero point, which a tensor does not keep, the most central run that holds those used."""
    half, top = 1 << (config.bits - 1), (1 << config.bits) - 1
    if config.symmetric:
        return np.arange(-half, half)[None, None, None, :]
    codes = code_runs(tensor, config.per == "tensor")
    least, most = np.minimum(codes.min(2), 0), np.maximum(codes.max(2), 0)
    zero = np.clip(half, -least, top - most)
    return np.arange(top + 1) - zero[None, :, :, None]


@register("uniform", UniformConfig, _alphabet)
def compress_uniform(weight: np.ndarray, keep: np.ndarray, config: UniformConfig) -> SlicedTensor:
    """Quantize ``weight [N, K]`` to ``config.bits`` bits; pruned weights become code 0.

    The symmetric grid has one level more on its negative side, so each row also tries the mirrored grid (a negative
    scale), which matters at 2 and 3 bits.
    """
    rows = to_rows(weight, keep, config.group, config.per)
    kept = np.where(rows.keep, rows.weight, 0.0)
    best = (_symmetric if config.symmetric else _asymmetric)(kept, rows.keep, config)
    return integer_tensor(rows, best.codes(best.scale, best.low), best.scale, config.bits)


class _Best:
    """The grids ``scale * [low, low + 2**bits)`` of least squared error so far, one per row."""

    def __init__(self, kept: np.ndarray, bits: int) -> None:
        self.kept, self.top = kept, (1 << bits) - 1
        self.error = np.full((kept.shape[0], 1), np.inf)
        self.scale = np.ones((kept.shape[0], 1))
        self.low = np.full((kept.shape[0], 1), -float(1 << (bits - 1)))

    def codes(self, scale: np.ndarray, low: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(self.kept / scale), low, low + self.top)

    def offer(self, scale: np.ndarray, low: np.ndarray) -> None:
        """Take the grids of ``scale [rows, 1]``, already rounded to float32, where they err by less."""
        error = ((scale * self.codes(scale, low) - self.kept) ** 2).sum(1, keepdims=True)
        better = error < self.error
        self.error = np.where(better, error, self.error)
        self.scale = np.where(better, scale, self.scale)
        self.low = np.where(better, low, self.low)


def _stored(scale: np.ndarray) -> np.ndarray:
    """Rounded to float32 as stored: errors are those of the weights the network will really compute with."""
    return scale.astype(np.float32).astype(float)


def _symmetric(kept: np.ndarray, keep: np.ndarray, config: UniformConfig) -> _Best:
    best = _Best(kept, config.bits)
    reach = _reach(kept, keep, config)
    steps = (1 << (config.bits - 1)) - 1
    for fraction in _CLIP_FRACTIONS if config.clip == "mse" else _CLIP_FRACTIONS[:1]:
        for side in (1.0, -1.0):
            best.offer(_stored(side * fraction * reach / steps), best.low)
    return best


def _asymmetric(kept: np.ndarray, keep: np.ndarray, config: UniformConfig) -> _Best:
    """Both ends by the clip rule; for ``mse`` together first, as in the symmetric grids, then each on its own."""
    best = _Best(kept, config.bits)
    low, high = _ends(kept, keep, config)
    for fraction in _CLIP_FRACTIONS[::2] if config.clip == "mse" else _CLIP_FRACTIONS[:1]:
        _offer_range(best, fraction * low, fraction * high)
    if config.clip != "mse":
        return best
    half, reach = 1 << (config.bits - 1), _reach(kept, keep, config)
    for fraction in _CLIP_FRACTIONS:
        scale = _stored(fraction * reach / (half - 1))
        for zero in (half, half - 1):
            best.offer(scale, np.full_like(scale, -zero))
    for _ in range(_END_ROUNDS):
        low, high = best.low * best.scale, (best.low + best.top) * best.scale
        for factor in _END_FACTORS:
            _offer_range(best, factor * low, high)
            _offer_range(best, low, factor * high)
    return best


def _offer_range(best: _Best, low: np.ndarray, high: np.ndarray) -> None:
    """The grids from about ``low`` to ``high [rows, 1]``, with the zero point rounded either way."""
    span = high - low
    scale = _stored(np.where(span < _SMALLEST_WEIGHT, 1.0, span) / best.top)
    exact = np.clip(low / scale, -best.top, 0.0)
    best.offer(scale, np.floor(exact))
    best.offer(scale, np.ceil(exact))


def _reach(kept: np.ndarray, keep: np.ndarray, config: UniformConfig) -> np.ndarray:
    """What the largest code of a symmetric grid stands for, ``float64 [rows, 1]``; 1 for rows of zeros."""
    largest = np.abs(kept).max(1, keepdims=True)
    largest[largest < _SMALLEST_WEIGHT] = 1.0  # any scale holds them
    if config.clip in ("mse", "minmax"):
        return largest
    steps = (1 << (config.bits - 1)) - 1
    reach = largest.copy()
    for row, mask in enumerate(keep):
        point = _clip_point(np.abs(kept[row, mask]), config)
        if _SMALLEST_WEIGHT <= point < largest[row, 0]:
            # the error that aciq is the optimum for is that of 2**bits levels over [-point, point]
            reach[row] = point * steps / (steps + 0.5) if config.clip == "aciq" else point
    return reach


def _ends(kept: np.ndarray, keep: np.ndarray, config: UniformConfig) -> tuple[np.ndarray, np.ndarray]:
    """Ends ``float64 [rows, 1]`` of an asymmetric grid, of which 0 always is part."""
    low, high = np.minimum(kept.min(1, keepdims=True), 0.0), np.maximum(kept.max(1, keepdims=True), 0.0)
    if config.clip in ("mse", "minmax"):
        return low, high
    outside = (100.0 - config.percentile) / 200.0
    for row, mask in enumerate(keep):
        values = kept[row, mask]
        if not len(values) or high[row, 0] - low[row, 0] < _SMALLEST_WEIGHT:
            continue
        if config.clip == "percentile":
            below, above = np.quantile(values, (outside, 1.0 - outside))
        else:
            centre = float(values.mean()) if config.clip == "aciq" else 0.0
            point = _clip_point(np.abs(values - centre), config)
            below, above = centre - point, centre + point
        if min(above, high[row, 0]) - max(below, low[row, 0]) >= _SMALLEST_WEIGHT:
            low[row] = min(max(below, low[row, 0]), 0.0)
            high[row] = max(min(above, high[row, 0]), 0.0)
    return low, high


def _clip_point(magnitudes: np.ndarray, config: UniformConfig) -> float:
    """Where ``percentile``, ``kl`` or ``aciq`` clips; 0 where there is nothing to clip."""
    nonzero = magnitudes[magnitudes > 0]  # zeros lie on every grid
    if not len(nonzero):
        return 0.0
    if config.clip == "percentile":
        return float(np.quantile(magnitudes, config.percentile / 100.0))
    if config.clip == "kl":
        return kl_clip(np.sort(nonzero), 1 << (config.bits - 1))
    return aciq_clip(nonzero, config.bits)
