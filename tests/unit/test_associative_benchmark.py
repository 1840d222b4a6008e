"""The benchmark of the seed paper's machine: its network, and one quick run."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.benchmarks.associative import SEED_RATIO, main
from tests.benchmarks.associative_network import resnet18


def test_the_network_is_resnet18() -> None:
    """21 layers, 11.7 million weights, 1.81 billion multiply-accumulates."""
    shapes = resnet18()
    weights = [s.inputs * s.outputs * s.kernel**2 for s in shapes]
    assert len(shapes) == 21
    assert sum(weights) == pytest.approx(11.68e6, rel=1e-3)
    assert sum(w * s.output**2 for w, s in zip(weights, shapes, strict=True)) == pytest.approx(
        1.814e9, rel=1e-3
    )


def test_quick_associative(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    assert "4 layers of ResNet-18" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "associative.csv").read_text(encoding="utf-8"))))
    by_check = {row["check"]: row for row in rows}
    assert len(by_check) == len(rows) and not any(row["bar"] for row in rows)
    additions = by_check["layer1.0.conv1: additions per pixel, shared"]
    assert 0 < float(additions["ours"]) < float(additions["peer"])
    layers = [row for row in rows if row["check"].endswith("energy on the racetrack machine")]
    total = by_check["4 layers of ResNet-18, sparsity 0.8: energy, racetrack"]
    assert sum(float(row["ours"]) for row in layers) == pytest.approx(float(total["ours"]), rel=2e-3)
    ratio = by_check["4 layers of ResNet-18, sparsity 0.8: energy, crossbar over racetrack"]
    assert float(ratio["peer"]) == SEED_RATIO and "are not known" in ratio["note"]
    if total["peer"]:
        assert float(ratio["ours"]) == pytest.approx(float(total["peer"]) / float(total["ours"]), rel=2e-3)
    else:
        assert not ratio["ours"] and "absent" in ratio["peer_name"] + total["peer_name"]
    assert (tmp_path / "associative.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "associative.svg").read_text(encoding="utf-8")
