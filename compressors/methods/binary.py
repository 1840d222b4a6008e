"""Weights as a sum of sign planes, each with one scale per output channel, group of inputs or tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.methods.alternation import alternate
from compressors.methods.planes import check_choice, check_joint, check_layout, spread, to_rows
from compressors.methods.ternary import REFINES, residual_terms, tuples
from compressors.registry import check_range, register
from compressors.tensor import SlicedTensor

_JOINT_TERMS = 6  # 64 levels

# scales, in root mean squares of a row, at which alternation ends lowest for normal, Laplace and uniform weights: the
# best of 100 random starts for each
_JOINT_STARTS: dict[int, tuple[tuple[float, ...], ...]] = {
    2: ((0.981, 0.529), (1.127, 0.707), (0.866, 0.433)),
    3: ((0.988, 0.748, 0.451), (1.34, 1.014, 0.587), (0.866, 0.433, 0.217)),
    4: ((1.13, 0.71, 0.557, 0.296), (1.331, 1.149, 0.941, 0.609), (0.866, 0.433, 0.217, 0.108)),
}


@dataclass(frozen=True)
class BinaryConfig:
    """``terms`` planes of {-1, 1}, each fitted to the rest (direct sketch of Guo et al., arXiv 1706.02021).

    Attributes:
        terms: planes.
        refine: ``greedy`` stops there; ``least_squares`` solves the scales of all planes anew after each one (their
            refined sketch); ``joint`` alternates between the best tuple of codes of every weight and the best scales,
            for up to 6 terms.
        group: 0 for one scale per channel, else a scale per run of the largest length up to ``group`` that divides
            the inputs.
        per: ``channel``, or ``tensor`` for one scale in all channels.
    """

    terms: int = 1
    refine: str = "greedy"
    group: int = 0
    per: str = "channel"

    def __post_init__(self) -> None:
        check_range("binary.terms", self.terms, 1, 8)
        check_choice("binary.refine", self.refine, REFINES)
        check_layout("binary", self.group, self.per)
        check_joint("binary", self.refine, self.terms, _JOINT_TERMS)


def _alphabet(tensor: SlicedTensor, config: BinaryConfig) -> np.ndarray:
    return tuples((-1, 1), config.terms)


def _joint(weight: np.ndarray, keep: np.ndarray, terms: int) -> tuple[np.ndarray, np.ndarray]:
    fitted = [residual_terms(weight, keep, terms, binary=True, resolve=r)[1] for r in (False, True)]
    evenly = (tuple(0.866 * 0.5**t for t in range(terms)),)
    starts = spread(weight, keep, fitted, _JOINT_STARTS.get(terms, evenly))
    return alternate(weight, keep, starts, tuples((-1, 1), terms)[:, 0, 0])


@register("binary", BinaryConfig, _alphabet)
def compress_binary(weight: np.ndarray, keep: np.ndarray, config: BinaryConfig) -> SlicedTensor:
    """Sign planes of ``weight [N, K]``; pruned weights are zero in every plane and need a shared mask."""
    layout = to_rows(weight, keep, config.group, config.per)
    if config.refine == "joint":
        codes, scale = _joint(layout.weight, layout.keep, config.terms)
    else:
        resolve = config.refine == "least_squares"
        codes, scale = residual_terms(layout.weight, layout.keep, config.terms, binary=True, resolve=resolve)
    return layout.tensor(codes, scale, "binary")
