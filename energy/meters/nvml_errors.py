"""NVML's error codes in the project's words: one table, each code with what to do about it."""

from __future__ import annotations

from energy.meters.base import Absent

LIBRARY_NOT_FOUND = 12

# Codes of nvml.h (nvmlReturn_t). A code that is not listed is answered by `explain` with its number.
NVML_ERRORS: dict[int, Absent] = {
    1: Absent("NVML was used before it was initialised", "open the meter again"),
    2: Absent("NVML refused an argument (no GPU with this index?)", "list the GPUs with `nvidia-smi -L`"),
    3: Absent("this GPU or driver does not support the query", "use a GPU with an energy or power sensor"),
    4: Absent(
        "no permission to query the GPU",
        "give this user read access to /dev/nvidia* or ask the administrator",
    ),
    6: Absent("no such GPU", "list the GPUs with `nvidia-smi -L`"),
    8: Absent("the GPU's external power cables are not attached properly", "check the power cables"),
    9: Absent(
        "the NVIDIA kernel driver is not loaded",
        "load it (`sudo modprobe nvidia`), or start the container with GPU access (`--gpus all`)",
    ),
    10: Absent("NVML timed out", "try again; if it stays, restart the NVIDIA driver"),
    12: Absent(
        "no NVIDIA driver on this machine (libnvidia-ml was not found)",
        "install the NVIDIA driver, or start the container with GPU access (`--gpus all`)",
    ),
    13: Absent("the NVIDIA driver is too old for this query", "update the NVIDIA driver"),
    14: Absent("the GPU's infoROM is corrupted", "have the board checked"),
    15: Absent("the GPU was lost (fell off the bus)", "restart the machine and check its kernel log"),
    16: Absent("the GPU needs a reset", "reset it or restart the machine"),
    17: Absent("the operating system blocked the query", "check container limits and device permissions"),
    18: Absent(
        "the NVIDIA library and the loaded kernel driver have different versions",
        "restart the machine so that the updated driver is loaded",
    ),
    20: Absent("NVML ran out of memory", "free memory and try again"),
    21: Absent("the GPU has no data for this query yet", "try again"),
    25: Absent("the installed nvidia-ml-py does not fit the driver", "update nvidia-ml-py or the driver"),
    27: Absent("the GPU is not ready", "try again"),
    28: Absent("no NVIDIA GPU in this machine", "use a machine with an NVIDIA GPU"),
    999: Absent("NVML failed without saying why", "check the kernel log, restart the NVIDIA driver"),
}

# A query that worked before can fail with these once in a while when polled often: drop that reading.
TRANSIENT_CODES = frozenset({3, 10, 19, 21, 27})


def explain(code: int, call: str) -> Absent:
    """The reason and remedy for an NVML return code, with the name of the call that gave it."""
    known = NVML_ERRORS.get(code, Absent("NVML failed", "see nvmlReturn_t in NVIDIA's NVML reference"))
    return Absent(f"{known.reason} [{call}: NVML error {code}]", known.remedy)
