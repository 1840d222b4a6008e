"""One pass of the float network over the calibration images, and what is remembered of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from compressors.calibration.activation import ActivationGrid, InputStatistics, choose_grid
from compressors.errors import BadTensor
from compressors.graph import Layer, find_layers
from compressors.plan import ActivationConfig

_SAMPLES = 1 << 15
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Calibration:
    """Everything of the calibration images that conversions need, gathered once per network.

    Attributes:
        images: float32 ``[n, channels, height, width]``; labels are never seen.
        layers: the compressible layers in the order they run.
        float_layers: paths the user leaves in floating point.
        inputs: layer -> statistics of its input in the float network.
        moments: batch norm -> mean and (biased) variance per channel of its input in the float network; a batch
            norm called at several places is left out, as one repair could not serve them all.
    """

    images: torch.Tensor
    layers: tuple[Layer, ...]
    float_layers: tuple[str, ...]
    inputs: Mapping[str, InputStatistics]
    moments: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    _grids: dict[tuple[str, ActivationConfig], ActivationGrid] = field(default_factory=dict, repr=False)

    def grid(self, layer: str, config: ActivationConfig) -> ActivationGrid:
        """The grid of a layer's input, chosen once per layer and config."""
        if (layer, config) not in self._grids:
            self._grids[layer, config] = choose_grid(self.inputs[layer], config)
        return self._grids[layer, config]


def channel_moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance per channel (axis 1), float32 ``[channels]`` each."""
    # Row by row first: eight times as fast as torch.var_mean over all axes, and no row is split between threads,
    # so the result does not depend on their number.
    rows = values.reshape(*values.shape[:2], -1)
    means = rows.mean(2)
    variances = (rows - means[..., None]).square_().mean(2)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square_().mean(0)


def _sample(values: torch.Tensor) -> np.ndarray:
    flat = values.reshape(-1)
    if flat.numel() > _SAMPLES:
        generator = torch.Generator().manual_seed(0)
        flat = flat[torch.randint(flat.numel(), (_SAMPLES,), generator=generator)]
    return np.sort(flat.numpy())


@torch.no_grad()
def calibrate(model: nn.Module, images: torch.Tensor, float_layers: Sequence[str] = ()) -> Calibration:
    """Run the float ``model`` on ``images`` and remember what its layers and batch norms read.

    Raises:
        UnsupportedLayer: see ``compressors.graph.find_layers``.
        BadTensor: no image, NaN or infinity in the images or in what a layer computes from them.
    """
    if len(images) == 0:
        raise BadTensor("calibration needs at least one image")
    layers = find_layers(model, images[:1], float_layers)
    modules = dict(model.named_modules())
    inputs: dict[str, InputStatistics] = {}
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    calls: Counter[str] = Counter()

    def watch_layer(name: str):  # type: ignore[no-untyped-def]
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            low, high = torch.aminmax(args[0])
            if not torch.isfinite(low) or not torch.isfinite(high):
                raise BadTensor(
                    f"{name} reads NaN or infinity in the float network on the calibration images"
                )
            inputs[name] = InputStatistics(low.item(), high.item(), _sample(args[0]))

        return hook

    def watch_norm(name: str):  # type: ignore[no-untyped-def]
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            calls[name] += 1
            moments[name] = channel_moments(args[0])

        return hook

    handles = [modules[layer.name].register_forward_pre_hook(watch_layer(layer.name)) for layer in layers]
    handles += [
        module.register_forward_pre_hook(watch_norm(name))
        for name, module in modules.items()
        if isinstance(module, BATCH_NORMS)
    ]
    try:
        output = model(images)
    finally:
        for handle in handles:
            handle.remove()
    if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
        raise BadTensor("the float network answers NaN or infinity on the calibration images")
    once = {name: pair for name, pair in moments.items() if calls[name] == 1}
    return Calibration(images, layers, tuple(float_layers), inputs, once)
