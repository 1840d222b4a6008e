"""Accuracy without retraining: ``python tests/benchmarks/accuracy.py [--quick] [--only NAME ...] [--out DIR]``.

How many points of accuracy each compression costs the pretrained ResNet-20 on the CIFAR-10 test set, with unlabelled
training images to calibrate on; how long a conversion takes; and what other toolkits reach, where they are installed.
Writes ``accuracy.csv`` (one row per figure), ``accuracy.png`` and ``.svg``, and ``accuracy.json`` (machine, versions,
every single result). Needs the files named in ``tests/benchmarks/cifar.py``; ``--quick`` makes do with digits.

An interrupted run goes on where it was. Toolkits in another environment: run that environment's Python with
``--peers-only`` first, then this one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's code, whatever is installed

import torch  # noqa: E402

from dse.files import write_atomically  # noqa: E402
from dse.provenance import PACKAGES, collect_provenance  # noqa: E402
from dse.reference import Row, show, write_table  # noqa: E402
from tests.benchmarks.accuracy_figure import draw_losses  # noqa: E402
from tests.benchmarks.accuracy_rows import Measured, loss_row, time_row  # noqa: E402
from tests.benchmarks.accuracy_runs import Bench, PeerRun, Run, Store  # noqa: E402
from tests.benchmarks.cifar import cifar10_resnet20, digits_resnet20  # noqa: E402
from tests.benchmarks.conditions import CONDITIONS, QUICK, SECONDS, Condition  # noqa: E402
from tests.benchmarks.peers import PEERS  # noqa: E402
from tests.benchmarks.processes import ROOT  # noqa: E402

_IMAGES, _QUICK_IMAGES, _QUICK_TEST, _QUICK_STEPS = 1024, 64, 300, 10
_THREADS = 2
_CACHE = "dse-benchmark-accuracy"


def make_bench(options: argparse.Namespace) -> Bench:
    """The network and images that are there, with the sizes asked for.

    Raises:
        SystemExit: a file of the full benchmark is absent.
    """
    subject = cifar10_resnet20(_QUICK_TEST if options.quick else None)
    if subject is None and not options.quick:
        raise SystemExit(
            "the files named in tests/benchmarks/cifar.py are absent; set DSE_SHARED_DATA, or --quick"
        )
    subject = subject or digits_resnet20(_QUICK_TEST)
    torch.set_num_threads(options.threads)
    store = Store(options.cache, (subject.fingerprint(), len(subject.test)))
    images = min(_QUICK_IMAGES if options.quick else _IMAGES, len(subject.pool))
    return Bench(subject, store, images, _QUICK_STEPS if options.quick else None)


def measure_peers(
    bench: Bench, conditions: Sequence[Condition], seed: int, slow: bool
) -> dict[str, list[PeerRun]]:
    """Condition -> what its peers reach."""
    found: dict[str, list[PeerRun]] = {}
    for condition in conditions:
        for peer in PEERS.get(condition.name, []):
            if peer.slow and not slow:
                continue
            result = bench.peer(condition.name, peer, seed)
            found.setdefault(condition.name, []).append(result)
            reached = (
                f"{result.percent:.2f} %" if result.percent is not None else " ".join(result.absent.split())
            )
            print(f"peer of {condition.name}: {result.name}: {reached}", flush=True)
    return found


def measure_ours(bench: Bench, conditions: Sequence[Condition], seeds: Sequence[int]) -> dict[str, list[Run]]:
    """Condition -> a run for each seed. Seed by seed, so that a cut-off run has every condition."""
    base, begin, done = bench.float_percent(), time.perf_counter(), 0
    runs: dict[str, list[Run]] = {condition.name: [] for condition in conditions}
    print(f"{bench.subject.name}: float {base:.2f} % of {len(bench.subject.test)} images", flush=True)
    for seed in seeds:
        for condition in conditions:
            run = bench.run(condition, seed)
            runs[condition.name].append(run)
            done += 1
            left = (time.perf_counter() - begin) / done * (len(seeds) * len(conditions) - done)
            print(
                f"[{done}/{len(seeds) * len(conditions)}] {condition.name}, seed {seed}: "
                f"{base - run.repaired.percent:.2f} points in {run.repaired.seconds:.0f} s "
                f"(plain {base - run.plain.percent:.2f}); about {left / 60:.0f} min left",
                flush=True,
            )
    return runs


def rows(measured: Measured, conditions: Sequence[Condition]) -> list[Row]:
    """One row per condition, then those of the time a conversion takes."""
    named = {condition.name: condition for condition in conditions}
    losses = [loss_row(measured, condition) for condition in conditions]
    return losses + [time_row(measured, named[name], bar) for name, bar in SECONDS if name in named]


def raw(measured: Measured, options: argparse.Namespace) -> dict[str, Any]:
    """Every single result, and where it comes from."""
    provenance = collect_provenance(None, None, (*PACKAGES, "brevitas", "nncf", "torchao"))
    return {
        "subject": measured.subject,
        "float_percent": measured.float_percent,
        "test_images": measured.test_images,
        "calibration_images": measured.images,
        "threads": measured.threads,
        "seeds": options.seeds,
        "runs": {name: [asdict(run) for run in runs] for name, runs in measured.runs.items()},
        "peers": {name: [asdict(run) for run in runs] for name, runs in measured.peers.items()},
        "machine": provenance,
    }


def choose(names: Sequence[str] | None, quick: bool) -> list[Condition]:
    """Conditions whose name contains one of ``names``; without any all, or a few if ``quick``.

    Raises:
        SystemExit: a name that none contains.
    """
    for name in names or ():
        if not any(name in condition.name for condition in CONDITIONS):
            raise SystemExit(f"--only {name!r}: expected a part of {'; '.join(c.name for c in CONDITIONS)}")
    if quick and not names:
        return [c for c in CONDITIONS if c.name in QUICK]
    return [c for c in CONDITIONS if not names or any(name in c.name for name in names)]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few images, under a minute; for trying it out")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="of the calibration images; 0 1 2, or 0 with --quick"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="conditions whose name contains NAME")
    parser.add_argument("--no-peers", action="store_true", help="leave other toolkits out; --quick does")
    parser.add_argument(
        "--peers-only", action="store_true", help="only measure other toolkits, write no table"
    )
    parser.add_argument("--slow-peers", action="store_true", help="peers that take minutes as well")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=min(_THREADS, cores), help="that torch uses")
    parser.add_argument(
        "--cache", type=Path, help="folder of finished results; a fixed one in the temporary folder"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the results; results/reference, a temporary one if not complete"
    )
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    options.cache = options.cache or Path(tempfile.gettempdir()) / _CACHE
    partial = options.quick or options.only
    temporary = tempfile.mkdtemp(prefix="accuracy-") if partial and not options.out else ""
    options.out = options.out or (Path(temporary) if partial else ROOT / "results" / "reference")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    conditions = choose(options.only, options.quick)
    bench = make_bench(options)
    with_peers = options.peers_only or not (options.no_peers or options.quick)
    peers = measure_peers(bench, conditions, options.seeds[0], options.slow_peers) if with_peers else {}
    if options.peers_only:
        return 0
    measured = Measured(
        subject=bench.subject.name,
        float_percent=bench.float_percent(),
        test_images=len(bench.subject.test),
        images=bench.images,
        threads=bench.threads,
        quick=options.quick,
        runs=measure_ours(bench, conditions, options.seeds),
        peers=peers,
    )
    table = rows(measured, conditions)
    draw_losses(measured, conditions, options.out / "accuracy")
    write_atomically(
        options.out / "accuracy.json", json.dumps(raw(measured, options), indent=1, ensure_ascii=False) + "\n"
    )
    print(show(table))
    print(write_table(options.out / "accuracy.csv", table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
