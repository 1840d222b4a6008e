"""Level grids: the values each weight of a sliced tensor may take, whatever method laid them out.

Repairs that choose weights anew (second-order rounding, reconstruction) know a tensor only by this: for every
output channel and group of inputs a sorted list of levels, each the scaled sum of one tuple of codes. So they serve
every method alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.registry import MethodConfig, alphabet
from compressors.slicing import with_codes
from compressors.tensor import SlicedTensor


@dataclass(frozen=True, eq=False)
class LevelGrid:
    """Levels ``sum_t scale[t, n, g] * codes[t, n, g, l]`` of every channel ``n`` and group ``g``.

    Attributes:
        like: a tensor of the method, whose shape and encoding new tensors take over.
        codes: ``int64 [terms, N or 1, groups or 1, L]``; pruned weights are zero beside these.
    """

    like: SlicedTensor
    codes: np.ndarray

    @classmethod
    def of(cls, tensor: SlicedTensor, config: MethodConfig) -> LevelGrid:
        """The grid on which ``config``'s method put ``tensor``."""
        return cls(tensor, alphabet(tensor, config))

    @property
    def shared(self) -> bool:
        """Whether all channels have the same scales, which repairs then keep alike."""
        scale = self.like.scale
        return scale.shape[1] > 1 and bool((scale == scale[:, :1]).all())

    def levels(self, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sorted levels under ``scale [terms, N, groups]``.

        Returns:
            ``float64 [N, groups, L]`` ascending, and ``int64 [N, groups, L]``: which code tuple each one is.
        """
        values = (scale.astype(np.float64)[..., None] * self.codes).sum(0)
        order = np.argsort(values, axis=2, kind="stable")
        return np.take_along_axis(values, order, 2), order

    def select(self, choice: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """Codes ``int64 [terms, N, K]`` of the code tuples ``choice [N, K]``; zero where not ``keep [N, K]``."""
        terms, rows, groups = self.like.scale.shape
        shape = (terms, rows, groups, self.codes.shape[-1])
        grouped = choice.reshape(1, rows, groups, -1)
        picked = np.take_along_axis(
            np.broadcast_to(self.codes, shape), np.broadcast_to(grouped, (terms, *grouped.shape[1:])), 3
        )
        return np.where(keep, picked.reshape(terms, rows, -1), 0)

    def tensor(self, choice: np.ndarray, scale: np.ndarray, keep: np.ndarray) -> SlicedTensor:
        """The sliced tensor of the code tuples ``choice [N, K]`` under ``scale [terms, N, groups]``."""
        codes = self.select(choice, keep)
        if (
            self.like.encoding != "binary"
        ):  # where a term is scaled by zero all codes are the same, and none is least
            unused = np.repeat(scale == 0.0, codes.shape[2] // scale.shape[2], 2)
            codes = np.where(unused, 0, codes)
        return with_codes(self.like, codes, scale)
