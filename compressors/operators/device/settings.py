"""How a network is lowered for a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compressors.errors import ConfigError

VALUES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class DeviceSettings:
    """
    Attributes:
        kernels: names of those that may be chosen; None for all.
        values: type of what lies between layers: ``float32``, ``bfloat16`` or ``float16``.
        graph: whether the whole network becomes a CUDA graph where it can.
        rounds: times that every kernel of a layer is timed, in turns; the median counts.
        round_s: seconds that one of these takes, at least.
        checked: images of the example that results are compared on, spread over it evenly.
    """

    kernels: tuple[str, ...] | None = None
    values: str = "float32"
    graph: bool = True
    rounds: int = 9
    round_s: float = 0.002
    checked: int = 32

    def __post_init__(self) -> None:
        if self.values not in VALUES:
            raise ConfigError("device.values", self.values, " or ".join(VALUES))
        if self.kernels is not None and not self.kernels:
            raise ConfigError("device.kernels", self.kernels, "names of kernels, or None for all")
        for key, low in (("rounds", 1), ("checked", 1)):
            if getattr(self, key) < low:
                raise ConfigError(f"device.{key}", getattr(self, key), f"at least {low}")
        if not 0 <= self.round_s < 10:
            raise ConfigError("device.round_s", self.round_s, "0 to 10 seconds")

    @property
    def dtype(self) -> torch.dtype:
        """Of what lies between layers."""
        return VALUES[self.values]
