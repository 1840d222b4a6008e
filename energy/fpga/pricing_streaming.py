"""A network streamed through a unit per layer, priced: see ``energy.accelerators.fpga``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from energy.fpga import streaming
from energy.fpga.pricing import ENCODING, PJ, Pricing
from energy.fpga.streaming import Folding, Stage
from energy.workload import FLOAT_BITS, LayerWork

_CONTROL_LUTS = 300
"""The constant of FINN's formula; these work whatever the data are."""


class StreamingPricing(Pricing):
    """A unit per layer."""

    def prepare(self, granularity: Mapping[str, int]) -> None:
        c = self.config
        self.stages = [streaming.stage(layer, ENCODING, c.threshold_bits, c.dsp) for layer in self.layers]

    def widest_sum(self) -> int:
        return max((s.unit.accumulator_bits for s in self.stages), default=FLOAT_BITS)

    def price(self) -> None:
        asked = self.config.images_per_s
        cycles = None if asked is None else self.clock.nominal / asked
        folded = streaming.fold(self.stages, self.device, self.config.share, cycles)
        self.taken = streaming.total(folded)
        slowest = max(f.cycles for f in folded)
        before = 0.0
        ends = streaming.end_cycles(self.stages, folded)
        for layer, stage, folding, end in zip(self.layers, self.stages, folded, ends, strict=True):
            self._book(layer, stage, folding)
            self.latency_s[layer.name] = (end - before) / self.clock.nominal
            self.busy[layer.name] = folding.cycles / slowest
            self.bound[layer.name] = "compute"
            before = end
        self._say(slowest, cycles)

    def _book(self, layer: LayerWork, stage: Stage, folding: Folding) -> None:
        unit, fabric = stage.unit, self.fabric
        changing = min(float(np.mean(layer.input.nonzero[1])), 1.0)
        luts = float(unit.luts(folding.pe, folding.simd)) - _CONTROL_LUTS
        self.book_luts(layer, folding.cycles * (_CONTROL_LUTS + luts * changing))
        products = float(unit.rows * unit.columns * stage.vectors)
        if unit.dsp:
            widest = max(unit.weight_bits, unit.input_bits)
            kind = 4 if widest <= 4 else 8 if widest <= 8 else 16
            product_j = fabric.hard(self.technology[f"pe_energy.{kind}/{kind}"].band)
            self.ledger.add(layer.name, "dsp slices", product_j * (products * changing * PJ))
        self.ledger.add(layer.name, "block ram", fabric.read_j * (products * unit.weight_bits), "weights")
        if stage.width:
            arriving = layer.inputs * stage.rows * stage.advance * stage.width * layer.input_bits
            window = layer.groups * layer.reduction * layer.pixels * layer.input_bits
            self.ledger.add(
                layer.name, "block ram", fabric.write_j * arriving + fabric.read_j * window, "inputs"
            )
        self.book_rescaling(layer, stage.rescale)

    def _say(self, slowest: int, cycles: float | None) -> None:
        self.notes.append(
            f"{self.clock.nominal / slowest:,.0f} images/s in a stream; latency is from an image's first value to its "
            "last result"
        )
        if cycles is not None and slowest > cycles:
            self.notes.append(
                f"{self.config.images_per_s:g} images/s are out of reach: every position takes a cycle at least"
            )
        grouped = [layer.name for layer in self.layers if layer.groups > 1]
        if grouped:
            self.notes.append(f"channel groups priced as matrix-vector units: {', '.join(grouped)}")
        self.notes.append("FIFOs between units and residual streams are left out, as in FINN's own estimates")
