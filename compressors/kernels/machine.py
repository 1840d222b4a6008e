"""What this processor can do, which kernels that makes best, and what the user asked for instead."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import llvmlite.binding

from compressors.errors import ConfigError

VARIABLE = "DSE_KERNELS"
KERNELS = ("auto", "avx512", "portable", "plain")


@dataclass(frozen=True)
class Machine:
    """Vector instructions that matter here.

    Attributes:
        name: of the processor, as LLVM calls it.
        counts_words: counts the ones of sixteen 32-bit words at once (AVX-512 VPOPCNTDQ).
        dots_bytes: multiplies bytes and adds four products per lane (AVX-512 VNNI).
        pairs: planes of weights times planes of inputs up to which popcounts are faster than byte products.
    """

    name: str
    counts_words: bool
    dots_bytes: bool
    pairs: int


# Measured by tests/benchmarks/kernels.py (results/reference/kernels.csv): cores that count two vectors per cycle
# are faster by popcount up to four pairs of planes, those that count one up to two.
_PAIRS = {"znver4": 4, "znver5": 4}
_OTHER_PAIRS = 2


@cache
def machine() -> Machine:
    """The processor that this runs on."""
    name, features = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features()
    return Machine(
        name,
        bool(features.get("avx512vpopcntdq")),
        bool(features.get("avx512vnni")),
        _PAIRS.get(name, _OTHER_PAIRS),
    )


def kernels(choice: str | None = None) -> str:
    """The family of kernels in use: ``avx512``, ``portable`` or ``plain``.

    Args:
        choice: one of ``KERNELS``; None for what the environment variable ``DSE_KERNELS`` says, else ``auto``.

    Raises:
        ConfigError: no such family, or not on this processor.
    """
    chosen = choice or os.environ.get(VARIABLE) or "auto"
    key = "kernels" if choice else VARIABLE
    if chosen not in KERNELS:
        raise ConfigError(key, chosen, " or ".join(KERNELS))
    if chosen == "auto":
        return "avx512" if machine().counts_words else "portable"
    if chosen == "avx512" and not machine().counts_words:
        raise ConfigError(
            key, chosen, f"auto, portable or plain on this processor ({machine().name})", "it lacks VPOPCNTDQ"
        )
    return chosen
