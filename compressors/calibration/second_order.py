"""Second-order rounding: weights chosen for what the layer computes on the calibration images.

With ``x`` the inputs in the float network and ``z`` those in the compressed one (rounded, and made by layers already
compressed), a layer's weights ``q`` should give on ``z`` what the float weights ``w`` give on ``x``. The least-squares
answer without a grid is ``w* = w C H^-1`` with ``H = E[z z']``, ``C = E[x z']``; the error of any other ``q`` grows by
``(q - w*) H (q - w*)'``, so ``w*`` is rounded under ``H`` (see ``compressors.kernels.rounding``). Where a batch norm or
a bias behind the layer takes up its mean, ``H`` and ``C`` are covariances: a shift of the output costs nothing.

Sources: OBQ (Frantar & Alistarh, arXiv 2208.11580), GPTQ (arXiv 2210.17323); for the target Qronos (arXiv 2505.11695).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from compressors.calibration.activation import ActivationGrid
from compressors.grid import LevelGrid
from compressors.kernels.rounding import fit_rows, round_rows
from compressors.methods.prune import keep_mask
from compressors.parallel import Lanes
from compressors.registry import MethodConfig, compress
from compressors.tensor import SlicedTensor

DAMPING = 0.01  # of the mean diagonal of H, as in GPTQ: weights see fewer images than there are
_NOISE = 1e-8  # of the mean square: what varies less is not told from rounding
_POSITIONS = 1 << 17  # output positions that the moments are taken over; more do not change them
_ROWS = 8  # rows rounded together
_COARSE, _FINE = 9, 32  # levels: a coarse grid has many local optima, and a fine one none that matter
_PRUNING_STEPS = 8
_GRID_FACTORS = (1.0, 0.8, 0.9, 1.1, 1.2, 1.35, 1.5)
_GRID_CHUNKS, _GRID_POSITIONS = 4, 1 << 13  # of images, and places in them, to choose between these by


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Second moments of what a layer reads, per channel group ``c`` of the layer.

    Attributes:
        second: ``float64 [c, K, K]``, ``H``, damped so that it is positive definite.
        cross: ``float64 [c, K, K]``, ``C``, of the float network's inputs with these.
        flat: ``float64 [c, K, K]``, second moments of the float network's inputs, damped alike.
    """

    second: torch.Tensor
    cross: torch.Tensor
    flat: torch.Tensor


def columns(module: nn.Module, inputs: torch.Tensor, thin: int = 1, turn: int = 0) -> torch.Tensor:
    """What each weight of a layer multiplies: ``float32 [c, positions, K]`` for ``c`` channel groups.

    Args:
        module: a convolution or linear layer.
        inputs: a batch of its input.
        thin: keep one output row and column in ``thin``; ``turn`` says which.
    """
    if isinstance(module, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if isinstance(module.padding, str):
        reach = [
            d * (k - 1) if module.padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
        sides = [(r // 2, r - r // 2) for r in reach]
    else:
        sides = [(p, p) for p in module.padding]
    padded = functional.pad(inputs, (*sides[1], *sides[0]))
    if thin > 1:
        size = [
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(padded.shape[2:], dilation, kernel, stride, strict=True)
        ]
        first = [min(turn // thin % thin, size[0] - 1), min(turn % thin, size[1] - 1)]
        padded = padded[:, :, first[0] * stride[0] :, first[1] * stride[1] :]
        stride = (stride[0] * thin, stride[1] * thin)
    unfolded = functional.unfold(padded, kernel, dilation=dilation, stride=stride)
    n, _, positions = unfolded.shape
    grouped = unfolded.reshape(n, module.groups, -1, positions)
    return grouped.permute(1, 0, 3, 2).reshape(module.groups, n * positions, -1)


def input_moments(
    module: nn.Module,
    floats: Sequence[torch.Tensor],
    rounded: Sequence[torch.Tensor],
    *,
    centred: bool,
    lanes: Lanes,
    most: int = _POSITIONS,
) -> InputMoments:
    """Moments of a layer's inputs over all images.

    Args:
        module: the layer.
        floats: chunks of its input in the float network.
        rounded: chunks of its input in the compressed network, on the layer's grid.
        centred: whether the mean of the layer's output is free.
        most: output positions to take them over, about; convolutions leave out rows and columns.
    """
    out = module(rounded[0][:1])
    positions = out[0].numel() // out.shape[-1 if isinstance(module, nn.Linear) else 1]
    images = sum(len(chunk) for chunk in floats)
    thin = 1
    while positions > 16 * thin**2 and images * positions > most * thin**2:
        thin += 1

    def moments(turn: int, x: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
        flat, own = columns(module, x, thin, turn), columns(module, z, thin, turn)
        if centred:
            flat, own = flat - middle, own - middle
        pairs = [own.transpose(1, 2) @ own, flat.transpose(1, 2) @ own, flat.transpose(1, 2) @ flat]
        counted = torch.tensor(float(own.shape[1]), dtype=torch.float64)
        return [*(m.double() for m in (*pairs, own.sum(1), flat.sum(1))), counted]

    # near the mean, so that little is lost when it is taken out
    middle = columns(module, rounded[0], thin).mean(1, keepdim=True)
    total: list[torch.Tensor] | None = None
    for start in range(0, len(floats), 4):
        piece = range(start, min(start + 4, len(floats)))
        for part in lanes.map(moments, piece, [floats[i] for i in piece], [rounded[i] for i in piece]):
            total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
    assert total is not None
    second, cross, flat, own_sum, flat_sum, count = total
    second, cross, flat = second / count, cross / count, flat / count
    square = second.diagonal(dim1=1, dim2=2)
    if centred:
        own_mean, flat_mean = own_sum / count, flat_sum / count
        second = second - own_mean[:, :, None] * own_mean[:, None, :]
        cross = cross - flat_mean[:, :, None] * own_mean[:, None, :]
        flat = flat - flat_mean[:, :, None] * flat_mean[:, None, :]
        square = square + middle[:, 0].double() * (2.0 * own_mean + middle[:, 0])
    damp = second.diagonal(dim1=1, dim2=2).mean(1)
    ridge = torch.maximum(DAMPING * damp, _NOISE * square.mean(1))
    # where nothing is read no weight matters; the identity then rounds to nearest
    ridge = torch.where(ridge > 1e-22, ridge, 1.0)
    eye = ridge[:, None, None] * torch.eye(second.shape[1], dtype=torch.float64)
    # in all three, as if noise were read beside: it pulls the target to the weights themselves, not to zero
    return InputMoments(second + eye, cross + eye, flat + eye)


def fitted_grid(
    grid: ActivationGrid,
    module: nn.Module,
    floats: Sequence[torch.Tensor],
    read: Sequence[torch.Tensor],
    *,
    centred: bool,
    lanes: Lanes,
) -> ActivationGrid:
    """The grid with the scale, near its own, that costs the layer's output least.

    What a value loses counts by what the weights make of it, and by what is left when these are refitted to the grid.

    Args:
        grid: to start from.
        module: the layer, with float weights.
        floats: chunks of its input in the float network.
        read: chunks of its input in the compressed network, not on a grid yet; a few are looked at.
        centred: whether the mean of the layer's output is free.
    """
    floats, read = floats[:_GRID_CHUNKS], read[:_GRID_CHUNKS]
    weight = module.weight.detach().numpy().astype(np.float64)
    weight = weight.reshape(len(weight), -1)

    def cost(candidate: ActivationGrid) -> float:
        rounded = lanes.map(candidate.round, read)
        moments = input_moments(module, floats, rounded, centred=centred, lanes=lanes, most=_GRID_POSITIONS)
        return output_error(weight, target_weights(weight, moments), moments)

    return min((replace(grid, scale=float(np.float32(grid.scale * f))) for f in _GRID_FACTORS), key=cost)


def target_weights(weight: np.ndarray, moments: InputMoments) -> np.ndarray:
    """``w* = w C H^-1``: ``float64 [N, K]`` from float weights ``[N, K]``."""
    groups = moments.second.shape[0]
    rows = torch.from_numpy(weight).double().reshape(groups, -1, weight.shape[1])
    solved = torch.linalg.solve(moments.second, (rows @ moments.cross).transpose(1, 2))
    return solved.transpose(1, 2).reshape(weight.shape).numpy()


def output_error(weight: np.ndarray, compressed: np.ndarray, moments: InputMoments) -> float:
    """Squared error of the layer's output relative to the float output's energy, both as the moments see them."""
    groups = moments.second.shape[0]
    w, q = (torch.from_numpy(v).double().reshape(groups, -1, weight.shape[1]) for v in (weight, compressed))
    energy = ((w @ moments.flat) * w).sum()
    error = energy - 2 * ((w @ moments.cross) * q).sum() + ((q @ moments.second) * q).sum()
    return float(error / energy) if energy > 0 else 0.0


def prune_second_order(
    weight: np.ndarray, sparsity: float, pattern: str, moments: InputMoments, lanes: Lanes
) -> tuple[np.ndarray, np.ndarray]:
    """Prune where the output suffers least, and let the weights that stay make up for it.

    Dropping weight ``k`` alone costs ``w_k**2 / (H^-1)_kk`` (Optimal Brain Surgeon; Frantar & Alistarh, arXiv
    2208.11580). Patterns that allow it are pruned in several steps, with the weights that stay refitted after each.

    Args:
        weight: float64 ``[N, ...]``.
        sparsity: fraction to drop; pattern: see ``compressors.methods.prune``.

    Returns:
        Booleans of the weight's shape, False where dropped, and the refitted weights, zero there.
    """
    if not sparsity and ":" not in pattern:
        return np.ones(weight.shape, bool), weight
    groups, columns = moments.second.shape[:2]
    free = torch.stack([torch.cholesky_inverse(torch.linalg.cholesky(h)).diagonal() for h in moments.second])
    cost = np.repeat(1.0 / free.numpy(), len(weight) // groups, 0)
    rows = weight.reshape(-1, columns)
    hessians = [np.ascontiguousarray(h.numpy()) for h in moments.second]
    size = len(rows) // groups
    fitted, keep = rows.copy(), np.ones(rows.shape, bool)
    steps = 1 if ":" in pattern else _PRUNING_STEPS

    def refit(first: int) -> None:
        part = slice(first, min(first + _ROWS, (first // size + 1) * size))
        fit_rows(rows[part], hessians[first // size], keep[part], fitted[part])

    starts = [c * size + i for c in range(groups) for i in range(0, size, _ROWS)]
    for step in range(1, steps + 1):
        importance = np.where(keep, fitted**2 * cost, 0.0).reshape(weight.shape)
        keep = keep_mask(importance, sparsity * step / steps, pattern).reshape(rows.shape)
        fitted = np.where(keep, fitted, 0.0)
        lanes.map(refit, starts)
    return keep.reshape(weight.shape), fitted.reshape(weight.shape)


def round_second_order(
    weight: np.ndarray,
    config: MethodConfig,
    keep: np.ndarray,
    moments: InputMoments,
    lanes: Lanes,
) -> SlicedTensor:
    """Compress a layer under the moments of its inputs.

    Args:
        weight: float ``[N, ...]``, what the layer should compute (see :func:`target_weights`).
        config: settings of a registered method; its grid is used, its scales are where the search starts.
        keep: booleans of the weight's shape, False where a weight is pruned.
        moments: of its inputs.
    """
    start = compress(weight, config, keep)
    grid = LevelGrid.of(start, config)
    rows = np.ascontiguousarray(weight.reshape(weight.shape[0], -1), np.float64)
    kept = np.ascontiguousarray(keep.reshape(rows.shape))
    scale = start.scale.astype(np.float64)
    choice = np.zeros(rows.shape, np.int64)
    group = np.repeat(np.arange(scale.shape[2]), rows.shape[1] // scale.shape[2])
    groups = moments.second.shape[0]
    size = rows.shape[0] // groups
    codes = grid.codes.astype(np.float64)
    starts, rounds, kicks = _effort(codes.shape[0], codes.shape[3])
    if grid.shared:
        starts, rounds = np.ones(1), 0
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray, slice]] = []
    for c in range(groups):
        order, hessian, upper = _ordered(moments.second[c])
        for first in range(c * size, (c + 1) * size, _ROWS):
            pieces.append((order, hessian, upper, slice(first, min(first + _ROWS, (c + 1) * size))))

    def work(order: np.ndarray, hessian: np.ndarray, upper: np.ndarray, part: slice) -> None:
        own = np.zeros((part.stop - part.start, rows.shape[1]), np.int64)
        fitted = np.ascontiguousarray(scale[:, part])
        round_rows(
            np.ascontiguousarray(rows[part][:, order]),
            hessian,
            upper,
            codes[:, part] if codes.shape[1] > 1 else codes,
            fitted,
            group[order],
            np.ascontiguousarray(kept[part][:, order]),
            starts,
            rounds,
            kicks,
            own,
            np.zeros(len(own)),
        )
        choice[part, order] = own
        scale[:, part] = fitted

    lanes.map(work, *zip(*pieces, strict=True))
    return grid.tensor(choice, scale.astype(np.float32), kept)


def _effort(terms: int, levels: int) -> tuple[np.ndarray, int, int]:
    """Factors on the scales to start from, fits of the scales per start, and kicks of the local search.

    The best scales under ``H`` are not the best for the weights alone, the less so the fewer levels there are.
    """
    if levels <= _COARSE and terms == 1:
        return np.array([0.65, 0.85, 1.0, 1.2, 1.6]), 3, 120 // levels
    if levels <= _FINE:
        return np.array([0.85, 1.0, 1.15]), 2, 120 // levels
    return np.ones(1), 1, 0


def _ordered(hessian: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns from the heaviest to the lightest, ``H`` in that order, and the factor of its inverse."""
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    sorted_ = hessian[order][:, order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(sorted_))
    upper = torch.linalg.cholesky(inverse, upper=True)
    return order.numpy(), np.ascontiguousarray(sorted_.numpy()), np.ascontiguousarray(upper.numpy())
