"""Batch-norm repair: compressed layers shift and stretch what the next batch norm reads; undo it.

Taking the compressed network's own statistics (``reestimate``) also moves everything that differs between the
calibration images and the training set, augmentation above all. ``match`` instead gives every channel the
mean and deviation that the *float* network shows on the very same images, so the images' own bias cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from compressors.calibration.observe import BATCH_NORMS, channel_moments

_SMALLEST_RATIO = 1e-3  # a channel that lost 99.9 % of its deviation carries no signal to amplify


@contextmanager
def repair_batch_norms(
    network: nn.Module, moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]], repair: str
) -> Iterator[None]:
    """While active, one forward pass of ``network`` over the calibration images repairs its batch norms.

    Each batch norm is repaired just before it computes, hence on inputs that come through the repaired ones
    before it: a single pass repairs the whole network in order.

    Args:
        network: the compressed network, changed in place.
        moments: batch norm -> mean and variance of its input in the float network, on the same images.
        repair: ``match``, ``reestimate`` or ``keep``.
    """
    if repair == "keep":
        yield
        return
    fix = _match if repair == "match" else _reestimate

    def hook_for(name: str):  # type: ignore[no-untyped-def]
        def hook(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            fix(norm, channel_moments(args[0]), moments[name])

        return hook

    handles = [
        module.register_forward_pre_hook(hook_for(name))
        for name, module in network.named_modules()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None and name in moments
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


Moments = tuple[torch.Tensor, torch.Tensor]


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
