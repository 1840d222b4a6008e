"""A graphics processor by its data sheet: the least time that rate and bandwidth allow, and what it may draw then.

Each layer takes the longer of its operations at the peak rate of its format and its operands at the memory's
bandwidth (Williams et al., "Roofline", CACM 2009). Layers in integers run as int8 products whatever their bits; their
weights travel packed, their inputs and outputs at the bits they are read with, a byte at least. Energy is time at a
share of the board's power limit: an upper bound for busy units, and no substitute for measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range
from energy.accelerators import register_accelerator
from energy.cost import Band, Cost, Ledger, Peak
from energy.technology import Technology
from energy.workload import FLOAT_BITS, LayerWork, Workload

_GPUS = ("h100", "t4")
_BYTE = 8


@dataclass(frozen=True)
class GpuRooflineConfig:
    """Which processor, and how it is used.

    ``batch`` images share one reading of the weights; ``float_format`` is that of layers in floating point; energy
    lies between ``idle_share`` of the power limit and all of it, ``busy_share`` is the nominal one.
    """

    gpu: str = "h100"
    batch: int = 1
    float_format: str = "fp32"
    idle_share: float = 0.1
    busy_share: float = 1.0

    def __post_init__(self) -> None:
        if self.gpu not in _GPUS:
            raise UnknownName("GPU", self.gpu, _GPUS, key="accelerator.gpu")
        if self.float_format not in ("fp32", "fp16"):
            raise UnknownName("format", self.float_format, ("fp32", "fp16"), key="accelerator.float_format")
        check_range("accelerator.batch", self.batch, 1, 1 << 20)
        if not 0 < self.idle_share <= self.busy_share <= 1:
            raise ConfigError(
                "accelerator.busy_share",
                self.busy_share,
                "0 < idle_share <= busy_share <= 1, shares of the limit",
            )


@register_accelerator("gpu_roofline", GpuRooflineConfig)
class GpuRoofline:
    """See the module's text. Per image of a batch."""

    def __init__(self, config: GpuRooflineConfig, technology: Technology) -> None:
        self.config = config
        self.encodings = ("sign_magnitude",)  # any: only the packed size is looked at
        self._of = lambda name: technology[f"gpu.{name}.{config.gpu}"].value
        self._power_w = Band(config.idle_share, config.busy_share, 1.0) * self._of("power_limit")

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; the granularity means nothing here."""
        ledger, latency, bound, busy = Ledger(), {}, {}, {}
        for index, layer in enumerate(workload.layers):
            compute_s = 2 * layer.macs / self._rate(layer)
            bytes_ = self._bytes(layer) + (workload.image_bits / _BYTE if index == 0 else 0.0)
            memory_s = bytes_ / self._of("memory_rate")
            latency[layer.name] = max(compute_s, memory_s)
            bound[layer.name] = "compute" if compute_s >= memory_s else "dram"
            busy[layer.name] = compute_s / latency[layer.name]
            ledger.add(layer.name, "board", self._power_w * latency[layer.name])
        notes = [
            "time is the least that the data sheet allows, energy a share of the board's power limit over it; "
            "launches, caches and kernels that miss the peak are left out"
        ]
        if workload.unpriced:
            notes.append(f"not priced: {', '.join(workload.unpriced)}")
        return Cost(
            ledger.energy_j, latency, {"die": self._area}, busy, tuple(notes), bound=bound, extrapolated=True
        )

    def peak(self, weight_bits: int, input_bits: int) -> Peak:
        """The data sheet's dense int8 rate at its power limit."""
        return Peak(self._of("int8_rate"), self._power_w, self._area)

    @property
    def _area(self) -> Band:
        return Band(1.0, 1.0, 1.0) * self._of("die_area")

    def _rate(self, layer: LayerWork) -> float:
        return self._of(f"{self.config.float_format if layer.is_float else 'int8'}_rate")

    def _bytes(self, layer: LayerWork) -> float:
        """Bytes moved per image: the weights' share of a batch, the input and the output once."""
        float_bits = FLOAT_BITS if self.config.float_format == "fp32" else FLOAT_BITS // 2
        weights = layer.outputs * layer.reduction * float_bits
        if not layer.is_float:
            weights = next(iter(layer.weights.values())).dense_bits
        read = layer.inputs * layer.pixels * layer.stride[0] * layer.stride[1]
        width = float_bits if layer.is_float else max(layer.input_bits, _BYTE)
        written = layer.outputs * layer.pixels * max(min(layer.output_bits, float_bits), _BYTE)
        return (weights / self.config.batch + read * width + written) / _BYTE
