"""Batch-norm repair: compressed layers shift and stretch what the next batch norm reads; undo it.

Taking the compressed network's own statistics (``reestimate``) also moves everything that differs between the
calibration images and the training set, augmentation above all. ``match`` instead gives every channel the
mean and deviation that the *float* network shows on the very same images, so the images' own bias cancels.
"""

from __future__ import annotations

import torch
from torch import nn

from compressors.calibration.observe import Moments

_SMALLEST_RATIO = 1e-3  # a channel that lost 99.9 % of its deviation carries no signal to amplify


def repair_batch_norm(norm: nn.Module, repair: str, own: Moments, target: Moments) -> None:
    """Change a batch norm of the compressed network in place, before it computes.

    Repaired in the order they run, each on inputs that come through the repaired ones before it, a single pass
    repairs the whole network.

    Args:
        norm: the batch norm, with running statistics.
        repair: ``match``, ``reestimate`` or ``keep``.
        own: mean and variance per channel of its input on the calibration images.
        target: the same in the float network.
    """
    if repair == "match":
        _match(norm, own, target)
    elif repair == "reestimate":
        _reestimate(norm, own, target)


def _match(norm: nn.Module, own: Moments, target: Moments) -> None:
    """New running statistics under which the output has the float network's mean and deviation.

    With float statistics (mu, v), float moments (m, s2) and own moments (m', s2'), the output
    (x' - mu') / sqrt(v' + eps) has mean (m - mu) / sqrt(v + eps) and deviation s / sqrt(v + eps) for
    r = s' / s:   sqrt(v' + eps) = r * sqrt(v + eps),   mu' = m' - r * (m - mu).
    """
    mean, variance = target
    own_mean, own_variance = own
    ratio = torch.where(variance > 0, (own_variance / variance.clamp_min(1e-30)).sqrt(), 1.0)
    ratio = torch.where(ratio > _SMALLEST_RATIO, ratio, 1.0)
    norm.running_mean.copy_(own_mean - ratio * (mean - norm.running_mean))
    norm.running_var.copy_(((norm.running_var + norm.eps) * ratio**2 - norm.eps).clamp_min(0.0))


def _reestimate(norm: nn.Module, own: Moments, _: Moments) -> None:
    norm.running_mean.copy_(own[0])
    norm.running_var.copy_(own[1])
