"""The buffers of the Bit Fusion chip: what CACTI gave its authors, carried over to banks of other sizes."""

from __future__ import annotations

from dataclasses import dataclass

from energy.cost import Band
from energy.technology import Sram, Technology, load_technology

_PUBLISHED_KB = {"weights": 64 / 512, "inputs": 32 / 16, "outputs": 16 / 32}  # of one bank
_PUBLISHED_BANKS = {"weights": 512, "inputs": 16, "outputs": 32}


@dataclass(frozen=True)
class Buffer:
    """One operand's buffer: capacity of a bank, energy per bit, area and leakage of all banks."""

    bank_kb: float
    read_j: Band
    write_j: Band
    area_mm2: Band
    leakage_w: Band


def _scaled(operand: str, capacity_kb: float, banks: int, technology: Technology, reference: Sram) -> Buffer:
    """The published buffer at another bank size; ``reference`` is the table of the published one's technology."""
    bank_kb, published_kb, sram = capacity_kb / banks, _PUBLISHED_KB[operand], technology.sram

    def scaled(constant: str, figure: str) -> Band:
        ratio = getattr(sram, figure)(bank_kb).nominal / getattr(reference, figure)(published_kb).nominal
        return technology[f"bitfusion.{constant}.{operand}"].band * ratio

    return Buffer(
        bank_kb=bank_kb,
        read_j=scaled("buffer_read", "read_j_per_bit") * 1e-12,
        write_j=scaled("buffer_write", "write_j_per_bit") * 1e-12,
        area_mm2=scaled("buffer_area", "area_mm2") * (banks / _PUBLISHED_BANKS[operand]),
        leakage_w=sram.leakage_w(bank_kb) * banks,
    )


def chip_buffers(technology: Technology, **shapes: tuple[float, int]) -> dict[str, Buffer]:
    """Operand -> buffer, from its capacity in KB and its number of banks."""
    reference = load_technology("cmos45").sram
    return {o: _scaled(o, kb, banks, technology, reference) for o, (kb, banks) in shapes.items()}


def within_table(operand: str, bank_kb: float, technology: Technology) -> bool:
    """Whether a bank is the published one, or its size lies within the technology's SRAM table."""
    return bank_kb == _PUBLISHED_KB[operand] or not technology.sram.extrapolates(bank_kb)
