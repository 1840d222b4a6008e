"""Weights as a sum of ternary planes, each with one scale per output channel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from compressors.registry import check_range, register
from compressors.tensor import SlicedTensor


@dataclass(frozen=True)
class TernaryConfig:
    """``terms`` planes of {-1, 0, 1}: each the exact optimum for what the planes before it left over."""

    terms: int = 1

    def __post_init__(self) -> None:
        check_range("ternary.terms", self.terms, 1, 8)


def optimal_ternary(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ternary plane and scale of least squared error, per row.

    For a support of ``n`` weights the best scale is their mean magnitude and the error falls by
    ``(sum of magnitudes)**2 / n``, so the support is the ``n`` largest with ``n`` maximising that
    (Li & Liu, Ternary Weight Networks, arXiv 1605.04711, solved exactly instead of by its threshold rule).

    Args:
        weight: float ``[N, K]``.

    Returns:
        Codes ``int64 [N, K]`` in {-1, 0, 1} and scales ``float64 [N]``; a row of zeros gives zeros.
    """
    magnitude = np.abs(weight)
    order = np.argsort(-magnitude, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(magnitude, order, 1), 1)
    sizes = np.arange(1, weight.shape[1] + 1)
    best = np.argmax(total**2 / sizes, axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(sizes - 1, order.shape), 1)
    codes = np.where(rank <= best[:, None], np.sign(weight), 0.0).astype(np.int64)
    return codes, np.take_along_axis(total, best[:, None], 1)[:, 0] / (best + 1)


def optimal_binary(weight: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sign plane and mean magnitude over the kept weights, per row (Rastegari et al., arXiv 1603.05279).

    Args:
        weight: float ``[N, K]``; keep: booleans ``[N, K]``.

    Returns:
        Codes ``int64 [N, K]``, ±1 where kept and 0 where pruned, and scales ``float64 [N]``.
    """
    codes = np.where(keep, np.where(weight < 0, -1, 1), 0).astype(np.int64)
    kept = np.maximum(keep.sum(1), 1)
    return codes, np.where(keep, np.abs(weight), 0.0).sum(1) / kept


def residual_terms(
    weight: np.ndarray, keep: np.ndarray, terms: int, *, binary: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """``terms`` planes in turn, each fitted to what the ones before left over.

    Returns codes ``int64 [terms, N, K]`` and scales ``float32 [terms, N]``.
    """
    rest = np.where(keep, weight, 0.0)
    all_codes, all_scales = [], []
    for _ in range(terms):
        codes, scale = optimal_binary(rest, keep) if binary else optimal_ternary(rest)
        scale = scale.astype(np.float32)
        rest = rest - scale[:, None].astype(np.float64) * codes
        all_codes.append(codes)
        all_scales.append(scale)
    return np.stack(all_codes), np.stack(all_scales)


def tuples(values: tuple[int, ...], terms: int) -> np.ndarray:
    """Every tuple of ``terms`` codes out of ``values``: ``int64 [terms, 1, 1, len(values) ** terms]``."""
    return np.array(list(itertools.product(values, repeat=terms)), np.int64).T[:, None, None, :]


def _alphabet(tensor: SlicedTensor, config: TernaryConfig) -> np.ndarray:
    return tuples((-1, 0, 1), config.terms)


@register("ternary", TernaryConfig, _alphabet)
def compress_ternary(weight: np.ndarray, keep: np.ndarray, config: TernaryConfig) -> SlicedTensor:
    """Ternary planes of ``weight [N, K]``; pruned weights are zero in every plane."""
    codes, scale = residual_terms(weight, keep, config.terms)
    return SlicedTensor.from_terms(codes, scale[..., None], weight.shape, "ternary")
