"""How fast layers are mapped, and how well: ``python tests/benchmarks/mapping.py [--quick] [--out DIR]``.

CPU time of this thread, in medians over rounds; before each round everything that was found is forgotten, while the
kernel stays compiled. Mappings per second are counted over a search that no bound cuts short. Writes ``mapping.csv``
and a figure. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's code, whatever is installed

import numpy as np  # noqa: E402
import yaml  # noqa: E402

from dse.reference import Row, show, write_table  # noqa: E402
from energy.accelerators import make_accelerator  # noqa: E402
from energy.mapping import layout, search, space  # noqa: E402
from energy.published.mapping import figures, problem, timeloop_machine, timeloop_search  # noqa: E402
from energy.technology import load_technology  # noqa: E402
from energy.workload import Workload  # noqa: E402
from energy.workload_file import parse_workload  # noqa: E402
from tests.benchmarks.kernels_figure import draw  # noqa: E402
from tests.benchmarks.processes import ROOT  # noqa: E402

_RATE_BAR, _COLD_BAR_S, _WARM_BAR_S, _SEARCH_BAR_S = 1e6, 0.5, 0.020, 0.1
_WORSE = 1.02  # at most 2 % above what the long search found
_ZIGZAG_S, _TIMELOOP_S = 50.2, 123.0
"""CPU seconds that the peers took, as recorded with the published figures; they do not run here."""
_MACHINES = ("tpu_like", "eyeriss_like")


def resnet18() -> list[dict[str, Any]]:
    """Its 21 layers for images of 224 x 224, without formats."""
    layers = [("conv1", 64, 3, 7, 2, 112)]
    for stage, (before, width, size) in enumerate(
        [(64, 64, 56), (64, 128, 28), (128, 256, 14), (256, 512, 7)]
    ):
        for block in range(2):
            first = stage > 0 and block == 0
            inputs = before if block == 0 else width
            layers.append((f"layer{stage + 1}.{block}.conv1", width, inputs, 3, 2 if first else 1, size))
            layers.append((f"layer{stage + 1}.{block}.conv2", width, width, 3, 1, size))
            if first:
                layers.append((f"layer{stage + 1}.{block}.downsample", width, before, 1, 2, size))
    layers.append(("fc", 1000, 512, 1, 1, 1))
    keys = ("name", "outputs", "inputs", "kernel", "stride", "output_size")
    return [
        {
            k: [v] * 2 if k in ("kernel", "stride", "output_size") else v
            for k, v in zip(keys, layer, strict=True)
        }
        for layer in layers
    ]


def workload(weights: list[int], activations: list[int]) -> Workload:
    """ResNet-18 in these widths, one for each layer."""
    layers = [
        {**layer, "weights": {"bits": w}, "input": {"bits": a}, "output_bits": a}
        for layer, w, a in zip(resnet18(), weights, activations, strict=True)
    ]
    return parse_workload(yaml.safe_dump({"image_bits": 224 * 224 * 3 * 8, "layers": layers}))


def forget() -> None:
    """Nothing that was searched or laid out before is known."""
    for cached in (search.candidates, space.space, space._cuts, layout.nest, layout.scale):
        cached.cache_clear()


def seconds(call: Callable[[], Any]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def kernel_rate(rounds: int) -> tuple[float, int]:
    """Mappings scored per second, and how many a round scores."""
    machine, flow = timeloop_machine()
    layer = problem(*figures()["timeloop"]["searched"]["conv2_1"]["layer"])
    nest, scale = layout.nest(layer, machine), layout.scale(machine, (8.0,) * 4)
    ways = space.space(layer, machine, flow)
    choices, _ = ways.inside(nest, layout.scale(machine, (1.0,) * 4), scale)
    every = np.zeros(len(choices))  # bounds that never end the search
    rates, scored = [], 0
    for _ in range(rounds + 1):
        results, tables, found = np.zeros((1, 6)), np.zeros((1, 12, 8), np.int64), np.zeros(1, np.int64)
        start = time.thread_time()
        scored = ways.search(nest, scale, choices, every, results, tables, found)
        rates.append(scored / (time.thread_time() - start))
    return statistics.median(rates[1:]), scored


def network_rows(rounds: int, quick: bool) -> list[Row]:
    """ResNet-18 searched anew, and priced in widths that were not asked for before."""
    technology, rows = load_technology("cmos45"), []
    rng = np.random.default_rng(0)
    layers = len(resnet18())
    eight = workload([8] * layers, [8] * layers)
    widths = [[rng.integers(2, 9, layers).tolist() for _ in range(2)] for _ in range(max(rounds, 3))]
    mixed = [workload(*pair) for pair in widths]
    for name in _MACHINES:
        data = yaml.safe_load((ROOT / "configs" / "accelerator" / f"{name}.yaml").read_text())
        machine = make_accelerator(data["kind"], data["settings"], technology)
        machine.cost(
            Workload(eight.layers[-1:], eight.image_bits), {}
        )  # compiles, or loads what was compiled
        cold = []
        for _ in range(rounds):
            forget()
            cold.append(seconds(lambda m=machine: m.cost(eight, {})))
        warm = [seconds(lambda m=machine, w=work: m.cost(w, {})) for work in mixed]
        spread = f"median of {len(cold)}, {min(cold):.3f} to {max(cold):.3f} s; 11 formats a shape"
        rows.append(
            Row(f"ResNet-18 on {name}: mapping search, nothing known", statistics.median(cold),
                None if quick else _COLD_BAR_S, "lower", "s", spread, _ZIGZAG_S, "zigzag-dse 3.9.1, recorded")
        )  # fmt: skip
        rows.append(
            Row(f"ResNet-18 on {name}: other bit widths in every layer", statistics.median(warm),
                None if quick else _WARM_BAR_S, "lower", "s", f"{len(warm)} random assignments of 2 to 8 bits")
        )  # fmt: skip
    return rows


def timeloop_rows(rounds: int, quick: bool) -> list[Row]:
    """The layer that Timeloop was left to search for long, at its costs."""
    published = figures()["timeloop"]["searched"]["conv2_1"]["uj"]
    taken = []
    for _ in range(rounds):
        forget()
        taken.append(seconds(lambda: timeloop_search("conv2_1")))
    mapping, energy_uj = timeloop_search("conv2_1")
    note = f"{energy_uj:.1f} uJ, Timeloop {published} uJ; {mapping.describe(timeloop_machine()[0])}"
    return [
        Row("conv2_1 on Timeloop's Eyeriss: best mapping's energy", energy_uj, None if quick else _WORSE * published,
            "lower", "uJ", note, published, "timeloop-mapper, recorded"),
        Row("conv2_1 on Timeloop's Eyeriss: search", statistics.median(taken), None if quick else _SEARCH_BAR_S,
            "lower", "s", f"median of {rounds}", _TIMELOOP_S, "timeloop-mapper, recorded"),
    ]  # fmt: skip


def benchmark(quick: bool) -> list[Row]:
    rounds = 1 if quick else 9
    rate, scored = kernel_rate(rounds)
    row = Row(
        "scoring kernel, one core",
        rate,
        None if quick else _RATE_BAR,
        "higher",
        "mappings/s",
        f"median of {rounds}; {scored} mappings of a 3x3 convolution on a hierarchy of five memories",
    )
    return [row, *network_rows(rounds, quick), *timeloop_rows(rounds, quick)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one round, a few seconds; no bar counts")
    parser.add_argument(
        "--out", type=Path, help="folder for the results; results/reference, or a temporary one with --quick"
    )
    options = parser.parse_args(arguments)
    out: Path = options.out or (
        Path(tempfile.mkdtemp(prefix="mapping-")) if options.quick else ROOT / "results" / "reference"
    )
    rows = benchmark(options.quick)
    print(show(rows))
    print(write_table(out / "mapping.csv", rows))
    for path in draw(rows, out / "mapping"):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
