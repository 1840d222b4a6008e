"""The main job, measured: ``python tests/benchmarks/main_job.py [--quick] [--out DIR]``.

Wall time and memory of a whole sweep from a fresh run folder, the start of ``--help``, how far the best ternary
network stays below the uniform 8-bit one in modelled energy, and what ten kills leave of a study. Writes
``main_job.csv`` (one row per figure), ``main_job.png`` and ``.svg`` (the front) and ``main_job.json`` (machine,
versions, every round). Run it on a quiet machine; nothing in it decides a test.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's code, whatever is installed

from dse.files import write_atomically  # noqa: E402
from dse.provenance import read_provenance  # noqa: E402
from dse.reference import Row, show, write_table  # noqa: E402
from dse.study import load_records  # noqa: E402
from tests.benchmarks.front import draw_front  # noqa: E402
from tests.benchmarks.killing import Audit, audit, differing, kill_and_resume  # noqa: E402
from tests.benchmarks.processes import ROOT, Watched, dse_command, start_seconds, watch  # noqa: E402
from tests.benchmarks.ternary import LOSS, Comparison, compare  # noqa: E402

_WALL_BAR_S, _HELP_BAR_S, _MEMORY_BAR_GB, _FACTOR_BAR = 120.0, 1.0, 2.0, 5.0


@dataclass(frozen=True)
class Sizes:
    """How much is done. ``quick`` results stand beside no bar that the issue set for more."""

    trials: int
    rounds: int
    helps: int
    kills: int
    quick: bool

    def bar(self, value: float) -> float | None:
        return None if self.quick else value


FULL = Sizes(trials=100, rounds=3, helps=10, kills=10, quick=False)
QUICK = Sizes(trials=8, rounds=1, helps=3, kills=1, quick=True)


def sweep(name: str, trials: int) -> list[str]:
    return dse_command(
        "sweep", "+experiment=resnet_ternary", f"study.n_trials={trials}", f"study.name={name}"
    )


def measure(sizes: Sizes, folder: Path) -> tuple[list[Row], dict[str, Any], Path]:
    """Everything, in ``folder``; returns the rows, the raw figures, and the run folder of the last whole sweep."""
    helps = start_seconds(dse_command("--help"), folder, sizes.helps)
    names = [f"round{i}" for i in range(sizes.rounds)]
    rounds = [watch(sweep(name, sizes.trials), folder) for name in names]
    run = folder / "results" / names[-1]
    comparison = compare(run)
    whole = load_records(run)
    searching_s = sum(record.duration_s or 0.0 for record in whole)
    killed_run = folder / "results" / "killed"
    kills = kill_and_resume(
        sweep("killed", sizes.trials), folder, killed_run, sizes.kills, searching_s / (sizes.kills + 1)
    )
    records = load_records(killed_run)
    after, odd = audit(records), differing(whole, records)
    rows = [
        *speed_rows(sizes, rounds, helps),
        *ternary_rows(sizes, comparison),
        *kill_rows(sizes, kills, after, odd),
    ]
    raw = {
        "sizes": asdict(sizes),
        "rounds": [asdict(one) for one in rounds],
        "searching_s": searching_s,
        "help_s": helps,
        "uniform_8_j": comparison.uniform_j,
        "kills": kills,
        "audit": asdict(after),
        "machine": read_provenance(run)[-1],
    }
    return rows, raw, run


def speed_rows(sizes: Sizes, rounds: list[Watched], helps: list[float]) -> list[Row]:
    """Wall time, start time and memory."""
    job = f"main job, {sizes.trials} trials"
    walls = [one.wall_s for one in rounds]
    spread = (
        f"median of {len(walls)}, {min(walls):.1f} to {max(walls):.1f} s; fresh run folder, start to exit"
    )
    peaks = [one.peak_rss_bytes for one in rounds if one.peak_rss_bytes is not None]
    memory = "largest of the rounds; resident memory of all processes of the sweep, looked at every 50 ms"
    started = f"median of {len(helps)}, {min(helps):.2f} to {max(helps):.2f} s"
    return [
        Row(f"{job}: wall time", statistics.median(walls), sizes.bar(_WALL_BAR_S), "lower", "s", spread),
        Row(
            "python -m dse --help: wall time",
            statistics.median(helps),
            sizes.bar(_HELP_BAR_S),
            "lower",
            "s",
            started,
        ),
        Row(
            f"{job}: peak memory",
            max(peaks) / 1e9 if peaks else None,
            sizes.bar(_MEMORY_BAR_GB),
            "lower",
            "GB",
            memory if peaks else "absent: this system does not tell how much memory a process holds",
        ),
    ]


def ternary_rows(sizes: Sizes, found: Comparison) -> list[Row]:
    """Modelled energy of the best ternary candidate against two readings of "uniform 8 bit"."""
    check = (
        f"modelled energy, {{}} over best ternary-everywhere candidate within {100 * LOSS:g} point of float"
    )
    best = found.ternary
    if best is None or best.evaluation is None:
        note = f"no such candidate among {sizes.trials} trials (float: {found.float_accuracy:.2%} on search)"
    else:
        test = (
            "not on the front, so not scored" if found.test_accuracy is None else f"{found.test_accuracy:.2%}"
        )
        note = (
            f"trial {best.number}{f' ({best.label})' if best.label else ''}: "
            f"{best.evaluation.metrics['energy.bitserial'] * 1e6:.3g} uJ, search accuracy "
            f"{best.evaluation.metrics['accuracy']:.2%} (float {found.float_accuracy:.2%}), test accuracy {test}"
        )
    cheapest_j = found.uniform_j[found.cheapest]
    per_g = ", ".join(f"{g}: {j * 1e6:.3g} uJ" for g, j in found.uniform_j.items())
    at_best = f"uniform 8 at its cheapest granularity {found.cheapest} ({per_g})"
    at_baseline = f"the study's baseline, {found.baseline_j * 1e6:.3g} uJ"
    return [
        Row(
            check.format("uniform 8 baseline"),
            found.factor(found.baseline_j),
            sizes.bar(_FACTOR_BAR),
            "higher",
            "x",
            f"{note}; against {at_baseline}",
        ),
        Row(
            check.format("uniform 8 at best granularity"),
            found.factor(cheapest_j),
            sizes.bar(_FACTOR_BAR),
            "higher",
            "x",
            f"the same bar against the stricter reference; against {at_best}",
        ),
    ]


def kill_rows(sizes: Sizes, kills: int, after: Audit, odd: int) -> list[Row]:
    """What killing did to the study."""
    what = f"kill -9 of a {sizes.trials}-trial sweep, {sizes.kills} times, then resumed"
    wrong = max(0, after.finished - sizes.trials) + after.lost_or_doubled
    orphans = f"{after.orphans} trials were in hand when a worker died"
    numbers = (
        "finished beyond the budget, left open, missing from the numbering, or a baseline finished twice"
    )
    seeds = (
        f"a retry keeps its orphan's; {after.repeated_params} finished trials repeat parameters of another"
    )

    def none_of(name: str, count: int, note: str) -> Row:
        return Row(f"{what}: {name}", count, sizes.bar(0.0), "lower", "trials", note)

    return [
        Row(f"{what}: kills", kills, sizes.bar(sizes.kills), "higher", "kills", orphans),
        Row(
            f"{what}: finished trials",
            after.finished,
            sizes.bar(sizes.trials),
            "higher",
            "trials",
            "the budget",
        ),
        none_of("lost or counted twice", wrong, numbers),
        none_of("repeated seeds", after.repeated_seeds, seeds),
        none_of(
            "orphans not retried exactly once", after.badly_retried, "with the same parameters and label"
        ),
        none_of(
            "finished unlike in the undisturbed sweep", odd, "by parameters and every metric, to the last bit"
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few trials, under a minute; for trying it out")
    parser.add_argument(
        "--out", type=Path, help="folder for the results; results/reference, or a temporary one with --quick"
    )
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    out: Path = options.out or (
        Path(tempfile.mkdtemp(prefix="main_job-")) if options.quick else ROOT / "results" / "reference"
    )
    with tempfile.TemporaryDirectory(prefix="dse-benchmark-") as folder:
        rows, raw, run = measure(sizes, Path(folder))
        draw_front(run, out / "main_job")
    write_atomically(out / "main_job.json", json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
    print(show(rows))
    print(write_table(out / "main_job.csv", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
