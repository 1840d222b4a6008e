"""The examples of CONTRIBUTING.md run as they are printed, and what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def run_example(tmp_path: Path, example: str, use: str) -> str:
    """Run an example and then ``use``, in a process of its own: what registers would stay registered here."""
    script = tmp_path / "example.py"
    script.write_text(f"{example}\n{use}\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_method_compresses(tmp_path: Path) -> None:
    """By hand: threshold 0.7 * mean(1, 2, 3, 6) = 2.1 keeps 3 and 6, whose mean is 4.5."""
    use = """
from compressors.registry import compress, make_config
weight = np.array([[1.0, -2.0, 3.0, -6.0]])
print(compress(weight, make_config("threshold", {"percent": 70})).to_dense().tolist())
print(compress(weight, make_config("threshold", {}), np.array([[True, True, True, False]])).to_dense().tolist())
"""
    first, pruned = run_example(tmp_path, blocks("python")[0], use).splitlines()
    assert first == "[[0.0, 0.0, 4.5, -4.5]]"
    assert pruned == "[[0.0, -2.5, 2.5, 0.0]]"  # 0.7 * mean(1, 2, 3, 0) = 1.05


def test_example_accelerator_prices(tmp_path: Path) -> None:
    """2 outputs of 3x3x4 inputs on 5x5 pixels: 1,800 products of 0.2034 pJ, 10 at once at 500 MHz."""
    use = """
from energy.accelerators import make_accelerator
from energy.technology import load_technology
from energy.workload import LayerWork, Workload
layer = LayerWork("conv", 2, 4, 1, (3, 3), (1, 1), (1, 1), (5, 5), {}, None, 32)
machine = make_accelerator("mac_array", {"units": 10}, load_technology("cmos45"))
cost = machine.cost(Workload((layer,), image_bits=0), {"conv": 8})
print(round(cost.total_energy_j.nominal * 1e12, 3), round(cost.total_latency_s * 1e9, 3))
"""
    assert run_example(tmp_path, blocks("python")[1], use).split() == ["366.12", "360.0"]


def test_example_experiment_composes(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    command = [sys.executable, "-m", "dse", "sweep", "+experiment=mine", "--cfg", "job"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DSE_CONFIG_PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    composed = yaml.safe_load(done.stdout)
    assert (composed["space"]["grain"], composed["study"]["n_trials"]) == ("block", 300)
    assert composed["objectives"]["names"] == ["accuracy", "energy.bitserial"]


def test_files_it_names_exist() -> None:
    made_by_the_examples = {
        "compressors/methods/threshold.py",
        "energy/accelerators/mac_array.py",
        "configs/accelerator/mac_array.yaml",
    }
    found = set(re.findall(r"(?:dse|compressors|energy|configs|tests)/[\w./]*\.(?:py|yaml)", TEXT))
    named = {name for name in found if "NAME" not in name} - made_by_the_examples
    assert len(named) > 10
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_names_it_tells_to_edit_exist() -> None:
    for path, name in (
        ("compressors/registry.py", "_BUILT_IN"),
        ("energy/accelerators/__init__.py", "_BUILT_IN"),
        ("energy/meters/__init__.py", "_METERS"),
        ("dse/cli.py", "COMMANDS"),
        ("tests/contracts.py", "class CompressorContract"),
    ):
        assert path in TEXT and name.removeprefix("class ") in TEXT
        assert name in (ROOT / path).read_text(encoding="utf-8")
