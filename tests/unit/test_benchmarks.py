"""The benchmarks' own arithmetic, on studies whose faults are known; and one quick run of each."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dse.records import Evaluation, TrialRecord
from dse.reference import Row, table
from tests.benchmarks.killing import audit, differing
from tests.benchmarks.processes import ROOT, session_rss_bytes, start, watch
from tests.benchmarks.ternary import Comparison, best_ternary, is_ternary

LAYERS = ("conv1", "layer1", "layer2", "linear")


def trial(number: int, *, state: str = "COMPLETE", seed: int | None = None, **more: object) -> TrialRecord:
    evaluation = Evaluation(plan="p", metrics={"accuracy": 0.9, "energy.bitserial": 1e-6 * (number + 1)})
    given = {"label": "", "params": {"bits": number}, **more}
    return TrialRecord(
        number, state, evaluation=evaluation if state == "COMPLETE" else None, seed=seed, **given
    )


def compressed(number: int, methods: tuple[str | None, ...], accuracy: float, energy_j: float) -> TrialRecord:
    plans = {
        name: {"weight": method and {"method": method}} for name, method in zip(LAYERS, methods, strict=True)
    }
    metrics = {"accuracy": accuracy, "energy.bitserial": energy_j}
    evaluation = Evaluation("p", metrics, {"plan": {"layers": plans}, "granularity": {}})
    return TrialRecord(number, "COMPLETE", "", {}, evaluation)


def sound_study() -> list[TrialRecord]:
    """A baseline, an orphan and its retry, two trials of the search."""
    return [
        trial(0, label="float", params={}),
        trial(1, state="FAIL", seed=12, params={"bits": 3}),
        trial(2, retry_of=1, params={"bits": 3, "planes": 1}),
        trial(3, seed=13),
        trial(4, seed=14),
    ]


def test_audit_finds_nothing_wrong_with_a_sound_study() -> None:
    found = audit(sound_study())
    assert (found.finished, found.orphans) == (4, 1)
    assert (found.lost_or_doubled, found.repeated_seeds, found.repeated_params, found.badly_retried) == (
        0,
    ) * 4


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        ("left_open", [trial(4, state="RUNNING")]),
        ("gaps", []),
        ("repeated_seeds", [trial(4, seed=13)]),
        ("repeated_seeds", [trial(4, seed=12)]),
        ("repeated_seeds", [trial(4)]),
        ("repeated_params", [trial(4, seed=14, params={"bits": 3, "planes": 1})]),
        ("badly_retried", [trial(4, state="FAIL")]),
        ("badly_retried", [trial(4, seed=14, retry_of=3)]),
        ("repeated_labels", [trial(4, seed=14, label="float")]),
    ],
)
def test_audit_counts_each_fault(fault: str, changed: list[TrialRecord]) -> None:
    study = [*sound_study()[:4], *changed]
    if fault == "gaps":
        study.append(trial(5, seed=15))
    assert getattr(audit(study), fault) > 0


def test_audit_sees_an_orphan_retried_with_other_parameters() -> None:
    study = sound_study()
    study[2] = dataclasses.replace(study[2], params={"bits": 4, "planes": 1})
    assert audit(study).badly_retried == 1


def test_differing_counts_by_parameters_and_metrics_whatever_the_numbers() -> None:
    study = sound_study()
    renumbered = [dataclasses.replace(record, number=record.number + 7) for record in study]
    assert differing(study, renumbered) == 0
    assert differing(study, study[:-1]) == 1 == differing(study[:-1], study)
    other = dataclasses.replace(study[4], params={"bits": 99})
    assert differing(study, [*study[:4], other]) == 1


def test_ternary_everywhere_means_between_first_and_last() -> None:
    assert is_ternary(compressed(0, ("uniform", "ternary", "ternary", "uniform"), 0.9, 1e-6), LAYERS)
    assert not is_ternary(compressed(0, ("ternary", "ternary", "binary", "ternary"), 0.9, 1e-6), LAYERS)
    assert not is_ternary(compressed(0, ("uniform", "ternary", None, "uniform"), 0.9, 1e-6), LAYERS)
    empty = Evaluation("p", {}, {"plan": {"layers": {}}, "granularity": {}})
    assert not is_ternary(TrialRecord(0, "COMPLETE", "float", {}, empty), LAYERS)
    assert not is_ternary(trial(0, state="FAIL"), LAYERS)


def test_best_ternary_is_the_cheapest_within_one_point() -> None:
    inside = ("uniform", "ternary", "ternary", "uniform")
    study = [
        compressed(0, inside, 0.9725, 1e-6),  # too inaccurate
        compressed(1, inside, 0.9825, 3e-6),
        compressed(2, inside, 0.98, 2e-6),  # exactly one point below 0.99
        compressed(3, ("uniform", "uniform", "ternary", "uniform"), 0.99, 1e-7),
    ]
    best = best_ternary(study, LAYERS, 0.99)
    assert best is not None and best.number == 2
    assert best_ternary(study, LAYERS, 1.0) is None
    found = Comparison(best, 0.99, {1: 12e-6, 2: 8e-6, 4: 9e-6, 8: 20e-6}, 20e-6, None)
    assert found.cheapest == 2
    assert found.factor(found.baseline_j) == pytest.approx(10)
    assert found.factor(found.uniform_j[found.cheapest]) == pytest.approx(4)


def test_table_tells_zero_from_absent() -> None:
    rows = [
        Row("speed", 1.23456, 2.0, "lower", "s", "median of 3"),
        Row("faults", 0, 0.0, "lower", "trials", ""),
        Row("energy", None, 5.0, "higher", "x", "no GPU, so none"),
        Row("ours and theirs", 3.0, None, "higher", "x", "", peer=2.5, peer_name="other"),
    ]
    assert [row.verdict for row in rows] == ["reached", "reached", "not measured", "no bar"]
    assert Row("speed", 2.1, 2.0, "lower", "s", "").verdict == "MISSED"
    assert Row("gain", 4.9, 5.0, "higher", "x", "").verdict == "MISSED"
    lines = table(rows).splitlines()
    assert lines[0] == "check,ours,peer,peer_name,bar,better,unit,note"
    assert lines[1] == "speed,1.235,,,2,lower,s,median of 3"
    assert lines[2] == "faults,0,,,0,lower,trials,"
    assert lines[3] == 'energy,,,,5,higher,x,"no GPU, so none"'
    assert lines[4] == "ours and theirs,3,2.5,other,,higher,x,"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="memory is read from /proc")
def test_memory_of_a_process_and_its_child_is_added_up(tmp_path: Path) -> None:
    hold = "b = b'x' * 60_000_000"
    child = f"{hold}; import time; time.sleep(0.7)"
    code = f"import subprocess, sys; {hold}; subprocess.run([sys.executable, '-c', {child!r}])"
    watched = watch([sys.executable, "-c", code], tmp_path)
    assert watched.peak_rss_bytes is not None
    assert 120e6 < watched.peak_rss_bytes < 250e6
    assert session_rss_bytes(1 << 30) == 0


def test_a_command_that_fails_is_reported_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 3(.|\n)*the reason"):
        watch([sys.executable, "-c", "print('the reason', flush=True); raise SystemExit(3)"], tmp_path)
    assert start([sys.executable, "-c", ""], tmp_path).wait() == 0


@pytest.mark.slow
def test_quick_main_job(tmp_path: Path) -> None:
    script = ROOT / "tests" / "benchmarks" / "main_job.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # other tests may run beside this one
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "main_job.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 11
    assert all(row["ours"] and not row["bar"] for row in rows)  # eight trials prove nothing about a hundred
    by_check = {row["check"].rpartition(": ")[2]: float(row["ours"]) for row in rows}
    assert by_check["finished trials"] == 8
    assert by_check["lost or counted twice"] == by_check["repeated seeds"] == 0
    assert by_check["orphans not retried exactly once"] == 0
    assert by_check["finished unlike in the undisturbed sweep"] == 0
    assert (tmp_path / "out" / "main_job.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out" / "main_job.svg").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / "main_job.json").read_text())["machine"]["versions"]["torch"]


def run_accuracy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The accuracy benchmark where the shared data is absent."""
    script = ROOT / "tests" / "benchmarks" / "accuracy.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DSE_SHARED_DATA": str(folder)}
    command = [sys.executable, str(script), "--threads", "1", "--cache", str(folder / "cache"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=570)


def test_accuracy_needs_its_data(tmp_path: Path) -> None:
    done = run_accuracy(tmp_path)
    assert done.returncode == 1 and "set DSE_SHARED_DATA, or --quick" in done.stderr


@pytest.mark.slow
def test_quick_accuracy(tmp_path: Path) -> None:
    done = run_accuracy(tmp_path, "--quick", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "accuracy.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["unit"] for row in rows] == ["points", "points", "s"]
    assert all(row["ours"] and not row["bar"] for row in rows)  # so few images prove nothing
    assert "digits" in rows[0]["check"] and float(rows[2]["ours"]) > 0
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out" / "accuracy.svg").read_text(encoding="utf-8")
    raw = json.loads((tmp_path / "out" / "accuracy.json").read_text(encoding="utf-8"))
    assert raw["machine"]["versions"]["torch"] and len(raw["runs"]["ternary / 8"]) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 3  # an interrupted run goes on from these


def test_quick_kernels(tmp_path: Path) -> None:
    script = ROOT / "tests" / "benchmarks" / "kernels.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DSE_SHARED_DATA": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "kernels.csv").read_text(encoding="utf-8"))))
    assert all(not row["bar"] for row in rows)  # so small shapes prove nothing
    found = {row["check"]: row["ours"] for row in rows}
    assert float(found["XOR products, share of the peak"]) > 0
    assert float(found["lowered ResNet-20, ternary x u4, batch 1: float32 time over ours"]) > 0
    assert all(
        row["ours"] or "not installed" in row["note"] or "no byte products" in row["note"] for row in rows
    )
