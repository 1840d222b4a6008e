"""What ternary and binary weights share: rows of weights and least squares for their scales.

A weight is ``sum_t scale[t] * code[t]`` with the code tuple out of an alphabet. Rows are the runs of weights that
share their scales: a channel, a group of its inputs or the whole tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError
from compressors.methods.groups import group_length
from compressors.registry import check_range
from compressors.tensor import SlicedTensor

SPANS = ("channel", "tensor")
_LONGEST_GROUP = 1 << 20
_PROXIMAL = 1e-9  # pull towards the scales before, per weight: settles what a singular system leaves open
_LARGEST = 32.0  # scales beyond this many times the largest weight cancel each other and are not taken


def check_choice(key: str, value: object, options: tuple[str, ...]) -> None:
    """Refuse what is not one of ``options``."""
    if value not in options:
        raise ConfigError(key, value, f"{', '.join(options[:-1])} or {options[-1]}")


def check_layout(method: str, group: object, per: object) -> None:
    """Refuse a ``group`` or ``per`` out of range, and both at once."""
    check_range(f"{method}.group", group, 0, _LONGEST_GROUP)
    check_choice(f"{method}.per", per, SPANS)
    if per == "tensor" and group:
        raise ConfigError(f"{method}.group", group, f"0 where {method}.per=tensor")


def check_joint(method: str, refine: str, terms: int, most: int) -> None:
    """Refuse ``refine="joint"`` for more terms than it has levels for."""
    if refine == "joint" and terms > most:
        expected = f"at most {most} with {method}.refine=joint"
        raise ConfigError(f"{method}.terms", terms, expected, f"take {method}.refine=least_squares")


@dataclass(frozen=True, eq=False)
class Rows:
    """Weights ``[rows, length]`` and ``keep`` of that shape, a row for every set of scales of a ``[N, K]`` tensor."""

    weight: np.ndarray
    keep: np.ndarray
    shape: tuple[int, ...]
    groups: int

    def tensor(self, codes: np.ndarray, scale: np.ndarray, encoding: str) -> SlicedTensor:
        """The tensor of codes ``[terms, rows, length]`` and scales ``[terms, rows]``."""
        terms, outputs = len(codes), self.shape[0]
        if scale.shape[1] == 1:  # one for the whole tensor, or of one channel
            spread_out = np.broadcast_to(scale[..., None], (terms, outputs, self.groups))
        else:
            spread_out = scale.reshape(terms, outputs, self.groups)
        return SlicedTensor.from_terms(codes.reshape(terms, *self.shape), spread_out, self.shape, encoding)


def to_rows(weight: np.ndarray, keep: np.ndarray, group: int, per: str) -> Rows:
    """``weight [N, K]`` and ``keep [N, K]`` as rows that share scales."""
    outputs, inputs = weight.shape
    if per == "tensor":
        return Rows(weight.reshape(1, -1), keep.reshape(1, -1), weight.shape, 1)
    length = group_length(inputs, group) if group else inputs
    rows = weight.reshape(-1, length), keep.reshape(-1, length)
    return Rows(*rows, weight.shape, inputs // length)


def spread(
    weight: np.ndarray,
    keep: np.ndarray,
    fitted: Sequence[np.ndarray],
    multiples: Sequence[tuple[float, ...]],
) -> np.ndarray:
    """Starts for ``compressors.methods.alternation.alternate``, ``float64 [starts, rows, terms]``.

    The scales ``fitted``, each ``[terms, rows]``, then ``multiples`` of the root mean square of a row's kept weights.
    """
    kept = np.where(keep, weight, 0.0)
    deviation = np.sqrt((kept**2).sum(1) / np.maximum(keep.sum(1), 1))
    known = [deviation[:, None] * np.array(multiple) for multiple in multiples]
    return np.stack([scale.T.astype(np.float64) for scale in fitted] + known)


def least_squares(gram: np.ndarray, right: np.ndarray, scale: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Scales of least squared error for given codes.

    Args:
        gram: ``float64 [rows, terms, terms]``, integer inner products of the code planes.
        right: ``float64 [rows, terms]``, inner products of code planes and weights.
        scale: ``float64 [rows, terms]`` so far; where the planes do not decide, it stays.
        largest: ``float64 [rows]``, the largest magnitude of a weight.

    Returns:
        ``float64 [rows, terms]``; the error never is above that of ``scale``.
    """
    terms = gram.shape[1]
    residual = right - sum(gram[:, :, t] * scale[:, t, None] for t in range(terms))
    weights = np.maximum(gram[:, range(terms), range(terms)].max(1), 1.0)
    damped = gram + (_PROXIMAL * weights)[:, None, None] * np.eye(terms)
    solved = scale + np.linalg.solve(damped, residual[..., None])[..., 0]
    sane = np.abs(solved).max(1) <= _LARGEST * largest
    return np.where(sane[:, None], solved, scale)


def fit_scales(weight: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Scales ``float32 [terms, rows]`` of least squared error, re-solved jointly for all planes.

    Args:
        weight: ``float64 [rows, length]``; codes: ``int64 [terms, rows, length]``; scale: ``[terms, rows]`` so far.
    """
    gram = np.stack([[(one * other).sum(-1) for other in codes] for one in codes]).astype(np.float64)
    right = np.stack([(plane * weight).sum(-1) for plane in codes], axis=-1)
    before = np.ascontiguousarray(scale.T, np.float64)
    solved = least_squares(gram.transpose(2, 0, 1), right, before, np.abs(weight).max(1))
    return np.ascontiguousarray(solved.T).astype(np.float32)
