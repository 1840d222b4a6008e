"""The kernels there are, in one order: from the least memory and the plainest arithmetic to the most.

The rule is the same for every layer: all kernels without an obstacle run it on the example, those that are wrong fall
out, and the fastest of the rest is taken; the order decides between equal times and how records read.
"""

from __future__ import annotations

from compressors.errors import UnknownName
from compressors.operators.device.dense import BFloat16, Float16, Float32, TensorFloat32
from compressors.operators.device.fused import FusedInt8, Popcount
from compressors.operators.device.int8 import Int8Product
from compressors.operators.device.kernel import DeviceKernel
from compressors.operators.device.sparse import SparseBFloat16, SparseFloat16, SparseInt8
from compressors.operators.device.unpacked import Unpacked

KERNELS: dict[str, type[DeviceKernel]] = {
    kernel.name: kernel
    for kernel in (
        Popcount,
        SparseInt8,
        FusedInt8,
        Int8Product,
        SparseBFloat16,
        SparseFloat16,
        Unpacked,
        BFloat16,
        Float16,
        TensorFloat32,
        Float32,
    )
}


def selected(names: tuple[str, ...] | None) -> dict[str, type[DeviceKernel]]:
    """The kernels of these names, or all, in their order.

    Raises:
        UnknownName: a name that no kernel has.
    """
    for name in names or ():
        if name not in KERNELS:
            raise UnknownName("kernel", name, KERNELS, key="device.kernels")
    return {name: kernel for name, kernel in KERNELS.items() if names is None or name in names}
