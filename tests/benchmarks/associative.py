"""The seed paper's machine on its network: ternary ResNet-18 with 4-bit activations on an associative processor.

    python tests/benchmarks/associative.py            a few minutes, one core
    python tests/benchmarks/associative.py --quick    under a minute, four layers

Per layer: additions before and after sharing, passes, and modelled energy on racetrack and CAM cells beside a crossbar
of the same technology. The ratio of the totals stands beside the 7.5 of arXiv 2401.12630, whose constants, sparsity and
accuracy tables are not known: weights are random ternary ones, and every assumption is in the notes. Writes
``associative.csv`` and a figure beside it to ``results/reference``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's code, whatever is installed

import yaml  # noqa: E402

from dse.errors import UnknownName  # noqa: E402
from dse.reference import Row, show, write_table  # noqa: E402
from energy.accelerators import Accelerator, make_accelerator  # noqa: E402
from energy.cost import Cost  # noqa: E402
from energy.technology import Technology, load_technology  # noqa: E402
from energy.workload import Workload  # noqa: E402
from tests.benchmarks.associative_figure import draw  # noqa: E402
from tests.benchmarks.associative_network import (  # noqa: E402
    BLOCK,
    IMAGE_BITS,
    Layer,
    Shape,
    resnet18,
    ternary_layer,
)
from tests.benchmarks.processes import ROOT  # noqa: E402

SPARSITIES = (0.8, 0.5, 0.9)
"""The first one per layer; the others in all. The paper's are not known."""
SEED_RATIO = 7.5
INSTRUCTION_BITS = 48
CROSSBAR = {
    "node_nm": 45.0,
    "vdd_v": 0.9,
    "cell": "rram",
    "rows": 128,
    "columns": 128,
    "cell_bits": 1,
    "encoding": "differential",
    "dac_bits": 1,
    "arrays": 2048,
}
"""Of the same node: ternary weights in a pair of cells, inputs bit by bit, converters that keep every sum exact."""
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, float]]] = {
    "racetrack": ("associative_rtm", {}, {}),
    "racetrack, shifts a tenth": ("associative_rtm", {}, {"racetrack.shift_energy": 0.0609}),
    "racetrack, shifts a tenth, compared cells alone": (
        "associative_rtm",
        {"match_line": "compared"},
        {"racetrack.shift_energy": 0.0609},
    ),
    "racetrack, transverse reads of 5": ("associative_rtm", {"arithmetic": "transverse", "operands": 5}, {}),
    "FeFET": ("associative_fefet", {}, {}),
    "CMOS": ("associative_cmos", {}, {}),
    "RRAM": ("associative_rram", {}, {}),
}


def shipped(
    name: str, technology: Technology, settings: Mapping[str, Any] | None = None
) -> Accelerator | None:
    """The machine of ``configs/accelerator/NAME.yaml``, changed by ``settings``; None without that file."""
    path = ROOT / "configs" / "accelerator" / f"{name}.yaml"
    if not path.is_file():
        return None
    entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    return make_accelerator(entry["kind"], {**entry["settings"], **(settings or {})}, technology, name)


def crossbar(technology: Technology) -> Accelerator | None:
    """The crossbar to compare with; None where there is no such model."""
    try:
        return make_accelerator("crossbar", CROSSBAR, technology)
    except UnknownName:
        return None


@dataclass(frozen=True)
class Priced:
    """Costs of all layers, by machine; ``crossbar`` is None, with the reason, where it could not be priced."""

    layers: list[Layer]
    costs: dict[str, Cost]
    crossbar: Cost | None
    crossbar_name: str

    def total_j(self, machine: str) -> float:
        return self.costs[machine].total_energy_j.nominal


def price(shapes: Sequence[Shape], sparsity: float) -> Priced:
    """Make the layers and price them on every machine."""
    technology = load_technology("cmos45")
    found = crossbar(technology)
    encodings = dict.fromkeys(("csd", *(found.encodings if found else ())))
    layers = [ternary_layer(s, sparsity, list(encodings), seed) for seed, s in enumerate(shapes)]
    work = Workload(tuple(layer.work for layer in layers), 224 * 224 * 3 * IMAGE_BITS)
    costs = {}
    for name, (config, settings, constants) in VARIANTS.items():
        machine = shipped(config, load_technology("cmos45", constants), settings)
        assert machine is not None, config
        costs[name] = machine.cost(work, {})
    if found is None:
        return Priced(layers, costs, None, "absent: there is no model of a crossbar")
    modes = {layer.work.name: 1 for layer in layers}
    return Priced(layers, costs, found.cost(work, modes), "RRAM crossbar, 45 nm")


def layer_rows(priced: Priced, sparsity: float) -> list[Row]:
    """Additions, passes and energy of every layer."""
    rows = []
    for layer in priced.layers:
        name, counts = layer.work.name, layer.work.reuse.passes
        saved = 1 - layer.after / max(layer.before, 1)
        rows.append(
            Row(
                f"{name}: additions per pixel, shared",
                layer.after,
                None,
                "lower",
                "additions",
                f"{saved:.0%} fewer; {layer.after * layer.work.pixels:.4g} with all {layer.work.pixels} pixels",
                peer=layer.before,
                peer_name="without sharing",
            )
        )
        rows.append(
            Row(
                f"{name}: compare passes",
                counts.compares,
                None,
                "lower",
                "passes",
                f"{counts.writes} writes; {counts.bit_steps} bits of sums, {counts.in_place} of "
                f"{counts.additions} in place; {counts.peak_bits} bits of a row at most",
            )
        )
        others = ", ".join(
            f"{machine} {energy_j(cost, name) * 1e6:.3g}"
            for machine, cost in priced.costs.items()
            if machine != "racetrack"
        )
        rows.append(
            Row(
                f"{name}: energy on the racetrack machine",
                energy_j(priced.costs["racetrack"], name) * 1e6,
                None,
                "lower",
                "uJ",
                f"sparsity {sparsity}; uJ of others: {others}; {largest(priced.costs['racetrack'], name)}",
                peer=None if priced.crossbar is None else energy_j(priced.crossbar, name) * 1e6,
                peer_name=priced.crossbar_name,
            )
        )
    return rows


def energy_j(cost: Cost, layer: str) -> float:
    return sum(band.nominal for band in cost.energy_j[layer].values())


def largest(cost: Cost, layer: str) -> str:
    """The two components that take most, in percent."""
    parts = sorted(cost.energy_j[layer].items(), key=lambda item: -item[1].nominal)[:2]
    total = energy_j(cost, layer)
    return ", ".join(f"{name} {band.nominal / total:.0%}" for name, band in parts)


def total_rows(priced: Priced, sparsity: float, what: str) -> list[Row]:
    """Additions, energy, time and the ratio to a crossbar over all layers."""
    before, after = (
        sum(getattr(layer, n) * layer.work.pixels for layer in priced.layers) for n in ("before", "after")
    )
    head = f"{what}, sparsity {sparsity}"
    rows = [
        Row(
            f"{head}: additions, shared",
            after,
            None,
            "lower",
            "additions",
            f"blocks of {BLOCK[0]} outputs by {BLOCK[1]} inputs; over all pixels",
            peer=before,
            peer_name="without sharing",
        )
    ]
    for machine, cost in priced.costs.items():
        energy = cost.total_energy_j
        rows.append(
            Row(
                f"{head}: energy, {machine}",
                energy.nominal * 1e6,
                None,
                "lower",
                "uJ",
                f"{energy.low * 1e6:.4g} to {energy.high * 1e6:.4g} uJ by the constants' spread; "
                f"{cost.total_latency_s * 1e3:.3g} ms, {cost.total_area_mm2.nominal:.3g} mm2; "
                f"moving activations {moving(cost):.1%} (paper: about 3 %)",
                peer=None if priced.crossbar is None else priced.crossbar.total_energy_j.nominal * 1e6,
                peer_name=priced.crossbar_name,
            )
        )
    return [*rows, *(ratio_row(priced, head, machine) for machine in priced.costs), needed_row(priced, head)]


def crossbar_notes(priced: Priced) -> str:
    """How the crossbar is set, and where its energy goes."""
    settings = ", ".join(f"{name} {value}" for name, value in CROSSBAR.items())
    if priced.crossbar is None:
        return settings
    parts: dict[str, float] = {}
    for components in priced.crossbar.energy_j.values():
        for name, band in components.items():
            parts[name] = parts.get(name, 0.0) + band.nominal
    total = sum(parts.values())
    shares = ", ".join(
        f"{name} {value / total:.0%}" for name, value in sorted(parts.items(), key=lambda p: -p[1])[:5]
    )
    return "; ".join((settings, shares, *priced.crossbar.notes))


def needed_row(priced: Priced, head: str) -> Row:
    """What a bit of a sum costs on the racetrack machine, and what it had to cost for the paper's ratio."""
    bits = sum(layer.work.reuse.passes.bit_steps * layer.work.pixels for layer in priced.layers)
    needed = None
    if priced.crossbar is not None:
        needed = priced.crossbar.total_energy_j.nominal / SEED_RATIO / bits * 1e15
    return Row(
        f"{head}: energy per bit of a sum, everything included",
        priced.costs["racetrack"].total_energy_j.nominal / bits * 1e15,
        None,
        "lower",
        "fJ",
        f"{bits:.4g} bits; peer: at which this crossbar would cost {SEED_RATIO} times as much",
        peer=needed,
        peer_name=f"{priced.crossbar_name} over {SEED_RATIO}",
    )


def moving(cost: Cost) -> float:
    """Share of the energy that loads activations, passes partial sums on and takes results back."""
    parts = ("activation buffer", "chip router", "tile bus", "row loads")
    moved = sum(layer[p].nominal for layer in cost.energy_j.values() for p in parts if p in layer)
    return moved / cost.total_energy_j.nominal


def ratio_row(priced: Priced, head: str, machine: str) -> Row:
    """Crossbar over associative processor, beside the paper's figure and what differs."""
    cost = priced.costs[machine]
    ours = None
    if priced.crossbar is not None:
        ours = priced.crossbar.total_energy_j.nominal / cost.total_energy_j.nominal
    assumed = (
        "random ternary weights, not trained ones; 4-bit activations, 8-bit image, all layers ternary; 45 nm "
        "logic and SRAM; the paper's CAM, racetrack and crossbar constants are not known, so "
        + ("; ".join(cost.notes))
        + f"; program of {INSTRUCTION_BITS} bits per addition included, beyond 1 MB from DRAM"
        + f"; crossbar: {priced.crossbar_name}: {crossbar_notes(priced)}"
    )
    return Row(
        f"{head}: energy, crossbar over {machine}",
        ours,
        None,
        "higher",
        "x",
        assumed,
        peer=SEED_RATIO,
        peer_name="arXiv 2401.12630, RTM-AP over its own crossbar",
    )


def benchmark(quick: bool) -> tuple[list[Row], Priced]:
    """All rows, and what the figure shows."""
    shapes = resnet18()
    if quick:
        shapes = [
            s for s in shapes if s.name in ("layer1.0.conv1", "layer1.0.conv2", "layer2.0.downsample", "fc")
        ]
        shapes = [replace(s, output=min(s.output, 28)) for s in shapes]
    what = "4 layers of ResNet-18" if quick else "ResNet-18"
    first = price(shapes, SPARSITIES[0])
    rows = [*layer_rows(first, SPARSITIES[0]), *total_rows(first, SPARSITIES[0], what)]
    for sparsity in () if quick else SPARSITIES[1:]:
        rows += total_rows(price(shapes, sparsity), sparsity, what)
    return rows, first


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="four layers, under a minute; for trying it out")
    parser.add_argument(
        "--out", type=Path, help="folder for the results; results/reference, or a temporary one with --quick"
    )
    options = parser.parse_args(arguments)
    out: Path = options.out or (
        Path(tempfile.mkdtemp(prefix="associative-")) if options.quick else ROOT / "results" / "reference"
    )
    rows, shown = benchmark(options.quick)
    print(show(rows))
    print(write_table(out / "associative.csv", rows))
    for path in draw(shown.costs, shown.crossbar, out / "associative"):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
