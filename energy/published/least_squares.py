"""Least squares with coefficients that cannot be negative, as areas and energies of parts are."""

from __future__ import annotations

import numpy as np

_TOLERANCE = 1e-10


def nonnegative(terms: np.ndarray, printed: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """Coefficients ``c >= 0`` that minimise ``sum(((terms @ c - printed) / scale)**2)``.

    The active-set method of Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23.

    Args:
        terms: ``float [rows, parts]``.
        printed: ``float [rows]``.
        scale: ``float [rows]``, what an error of each row is measured in; ``printed`` itself if None, which makes
            errors relative.
    """
    scale = printed if scale is None else scale
    a, b = terms / scale[:, None], printed / scale
    norms = np.sqrt((a**2).sum(0))
    norms[norms == 0] = 1.0  # a part that occurs nowhere keeps the coefficient 0
    a = a / norms
    found, free = np.zeros(a.shape[1]), np.zeros(a.shape[1], bool)
    gain = a.T @ b
    while not free.all() and gain[~free].max() > _TOLERANCE * max(np.abs(b).max(), 1.0):
        free[np.argmax(np.where(free, -np.inf, gain))] = True
        found = _inside(a, b, found, free)
        gain = a.T @ (b - a @ found)
    return found / norms


def _inside(a: np.ndarray, b: np.ndarray, found: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The best point where only ``free`` parts differ from zero; takes parts out of ``free`` that reach it."""
    while True:
        best = np.zeros_like(found)
        best[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        below = free & (best <= 0)
        if not below.any():
            return best
        step = (found[below] / np.maximum(found[below] - best[below], 1e-300)).min()
        found = found + step * (best - found)
        free &= found > _TOLERANCE
        found[~free] = 0.0
