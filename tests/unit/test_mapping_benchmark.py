"""The mapping benchmark: the network it maps, and one quick run."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.benchmarks.mapping import main, resnet18, workload


def test_the_network_is_resnet18() -> None:
    layers = resnet18()
    assert len(layers) == 21
    work = workload([8] * 21, [4] * 21)
    assert work.macs == 1_814_073_344  # as torchvision's, with its classifier
    assert {layer.input_bits for layer in work.layers} == {4}


def test_a_quick_run_writes_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "mapping.csv").read_text())))
    assert len(rows) == 7 and all(row["ours"] and not row["bar"] for row in rows)
    assert "scoring kernel, one core" in capsys.readouterr().out
