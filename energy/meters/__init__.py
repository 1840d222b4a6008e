"""Measured energy: meters, the protocol that makes their readings trustworthy, and what a machine can do."""

from __future__ import annotations

from collections.abc import Callable

from compressors.errors import UnknownName
from energy.meters.base import Absent, Meter, MeterError, Reading
from energy.meters.null import NullMeter
from energy.meters.nvml import NvmlMeter
from energy.meters.protocol import measure_energy
from energy.meters.rapl import RaplMeter
from energy.meters.results import Block, Measurement, RejectedBlock
from energy.meters.settings import ProtocolSettings

__all__ = [
    "Absent",
    "Block",
    "Measurement",
    "Meter",
    "MeterError",
    "NullMeter",
    "NvmlMeter",
    "ProtocolSettings",
    "RaplMeter",
    "Reading",
    "RejectedBlock",
    "measure_energy",
    "open_meter",
]


def _best_meter(device: int | str) -> Meter:
    meter = NvmlMeter(device)
    absent = meter.available()
    if absent is None:
        return meter
    meter.close()
    return NullMeter(absent)


_METERS: dict[str, Callable[[int | str], Meter]] = {
    "auto": _best_meter,
    "nvml": NvmlMeter,
    "rapl": RaplMeter,
    "none": lambda device: NullMeter(Absent("measuring is switched off", "set meter.name=auto")),
}


def open_meter(name: str, device: int | str = 0) -> Meter:
    """The meter a configuration asks for.

    Args:
        name: ``auto`` (NVML where there is a GPU, else none with the reason), ``nvml``, ``rapl`` or ``none``.
        device: CUDA index or UUID of the GPU; for ``rapl`` the number of the package, or ``all``.

    Raises:
        UnknownName: no meter has this name.
    """
    if name not in _METERS:
        raise UnknownName("meter", name, _METERS, key="meter.name")
    return _METERS[name](device)
