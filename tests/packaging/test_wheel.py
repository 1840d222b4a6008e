"""What the distribution carries, built the way a user's pip builds it: sdist first, the wheel from that."""

from __future__ import annotations

import email
import email.message
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import dse

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("compressors", "dse", "energy")
DIST_INFO = f"dse_lowbit-{dse.__version__}.dist-info"
_PATIENCE_S = 600


def run(
    *command: str | Path, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
    )


def isolation(folder: Path) -> list[str]:
    """Options for `build`: the installed back-end, else one fetched from the index; skips where there is neither."""
    if importlib.util.find_spec("hatchling") is not None:
        return ["--no-isolation"]
    probe = run(sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder, "hatchling", cwd=folder)
    if probe.returncode != 0:
        last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"hatchling is not installed and pip cannot fetch it: {last}")
    return []


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that `build` makes from it."""
    folder = tmp_path_factory.mktemp("distributions")
    options = isolation(tmp_path_factory.mktemp("probe"))
    done = run(sys.executable, "-m", "build", *options, "--outdir", folder, ROOT, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def site(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked, as an installer leaves it among its packages."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(distributions[1]).extractall(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    """Relative paths of the files a distribution should take from ``folder``."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix()
        for path in found
        if "__pycache__" not in path.parts and path.suffix not in (".pyc", ".nbi", ".nbc", ".tmp")
    }


def metadata(site: Path) -> email.message.Message:
    return email.message_from_string((site / DIST_INFO / "METADATA").read_text(encoding="utf-8"))


def requirements(site: Path) -> dict[str, Requirement]:
    """Those of the plain install, by name."""
    lines = map(Requirement, metadata(site).get_all("Requires-Dist", []))
    return {line.name: line for line in lines if line.marker is None}


def test_wheel_has_three_packages_and_nothing_else_on_top(site: Path) -> None:
    """`configs`, `tests` and `results` are names that other distributions install."""
    assert {path.name for path in site.iterdir()} == {*PACKAGES, DIST_INFO}


def test_wheel_holds_every_file_of_the_packages_and_configs(site: Path) -> None:
    expected = {f"{name}/{path}" for name in PACKAGES for path in files_below(ROOT / name)}
    expected |= {f"dse/configs/{path}" for path in files_below(ROOT / "configs")}
    shipped = {f"{name}/{path}" for name in PACKAGES for path in files_below(site / name)}
    assert shipped == expected


@pytest.mark.parametrize(
    "path",
    [
        "dse/configs/sweep.yaml",
        "dse/configs/experiment/resnet_ternary.yaml",
        "dse/models/weights/resnet20_digits.safetensors",
        "dse/report.html.j2",
        "energy/technology/cmos45.yaml",
    ],
)
def test_wheel_holds_the_data_the_main_job_reads(site: Path, path: str) -> None:
    source = ROOT / path.removeprefix("dse/") if path.startswith("dse/configs") else ROOT / path
    assert (site / path).read_bytes() == source.read_bytes()


def test_wheel_holds_no_tests_or_results(site: Path) -> None:
    parts = {part for path in site.rglob("*") for part in path.relative_to(site).parts}
    assert not parts & {"tests", "results", "conftest.py", "__pycache__", ".git", "memo", "journal.log"}


def test_sdist_holds_sources_and_tests_but_no_results(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = [Path(member.name) for member in archive.getmembers() if member.isfile()]
    top = {path.parts[1] for path in names}
    written = {"pyproject.toml", "README.md", "CONTRIBUTING.md", "LICENSE", ".gitignore", "PKG-INFO"}
    assert {*PACKAGES, "configs", "tests", "pyproject.toml", "README.md", "LICENSE"} <= top
    assert top <= {*PACKAGES, "configs", "tests", *written}


def test_metadata_names_version_licence_and_script(site: Path) -> None:
    told = metadata(site)
    assert (told["Name"], told["Version"]) == ("dse-lowbit", dse.__version__)
    assert told["License-Expression"] == "MIT"
    assert (site / DIST_INFO / "licenses" / "LICENSE").is_file()
    assert "[console_scripts]\ndse = dse.cli:entry" in (site / DIST_INFO / "entry_points.txt").read_text()
    pythons = SpecifierSet(told["Requires-Python"])
    assert all(version in pythons for version in ("3.10", "3.11", "3.12", "3.13"))
    assert "3.9" not in pythons and "3.14" not in pythons  # hydra 1.3 does not run on 3.14


def test_requirements_take_cpu_and_cuda_torch_alike(site: Path) -> None:
    required = requirements(site)
    torch = required["torch"].specifier
    assert all(version in torch for version in ("2.6.0", "2.13.0+cpu", "2.8.0+cu128"))
    assert "2.5.1" not in torch and "2.14.0" not in torch
    assert "5.0.0" in required["optuna"].specifier and "4.9.0" not in required["optuna"].specifier
    assert "nvidia-ml-py" in required and "pynvml" not in required


def test_test_extra_holds_what_the_tests_import(site: Path) -> None:
    lines = map(Requirement, metadata(site).get_all("Requires-Dist", []))
    extra = {line.name for line in lines if line.marker and line.marker.evaluate({"extra": "test"})}
    assert {"build", "hypothesis", "pytest"} <= extra


def test_unpacked_wheel_runs_from_another_folder(site: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(site)}
    where = run(
        sys.executable, "-c", "import dse; print(dse.__file__)", cwd=tmp_path, environment=environment
    )
    assert Path(where.stdout.strip()) == site / "dse" / "__init__.py"
    command = (sys.executable, "-m", "dse", "sweep", "+experiment=resnet_ternary", "--cfg", "job")
    composed = run(*command, cwd=tmp_path, environment=environment)
    assert composed.returncode == 0, composed.stderr
    assert "name: resnet20" in composed.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["compressors", "energy"])
def test_a_stranger_of_the_same_name_is_refused(site: Path, tmp_path: Path, name: str) -> None:
    """PyPI has other distributions that install these names; one that comes first must not be used unnoticed."""
    stranger = tmp_path / "stranger" / name
    stranger.mkdir(parents=True)
    (stranger / "__init__.py").write_text("raise RuntimeError('a stranger was run')\n")
    paths = os.pathsep.join([str(stranger.parent), str(site)])
    done = run(sys.executable, "-c", "import dse", cwd=tmp_path, environment={"PYTHONPATH": paths})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: '{name}' was found at {stranger}")
    assert str(site) in last and "uninstall it" in last


def test_a_missing_sibling_is_named(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "dse", tmp_path / "dse")
    # -S leaves out site-packages, where the project itself may be installed
    done = run(sys.executable, "-S", "-c", "import dse", cwd=tmp_path, environment={"PYTHONPATH": ""})
    assert done.returncode == 1
    assert "ImportError: 'compressors' was found at None" in done.stderr
