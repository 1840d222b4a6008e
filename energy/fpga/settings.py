"""Settings of machines on programmable devices."""

from __future__ import annotations

from dataclasses import dataclass

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range
from energy.fpga.device import FABRICS

STYLES = ("streaming", "overlay")


@dataclass(frozen=True)
class FpgaConfig:
    """Which device, and how it is used.

    ``clock_mhz`` replaces the estimated clock. ``share`` of the device may be taken. ``static_w`` is the power at rest
    from the vendor's report; None leaves it out. ``float_units`` run layers left in floating point.

    Streaming: ``images_per_s`` asks for a rate instead of the fastest that fits, ``dsp`` makes products in DSP slices,
    outputs of up to ``threshold_bits`` are compared with thresholds. Overlay: ``rows`` to ``lanes`` are those of
    :class:`~energy.fpga.overlay.Overlay`; ``skip`` leaves out ``planes`` without digits, or ``none``.
    """

    style: str = "streaming"
    device: str = "zu3eg"
    clock_mhz: float | None = None
    share: float = 0.7
    static_w: float | None = None
    images_per_s: float | None = None
    dsp: bool = False
    threshold_bits: int = 4
    rows: int = 8
    columns: int = 8
    word_bits: int = 256
    buffer_words: int = 1024
    accumulator: int = 32
    lanes: str = "unsigned"
    skip: str = "planes"
    dram_bits_per_cycle: int = 64
    residual_bits: int = 16
    float_units: int = 16

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UnknownName("style", self.style, STYLES, key="accelerator.style")
        if self.device not in FABRICS:
            raise UnknownName("device", self.device, FABRICS, key="accelerator.device")
        if self.style == "streaming" and FABRICS[self.device] != "xc7":
            known = ", ".join(name for name, fabric in FABRICS.items() if fabric == "xc7")
            raise ConfigError(
                "accelerator.device",
                self.device,
                f"one that FINN's estimates hold for ({known}), or style=overlay",
            )
        for name in ("clock_mhz", "static_w", "images_per_s"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < 1e12):
                raise ConfigError(f"accelerator.{name}", value, "a positive number, or null")
        if not (_is_number(self.share) and 0 < self.share <= 1):
            raise ConfigError("accelerator.share", self.share, "a share above 0 and up to 1")
        if not isinstance(self.dsp, bool):
            raise ConfigError("accelerator.dsp", self.dsp, "true or false")
        if self.skip not in ("planes", "none"):
            raise UnknownName("skipping", self.skip, ("planes", "none"), key="accelerator.skip")
        if self.lanes not in ("signed", "unsigned"):
            raise UnknownName("lanes", self.lanes, ("signed", "unsigned"), key="accelerator.lanes")
        if self.word_bits not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ConfigError("accelerator.word_bits", self.word_bits, "a power of two from 8 to 1024")
        for name, low, high in (
            ("threshold_bits", 0, 8),
            ("rows", 1, 1024),
            ("columns", 1, 1024),
            ("buffer_words", 1, 1 << 20),
            ("accumulator", 32, 64),
            ("dram_bits_per_cycle", 1, 1 << 16),
            ("residual_bits", 1, 32),
            ("float_units", 1, 1 << 16),
        ):
            check_range(f"accelerator.{name}", getattr(self, name), low, high)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
