"""The processor's counters, on folders laid out as Linux lays out powercap."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compressors.errors import ConfigError
from energy.meters import MeterError, open_meter
from energy.meters.rapl import RaplMeter

RANGE_UJ = 262_143_328_850


def zone(powercap: Path, folder: str, name: str, energy_uj: int) -> Path:
    path = powercap / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path / "energy_uj"


@pytest.fixture
def two_packages(tmp_path: Path) -> dict[str, Path]:
    """Two packages with cores and memory, and the whole platform's zone, which holds both."""
    folders = {
        "intel-rapl:0": ("package-0", 1_000_000),
        "intel-rapl:0:0": ("core", 10),
        "intel-rapl:0:1": ("dram", 5_000),
        "intel-rapl:1": ("package-1", 7_000_000),
        "intel-rapl:1:0": ("dram", 0),
        "intel-rapl:2": ("psys", 0),
    }
    (tmp_path / "intel-rapl").mkdir()
    return {folder: zone(tmp_path, folder, *what) for folder, what in folders.items()}


def test_packages_and_their_memory_are_added_once(two_packages: dict[str, Path], tmp_path: Path) -> None:
    meter = RaplMeter("all", tmp_path)
    assert meter.available() is None and meter.method == "counter"
    assert meter.describe()["zones"] == ["package-0", "package-1", "package-0 dram", "package-1 dram"]
    assert meter.read().energy_j == 0.0
    for folder, more in (
        ("intel-rapl:0", 2_000_000),
        ("intel-rapl:0:0", 900_000),
        ("intel-rapl:0:1", 500_000),
    ):
        file = two_packages[folder]
        file.write_text(str(int(file.read_text()) + more))
    two_packages["intel-rapl:2"].write_text("9000000")
    assert meter.read().energy_j == pytest.approx(2.5)
    one = RaplMeter(1, tmp_path)
    two_packages["intel-rapl:1"].write_text("7250000")
    assert one.read().energy_j == pytest.approx(0.25)
    assert one.describe()["zones"] == ["package-1", "package-1 dram"]


def test_a_counter_that_begins_again_loses_nothing(two_packages: dict[str, Path], tmp_path: Path) -> None:
    file = two_packages["intel-rapl:0"]
    file.write_text(str(RANGE_UJ - 300_000))
    meter = RaplMeter(0, tmp_path)
    for now, total_j in ((RANGE_UJ - 100_000, 0.2), (400_000, 0.7), (500_000, 0.8)):
        file.write_text(str(now))
        assert meter.read().energy_j == pytest.approx(total_j)


def test_readings_carry_the_time_of_the_clock(two_packages: dict[str, Path], tmp_path: Path) -> None:
    assert RaplMeter("all", tmp_path, clock=lambda: 12.5).read().time_s == 12.5


def test_no_zones(tmp_path: Path) -> None:
    meter = RaplMeter("all", tmp_path)
    absent = meter.available()
    assert absent is not None and "no RAPL zones" in absent.reason and absent.remedy
    assert meter.method is None and meter.describe()["absent"] == absent.reason
    with pytest.raises(MeterError, match="no RAPL zones"):
        meter.read()


def test_an_unknown_package(two_packages: dict[str, Path], tmp_path: Path) -> None:
    absent = RaplMeter(3, tmp_path).available()
    assert absent is not None and absent.reason == "no zone package-3"
    assert "package-0, package-1" in absent.remedy
    for device in ("first", -1, 0.5, True):
        with pytest.raises(ConfigError, match="meter.device"):
            RaplMeter(device, tmp_path)  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_no_permission_says_how_to_get_it(two_packages: dict[str, Path], tmp_path: Path) -> None:
    two_packages["intel-rapl:0"].chmod(0)
    absent = RaplMeter("all", tmp_path).available()
    assert absent is not None and "root alone" in absent.reason and "chmod a+r" in absent.remedy


def test_a_counter_that_is_lost(two_packages: dict[str, Path], tmp_path: Path) -> None:
    meter = RaplMeter("all", tmp_path)
    two_packages["intel-rapl:1"].unlink()
    with pytest.raises(MeterError, match="stopped answering"):
        meter.read()


def test_the_meter_is_known_by_name() -> None:
    assert isinstance(open_meter("rapl", "all"), RaplMeter)
