"""Machines that skip what is zero in the weights: whole values, slices of them, or bit columns of runs (BitWave, BBS).

``skip`` says at what granularity:

* ``column``: elements take the same bit of ``group`` consecutive weights of a filter at once, each with its input of up
  to ``input_bits`` bits, and go through the columns that are not all zero (BitWave, arXiv 2507.12444);
* ``slice``: elements multiply slices of ``slice_bits`` bits that are not zero with inputs;
* ``value``: elements multiply weights of 8 bits that are not zero, slice by slice where they have more;
* ``none``: columns, all of them.

The filters of a pass work on the same inputs. With ``sync`` of ``filter`` each goes through its own weights and they
wait at the end of a pass; with ``run`` they wait for the slowest at every run of weights (columns alone). What is
counted are the tensors the network really has; the share of slots lost to waiting is among the notes.

Skipping has its price: values and slices stand behind a bitmap, columns behind one bit for each, and the signs of sign
and magnitude are stored run by run. Index bits travel with the weights, through every memory and DRAM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressors.errors import ConfigError, UnknownName
from compressors.registry import check_range
from compressors.slicing import ENCODINGS, GRANULARITIES
from energy.accelerators import register_accelerator
from energy.accelerators.element_array import ArrayConfig, ElementArray, Work, weight_planes, weight_width
from energy.activity import WeightActivity
from energy.bit_columns import ColumnActivity
from energy.datapath.parts import Parts, accumulator, lane, shifter
from energy.technology import Technology
from energy.workload import LayerWork

_SKIPS = ("none", "value", "slice", "column")
_VALUE = 8


@dataclass(frozen=True)
class ColumnsConfig(ArrayConfig):
    """What is skipped, in which digits, and who waits for whom."""

    encoding: str = "sign_magnitude"
    skip: str = "column"
    group: int = 8
    slice_bits: int = 2
    sync: str = "filter"
    input_bits: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"encoding": tuple(ENCODINGS), "skip": _SKIPS, "sync": ("filter", "run")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UnknownName(name, getattr(self, name), allowed, key=f"accelerator.{name}")
        check_range("accelerator.group", self.group, 1, 4096)
        check_range("accelerator.input_bits", self.input_bits, 1, 32)
        if self.slice_bits not in GRANULARITIES:
            raise ConfigError("accelerator.slice_bits", self.slice_bits, "1, 2, 4 or 8 bits")
        if self.by_column and self.lanes % self.group:
            raise ConfigError("accelerator.lanes", self.lanes, f"a multiple of group = {self.group}")

    @property
    def by_column(self) -> bool:
        return self.skip in ("none", "column")


@register_accelerator("columns", ColumnsConfig)
class Columns(ElementArray):
    """See the module's text."""

    def __init__(self, config: ColumnsConfig, technology: Technology) -> None:
        super().__init__(config, technology)
        self.config = config
        self.encodings = (config.encoding,)
        self.columns = ((config.group, config.filters),) if config.by_column else ()
        self._digit = {"value": _VALUE, "slice": config.slice_bits}.get(config.skip, 1)

    @property
    def element(self) -> Parts:
        shared_by = self.config.group if self.config.by_column else self.config.lanes
        return lane(self._digit, self.config.input_bits, shared_by)

    @property
    def column(self) -> Parts:
        digits = self._digit, self.config.input_bits
        return accumulator(*digits) + shifter(*digits)

    @property
    def extrapolation(self) -> str:
        if self._digit == self.config.input_bits:
            return ""
        return f"elements of {self._digit} x {self.config.input_bits} bits: parts of square ones of 2 bits and more"

    def work(self, layer: LayerWork) -> Work:
        weights = layer.weights[self.config.encoding]
        if self.config.by_column:
            return self._by_column(layer, weights)
        return self._by_digit(layer, weights)

    def full(self, weight_bits: int, input_bits: int) -> tuple[float, Parts]:
        """Nothing skipped."""
        c, e = self.config, self.element
        digits_i = -(-input_bits // c.input_bits)
        used_i = input_bits / (digits_i * c.input_bits)
        digits = -(-weight_planes(weight_bits, c.encoding) // self._digit) * digits_i
        return 1.0 / digits, Parts(e.products * used_i, (self._digit + used_i * c.input_bits) / 2, e.elements)

    def _by_column(self, layer: LayerWork, weights: WeightActivity) -> Work:
        c = self.config
        found = weights.columns.get(self.columns[0])
        notes: tuple[str, ...] = ()
        if found is None:
            found = _independent(layer, weights, c.group, self.tiling.passes(layer))
            notes = (f"bit columns of {c.group} weights were not counted: bits taken as independent",)
        units, every = c.lanes // c.group, found.runs * found.planes
        taken = found.nonzero if c.skip == "column" else np.full(layer.outputs, every)
        slowest = self.tiling.slowest(layer, taken)
        if c.sync == "run" and c.skip == "column":
            slowest = found.slowest
        stored = layer.outputs * layer.reduction * weight_width(layer, weights) * weights.terms
        if c.skip == "column":
            signs = layer.outputs * found.runs * c.group * weights.terms if weights.signs[1] else 0
            stored = int(found.nonzero.sum()) * c.group + layer.outputs * every + signs
        steps = np.ceil(slowest / units).sum()
        set_bits = float(weights.nonzero[1].sum())
        return self._counted(layer, weights, taken * c.group, steps, set_bits, float(stored), notes)

    def _by_digit(self, layer: LayerWork, weights: WeightActivity) -> Work:
        taken = weights.nonzero[self._digit].sum(0)
        steps = np.ceil(self.tiling.slowest(layer, taken) / self.config.lanes).sum()
        stored = weights.sparse_bits(self._digit, layer.outputs * layer.reduction)
        return self._counted(layer, weights, taken, steps, float(taken.sum()), float(stored), ())

    def _counted(
        self,
        layer: LayerWork,
        weights: WeightActivity,
        taken: np.ndarray,
        steps: float,
        live: float,
        stored: float,
        notes: tuple[str, ...],
    ) -> Work:
        """``taken [N]`` digits go through the elements in ``steps``, ``live`` of them are not zero."""
        c, e = self.config, self.element
        digits_i = -(-layer.input_bits // c.input_bits)
        used_i = layer.input_bits / (digits_i * c.input_bits)
        passes, tiles = self.tiling.passes(layer), self.tiling.tiles(layer)
        busy = float(taken.sum()) * digits_i * layer.pixels
        switching = live * digits_i * layer.pixels * float(layer.input.nonzero[_VALUE].max())
        parts = Parts(
            products=e.products * used_i * switching,
            operand_bits=(self._digit + used_i * c.input_bits) / 2 * busy,
            elements=e.elements * busy,
        )
        slots = steps * c.lanes * c.filters
        return Work(
            cycles=float(steps * digits_i * tiles),
            busy=busy,
            parts=parts + self.column * (busy / c.lanes),
            weight_bits=stored,
            weight_reads=stored * tiles,
            fed_bits=float(taken.mean() * passes * layer.pixels * layer.input_bits),
            rescalings=float(weights.terms),
            waiting=1.0 - float(taken.sum()) / slots if slots else 0.0,
            notes=notes,
        )


def _independent(layer: LayerWork, weights: WeightActivity, group: int, passes: int) -> ColumnActivity:
    """Columns to expect if the bits of a plane were set independently of each other; rounded up for each filter."""
    runs = -(-layer.reduction // group)
    empty = (1.0 - weights.nonzero[1] / layer.reduction) ** group
    columns = np.ceil(np.round(((1.0 - empty) * runs).sum(0), 9)).astype(np.int64)
    slowest = np.full(passes, columns.max(initial=0))
    return ColumnActivity(runs, len(weights.nonzero[1]), columns, slowest)
