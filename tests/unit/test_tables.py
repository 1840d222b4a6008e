"""Tables against the records they come from, read back with the csv module."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import (
    ACCELERATOR,
    METRICS,
    NO_GPU,
    OBJECTIVES,
    make_records,
    objectives_named,
    with_evaluation,
    with_metric,
)

from dse.errors import RunFolderError
from dse.files import write_atomically
from dse.records import TrialRecord
from dse.summary import display_value, significant, summarise, value_of
from dse.tables import describe_columns, first_line, pareto_csv, trials_csv, write_tables


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def beats(a: TrialRecord, b: TrialRecord) -> bool:
    """Whether ``a`` dominates ``b``, by the definition."""
    signs = [1 if metric.direction == "maximize" else -1 for metric in OBJECTIVES]
    gains = [s * (value_of(a, m) - value_of(b, m)) for s, m in zip(signs, OBJECTIVES, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


def front_by_definition(records: list[TrialRecord]) -> set[int]:
    whole = [r for r in records if r.evaluation and all(value_of(r, m) is not None for m in OBJECTIVES)]
    return {r.number for r in whole if not any(beats(other, r) for other in whole)}


def test_every_metric_reads_back_exactly_and_absent_ones_have_no_column():
    records = make_records(60)
    rows = read(trials_csv(summarise(records, OBJECTIVES, METRICS)))
    assert [int(row["number"]) for row in rows] == [record.number for record in records]
    for row, record in zip(rows, records, strict=True):
        for metric in METRICS.values():
            value = value_of(record, metric)
            assert row.get(metric.column, "") == "" if value is None else float(row[metric.column]) == value
    assert "energy.measured_j" not in rows[0] and "energy.bitserial_j" in rows[0]


def test_front_is_the_one_of_the_definition():
    records = make_records(120, seed=4)
    rows = read(trials_csv(summarise(records, OBJECTIVES, METRICS)))
    marked = {int(row["number"]) for row in rows if row["on_front"] == "true"}
    assert marked == front_by_definition(records)
    assert {row["on_front"] for row in rows} == {"true", "false"}


def test_pareto_holds_the_front_by_rising_energy_with_test_accuracy_where_known():
    summary = summarise(make_records(120, seed=4), OBJECTIVES, METRICS)
    numbers = [record.number for record in summary.front]
    rows = read(pareto_csv(summary, {numbers[0]: 0.875}))
    assert [int(row["number"]) for row in rows] == numbers
    energies = [float(row["energy.bitserial_j"]) for row in rows]
    assert len(energies) > 3 and energies == sorted(energies)
    assert [row["test_accuracy"] for row in rows] == ["0.875"] + [""] * (len(rows) - 1)


def test_only_finished_and_failed_trials_have_a_row():
    done = make_records(3)
    open_ones = [TrialRecord(50, "RUNNING", "", {}, None), TrialRecord(51, "WAITING", "", {}, None)]
    summary = summarise([*open_ones, *reversed(done)], OBJECTIVES, METRICS)
    assert [int(row["number"]) for row in read(trials_csv(summary))] == list(range(len(done)))
    assert summary.pending == 2


def test_failed_retried_and_plain_fields():
    failed = TrialRecord(0, "FAIL", "ternary", {"bits": 2}, None, 0.5, "\n  BadTensor: NaN, in 'conv1'\nmore")
    again = replace(make_records(1)[1], number=1, label="ternary", retry_of=0, duration_s=1.25)
    first, second = read(trials_csv(summarise([failed, again], OBJECTIVES, METRICS)))
    assert (first["state"], first["error"], first["duration_s"]) == (
        "FAIL",
        "BadTensor: NaN, in 'conv1'",
        "0.5",
    )
    assert (first["on_front"], first["plan"], first["params.bits"]) == ("false", "", "2")
    assert (second["retry_of"], second["duration_s"], second["params.bits"]) == ("0", "1.25", "")
    assert second["plan"] == again.evaluation.plan


@given(
    st.text(st.characters(exclude_categories=["Cs"])), st.integers() | st.booleans() | st.floats(-1e9, 1e9)
)
def test_any_text_and_number_survives_but_for_the_kind_of_line_end(text, number):
    record = TrialRecord(0, "FAIL", "", {"text": "=" + text, "number": number}, None)
    (row,) = csv.DictReader(io.StringIO(trials_csv(summarise([record], OBJECTIVES, METRICS)), newline=""))
    assert row["params.text"] == "=" + text.replace("\r\n", "\n").replace("\r", "\n")
    assert json.loads(row["params.number"]) == number


def test_columns_json_describes_exactly_the_columns_written(tmp_path: Path):
    summary = summarise(make_records(20), OBJECTIVES, METRICS)
    paths = write_tables(tmp_path, summary, {})
    assert [path.name for path in paths] == ["trials.csv", "columns.json", "pareto.csv"]
    described = json.loads((tmp_path / "columns.json").read_text("utf-8"))
    written = {name for path in (paths[0], paths[2]) for name in read(path.read_text("utf-8"))[0]}
    assert set(described) - written == {"energy.measured_j"} and written <= set(described)
    energy = described[f"energy.{ACCELERATOR}_j"]
    assert (energy["unit"], energy["origin"], energy["direction"]) == ("j", "modelled", "minimize")
    assert described["test_accuracy"]["origin"] == "measured"


def test_absent_everywhere_has_its_reason_and_only_then():
    summary = summarise(make_records(5), OBJECTIVES, METRICS)
    columns = describe_columns(summary)
    assert columns["energy.measured_j"]["absent_reason"] == NO_GPU
    assert [name for name in columns if "absent_reason" in columns[name]] == ["energy.measured_j"]
    silent = [with_evaluation(record, absent={}) for record in make_records(5)]
    columns = describe_columns(summarise(silent, OBJECTIVES, METRICS))
    assert columns["energy.measured_j"]["absent_reason"] == "no finished trial reports it"


def test_an_objective_nobody_could_measure_takes_no_part():
    objectives = objectives_named("accuracy", "energy.measured", "energy.bitserial", "area.bitserial")
    records = make_records(40)
    summary = summarise(records, objectives, METRICS)
    assert summary.front_numbers == front_by_definition(records)


def test_a_trial_that_lacks_an_objective_is_on_no_front():
    records = make_records(10)
    best = with_metric(records[6], accuracy=1.0, energy__bitserial=None)
    summary = summarise([*records[:6], best, *records[7:]], OBJECTIVES, METRICS)
    assert 6 not in summary.front_numbers and summary.front


def test_no_trial_at_all_gives_headings_only():
    summary = summarise([], OBJECTIVES, METRICS)
    assert (summary.front, summary.knee, summary.complete) == ((), None, ())
    assert read(trials_csv(summary)) == [] and "accuracy" in trials_csv(summary)
    assert set(summary.absent) == set(METRICS)


@given(st.floats(1e-4, 1e8) | st.floats(-1e8, -1e-4))
def test_three_significant_digits(value):
    text = significant(value)
    assert float(text) == pytest.approx(value, rel=0.0051)
    assert "e" not in text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("accuracy", 0.98765, "98.77 %"),
        ("energy.bitserial", 1.2345e-6, "1.23 µJ"),
        ("latency.bitserial", 0.25, "250 ms"),
        ("size", 1_234_567.0, "1235 kB"),
        ("area.bitserial", 0.0, "0 mm²"),
    ],
)
def test_display_values(name, value, shown):
    assert display_value(METRICS[name], value) == shown


def test_first_line():
    assert first_line("\n\n  a \nb") == "a"
    assert first_line("") == first_line(" \n ") == ""


def test_a_file_in_the_way_is_named(tmp_path: Path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(RunFolderError, match="part of the path is a file") as caught:
        write_tables(tmp_path / "run", summarise([], OBJECTIVES, METRICS), {})
    assert str(tmp_path / "run" / "trials.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only"), (errno.EIO, "check")]
)
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, monkeypatch, code, remedy):
    path = write_atomically(tmp_path / "a" / "trials.csv", "old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunFolderError, match=remedy) as caught:
        write_atomically(path, "new")
    assert str(path) in str(caught.value) and os.strerror(code) in str(caught.value)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_knee_is_on_the_front_and_baselines_are_found_by_label():
    summary = summarise(make_records(80), OBJECTIVES, METRICS)
    assert summary.knee.number in summary.front_numbers
    assert list(summary.baselines) == ["float", "uniform 8", "uniform 4", "uniform 2", "ternary"]
    assert math.isclose(summary.float_accuracy, 0.995)
