"""Plain facts of the machine: processor, usable cores, memory. Standard library alone, and never an error."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def read_text(path: Path) -> str | None:
    """The text of a file, None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def cpu_model(cpuinfo: Path = CPUINFO) -> str | None:
    """The processor's own name, or what the platform calls it."""
    for line in (read_text(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or None


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str] | None:
    """Instruction set extensions as Linux names them; None where there is no ``/proc/cpuinfo``."""
    for line in (read_text(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return None


def usable_cores() -> int | None:
    """Logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def cpu_quota(cgroup: Path = CGROUP) -> float | None:
    """Cores' worth of time that the container allows (cgroup v2); None without a limit."""
    parts = (read_text(cgroup / "cpu.max") or "").split()
    if len(parts) == 2 and all(part.isdigit() for part in parts) and int(parts[1]) > 0:
        return int(parts[0]) / int(parts[1])
    return None


def memory_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Memory this process may use: the machine's, or the container's limit where that is less."""
    total = _total_memory(meminfo)
    limit = (read_text(cgroup / "memory.max") or "").strip()
    known = [value for value in (total, int(limit) if limit.isdigit() else None) if value]
    return min(known) if known else None


def _total_memory(meminfo: Path) -> int | None:
    for line in (read_text(meminfo) or "").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "MemTotal:" and words[1].isdigit():
            return int(words[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
