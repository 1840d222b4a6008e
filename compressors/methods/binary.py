"""Weights as a sum of sign planes, each with one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.methods.ternary import residual_terms, tuples
from compressors.registry import check_range, register
from compressors.tensor import SlicedTensor


@dataclass(frozen=True)
class BinaryConfig:
    """``terms`` planes of {-1, 1}, each fitted to the rest (direct sketch of Guo et al., arXiv 1706.02021)."""

    terms: int = 1

    def __post_init__(self) -> None:
        check_range("binary.terms", self.terms, 1, 8)


def _alphabet(tensor: SlicedTensor, config: BinaryConfig) -> np.ndarray:
    return tuples((-1, 1), config.terms)


@register("binary", BinaryConfig, _alphabet)
def compress_binary(weight: np.ndarray, keep: np.ndarray, config: BinaryConfig) -> SlicedTensor:
    """Sign planes of ``weight [N, K]``; pruned weights are zero in every plane and need a shared mask."""
    codes, scale = residual_terms(weight, keep, config.terms, binary=True)
    return SlicedTensor.from_terms(codes, scale[..., None], weight.shape, "binary")
