"""An array of adders that a layer's shared sums are mapped to: no multipliers, and each sum is made once.

A layer is its adder graphs (``evaluation.reuse_block`` counts them): additions with a wired shift, shared between the
outputs of a block. ``filters * lanes`` adders of ``width`` bits work on one position of the output at a time,
``pixels`` such groups on as many positions, all running the same program; every operation takes its operands from
registers and leaves its sum in one. Adders narrower than sums are on average take more cycles, for every sum as many:
how wide the sums along a chain are is not counted. A group is done after as many cycles as it has operations for each
adder, and not before the deepest chain of additions.

The program lies in the weight buffer in the weights' place: for every addition two operands, their signs and a shift.
Sums are scaled and combined behind the array, as ``scalings`` and ``combining`` say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressors.errors import ConfigError
from compressors.registry import check_range
from energy.accelerators import register_accelerator
from energy.accelerators.element_array import ArrayConfig, ElementArray, Work
from energy.datapath.parts import Parts
from energy.technology import Technology
from energy.workload import LayerWork

_SHIFT_BITS = 4


@dataclass(frozen=True)
class AdderGraphConfig(ArrayConfig):
    """Bits of an adder, and the weights, rows by columns, that share sums."""

    width: int = 16
    block_rows: int = 16
    block_columns: int = 144

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("accelerator.width", self.width, 1, 64)
        check_range("accelerator.block_rows", self.block_rows, 1, 1 << 20)
        check_range("accelerator.block_columns", self.block_columns, 1, 1 << 20)


@register_accelerator("addergraph", AdderGraphConfig)
class AdderGraphArray(ElementArray):
    """See the module's text."""

    encodings = ("csd",)  # of layers whose terms are counted; graphs are built from canonical signed digits
    needs_reuse = True

    def __init__(self, config: AdderGraphConfig, technology: Technology) -> None:
        super().__init__(config, technology)
        self.config = config
        self.reuse_block = (config.block_rows, config.block_columns)

    @property
    def element(self) -> Parts:
        """An adder, and registers for what it takes and leaves."""
        return Parts(self.config.width, self.config.width, 1.0)

    @property
    def column(self) -> Parts:
        return Parts()

    @property
    def extrapolation(self) -> str:
        return "adders and their registers: parts of multipliers of 2 bits and more; wires between them are left out"

    def work(self, layer: LayerWork) -> Work:
        """See the module's text.

        Raises:
            ConfigError: the layer's sharing was not counted.
        """
        c, reuse = self.config, layer.reuse
        if reuse is None:
            raise ConfigError(
                f"reuse of {layer.name}",
                None,
                f"counted additions; trace the network with evaluation.reuse_block={list(self.reuse_block)}",
            )
        average = reuse.adder_bits / reuse.adders if reuse.adders else 0.0
        rounds = math.ceil(average / c.width)
        adders = c.filters * c.lanes
        per_tile = max(math.ceil(reuse.adders * rounds / adders), reuse.depth * rounds)
        busy = float(reuse.adders * rounds * layer.pixels)
        bits = float(reuse.adder_bits * layer.pixels)
        terms = layer.weights[self.encodings[0]].terms
        program = reuse.adders * self._operation_bits(layer, terms)
        tiles = self.tiling.tiles(layer)
        return Work(
            cycles=float(per_tile * tiles),
            busy=busy,
            parts=Parts(bits, bits, busy),
            weight_bits=float(program),
            weight_reads=float(program * tiles),
            fed_bits=float(layer.groups * layer.reduction * layer.pixels * layer.input_bits),
            rescalings=(reuse.scalings + reuse.combining) / layer.outputs,
        )

    def full(self, weight_bits: int, input_bits: int) -> tuple[float, Parts]:
        """Nothing shared: an addition for every digit, a third of the bits in canonical signed digits."""
        digits = 1.0 if weight_bits <= 2 else weight_bits / 3
        return 1.0 / digits, self.element

    def _operation_bits(self, layer: LayerWork, terms: int) -> int:
        """Two operands of those that a block knows, their signs, and a shift."""
        columns = min(layer.reduction, self.config.block_columns)
        rows = -(-(layer.outputs // layer.groups) // self.config.block_rows)  # channel groups share nothing
        blocks = terms * layer.groups * rows * -(-layer.reduction // columns)
        known = columns + -(-layer.reuse.adders // blocks)
        return 2 * (math.ceil(math.log2(known + 1)) + 1) + _SHIFT_BITS
