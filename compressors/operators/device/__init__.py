"""A compressed network on a GPU: each layer on the kernel that suits its format best.

What a kernel is stands in ``kernel.py``, which there are and in which order in ``registry.py``, how one is chosen in
``choice.py``, how a network is put together in ``network.py``. On a processor all of it runs but for what a GPU alone
has: CUDA graphs, 2:4 sparse tensor cores, and the kernels written in Numba outside its simulator.
"""

from __future__ import annotations

from compressors.operators.device.choice import KernelChoice, NoKernel
from compressors.operators.device.network import DeviceNetwork, KernelMismatch, lower_for_device
from compressors.operators.device.settings import DeviceSettings

__all__ = [
    "DeviceNetwork",
    "DeviceSettings",
    "KernelChoice",
    "KernelMismatch",
    "NoKernel",
    "lower_for_device",
]
