"""Which weights to drop before the grid is fitted; what is dropped is zero in every plane.

A pattern says which weights go together:

* ``element``: each weight alone.
* ``N:M``, such as ``2:4``: of every ``M`` consecutive input channels at one kernel position, ``N`` stay, as sparse
  tensor cores want it. Where the input channels are no multiple of ``M``, ``ceil(N * rest / M)`` of the last ones stay.
* ``RxC``, such as ``4x1``: blocks of ``R`` output channels by ``C`` consecutive inputs, the weights of a channel in one
  row; those at the edges may be smaller.
* ``channel``: whole output channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compressors.errors import BadTensor, ConfigError
from compressors.registry import check_range
from compressors.tensor import as_array

_LARGEST = 1 << 16
_EXPECTED = (
    "'element', 'channel', N:M such as '2:4' (N of every M inputs stay), or RxC such as '4x1' (blocks)"
)


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern.

    Attributes:
        kind: ``element``, ``n:m``, ``block`` or ``channel``.
        rows, columns: ``R`` and ``C`` of blocks, ``N`` and ``M`` of N:M; else 1.
    """

    kind: str
    rows: int = 1
    columns: int = 1

    @property
    def fixed_sparsity(self) -> float | None:
        """The fraction that an N:M pattern drops; None where it is free."""
        return 1.0 - self.rows / self.columns if self.kind == "n:m" else None


def parse_pattern(text: str, key: str = "pattern") -> Pattern:
    """Read a pattern as it stands in plans.

    Raises:
        ConfigError: none of the forms above; ``key`` says where it stands.
    """
    if not isinstance(text, str):
        raise ConfigError(key, text, _EXPECTED)
    if text in ("element", "channel"):
        return Pattern(text)
    form = re.fullmatch(r"([1-9][0-9]{0,4})([:x])([1-9][0-9]{0,4})", text)
    if form is None or max(int(form[1]), int(form[3])) > _LARGEST:
        raise ConfigError(key, text, _EXPECTED)
    rows, columns = int(form[1]), int(form[3])
    if form[2] == ":" and rows >= columns:
        raise ConfigError(key, text, "N:M with N less than M", "'element' with sparsity 0 keeps all weights")
    return Pattern("n:m" if form[2] == ":" else "block", rows, columns)


def check_sparsity(sparsity: float, pattern: Pattern, key: str = "sparsity") -> float:
    """The sparsity, a Python or NumPy number, as a Python float; refused outside [0, 1) or against the pattern.

    An N:M pattern alone decides what it drops: 0 stands for that fraction, which may be given as well.

    Raises:
        ConfigError: the value, what was expected; ``key`` says where it stands.
    """
    number = isinstance(sparsity, (int, float, np.integer, np.floating)) and not isinstance(sparsity, bool)
    if not number or not 0 <= sparsity < 1:
        raise ConfigError(key, sparsity, "a number from 0 up to, not including, 1")
    fixed = pattern.fixed_sparsity
    if fixed is not None and sparsity and not math.isclose(sparsity, fixed, abs_tol=1e-6):
        raise ConfigError(
            key, sparsity, f"0 or {fixed:g}, which is what {pattern.rows}:{pattern.columns} drops"
        )
    return float(sparsity) + 0.0  # -0.0 equals 0.0, so it has to read the same


def keep_mask(
    importance: np.ndarray, sparsity: float, pattern: str | Pattern = "element", groups: int = 1
) -> np.ndarray:
    """Which weights of a layer stay.

    Args:
        importance: non-negative array or torch tensor ``[N, ...]`` of the weight's shape, such as its magnitudes. Zeros
            go first, so masks of growing sparsity, each weighing only what the one before kept, drop supersets.
        sparsity: fraction to drop, in [0, 1); of weights, blocks or channels as the pattern says, rounded to a whole
            number of them, ties by position. An N:M pattern decides by itself: 0, or the fraction that it drops.
        pattern: see the module's text.
        groups: of a grouped convolution. Whole channels go in equal numbers from each group, so that the layer can
            be shrunk; other patterns do not depend on it.

    Returns:
        Booleans of the weight's shape, False where dropped. At least one channel (block) stays.

    Raises:
        ConfigError: an unknown pattern, a sparsity that does not go with it, or groups that do not divide ``N``.
        BadTensor: an importance without the axes that the pattern counts along.
    """
    form = pattern if isinstance(pattern, Pattern) else parse_pattern(pattern)
    sparsity = check_sparsity(sparsity, form)
    importance = as_array(importance, "an importance")
    if form.kind == "element":
        return _largest(importance.ravel(), round(sparsity * importance.size)).reshape(importance.shape)
    if importance.ndim < (2 if form.kind == "n:m" else 1) or not importance.size:
        raise BadTensor(
            f"an importance of shape {importance.shape}: expected [outputs, inputs, ...], none empty"
        )
    if form.kind == "n:m":
        return _n_of_m(importance, form.rows, form.columns)
    if form.kind == "block":
        return _blocks(importance, sparsity, form.rows, form.columns)
    check_range("groups", groups, 1, len(importance))
    if len(importance) % groups:
        raise ConfigError("groups", groups, f"a divisor of the {len(importance)} output channels")
    return _channels(importance, sparsity, groups)


def global_sparsity(importances: Mapping[str, np.ndarray], fraction: float) -> dict[str, float]:
    """What one threshold over all layers drops of each.

    No layer loses its last weight: the next ones of the others go instead. Ties go by layer and position.

    Args:
        importances: layer -> non-negative array of any shape, comparable between layers.
        fraction: of all weights to drop, in [0, 1).

    Returns:
        Layer -> fraction to drop, for :func:`keep_mask`; together ``round(fraction * total)`` weights, or all but one
        of each layer if that is less.
    """
    fraction = check_sparsity(fraction, Pattern("element"))
    importances = {name: as_array(array, f"{name}: an importance") for name, array in importances.items()}
    names = [name for name, array in importances.items() if array.size]
    # the last of each layer cannot go, so only the others compete
    ascending = [np.sort(importances[name], axis=None, kind="stable")[:-1] for name in names]
    owner = np.repeat(np.arange(len(names)), [len(values) for values in ascending])
    order = np.argsort(np.concatenate([*ascending, np.empty(0)]), kind="stable")
    dropped = round(fraction * sum(importances[name].size for name in names))
    counts = np.bincount(owner[order[:dropped]], minlength=len(names))
    shares = {name: int(count) / importances[name].size for name, count in zip(names, counts, strict=True)}
    return {name: shares.get(name, 0.0) for name in importances}


def _largest(importance: np.ndarray, dropped: int) -> np.ndarray:
    """Booleans ``[n]``: all but the ``dropped`` least."""
    keep = np.ones(importance.size, bool)
    keep[np.argsort(importance, kind="stable")[:dropped]] = False
    return keep


def _n_of_m(importance: np.ndarray, n: int, m: int) -> np.ndarray:
    last = np.moveaxis(importance, 1, -1)
    channels = last.shape[-1]
    padding = -channels % m
    padded = np.pad(last, [(0, 0)] * (last.ndim - 1) + [(0, padding)], constant_values=-1.0)
    runs = padded.reshape(*padded.shape[:-1], -1, m)
    # rank of each weight within its run, the largest first, ties by position
    rank = np.argsort(np.argsort(-runs, axis=-1, kind="stable"), axis=-1, kind="stable")
    stay = np.full(runs.shape[-2], n)
    stay[-1] = -(-n * (m - padding) // m)
    keep = (rank < stay[:, None]).reshape(padded.shape)[..., :channels]
    return np.ascontiguousarray(np.moveaxis(keep, -1, 1))


def _blocks(importance: np.ndarray, sparsity: float, height: int, width: int) -> np.ndarray:
    rows = importance.reshape(importance.shape[0], -1)
    tops, lefts = np.arange(0, rows.shape[0], height), np.arange(0, rows.shape[1], width)
    totals = np.add.reduceat(np.add.reduceat(rows.astype(np.float64), tops, axis=0), lefts, axis=1)
    heights, widths = np.diff(np.append(tops, rows.shape[0])), np.diff(np.append(lefts, rows.shape[1]))
    mean = totals / np.outer(heights, widths)
    keep = _largest(mean.ravel(), min(round(sparsity * mean.size), mean.size - 1)).reshape(mean.shape)
    return np.repeat(np.repeat(keep, heights, 0), widths, 1).reshape(importance.shape)


def _channels(importance: np.ndarray, sparsity: float, groups: int) -> np.ndarray:
    totals = importance.reshape(groups, importance.shape[0] // groups, -1).sum(2, dtype=np.float64)
    size = totals.shape[1]
    dropped = min(round(sparsity * size), size - 1)
    keep = np.concatenate([_largest(group, dropped) for group in totals])
    return np.broadcast_to(keep.reshape(-1, *[1] * (importance.ndim - 1)), importance.shape).copy()
