"""What generated processing elements take in Yosys, beside what the area laws say of each when it is left out.

    python tests/benchmarks/rtl.py            some minutes; needs Yosys and nextpnr: pip install '.[rtl]'
    python tests/benchmarks/rtl.py --quick    under a minute, four elements on one fabric, no bar counts
    python tests/benchmarks/rtl.py --record   also keeps the counts in energy/published/rtl_counts.yaml

Writes ``results/reference/rtl.csv`` and parity plots beside it. Periods are medians over the seeds of nextpnr.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import yaml  # noqa: E402

from dse.figures.parity import parity_figure  # noqa: E402
from dse.figures.style import paper_style, render  # noqa: E402
from dse.files import write_atomically  # noqa: E402
from dse.reference import Row, show, write_table  # noqa: E402
from dse.validation import Answer  # noqa: E402
from energy.fpga.clock import fit_period  # noqa: E402
from energy.fpga.fabric import law, leave_one_out  # noqa: E402
from energy.published import Check, Target  # noqa: E402
from energy.rtl.catalogue import CATALOGUE, CLOCKED, Element  # noqa: E402
from energy.rtl.synthesise import SCRIPTS, Counts, synthesise, top_speed_mhz  # noqa: E402
from energy.rtl.tools import missing, tool  # noqa: E402
from energy.technology import load_technology  # noqa: E402
from tests.benchmarks.processes import ROOT  # noqa: E402

BAR_PERCENT = 10.0
SEEDS = (1, 2, 3)
TITLES = {"ice40": "LUT4, iCE40", "xc7": "LUT6, 7-series", "gates": "gates of two inputs"}
QUICK = ("ternary mux-add, 8", "popcount, 36", "bit-serial, 8 lanes x 2", "adder graph, 8")
RECORD = ROOT / "energy" / "published" / "rtl_counts.yaml"

Found = Mapping[str, Mapping[str, Counts]]


def synthesise_all(elements: Sequence[Element], targets: Sequence[str]) -> Found:
    """Element -> target -> counts, two at a time."""

    def one(element: Element) -> tuple[str, dict[str, Counts]]:
        counts = {target: synthesise(element.design, target) for target in targets}
        print(element.name, *(counts[t].logic for t in targets), flush=True, file=sys.stderr)
        return element.name, counts

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(one, elements))


def law_rows(elements: Sequence[Element], found: Found, quick: bool) -> tuple[list[Row], list[Answer]]:
    """Mean error per target, then every element; in the quick run by the shipped law, as four cannot be fitted."""
    summaries, rows, answers = [], [], []
    made_of = [element.made_of for element in elements]
    how = "shipped law" if quick else "leave-one-out"
    yosys = tool("yosys").version
    for target in found[elements[0].name]:
        counted = [found[element.name][target].logic for element in elements]
        shipped = law(load_technology("cmos45"), target)
        said = [shipped(m) for m in made_of] if quick else leave_one_out(made_of, counted)
        errors = [s / c - 1 for s, c in zip(said, counted, strict=True)]
        worst = max(range(len(errors)), key=lambda i: abs(errors[i]))
        note = (
            f"{len(elements)} elements, worst {100 * errors[worst]:+.1f} % ({elements[worst].name}); {yosys}"
        )
        mean = 100 * statistics.fmean(map(abs, errors))
        check = f"{TITLES[target]}: mean error of the law, {how}"
        summaries.append(Row(check, mean, None if quick else BAR_PERCENT, "lower", "%", note))
        checks = []
        unit = "gates" if target == "gates" else "LUT"
        for element, c, s in zip(elements, counted, said, strict=True):
            rows.append(Row(f"{TITLES[target]}: {element.name}", s, None, "lower", unit, how, c, "Yosys"))
            checks.append(Check(element.name, unit, c, s, "blind", yosys))
        answers.append(Answer(Target(target, TITLES[target], {}, list), tuple(checks)))
    return [*summaries, register_row(elements, found), *rows], answers


def register_row(elements: Sequence[Element], found: Found) -> Row:
    """Flip-flops are counted from the shape alone; what Yosys merges or drops is the error."""
    target = next(iter(found[elements[0].name]))
    errors = [abs(e.made_of.registers / found[e.name][target].flip_flops - 1) for e in elements]
    note = "counted from the shape, nothing fitted"
    return Row(f"flip-flops, {target}: mean error", 100 * statistics.fmean(errors), None, "lower", "%", note)


def period_rows(quick: bool) -> tuple[list[Row], dict[str, tuple[int, float]]]:
    """Clock periods by nextpnr beside the law that the others give; an estimate, so no bar."""
    if missing("nextpnr-ice40") is not None or quick:
        reason = "left out of the quick run" if quick else str(missing("nextpnr-ice40"))
        return [
            Row("clock period, iCE40 HX: mean error, leave-one-out", None, None, "lower", "%", reason)
        ], {}
    periods = {}
    for name, (bits, build) in CLOCKED.items():
        speeds = [top_speed_mhz(build(), seed=seed) for seed in SEEDS]
        periods[name] = (bits, round(1e3 / statistics.median(speeds), 3))
        print(name, *periods[name], flush=True, file=sys.stderr)
    errors = []
    for name, (bits, period) in periods.items():
        others = [values for other, values in periods.items() if other != name]
        start, slope = fit_period(*zip(*others, strict=True))
        errors.append(abs((start + slope * bits) / period - 1))
    note = f"{len(periods)} elements, median of {len(SEEDS)} seeds; {tool('nextpnr-ice40').version}"
    check = "clock period, iCE40 HX: mean error, leave-one-out"
    return [Row(check, 100 * statistics.fmean(errors), None, "lower", "%", note)], periods


def record(found: Found, periods: Mapping[str, tuple[int, float]]) -> Path:
    """Keep what was measured as data."""
    data = {
        "tools": {"yosys": tool("yosys").version, "nextpnr": tool("nextpnr-ice40").version},
        "elements": {
            name: {t: [c.logic, c.flip_flops, c.carries] for t, c in counts.items()}
            for name, counts in found.items()
        },
        "periods": {name: list(values) for name, values in periods.items()},
    }
    head = (
        "# Our own measurements of generated elements, by tests/benchmarks/rtl.py --record.\n"
        "# elements: per target LUTs (gates: gates of two inputs), flip-flops, cells of carry chains.\n"
        "# periods: bits of the widest sum, ns after place and route on an iCE40 HX8K (median of three seeds).\n"
    )
    return write_atomically(
        RECORD, head + yaml.safe_dump(data, sort_keys=False, width=120, default_flow_style=None)
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="four elements, under a minute; no bar counts")
    parser.add_argument("--record", action="store_true", help="keep the counts in energy/published")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference", help="folder to write to")
    options = parser.parse_args()
    absent = missing("yosys")
    if absent is not None:
        print(absent, file=sys.stderr)
        return 1
    elements = [e for e in CATALOGUE if not options.quick or e.name.startswith(QUICK)]
    found = synthesise_all(elements, ["ice40"] if options.quick else list(SCRIPTS))
    rows, answers = law_rows(elements, found, options.quick)
    clocks, periods = period_rows(options.quick)
    rows = [*rows[: len(answers)], *clocks, *rows[len(answers) :]]
    print(show(rows[: len(answers) + 2]))
    if options.record:
        print(record(found, periods))
    options.out.mkdir(parents=True, exist_ok=True)
    print(write_table(options.out / "rtl.csv", rows))
    with paper_style():
        for suffix, content in render(parity_figure(answers)).items():
            print(write_atomically(options.out / f"rtl.{suffix}", content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
