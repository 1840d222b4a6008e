"""Settings of the associative processor."""

from __future__ import annotations

from dataclasses import dataclass

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range
from energy.associative.circuits import CELLS


@dataclass(frozen=True)
class AssociativeConfig:
    """Shape of the machine.

    ``cell`` is the kind of CAM cell; more than one of ``domains`` makes it a racetrack with ``ports`` per track.
    ``arithmetic`` is ``passes`` of compares and writes, or ``transverse`` reads that count the ones of ``operands``
    numbers and the carries at once (racetracks only). A search charges the match lines of the whole ``row``, or, with
    ``match_line: compared``, no more than the compared cells' share of them, as cost models without circuits count.
    Sums are shared within ``block_rows`` outputs and ``block_columns`` inputs, counted when the network is traced; 0
    shares nothing. Idle arrays take over outputs, but not fewer than ``outputs_per_array`` each, so that blocks stay
    whole. An addition is ``instruction_bits`` of program; what exceeds ``program_kb`` comes from DRAM, at
    ``dram_gb_s``, with every inference. ``float_units`` do what is left in floating point.
    """

    cell: str = "mtj"
    domains: int = 64
    ports: int = 2
    rows: int = 256
    columns: int = 64
    arrays_per_tile: int = 16
    tiles: int = 8
    arithmetic: str = "passes"
    operands: int = 2
    match_line: str = "row"
    block_rows: int = 16
    block_columns: int = 144
    outputs_per_array: int = 64
    instruction_bits: int = 48
    program_kb: float = 1024.0
    dram_gb_s: float = 12.8
    residual_bits: int = 16
    float_units: int = 16

    def __post_init__(self) -> None:
        for name, low, high in (
            ("domains", 1, 1024),
            ("ports", 1, 1024),
            ("rows", 1, 1 << 16),
            ("columns", 2, 1 << 16),
            ("arrays_per_tile", 1, 4096),
            ("tiles", 1, 4096),
            ("operands", 2, 5),
            ("block_rows", 0, 1 << 20),
            ("block_columns", 0, 1 << 20),
            ("outputs_per_array", 1, 1 << 20),
            ("instruction_bits", 1, 1024),
            ("residual_bits", 1, 32),
            ("float_units", 1, 1 << 20),
        ):
            check_range(f"accelerator.{name}", getattr(self, name), low, high)
        if self.cell not in CELLS:
            raise UnknownName("cell", self.cell, CELLS, key="accelerator.cell")
        for name, choices in (("arithmetic", ("passes", "transverse")), ("match_line", ("row", "compared"))):
            if getattr(self, name) not in choices:
                raise UnknownName(
                    name.replace("_", " "), getattr(self, name), choices, key=f"accelerator.{name}"
                )
        if self.ports > self.domains:
            raise ConfigError("accelerator.ports", self.ports, f"at most one per domain, of {self.domains}")
        if self.domains == 1 and (self.cell == "mtj" or self.arithmetic == "transverse"):
            raise ConfigError("accelerator.domains", 1, "more than one for mtj cells and transverse reads")
        for name in ("program_kb", "dram_gb_s"):
            if not 0 < getattr(self, name) <= 1e6:
                raise ConfigError(f"accelerator.{name}", getattr(self, name), "a positive number up to 1e6")

    @property
    def block(self) -> tuple[int, int] | None:
        """Rows and columns of weights that share sums."""
        return (self.block_rows, self.block_columns) if self.block_rows and self.block_columns else None

    @property
    def arrays(self) -> int:
        return self.arrays_per_tile * self.tiles

    @property
    def row_bits(self) -> int:
        """Bits of a row that hold words; one column is the carry's."""
        return (self.columns - 1) * self.domains
