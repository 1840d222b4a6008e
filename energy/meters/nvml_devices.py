"""Which GPU is meant: CUDA numbers the GPUs it may see, NVML numbers them all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from energy.meters.base import Absent, MeterError
from energy.meters.nvml_errors import explain

_LIST_GPUS = "list the GPUs with `nvidia-smi -L`"


def find_device(nvml: ModuleType, device: int | str, environment: Mapping[str, str] | None = None) -> Any:
    """NVML's handle of the GPU that a CUDA index or a UUID means.

    Args:
        nvml: the initialised ``pynvml`` module.
        device: CUDA index (counted among the GPUs of ``CUDA_VISIBLE_DEVICES``) or UUID, also shortened.
        environment: read instead of ``os.environ``.

    Raises:
        MeterError: no such GPU, hidden from this process, or a MIG instance.
    """
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        uuids = [nvml.nvmlDeviceGetUUID(handle) for handle in handles]
    except nvml.NVMLError as error:
        raise MeterError(explain(error.value, "listing the GPUs")) from None
    if not uuids:
        raise MeterError(explain(28, "nvmlDeviceGetCount"))
    visible = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    return handles[device_index(device, visible, uuids)]


def device_index(device: int | str, visible: str | None, uuids: Sequence[str]) -> int:
    """NVML index of a GPU, from the value of ``CUDA_VISIBLE_DEVICES`` (None: unset) and all GPUs' UUIDs.

    Raises:
        MeterError: no such GPU, hidden from this process, or a MIG instance.
    """
    if isinstance(device, str):
        return _index_of_name(device, uuids)
    shown = list(range(len(uuids))) if visible is None else _visible_indices(visible, uuids)
    if not shown:
        raise MeterError(
            Absent(f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU", "unset it, or name a GPU in it")
        )
    if not 0 <= device < len(shown):
        raise MeterError(
            Absent(f"no GPU {device}: this process sees {len(shown)} (0 to {len(shown) - 1})", _LIST_GPUS)
        )
    return shown[device]


def _visible_indices(visible: str, uuids: Sequence[str]) -> list[int]:
    """NVML indices in CUDA's order. As CUDA does, everything from the first invalid entry on is dropped."""
    shown: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.startswith("MIG-"):
            return [*shown, _index_of_name(entry, uuids)]
        if entry.isdigit() and int(entry) < len(uuids):
            shown.append(int(entry))
            continue
        matches = [i for i, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid.startswith(entry)]
        if len(matches) != 1:
            break
        shown.append(matches[0])
    return shown


def _index_of_name(name: str, uuids: Sequence[str]) -> int:
    if name.startswith("MIG-"):
        raise MeterError(
            Absent(
                f"{name} is a MIG instance, and NVML has no energy of a single instance",
                "measure on a GPU with MIG switched off",
            )
        )
    matches = [i for i, uuid in enumerate(uuids) if name and uuid.startswith(name)]
    if len(matches) != 1:
        problem = "no GPU has" if not matches else "more than one GPU has"
        raise MeterError(
            Absent(f"{problem} a UUID that starts with {name!r} (there are {', '.join(uuids)})", _LIST_GPUS)
        )
    return matches[0]
