"""Devices by name: what they hold, how their block RAM is shaped, and how much of it a design takes."""

from __future__ import annotations

from dataclasses import dataclass

from compressors.errors import UnknownName
from energy.fpga.finn import bram18
from energy.technology import Technology

FABRICS = {"xc7z020": "xc7", "zu3eg": "xc7", "zu9eg": "xc7", "u250": "xc7", "ice40hx8k": "ice40"}
"""Device -> the synthesised fabric whose LUTs it has (``energy.fpga.fabric.TARGETS``)."""
_LATTICE_BLOCK = ((256, 16), (512, 8), (1024, 4), (2048, 2))
_SMALL = 64
"""Words that a LUT holds as memory, on Xilinx fabrics."""


@dataclass(frozen=True)
class Resources:
    """LUTs, block RAMs and DSP slices."""

    luts: float = 0.0
    blocks: float = 0.0
    dsps: float = 0.0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.luts + other.luts, self.blocks + other.blocks, self.dsps + other.dsps)

    def __mul__(self, factor: float) -> Resources:
        return Resources(self.luts * factor, self.blocks * factor, self.dsps * factor)


@dataclass(frozen=True)
class Device:
    """A device of ``devices/fpga.yaml``.

    Attributes:
        name: in that file.
        holds: what there is of everything.
        fabric: see ``FABRICS``.
    """

    name: str
    holds: Resources
    fabric: str

    @classmethod
    def of(cls, technology: Technology, name: str) -> Device:
        """Raises :class:`UnknownName` for a device that the table does not have."""
        if name not in FABRICS:
            raise UnknownName("device", name, FABRICS, key="accelerator.device")
        luts, blocks = (technology[f"fpga.{kind}.{name}"].value for kind in ("luts", "blocks"))
        dsps = technology.constants.get(f"fpga.dsps.{name}")
        return cls(name, Resources(luts, blocks, 0.0 if dsps is None else dsps.value), FABRICS[name])

    def share(self, taken: Resources) -> float:
        """The largest share of any kind; infinite where there is none of what is taken."""
        shares = []
        for kind in ("luts", "blocks", "dsps"):
            there, wanted = getattr(self.holds, kind), getattr(taken, kind)
            shares.append(wanted / there if there else float("inf") if wanted else 0.0)
        return max(shares)

    def memory(self, words: int, width: int) -> Resources:
        """A memory of ``words`` of ``width`` bits: in LUTs where it is shallow and they can, else in block RAM."""
        if self.fabric == "ice40":
            shapes = (-(-words // depth) * -(-width // bits) for depth, bits in _LATTICE_BLOCK)
            return Resources(blocks=float(min(shapes)))
        if words <= _SMALL:
            return Resources(luts=float(width))
        return Resources(blocks=float(bram18(words, width)))

    def taken(self, used: Resources) -> dict[str, tuple[float, float]]:
        """Kind -> how many are taken, and how many there are."""
        names = {"LUT": "luts", "block RAM": "blocks", "DSP": "dsps"}
        return {name: (getattr(used, kind), getattr(self.holds, kind)) for name, kind in names.items()}
