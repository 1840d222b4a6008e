"""Which kernel a layer gets: of those that can run it and are right, the fastest on real inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from compressors.errors import DseError
from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.kernel import DeviceKernel
from compressors.operators.device.reference import LayerReference
from compressors.operators.device.replay import first_line, record, seconds_each
from compressors.operators.device.settings import DeviceSettings


class NoKernel(DseError):
    """No kernel that may be chosen runs a layer and is right."""


@dataclass(frozen=True)
class KernelChoice:
    """The kernel of a layer.

    Attributes:
        name: of the kernel.
        reason: why this one, in a sentence.
        error: of its output on the example: root mean square over the reference's in front of a ReLU.
        seconds: kernel -> time of one call on the example's batch, of all that are right.
        passed_over: kernel -> why it was not taken, of all others that might have been.
    """

    name: str
    reason: str
    error: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "seconds": dict(self.seconds), "passed_over": dict(self.passed_over)}


def choose(
    layer: LayerFormat,
    x: torch.Tensor,
    reference: LayerReference,
    kernels: Mapping[str, type[DeviceKernel]],
    device: torch.device,
    settings: DeviceSettings,
) -> tuple[DeviceKernel, KernelChoice]:
    """Build, check and time the kernels of a layer.

    Args:
        x: what the layer reads, on the device and in ``layer.values``: the whole batch of the example.
        reference: its right answer to images of that batch.
        kernels: those that may be chosen, in the order that decides between equal times.

    Raises:
        NoKernel: none of them can run the layer and is right; it says why for each.
    """
    able: dict[str, DeviceKernel] = {}
    errors: dict[str, float] = {}
    passed_over: dict[str, str] = {}
    for name, kind in kernels.items():
        kernel, error, why = _tried(kind, layer, x, reference, device)
        if kernel is None:
            passed_over[name] = why
        else:
            able[name], errors[name] = kernel, error
    if not able:
        reasons = "; ".join(f"{name}: {why}" for name, why in passed_over.items())
        raise NoKernel(
            f"layer {layer.name}: no kernel can run it on {device} ({reasons}); allow other kernels, such as fp32"
        )
    seconds = _timed(able, x, device, settings)
    best = min(able, key=lambda name: seconds[name])
    for name in able.keys() - {best}:
        passed_over[name] = f"{seconds[name] * 1e6:.3g} us, while {best} takes {seconds[best] * 1e6:.3g} us"
    ordered = {name: passed_over[name] for name in kernels if name in passed_over}
    return able[best], KernelChoice(best, _reason(best, seconds), errors[best], seconds, ordered)


def _tried(
    kind: type[DeviceKernel],
    layer: LayerFormat,
    x: torch.Tensor,
    reference: LayerReference,
    device: torch.device,
) -> tuple[DeviceKernel | None, float, str]:
    """A kernel that is right and its error, or why there is none."""
    obstacle = kind.obstacle(layer, device)
    if obstacle:
        return None, 0.0, obstacle
    try:
        kernel = kind(layer, device)
        error, wrong = reference.wrong(kernel, x)
    except (
        Exception
    ) as failure:  # libraries refuse shapes and devices in ways of their own; the reason is kept
        return None, 0.0, f"it fails: {first_line(failure)}"
    return (kernel, error, "") if not wrong else (None, error, f"it is wrong: {wrong}")


def _timed(
    kernels: Mapping[str, DeviceKernel], x: torch.Tensor, device: torch.device, settings: DeviceSettings
) -> dict[str, float]:
    """Seconds of one call of each, as it runs in the whole network: as part of a graph where that can be."""
    runs = [partial(kernel, x) for kernel in kernels.values()]
    if settings.graph:
        runs = [record(run, device).run for run in runs]
    seconds = seconds_each(runs, device, settings.rounds, settings.round_s)
    return dict(zip(kernels, seconds, strict=True))


def _reason(best: str, seconds: Mapping[str, float]) -> str:
    if len(seconds) == 1:
        return "the only kernel that can run the layer and is right"
    rivals = sorted((s, name) for name, s in seconds.items() if name != best)
    return (
        f"the fastest of {len(seconds)} on this device with this batch: {seconds[best] * 1e6:.3g} us, "
        f"then {rivals[0][1]} with {rivals[0][0] * 1e6:.3g} us"
    )
