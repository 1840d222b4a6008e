"""What this machine can measure and how fast it can compute, as plain data; a command shows it."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressors.errors import ConfigError
from compressors.kernels.machine import VARIABLE, kernels, machine
from energy.meters.base import Absent
from energy.meters.machine import (
    CPUINFO,
    cpu_flags,
    cpu_model,
    cpu_quota,
    memory_bytes,
    usable_cores,
)
from energy.meters.nvml import NvmlMeter, list_gpus
from energy.meters.rapl import ALL, POWERCAP, RaplMeter

# Extensions that make the popcount kernels fast, best first: x86 (AMD64) and Arm names of /proc/cpuinfo.
_POPCOUNT_FLAGS = {
    "avx512_vpopcntdq": "512-bit vector popcount",
    "sve": "scalable vectors",
    "avx2": "256-bit vectors (popcount by table look-up)",
    "asimd": "128-bit vectors with byte popcount",
    "popcnt": "scalar 64-bit popcount",
}
# Numba's threading layers in the order in which it tries them.
_THREADING_LAYERS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``ok``: usable; ``limited``: usable but; ``missing``: not to be had here."""

    subject: str
    status: Literal["ok", "limited", "missing"]
    detail: str
    remedy: str = ""


def inspect_machine() -> list[Finding]:
    """Look at everything that matters for measuring and computing here. Never raises."""
    probes: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
        ("GPU energy", gpu_findings),
        ("CPU energy (RAPL)", rapl_findings),
        ("CPU", cpu_findings),
        ("integer kernels", kernel_findings),
        ("numba threading", threading_findings),
        ("numba cache", cache_findings),
        ("memory", memory_findings),
    )
    findings: list[Finding] = []
    for subject, probe in probes:
        try:
            findings += probe()
        except Exception as error:  # a broken driver or library is a finding, not a reason to show nothing
            findings.append(Finding(subject, "missing", f"could not be looked at: {error!r}"))
    return findings


def gpu_findings() -> list[Finding]:
    """Each NVIDIA GPU and how its energy can be read."""
    gpus = list_gpus()
    if isinstance(gpus, Absent):
        return [Finding("GPU energy", "missing", gpus.reason, gpus.remedy)]
    return [_gpu_finding(gpu["uuid"], gpu["device"]) for gpu in gpus]


def _gpu_finding(uuid: str, name: str) -> Finding:
    with NvmlMeter(uuid) as meter:
        absent = meter.available()
        facts = meter.describe()
    subject = f"GPU energy: {name} ({uuid})"
    if absent is not None:
        return Finding(subject, "missing", absent.reason, absent.remedy)
    detail = f"{facts['source']}, driver {facts['driver']}"
    if facts["method"] == "counter":
        return Finding(subject, "ok", detail)
    why = "; ".join(f"{source}: {reason}" for source, reason in facts["passed_over"].items())
    return Finding(subject, "limited", f"{detail} ({why})", "power is sampled; measure long blocks")


def rapl_findings(powercap: Path = POWERCAP) -> list[Finding]:
    """Whether the processor's energy counters (RAPL, through powercap) are there and readable."""
    subject = "CPU energy (RAPL)"
    meter = RaplMeter(ALL, powercap)
    absent = meter.available()
    if absent is not None:
        return [Finding(subject, "missing", absent.reason, absent.remedy)]
    return [
        Finding(subject, "ok", f"readable: {', '.join(meter.describe()['zones'])}; use it with meter=rapl")
    ]


def cpu_findings(cpuinfo: Path = CPUINFO) -> list[Finding]:
    """The processor, its usable cores, and the extensions that its popcount kernels can use."""
    cores, quota = usable_cores(), cpu_quota()
    limit = f", {quota:g} cores' time by the container" if quota is not None else ""
    finding = Finding("CPU", "ok", f"{cpu_model(cpuinfo) or 'unknown'}, {cores or 'unknown'} cores{limit}")
    flags = cpu_flags(cpuinfo)
    if flags is None:
        return [finding, Finding("popcount", "limited", "unknown: this system has no /proc/cpuinfo")]
    present = [f"{flag} ({meaning})" for flag, meaning in _POPCOUNT_FLAGS.items() if flag in flags]
    if not present:
        return [finding, Finding("popcount", "limited", "no popcount instruction", "expect slow kernels")]
    return [finding, Finding("popcount", "ok", ", ".join(present))]


def kernel_findings() -> list[Finding]:
    """Which family of kernels lowered networks and searches use here."""
    subject = "integer kernels"
    here = machine()
    try:
        family = kernels()
    except ConfigError as error:
        return [Finding(subject, "limited", str(error), f"unset {VARIABLE}")]
    detail = f"{family} on {here.name}"
    if here.dots_bytes:
        detail += f"; byte products beyond {here.pairs} pairs of planes"
    chosen = VARIABLE in os.environ
    if family == "avx512" or chosen:
        return [Finding(subject, "ok", detail + (f" (chosen by {VARIABLE})" if chosen else ""))]
    return [Finding(subject, "limited", f"{detail}: no AVX-512 VPOPCNTDQ, popcounts take longer")]


def threading_findings() -> list[Finding]:
    """Which of numba's threading layers can be loaded; the first one is what numba takes."""
    subject = "numba threading"
    try:
        importlib.import_module("numba")
    except ImportError as error:
        return [Finding(subject, "missing", f"numba cannot be imported: {error}", "pip install numba")]
    loadable = [layer for layer, module in _THREADING_LAYERS.items() if _loads(f"numba.np.ufunc.{module}")]
    if not loadable:
        return [Finding(subject, "missing", "no threading layer loads", "reinstall numba")]
    if loadable == ["workqueue"]:
        return [
            Finding(subject, "limited", "workqueue: not safe for several threads at once", "pip install tbb")
        ]
    return [Finding(subject, "ok", ", ".join(loadable))]


def _loads(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def cache_findings() -> list[Finding]:
    """Whether compiled kernels can be kept for the next start."""
    import compressors

    chosen = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(chosen) if chosen else Path(str(compressors.__file__)).parent
    if _writable(folder):
        return [Finding("numba cache", "ok", f"{folder} can be written to")]
    detail = f"{folder} cannot be written to; numba uses the user's cache folder, or compiles at each start"
    return [
        Finding("numba cache", "limited", detail, "set NUMBA_CACHE_DIR to a folder that can be written to")
    ]


def _writable(folder: Path) -> bool:
    """Tried rather than asked: permission bits say nothing of read-only and full file systems."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return existing is not None
    except OSError:
        return False


def memory_findings() -> list[Finding]:
    """Memory that this process may use."""
    size = memory_bytes()
    if size is None:
        return [Finding("memory", "limited", "unknown on this system")]
    return [Finding("memory", "ok", f"{size / 2**30:.1f} GiB")]
