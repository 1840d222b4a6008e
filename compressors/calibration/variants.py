"""The float network and its calibration images in another form that computes, or shows, the same."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional

from compressors.calibration.dimensions import choose_dimensions, narrow
from compressors.calibration.equalize import equalize
from compressors.calibration.observe import Calibration, calibrate
from compressors.plan import CompressionPlan

_REACH = 8  # images are shifted by up to an eighth of their size


def variant(
    model: nn.Module, plan: CompressionPlan, calibration: Calibration
) -> tuple[nn.Module, Calibration]:
    """The network and calibration that a plan starts from: equalised, with fewer dimensions, or as they are.

    Each is made once per calibration.
    """
    if plan.hypervectors is not None:
        if plan.hypervectors not in calibration.narrowed:
            index = choose_dimensions(model, calibration.images, plan.hypervectors)
            network = narrow(model, index)
            calibration.narrowed[plan.hypervectors] = (
                network, calibrate(network, calibration.images, calibration.float_layers), index
            )  # fmt: skip
        return calibration.narrowed[plan.hypervectors][:2]
    if not plan.equalize:
        return model, calibration
    if not calibration.equalized:
        single = copy.deepcopy(model).float()
        network = equalize(single, calibration.images[:1], calibration.float_layers).network
        calibration.equalized.append(
            (network, calibrate(network, calibration.images, calibration.float_layers))
        )
    return calibration.equalized[0]


def augmented(images: torch.Tensor, versions: int) -> torch.Tensor:
    """The images as they are, then further versions of each, shifted with zeros moving in and mirrored at random.

    Args:
        images: float32 ``[n, channels, height, width]``; others have no versions and are returned as they are.
        versions: of each image, at least 1.

    Returns:
        ``[versions * n, ...]``; image ``i`` stands at ``i``, ``n + i``, ... The same for the same number of images.
    """
    if images.ndim != 4 or versions == 1:
        return images
    generator = torch.Generator().manual_seed(0)
    n, _, height, width = images.shape
    down, right = height // _REACH, width // _REACH
    padded = functional.pad(images, (right, right, down, down))
    pieces = [images]
    for _ in range(versions - 1):
        top = torch.randint(2 * down + 1, (n,), generator=generator)
        left = torch.randint(2 * right + 1, (n,), generator=generator)
        mirrored = torch.rand(n, generator=generator) < 0.5
        moved = [padded[i, :, top[i] : top[i] + height, left[i] : left[i] + width] for i in range(n)]
        shifted = torch.stack(moved)
        pieces.append(torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted))
    return torch.cat(pieces)
