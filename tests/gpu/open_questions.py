"""What is not documented of a GPU's energy sensor, settled on the GPU at hand in about ten minutes.

    python tests/gpu/open_questions.py --out results/reference           # on a GPU nobody else uses
    python tests/gpu/open_questions.py --simulate window --out FOLDER    # on a sensor with known truth

Writes ``energy_questions.csv`` with an answer per line, and every trace as ``traces/energy_questions_NAME.csv``.

1. How often does the energy counter change, by how much, and is that the period of the instant power?
2. Does the counter see power outside the sensor's averaging window? A load as long as a quarter of the period, at eight
   phases of it: what the counter says of it stays the same, or swings as samples do.
3. Is there a history of power samples in the driver, and of what rate?
4. What does a CUDA context draw, and what does looking at the sensor cost?
5. How far do equal blocks of work differ, and how much less do zeros take than trained weights?
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from compressors.errors import DseError
from dse.files import write_atomically
from tests.gpu.questions import QUICK, Durations, Questions
from tests.gpu.questions_machine import open_gpu

NAME = "energy_questions"
_COLUMNS = ("question", "value", "unit", "note", "device", "driver", "simulated")


def write(folder: Path, questions: Questions) -> None:
    """The answers and every trace."""
    facts, machine = questions.machine.facts, questions.machine
    origin = [facts.get("device"), facts.get("driver"), machine.simulated]
    rows = []
    for answer in questions.answers:
        value = "" if answer.value is None else f"{answer.value:.5g}"
        rows.append([answer.question, value, answer.unit, answer.note, *origin])
    (folder / "traces").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{NAME}.csv", _csv(_COLUMNS, rows))
    for name, looks in questions.traces.items():
        start_s = looks[0].time_s if looks else 0.0
        lines = [
            [f"{x.time_s - start_s:.5f}", x.counter_mj, x.instant_mw, x.average_mw, int(x.busy)]
            for x in looks
        ]
        columns = ("time_s", "counter_mj", "instant_mw", "average_mw", "busy")
        write_atomically(folder / "traces" / f"{NAME}_{name}.csv", _csv(columns, lines))


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the answers and traces")
    parser.add_argument("--device", type=int, default=0, help="index of the GPU")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time")
    parser.add_argument(
        "--simulate", choices=("window", "all"), help="a sensor that is none, whose counter integrates that"
    )
    given = parser.parse_args(arguments)
    durations = QUICK if given.quick else Durations()
    if given.simulate:
        from tests.gpu.questions_simulated import open_simulated

        opened = open_simulated(given.simulate)
    else:
        opened = open_gpu(given.device)
    try:
        with opened as machine:
            questions = Questions(machine, durations)
            questions.run()
    except DseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    write(given.out, questions)
    for answer in questions.answers:
        value = "absent" if answer.value is None else f"{answer.value:.4g} {answer.unit}"
        print(f"{answer.question}: {value}{f' ({answer.note})' if answer.note else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
