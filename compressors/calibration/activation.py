"""Activation grids chosen from calibration images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from compressors.clipping import aciq_clip, kl_clip
from compressors.errors import BadTensor
from compressors.plan import ActivationConfig

_CLIP_FRACTIONS = np.linspace(0.02, 1.0, 50)
_COVERED = 0.9999  # of the sample
_SMALLEST_REACH = 1e-33  # scale and reciprocal still are normal float32; below, an input counts as zero


@dataclass(frozen=True)
class InputStatistics:
    """What one layer reads: its range and a sample of up to 32,768 values (float32, sorted)."""

    minimum: float
    maximum: float
    sample: np.ndarray


@dataclass(frozen=True)
class ActivationGrid:
    """Integers times one scale: ``[0, 2**bits)`` if unsigned, else ``[-2**(bits-1), 2**(bits-1))``.

    A signed grid of 1 bit is {-1, 0}; pick at least 2 bits for layers whose input changes sign. With ``signs`` the one
    bit stands for -1 or 1, as in binary hypervectors.
    """

    bits: int
    signed: bool
    scale: float
    signs: bool = False

    def __post_init__(self) -> None:
        if self.signs and (self.bits, self.signed) != (1, True):
            raise BadTensor(f"a grid of signs has 1 signed bit, not {self.bits}")

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        if self.signs:
            return 1
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest grid point of each value, as float32; gradients pass straight through inside its range."""
        if self.signs:
            return torch.where(values >= 0, self.scale, -self.scale).to(values.dtype)
        # four passes over memory, yet six times as fast on a CPU as torch's fake_quantize_per_tensor_affine
        rounded = (values.detach() / self.scale).round_().clamp_(self.low, self.high).mul_(self.scale)
        if not values.requires_grad:
            return rounded
        inside = values.clamp(self.low * self.scale, self.high * self.scale)
        return inside + (rounded - inside.detach())

    def codes(self, values: torch.Tensor) -> np.ndarray:
        """Integer codes of values that lie on the grid, ``int64``."""
        return torch.round(values / self.scale).to(torch.int64).numpy()


def choose_grid(statistics: InputStatistics, config: ActivationConfig) -> ActivationGrid:
    """The grid of a layer's input.

    ``minmax`` covers the whole range; ``mse`` searches 50 clipping points for the least squared error on the
    sample. The others find a single point: ``percentile`` covers 99.99 % of the sample, ``kl`` loses least information
    (see ``compressors.clipping.kl_clip``), ``aciq`` is the optimum for a Gauss or Laplace distribution, whichever is
    the likelier, or the positive half of one (see ``compressors.clipping.aciq_multiple``). The scale is rounded to
    float32, so it survives any file format exactly.

    An input of two or three numbers -c, (0 and) c gets the grid of just these, however many bits were asked for.
    """
    exact = exact_grid(statistics, config.bits)
    if exact is not None:
        return exact
    signed = statistics.minimum < 0
    steps = (1 << (config.bits - 1)) - 1 if signed else (1 << config.bits) - 1
    steps = max(steps, 1)
    reach = max(abs(statistics.minimum), abs(statistics.maximum))
    if reach < _SMALLEST_REACH:
        return ActivationGrid(config.bits, signed, 1.0)
    if config.clip in _CLIPS:
        point = _CLIPS[config.clip](
            np.sort(np.abs(statistics.sample.astype(np.float64))), config.bits, signed
        )
        # no point at all: the sample holds zeros alone
        reach = min(point, reach) if point >= _SMALLEST_REACH else reach
        return ActivationGrid(config.bits, signed, float(np.float32(reach / steps)))
    fractions = _CLIP_FRACTIONS if config.clip == "mse" else _CLIP_FRACTIONS[-1:]
    low = -(1 << (config.bits - 1)) if signed else 0
    high = (1 << (config.bits - 1)) - 1 if signed else steps
    sample = statistics.sample.astype(np.float64)
    scales = [float(np.float32(fraction * reach / steps)) for fraction in fractions]
    errors = [((np.clip(np.rint(sample / s), low, high) * s - sample) ** 2).sum() for s in scales]
    return ActivationGrid(config.bits, signed, scales[int(np.argmin(errors))])


def exact_grid(statistics: InputStatistics, bits: int) -> ActivationGrid | None:
    """The grid of an input of signs, or of -1, 0 and 1, times a number; None for any other, or where 2 bits are
    too many."""
    reach = statistics.maximum
    if statistics.minimum != -reach or reach < _SMALLEST_REACH:
        return None
    if (np.abs(statistics.sample) == reach).all():
        return ActivationGrid(1, True, reach, signs=True)
    if bits >= 2 and np.isin(statistics.sample, (-reach, 0.0, reach)).all():
        return ActivationGrid(2, True, reach)
    return None


def _percentile(magnitudes: np.ndarray, bits: int, signed: bool) -> float:
    return float(np.quantile(magnitudes, _COVERED))


def _kl(magnitudes: np.ndarray, bits: int, signed: bool) -> float:
    return kl_clip(magnitudes, 1 << (bits - 1 if signed else bits))


def _aciq(magnitudes: np.ndarray, bits: int, signed: bool) -> float:
    positive = magnitudes[magnitudes > 0]  # what a ReLU cut off lies on the grid anyway
    return aciq_clip(positive, bits if signed else bits + 1) if len(positive) else 0.0


# from sorted magnitudes, bits and whether the grid is signed to the clipping point
_CLIPS: dict[str, Callable[[np.ndarray, int, bool], float]] = {
    "percentile": _percentile,
    "kl": _kl,
    "aciq": _aciq,
}
