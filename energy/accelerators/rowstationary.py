"""A row-stationary array as Eyeriss (Chen et al., ISCA 2016, JSSC 2017): filter rows stay, sums move up a column.

The machine. Every element has three scratchpads: a window of inputs, filter rows, and partial sums. It convolves one
row of the filter with one row of the input, for several channels and filters in turn, and slides along. A set of
elements, filter rows by output rows, makes a plane of outputs: a filter row is shared along a row of the array, an
input row along a diagonal, partial sums are added up along a column. Further sets on the rest of the array take other
channels or filters. A global buffer holds inputs and partial sums; filters come from DRAM into the scratchpads. Every
layer reads its input from DRAM and writes its output there, run-length coded if one asks for it: a value that is not
zero takes five bits more for the zeros before it, and three such pairs a bit together.

Besides what ``energy.accelerators.mapped`` prices, every element costs the chip's clock and control in every cycle:
a constant fitted to the chip (``eyeriss.clock``), scaled to the technology's node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compressors.errors import ConfigError
from compressors.registry import check_range
from energy.accelerators import register_accelerator
from energy.accelerators.mapped import MappedArray
from energy.accelerators.mapped_design import Design
from energy.accelerators.npu import MemorySettings, NpuConfig, array_machine
from energy.cost import Cost
from energy.mapping.dataflows import dataflow
from energy.technology import Technology
from energy.technology.scaling import scale_energy, usual_vdd
from energy.workload import LayerWork, Workload

_RUN_BITS = 5 + 1 / 3
"""Beside a value that is not zero: the run of zeros before it, and a third of a flag."""


@dataclass(frozen=True)
class RowStationaryConfig:
    """Sizes of the array and its memories; words are ``precision`` bits wide.

    ``input_words``, ``weight_words`` and ``sum_words`` are what an element's scratchpads hold; ``buffer_bits`` and
    ``dram_bits`` are per cycle. ``run_length_coding`` is that of activations in DRAM. ``slack`` is how much longer than
    the fastest a mapping may keep the array busy.
    """

    rows: int = 12
    columns: int = 14
    precision: int = 16
    accumulator_bits: int = 16
    input_words: int = 12
    weight_words: int = 224
    sum_words: int = 24
    buffer_kb: float = 108.0
    buffer_bits: int = 0
    dram_bits: int = 64
    run_length_coding: bool = True
    zero_gating: bool = True
    slack: float = 1.1
    residual_bits: int = 16
    batch: int = 1

    def __post_init__(self) -> None:
        for name in ("input_words", "weight_words", "sum_words"):
            check_range(f"accelerator.{name}", getattr(self, name), 1, 1 << 20)
        check_range("accelerator.buffer_bits", self.buffer_bits, 0, 1 << 20)
        if not 0 < self.buffer_kb <= 1 << 20:
            raise ConfigError("accelerator.buffer_kb", self.buffer_kb, "a capacity up to 1 GB")
        assert self.array is not None  # building it checks the rest

    @property
    def array(self) -> NpuConfig:
        """The same as an array with described memories."""
        pads = {
            "sum scratchpad": ("outputs", self.sum_words * self.accumulator_bits),
            "weight scratchpad": ("weights", self.weight_words * self.precision),
            "input scratchpad": ("inputs", self.input_words * self.precision),
        }
        ports = {"read_bits": self.buffer_bits, "write_bits": self.buffer_bits}
        memories = [
            MemorySettings(name, (operand,), bits / 8192, "element", buffering="stream")
            for name, (operand, bits) in pads.items()
        ]
        memories.append(
            MemorySettings(
                "global buffer", ("inputs", "outputs"), self.buffer_kb, **ports, buffering="stream"
            )
        )
        return NpuConfig(
            tuple(memories),
            self.rows,
            self.columns,
            network="bus",
            dataflows=("row_stationary",),
            slack=self.slack,
            precision=self.precision,
            accumulator_bits=self.accumulator_bits,
            zero_gating=self.zero_gating,
            keep_activations=False,
            dram_bits=self.dram_bits,
            residual_bits=self.residual_bits,
            batch=self.batch,
        )


def design(config: RowStationaryConfig, technology: Technology) -> Design:
    """The machine, its dataflow and its clock."""
    array = config.array
    machine = array_machine(array, technology)
    loops = (("sum scratchpad", ("K",)), ("weight scratchpad", ("C", "FX")))
    flow = replace(dataflow("row_stationary", machine), loops=loops, slack=config.slack)
    clock, node_nm = technology["eyeriss.clock"], technology.node_nm
    overhead_pj = scale_energy(clock.band, clock.node_nm, clock.vdd_v, node_nm, usual_vdd(node_nm))
    return Design(
        machine,
        (flow,),
        config.precision,
        config.accumulator_bits,
        config.zero_gating,
        keep_activations=False,
        residual_bits=config.residual_bits,
        batch=config.batch,
        overhead_j=overhead_pj * 1e-12,
    )


@register_accelerator("rowstationary", RowStationaryConfig)
class RowStationary(MappedArray):
    """See the module's text."""

    def __init__(self, config: RowStationaryConfig, technology: Technology) -> None:
        self.config = config
        super().__init__(design(config, technology), technology)

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; the granularity means nothing here."""
        found = super().cost(workload, granularity)
        note = "clock and control are fitted to the Eyeriss chip at 65 nm, not to another design or node"
        return replace(found, notes=(*found.notes, note))

    def _dram_share(self, layer: LayerWork | None) -> float:
        if not self.config.run_length_coding or layer is None or layer.input is None:
            return 1.0
        density = float(layer.input.nonzero[max(layer.input.nonzero)].max())
        return min(1.0, density * (1.0 + _RUN_BITS / layer.input_bits))
