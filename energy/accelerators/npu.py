"""An array of elements with whatever memories one describes: layers run as the loop nest that costs least.

The description lists memories from the innermost outwards: what each keeps, its size, how wide its ports are, whether
there is one for every element or one for the array. Energies are those of the technology's table of memories, or given.
DRAM is the outermost one. ``energy.accelerators.mapped`` says how layers are priced, ``energy.mapping`` how they are
mapped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range
from energy.accelerators import register_accelerator
from energy.accelerators.mapped import MappedArray
from energy.accelerators.mapped_design import Design
from energy.cost import OPERANDS, Band
from energy.mapping.dataflows import DATAFLOWS, dataflow
from energy.mapping.machine import BUFFERING, NETWORKS, Axis, Dataflow, Level, Machine, Network
from energy.technology import Technology

_RESERVED = ("pe array", "interconnect", "post-processing", "clock", "leakage", "dram")
_WHERE = ("element", "array")


@dataclass(frozen=True)
class MemorySettings:
    """One memory.

    ``kb`` is the size of one instance, cut into ``banks``; ``per`` says whether every ``element`` has one or the
    ``array``. ``read_bits`` and ``write_bits`` are what its ports carry per cycle, 0 as much as is asked for.
    ``read_pj`` and ``write_pj`` are energies per bit, 0 those of the technology. ``buffering`` is ``double`` (half is
    filled while the other half is in use), ``single`` (elements wait) or ``stream`` (what is new takes the place of
    what is used up).
    """

    name: str
    operands: tuple[str, ...]
    kb: float
    per: str = "array"
    read_bits: float = 0.0
    write_bits: float = 0.0
    read_pj: float = 0.0
    write_pj: float = 0.0
    buffering: str = "double"
    banks: int = 1

    def __post_init__(self) -> None:
        key = f"accelerator.memories.{self.name}"
        object.__setattr__(self, "operands", tuple(self.operands))
        if not isinstance(self.name, str) or self.name in _RESERVED:
            raise ConfigError(key, self.name, f"a name other than {', '.join(_RESERVED)}")
        for operand in self.operands:
            if operand not in OPERANDS:
                raise UnknownName("operand", operand, OPERANDS, key=f"{key}.operands")
        for name, known in (("per", _WHERE), ("buffering", BUFFERING)):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known, key=f"{key}.{name}")
        for name in ("kb", "read_bits", "write_bits", "read_pj", "write_pj"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ConfigError(f"{key}.{name}", value, "a number that is not negative")
        if not 0 < self.kb <= 1 << 20:
            raise ConfigError(f"{key}.kb", self.kb, "a capacity up to 1 GB")
        check_range(f"{key}.banks", self.banks, 1, 1 << 16)

    def level(self, technology: Technology) -> Level:
        """The memory with the energies it has in ``technology``."""
        sram = technology.sram
        given = [Band(pj, pj, pj) * 1e-12 if pj else None for pj in (self.read_pj, self.write_pj)]
        return Level(
            self.name,
            self.operands,
            given[0] or sram.read_j_per_bit(self.kb / self.banks),
            given[1] or sram.write_j_per_bit(self.kb / self.banks),
            capacity_bits=self.kb * 8 * 1024,
            read_bits=self.read_bits or None,
            write_bits=self.write_bits or None,
            buffering=self.buffering,
        )


def parse_memories(given: Sequence[Any]) -> tuple[MemorySettings, ...]:
    """Memories from plain mappings.

    Raises:
        ConfigError, UnknownName: a key is missing, unknown, or out of range.
    """
    fields = [f.name for f in dataclasses.fields(MemorySettings)]
    found = []
    for entry in given:
        if isinstance(entry, MemorySettings):
            found.append(entry)
            continue
        if not isinstance(entry, Mapping):
            raise ConfigError("accelerator.memories", entry, "a mapping with name, operands and kb")
        for key in entry:
            if key not in fields:
                raise UnknownName("key of a memory", key, fields, key="accelerator.memories")
        missing = [key for key in ("name", "operands", "kb") if key not in entry]
        if missing:
            raise ConfigError("accelerator.memories", dict(entry), f"{missing[0]!r} too")
        found.append(MemorySettings(**entry))
    return tuple(found)


@dataclass(frozen=True)
class NpuConfig:
    """The array, its memories, and how layers may be mapped onto them.

    ``memories`` are as of :class:`MemorySettings`, those of elements first. ``network`` says how words reach the
    elements: ``bus``, ``systolic`` (from element to element) or ``unicast``. ``along_rows`` and ``along_columns`` may
    name loops that run there instead of those of the dataflow. ``slack`` is how much longer than the fastest a mapping
    may keep the array busy.
    """

    memories: tuple[MemorySettings, ...] = ()
    rows: int = 32
    columns: int = 32
    network: str = "systolic"
    dataflows: tuple[str, ...] = ("weight_stationary",)
    along_rows: tuple[str, ...] = ()
    along_columns: tuple[str, ...] = ()
    slack: float = 1.5
    precision: int = 8
    accumulator_bits: int = 32
    zero_gating: bool = False
    keep_activations: bool = True
    dram_bits: int = 192
    residual_bits: int = 16
    batch: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "memories", parse_memories(self.memories))
        for name in ("dataflows", "along_rows", "along_columns"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        ranges = {
            "rows": (1, 4096),
            "columns": (1, 4096),
            "accumulator_bits": (8, 64),
            "dram_bits": (1, 1 << 20),
            "residual_bits": (1, 32),
            "batch": (1, 4096),
        }
        for name, (low, high) in ranges.items():
            check_range(f"accelerator.{name}", getattr(self, name), low, high)
        if self.precision not in (2, 4, 8, 16):
            raise ConfigError("accelerator.precision", self.precision, "2, 4, 8 or 16")
        if not 1 <= self.slack < math.inf:
            raise ConfigError("accelerator.slack", self.slack, "a number of at least 1")
        if self.network not in NETWORKS:
            raise UnknownName("network", self.network, NETWORKS, key="accelerator.network")
        if not self.dataflows:
            raise ConfigError("accelerator.dataflows", self.dataflows, f"some of {', '.join(DATAFLOWS)}")
        inside = [memory.per == "element" for memory in self.memories]
        if not self.memories or sorted(inside, reverse=True) != inside:
            names = [memory.name for memory in self.memories]
            raise ConfigError("accelerator.memories", names, "at least one memory, those of elements first")


def array_machine(config: NpuConfig, technology: Technology) -> Machine:
    """The machine of ``config``: axes lie between the memories of elements and those of the array."""
    pitch_mm = math.sqrt(technology[f"pe_area.{config.precision}/{config.precision}"].value) * 1e-3
    step_j = technology["wire.energy"].band * (pitch_mm * 1e-12)
    # a word on a bus passes half of the array's elements along a row and a column on its way
    reach = 1.0 if config.network == "systolic" else (config.rows + config.columns) / 2
    dram_j = technology["dram_energy"].band * 1e-12
    dram = Level("dram", OPERANDS, dram_j, dram_j, None, config.dram_bits, shared_port=True)
    levels = (*(memory.level(technology) for memory in config.memories), dram)
    outside = next((m.name for m in config.memories if m.per == "array"), "dram")
    axes = (Axis("rows", config.rows, outside), Axis("columns", config.columns, outside))
    return Machine(levels, axes, ((outside, Network(config.network, step_j * reach)),))


def array_flows(config: NpuConfig, machine: Machine) -> tuple[Dataflow, ...]:
    """The dataflows of ``config``."""
    flows = (dataflow(name, machine, config.along_rows, config.along_columns) for name in config.dataflows)
    return tuple(dataclasses.replace(flow, slack=config.slack) for flow in flows)


@register_accelerator("npu", NpuConfig)
class Npu(MappedArray):
    """See the module's text."""

    def __init__(self, config: NpuConfig, technology: Technology) -> None:
        self.config = config
        machine = array_machine(config, technology)
        design = Design(
            machine,
            array_flows(config, machine),
            config.precision,
            config.accumulator_bits,
            config.zero_gating,
            config.keep_activations,
            config.residual_bits,
            config.batch,
            banks=tuple(memory.banks for memory in config.memories),
        )
        super().__init__(design, technology)
