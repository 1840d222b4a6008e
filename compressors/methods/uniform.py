"""Uniform grid of ``b`` bits with one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError
from compressors.registry import check_range, register
from compressors.slicing import from_codes
from compressors.tensor import SlicedTensor

CLIPS = ("mse", "minmax")
_CLIP_FRACTIONS = np.linspace(1.0, 0.2, 41)  # of the largest weight; below 0.2 no real tensor gains

_SMALLEST_WEIGHT = 1e-35  # a 127th of it times 0.2 still is a normal float32; below, a channel counts as zero


@dataclass(frozen=True)
class UniformConfig:
    """Signed integers ``[-2**(bits-1), 2**(bits-1) - 1]`` times a scale per channel.

    ``clip`` chooses the scale: ``minmax`` keeps the largest weight, ``mse`` takes the clipping point with the
    least squared error of a search over 41 fractions of it.
    """

    bits: int = 8
    clip: str = "mse"

    def __post_init__(self) -> None:
        check_range("uniform.bits", self.bits, 2, 8)
        if self.clip not in CLIPS:
            raise ConfigError("uniform.clip", self.clip, " or ".join(CLIPS))


def _quantize(weight: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    return np.clip(np.rint(weight / scale), -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _alphabet(tensor: SlicedTensor, config: UniformConfig) -> np.ndarray:
    return np.arange(-(1 << (config.bits - 1)), 1 << (config.bits - 1))[None, None, None, :]


@register("uniform", UniformConfig, _alphabet)
def compress_uniform(weight: np.ndarray, keep: np.ndarray, config: UniformConfig) -> SlicedTensor:
    """Quantize ``weight [N, K]`` to ``config.bits`` bits per channel; pruned weights become code 0.

    The grid has one level more on its negative side, so each channel also tries the mirrored grid (a negative
    scale), which matters at 2 and 3 bits.
    """
    kept = np.where(keep, weight, 0.0)
    largest = np.abs(kept).max(1, keepdims=True)
    largest[largest < _SMALLEST_WEIGHT] = 1.0  # a channel of zeros: any scale holds it
    fractions = _CLIP_FRACTIONS if config.clip == "mse" else _CLIP_FRACTIONS[:1]
    best_error = np.full((weight.shape[0], 1), np.inf)
    best_scale = np.ones((weight.shape[0], 1))
    for fraction in fractions:
        for side in (1.0, -1.0):
            # float32 as stored: the error is that of the weights the network will really compute with
            scale = (
                (side * fraction * largest / ((1 << (config.bits - 1)) - 1)).astype(np.float32).astype(float)
            )
            error = ((scale * _quantize(kept, scale, config.bits) - kept) ** 2).sum(1, keepdims=True)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_scale = np.where(better, scale, best_scale)
    codes = _quantize(kept, best_scale, config.bits).astype(np.int64)
    return from_codes(codes[None], best_scale[None], shape=weight.shape, bits=config.bits)
