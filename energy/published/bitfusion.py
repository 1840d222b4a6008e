"""Bit Fusion's simulated networks: cycles of every layer, and speed and energy against Eyeriss.

The layers, the sweep over five arrays and the comparison are facts of the authors' repository; the rules of their
simulator are those of ``energy.accelerators.fused_tiling``. Constants of the chip are the authors' own (CACTI, their
synthesis of a 16 x 1 array), so every row is calibrated; nothing was fitted to these figures. Times and energies of
Eyeriss are taken as published.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from energy.accelerators.fused_systolic import FusedSystolic, FusedSystolicConfig
from energy.accelerators.fused_tiling import FusedLayer, Tiling, fastest_tiling
from energy.published import Check, register_target
from energy.technology import load_technology

SWEEP = "github.com/hsharma35/bitfusion, results/bitfusion-eyeriss-sim-sweep.csv"
COMPARISON = "github.com/hsharma35/bitfusion, bitfusion-generate-graphs.ipynb"
IMAGES = 16
DRAM_PJ = 15.0
"""Per bit, in the published energies and in the search of tilings behind them."""


PRINTED_MW = 16 * 16 / 1000
"""Printed mW per real one, of both chips alike: energy in nJ of 16 images, over ms of one image, times 16e-6."""


@dataclass(frozen=True)
class Compared:
    """Time per image and power; powers as they are printed, see ``PRINTED_MW``."""

    eyeriss_ms: float
    eyeriss_mw: float
    bitfusion_ms: float
    bitfusion_mw: float

    @property
    def speedup(self) -> float:
        return self.eyeriss_ms / self.bitfusion_ms

    @property
    def saving(self) -> float:
        """Eyeriss' energy over Bit Fusion's."""
        return self.speedup * self.eyeriss_mw / self.bitfusion_mw


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def networks() -> dict[str, dict[str, FusedLayer]]:
    """Network -> layer -> shape and formats, for a batch of 16."""
    data = yaml.safe_load(_text("bitfusion_networks.yaml"))
    found: dict[str, dict[str, FusedLayer]] = {}
    for network, layers in data["layers"].items():
        image_layers = data["image_layers"].get(network, ())
        found[network] = {}
        for name, kernel, output, stride, channels, filters, input_bits, weight_bits in layers:
            found[network][name] = FusedLayer(
                images=IMAGES,
                kernel=(kernel, kernel),
                output=(output, output),
                stride=(stride, stride),
                dilation=(1, 1),
                channels=channels,
                filters=filters,
                input_bits=input_bits,
                weight_bits=weight_bits,
                gathered=name in image_layers,
            )
    return found


@cache
def comparison() -> dict[str, Compared]:
    """Network -> published figures of both chips."""
    data = yaml.safe_load(_text("bitfusion_networks.yaml"))
    return {network: Compared(*figures) for network, figures in data["comparison"].items()}


def chip(columns: int, dram_bits: int) -> FusedSystolic:
    """The chip with 16 rows of elements; its buffers grow with the columns."""
    scale = columns / 32
    config = FusedSystolicConfig(
        columns=columns,
        dram_bits=dram_bits,
        weight_kb=64 * scale,
        input_kb=32 * scale,
        output_kb=16 * scale,
    )
    return FusedSystolic(config, load_technology("cmos45", {"dram_energy": DRAM_PJ}))


def _rows(name: str) -> Iterator[dict[str, str]]:
    lines = (line for line in _text(name).splitlines() if not line.startswith("#"))
    return csv.DictReader(lines)


def _chips(labels: set[str]) -> dict[str, FusedSystolic]:
    """Chips by what the tables call them, such as ``16x32@192``: rows, columns, bits of DRAM per cycle."""
    shapes = {label: label.removeprefix("16x").split("@") for label in labels}
    return {label: chip(int(columns), int(bits)) for label, (columns, bits) in shapes.items()}


def _tiling(machine: FusedSystolic, layer: FusedLayer) -> Tiling:
    tiling = fastest_tiling(layer, machine.array)
    assert tiling is not None, layer
    return tiling


@register_target("bitfusion-cycles", "Bit Fusion: simulated cycles and traffic, five arrays", calibrated=0.0)
def cycles() -> list[Check]:
    """Cycles of computation per layer, then cycles and bits of whole networks: integers that should be equal."""
    layers = list(_rows("bitfusion_cycles.csv"))
    chips = _chips(layers[0].keys() - {"network", "layer"})
    checks = []
    for row in layers:
        layer = networks()[row["network"]][row["layer"]]
        for label, machine in sorted(chips.items()):
            name = f"{row['network']} {row['layer']}, {label}, compute"
            ours = _tiling(machine, layer).compute
            checks.append(Check(name, "cycles", int(row[label]), ours, "calibrated", SWEEP))
    for row in _rows("bitfusion_traffic.csv"):
        tilings = [_tiling(chips[row["array"]], layer) for layer in networks()[row["network"]].values()]
        figures = {
            "cycles": ("cycles", sum(t.cycles for t in tilings)),
            "buffer_bits": ("bit", sum(sum(t[3:9]) for t in tilings)),
            "dram_bits": ("bit", sum(t.dram_read + t.dram_written for t in tilings)),
        }
        for column, (unit, ours) in figures.items():
            name = f"{row['network']}, {row['array']}, {column.replace('_', ' ')}"
            checks.append(Check(name, unit, int(row[column]), ours, "calibrated", SWEEP))
    return checks


@register_target("bitfusion-eyeriss", "Bit Fusion against Eyeriss: speed and energy", calibrated=0.05)
def against_eyeriss() -> list[Check]:
    """Ratios per network and their geometric means; array, buffers and DRAM are counted, as in the publication."""
    machine = chip(columns=32, dram_bits=192)
    clock_hz = machine.technology["clock_hz"].value
    ratios: dict[str, list[tuple[float, float]]] = {"speed": [], "energy": []}
    checks = []
    for network, published in comparison().items():
        layers = networks()[network].values()
        time_ms = sum(_tiling(machine, layer).cycles for layer in layers) / IMAGES / clock_hz * 1e3
        energy_mj = sum(machine.energy_j(layer).nominal for layer in layers) / IMAGES * 1e3
        power_mw = energy_mj / time_ms * 1e3 * PRINTED_MW
        ours = Compared(published.eyeriss_ms, published.eyeriss_mw, time_ms, power_mw)
        ratios["speed"].append((published.speedup, ours.speedup))
        ratios["energy"].append((published.saving, ours.saving))
        for what, pairs in ratios.items():
            checks.append(Check(f"{network}, {what}", "x", *pairs[-1], "calibrated", COMPARISON))
    for what, pairs in ratios.items():
        means = (math.prod(values) ** (1 / len(values)) for values in zip(*pairs, strict=True))
        checks.append(Check(f"geometric mean, {what}", "x", *means, "calibrated", COMPARISON))
    return checks
