"""Our models beside ZigZag, SCALE-Sim and nn-dataflow: ``python tests/benchmarks/mappers.py [--quick] [--out DIR]``.

Each peer is installed, pinned, in an environment of its own below ``--cache`` (once; from the package registry), run on
the same layers in turn with ours, and its answer and time stand beside ours. Writes ``mappers.csv``. A peer that cannot
be installed here has rows without a figure, which say why. Full run: about ten minutes; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's code, whatever is installed

from dse.reference import Row, show, write_table  # noqa: E402
from energy.accelerators.systolic_counts import Folds, Product  # noqa: E402
from energy.published import eyeriss  # noqa: E402
from energy.published.eyeriss import network_energy  # noqa: E402
from energy.published.mapping import problem, zigzag_layer  # noqa: E402
from tests.benchmarks.processes import ROOT  # noqa: E402

HERE = Path(__file__).parent / "mapper_peers"
LAYERS = (("conv2_1", 64, 64, 3, 56), ("conv3_2", 128, 128, 3, 28), ("conv5_2", 512, 512, 3, 7))
"""3x3 convolutions of ResNet-18: name, outputs, inputs, kernel, output size."""
SMALL = (("small", 64, 64, 3, 14),)
_PATIENCE_S = 1800


@dataclass(frozen=True)
class Peer:
    """A tool: what to install, and what its own interpreter runs."""

    name: str
    requirements: tuple[str, ...]
    script: str


PEERS = {
    "zigzag": Peer("ZigZag 3.9.1", ("zigzag-dse==3.9.1", "six"), "zigzag_layers.py"),
    "scalesim": Peer("SCALE-Sim 3.0.0", ("scalesim==3.0.0", "numpy<2.3"), "scalesim_layers.py"),
    "nn_dataflow": Peer("nn-dataflow 2.1", ("nn-dataflow==2.1", "sympy<1.6"), "nn_dataflow_network.py"),
}


class Unavailable(Exception):
    """A peer that cannot be installed or run here, and why."""


def run_peer(peer: Peer, cache: Path, *words: str) -> Any:
    """What the peer's script prints on its last line.

    Raises:
        Unavailable: it cannot be installed or does not run.
    """
    python = _environment(peer, cache)
    command = [str(python), str(HERE / peer.script), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, cwd=cache)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{peer.name} did not end: {error}") from error
    if done.returncode:
        raise Unavailable(f"{peer.name} failed: {done.stderr.strip().splitlines()[-1][:200]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _environment(peer: Peer, cache: Path) -> Path:
    """The interpreter of the peer's environment, made once."""
    folder = cache / peer.script.removesuffix(".py")
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(peer.requirements)
    if not (mark.is_file() and mark.read_text() == wanted):
        print(f"installing {' '.join(peer.requirements)} ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *peer.requirements], capture_output=True, text=True
        )
        if done.returncode:
            raise Unavailable(
                f"{peer.name} cannot be installed: {done.stderr.strip().splitlines()[-1][:200]}"
            )
        mark.write_text(wanted)
    return python


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds of its second run (its code is compiled and cached then)."""
    call()
    start = time.perf_counter()
    value = call()
    return value, time.perf_counter() - start


def scalesim_rows(cache: Path, layers: Path, shapes: tuple[Any, ...], quick: bool) -> list[Row]:
    """Cycles of a weight-stationary 32 x 32 array."""
    peer = PEERS["scalesim"]
    try:
        found = run_peer(peer, cache, str(layers), "32", "32", "ws")
    except Unavailable as error:
        return [Row("systolic array, 32 x 32: cycles off by", None, 2.0, "lower", "%", str(error))]
    rows = []
    for name, outputs, inputs, kernel, size in shapes:
        product = Product(size * size, inputs * kernel * kernel, outputs)
        ours, seconds = timed(lambda p=product: Folds("weight_stationary", p, 32, 32).cycles())
        theirs = float(found[name]["report"][2])
        spent = found[name]["seconds"]
        note = f"ours {ours} cycles in {1e6 * seconds:.0f} us, {peer.name} {theirs:.0f} in {spent:.1f} s"
        rows.append(
            Row(f"systolic array, 32 x 32, {name}: cycles off by", 100 * abs(ours / theirs - 1),
                None if quick else 2.0, "lower", "%", note, theirs, peer.name)
        )  # fmt: skip
        rows.append(
            Row(f"systolic array, 32 x 32, {name}: {peer.name}'s time over ours",
                spent / seconds, None, "higher", "times", note, 1.0, peer.name)
        )  # fmt: skip
    return rows


def zigzag_rows(cache: Path, layers: Path, shapes: tuple[Any, ...]) -> list[Row]:
    """Energy and cycles of the best mapping on ZigZag's own description of a TPU, at its costs."""
    peer = PEERS["zigzag"]
    try:
        found = run_peer(peer, cache, str(layers))
    except Unavailable as error:
        return [Row("TPU at ZigZag's costs: energy off by", None, 5.0, "lower", "%", str(error))]
    rows = []
    for name, outputs, inputs, kernel, size in shapes:
        layer = problem(outputs, inputs, size, kernel, 1)
        (uj, cycles), seconds = timed(lambda p=layer: zigzag_layer(p))
        theirs = found[name]
        note = (
            f"ours {uj:.2f} uJ, {cycles:.0f} cycles in {1e3 * seconds:.1f} ms; {peer.name} "
            f"{theirs['energy_pj'] * 1e-6:.2f} uJ, {theirs['cycles']:.0f} cycles in {theirs['seconds']:.1f} s"
        )
        label = f"TPU at ZigZag's costs, {name}"
        for what, ours, other, bar in (
            ("energy", uj, theirs["energy_pj"] * 1e-6, 5.0),
            ("cycles", cycles, theirs["cycles"], 10.0),
        ):
            error = 100 * abs(ours / other - 1)
            rows.append(Row(f"{label}: {what} off by", error, bar, "lower", "%", note, other, peer.name))
        rows.append(
            Row(f"{label}: {peer.name}'s time over ours", theirs["seconds"] / seconds, None, "higher",
                "times", note, 1.0, peer.name)
        )  # fmt: skip
    return rows


def nn_dataflow_rows(cache: Path) -> list[Row]:
    """AlexNet in batches of 4 on a row-stationary array, a multiply-accumulate being 1."""
    peer, check = PEERS["nn_dataflow"], "Eyeriss at nn-dataflow's costs, AlexNet: energy off by"
    try:
        found = run_peer(peer, cache)
    except Unavailable as error:
        return [Row(check, None, None, "lower", "%", str(error))]
    ours, seconds = timed(lambda: float(_anew(lambda: network_energy("AlexNet", 4)).sum()))
    theirs = found["total_cost"]
    note = f"ours {ours:.3g} in {seconds:.2f} s, {peer.name} {theirs:.3g} in {found['seconds']:.0f} s"
    time_check = f"Eyeriss at nn-dataflow's costs, AlexNet: {peer.name}'s time over ours"
    return [
        Row(check, 100 * abs(ours / theirs - 1), None, "lower", "%", note, theirs, peer.name),
        Row(time_check, found["seconds"] / seconds, None, "higher", "times", note, 1.0, peer.name),
    ]


def _anew(call: Callable[[], Any]) -> Any:
    eyeriss._layer_energy.cache_clear()
    return call()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="SCALE-Sim on one small layer; no bar counts")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference", help="folder to write to")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "dse-benchmark-mappers",
        help="environments",
    )
    chosen = parser.parse_args()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    shapes = SMALL if chosen.quick else LAYERS
    layers = chosen.cache / "layers.json"
    layers.write_text(json.dumps(shapes))
    rows = scalesim_rows(chosen.cache, layers, shapes, chosen.quick)
    if not chosen.quick:
        rows += zigzag_rows(chosen.cache, layers, shapes) + nn_dataflow_rows(chosen.cache)
    print(show(rows))
    print(write_table(chosen.out / "mappers.csv", rows))


if __name__ == "__main__":
    main()
