"""Which weights to drop before the grid is fitted; what is dropped is zero in every plane."""

from __future__ import annotations

import numpy as np


def magnitude_mask(weight: np.ndarray, sparsity: float) -> np.ndarray:
    """Keep the largest weights of a layer.

    Args:
        weight: float array of any shape.
        sparsity: fraction to drop, in [0, 1); ``round(sparsity * size)`` weights go, ties by position.

    Returns:
        Booleans of the weight's shape, False where dropped.
    """
    dropped = round(sparsity * weight.size)
    keep = np.ones(weight.size, bool)
    keep[np.argsort(np.abs(weight).ravel(), kind="stable")[:dropped]] = False
    return keep.reshape(weight.shape)
