"""Eight-bit weights whose bit columns are freed run by run, so that neither memory nor cycles are spent on them.

Bit-serial machines read a run of weights column by column (one column: the same bit of every weight). A column that
is the same for the whole run is free: leading columns that only repeat the sign, and low columns made constant here.

The columns that are left, and what a weight then takes, are counted by ``compressors.columns``.

* ``flip`` (BitWave, arXiv 2507.12444): sign and magnitude; low columns are rounded to zero.
* ``average`` (BBS, arXiv 2409.05227): two's complement; low columns become the rounded mean of what they held, one
  constant per run.
* ``shift`` (BBS): the run is moved by one constant, flipped, and moved back; the constant with the least error wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.columns import BITS, MODES, OFFSETS, REDUNDANT, TOP, bit_length, freed_columns, runs_of
from compressors.errors import ConfigError
from compressors.methods.planes import check_choice
from compressors.registry import check_range, register
from compressors.slicing import from_codes
from compressors.tensor import SlicedTensor

CLIPS = ("mse", "minmax")

_SMALLEST_WEIGHT = 1e-35  # a 127th of it still is a normal float32; below, a channel counts as zero
# scales in units of the largest weight / 127: the largest weight on the largest code that 0 to 6 freed columns leave,
# then clipped
_KEPT = tuple(TOP / (TOP + 1 - 2.0**c) for c in range(7))
_CLIPPED = tuple(float(f) for f in np.linspace(0.95, 0.4, 12))
_SHORTLIST = 3  # scales for which all offsets are tried


@dataclass(frozen=True)
class BitColumnsConfig:
    """Weights of 8 bits, one scale per channel, with ``columns`` bit columns of every run free.

    Attributes:
        columns: columns to free, leading ones included.
        mode: ``flip``, ``average`` or ``shift``, see the module's text.
        group: inputs of a run; the last one of a channel may be shorter.
        sensitive: share of the channels, those of the largest weights, that keep all their columns.
        clip: ``minmax`` puts the largest weight on code 127 as published, ``mse`` takes the scale with the least error
            of the weights that come out.
    """

    columns: int = 4
    mode: str = "flip"
    group: int = 32
    sensitive: float = 0.1
    clip: str = "mse"

    def __post_init__(self) -> None:
        check_range("bit_columns.columns", self.columns, 1, 6)
        check_choice("bit_columns.mode", self.mode, MODES)
        check_range("bit_columns.group", self.group, 1, 1 << 20)
        check_choice("bit_columns.clip", self.clip, CLIPS)
        number = isinstance(self.sensitive, (int, float)) and not isinstance(self.sensitive, bool)
        if not number or not 0 <= self.sensitive <= 1:
            raise ConfigError("bit_columns.sensitive", self.sensitive, "a share of the channels from 0 to 1")


def _flipped(target: np.ndarray, keep: np.ndarray, columns: np.ndarray, offset: int = 0) -> np.ndarray:
    """Nearest codes ``[N, runs, length]`` to ``target`` that, moved by ``offset``, have their low columns zero.

    ``columns [N, 1, 1]`` says how many, less the leading zero columns that the moved run has anyway and keeps.
    """
    moved = np.clip(target + offset, -TOP, TOP)
    size = bit_length(np.where(keep, np.abs(np.rint(moved)), 0.0).max(2, keepdims=True))
    low = np.maximum(columns - (BITS - 1 - size), 0)
    step = np.exp2(low)
    most = np.exp2(size - low) - 1.0
    least = np.maximum(-most, np.ceil((offset - TOP - 1) / step))  # moved back, codes are of 8 bits as well
    most = np.minimum(most, np.floor((offset + TOP) / step))
    return np.clip(np.rint(moved / step), least, most) * step - offset


def _shifted(target: np.ndarray, keep: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The best of :func:`_flipped` over all offsets, run by run."""
    best = np.zeros(target.shape)
    least = np.full((*target.shape[:2], 1), np.inf)
    for offset in OFFSETS:
        codes = _flipped(target, keep, columns, offset)
        error = np.where(keep, (codes - target) ** 2, 0.0).sum(2, keepdims=True)
        better = error < least
        best, least = np.where(better, codes, best), np.where(better, error, least)
    return best


def _averaged(target: np.ndarray, keep: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Codes whose low columns hold the rounded mean of those of the run, after the leading columns that are free."""
    codes = np.rint(np.clip(target, -TOP, TOP)).astype(np.int64)
    magnitude = np.where(keep, np.where(codes < 0, -1 - codes, codes), 0).max(2, keepdims=True)
    redundant = np.minimum(BITS - 1 - bit_length(magnitude), REDUNDANT)
    low = np.maximum(columns - redundant, 0)
    rest = codes & ((1 << low) - 1)
    mean = np.where(keep, rest, 0).sum(2, keepdims=True) / np.maximum(keep.sum(2, keepdims=True), 1)
    return ((codes >> low << low) + np.rint(mean).astype(np.int64)).astype(np.float64)


_ROUNDINGS = {"flip": _flipped, "average": _averaged, "shift": _shifted}


def _errors(
    mode: str, weight: np.ndarray, keep: np.ndarray, columns: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Codes under ``scale [N]`` and their squared error ``[N]``."""
    target = weight / scale[:, None, None]
    codes = np.where(keep, _ROUNDINGS[mode](target, keep, columns), 0.0)
    return codes, scale**2 * np.where(keep, (codes - target) ** 2, 0.0).sum((1, 2))


def _scales(
    config: BitColumnsConfig, weight: np.ndarray, keep: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Scales to try, ``float64 [candidates, N]`` as float32 holds them.

    Trying all offsets for all of them would take long: only those that suit flipped columns best are left then.
    """
    largest = np.abs(weight).max((1, 2))
    largest[largest < _SMALLEST_WEIGHT] = TOP  # a channel of zeros: any scale holds it
    fractions = np.array(_KEPT + _CLIPPED if config.clip == "mse" else _KEPT[:1])
    scales = (fractions[:, None] * largest / TOP).astype(np.float32).astype(np.float64)
    if config.mode == "shift" and len(scales) > _SHORTLIST:
        errors = np.stack([_errors("flip", weight, keep, columns, scale)[1] for scale in scales])
        best = np.argsort(errors, axis=0, kind="stable")[:_SHORTLIST]
        scales = np.take_along_axis(scales, best, 0)
    return (
        scales if config.mode == "flip" else np.concatenate([scales, -scales])
    )  # others know left from right


def _constants(mode: str, step: int) -> list[int]:
    """What the low columns below ``step`` may hold."""
    offsets = OFFSETS if mode == "shift" else range(step) if mode == "average" else (0,)
    return sorted({-offset % step for offset in offsets})


def _alphabet(tensor: SlicedTensor, config: BitColumnsConfig) -> np.ndarray:
    """Codes ``int64 [1, N, 1, L]`` among which any choice keeps the columns free.

    Runs of a channel may differ in their leading columns and constants, but codes are listed by channel: these are
    the codes without free leading columns and with one constant, the nearest to those of ``tensor``. Channels that
    keep all columns, known by their codes, may take any code.
    """
    codes, step = tensor.codes()[0], 1 << config.columns
    best = np.zeros(len(codes), np.int64)
    least = np.full(len(codes), np.inf)
    for constant in _constants(config.mode, step):
        distance = (codes - constant + step // 2) % step - step // 2
        error = np.where(codes != 0, distance**2, 0).sum(1)
        best, least = np.where(error < least, constant, best), np.minimum(error, least)
    lattice = np.arange(-TOP - 1, TOP + 1, step) + best[:, None]
    if config.mode == "flip":  # -128 has no sign and magnitude
        lattice[:, 0] = lattice[:, 1]
    elif config.mode == "shift":  # only an offset above 0 leads here, and with it beyond 127
        lattice[:, -1] = np.where(best > -min(OFFSETS), lattice[:, -2], lattice[:, -1])
    full = (freed_columns(codes, codes != 0, config.mode, config.group) < config.columns).any(1)
    if not full.any():
        return lattice[None, :, None, :]
    every = np.arange(-TOP, TOP + 1)
    padded = np.pad(lattice, ((0, 0), (0, len(every) - lattice.shape[1])), mode="edge")
    return np.where(full[:, None], every, padded)[None, :, None, :]


@register("bit_columns", BitColumnsConfig, _alphabet)
def compress_bit_columns(weight: np.ndarray, keep: np.ndarray, config: BitColumnsConfig) -> SlicedTensor:
    """Codes of 8 bits for ``weight [N, K]``; pruned weights are code 0 and no part of their run.

    The channels that keep all columns are ``round(sensitive * N)`` of those with the largest weight.
    """
    kept = np.where(keep, weight, 0.0)
    sensitive = int(config.sensitive * len(kept) + 0.5)
    columns = np.full((len(kept), 1, 1), config.columns)
    columns[np.argsort(-np.abs(kept).max(1), kind="stable")[:sensitive]] = 0
    runs, mask = runs_of(kept, config.group, 0.0), runs_of(keep, config.group, False)
    scale = np.ones(len(kept))
    codes = np.zeros(runs.shape)
    least = np.full(len(kept), np.inf)
    for candidate in _scales(config, runs, mask, columns):
        rounded, error = _errors(config.mode, runs, mask, columns, candidate)
        better = error < least
        codes = np.where(better[:, None, None], rounded, codes)
        scale, least = np.where(better, candidate, scale), np.where(better, error, least)
    flat = codes.reshape(len(kept), -1)[:, : kept.shape[1]].astype(np.int64)
    return from_codes(flat[None], scale[None, :, None], shape=weight.shape, bits=BITS)
