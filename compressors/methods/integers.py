"""Integer codes of rows of weights that share a scale, as a sliced tensor."""

from __future__ import annotations

import numpy as np

from compressors.methods.planes import Rows
from compressors.slicing import from_codes
from compressors.tensor import SlicedTensor


def integer_tensor(rows: Rows, codes: np.ndarray, scale: np.ndarray, bits: int) -> SlicedTensor:
    """The tensor of integers ``codes [rows, length]`` of ``bits`` bits and scales ``[rows]``; pruned weights are 0."""
    outputs = rows.shape[0]
    shape = (1, outputs, rows.groups)
    spread_out = np.broadcast_to(scale, shape) if scale.size == 1 else scale.reshape(shape)
    kept = np.where(rows.keep, codes, 0).astype(np.int64)
    return from_codes(kept.reshape(1, *rows.shape), spread_out, shape=rows.shape, bits=bits)


def code_runs(tensor: SlicedTensor, shared: bool) -> np.ndarray:
    """Codes of the one term by scale: ``int64 [N, groups, run]``, or ``[1, 1, N * K]`` if all scales are one."""
    codes = tensor.codes()[0]
    return codes.reshape(1, 1, -1) if shared else codes.reshape(*tensor.scale.shape[1:], -1)
