"""Published chips: their files, the fits behind the constants, and what is calibrated and what is blind."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dse.errors import ConfigError, DseError, UnknownName
from energy.accelerators import make_accelerator
from energy.published import Check, target
from energy.published.chip_file import FIGURES, load_chip, parse_chip
from energy.published.chips import blind_constants, chip_checks, chip_target
from energy.published.cim import SURVEY, colonnade_table
from energy.published.cim_fit import fit, known_designs, shipped_chip
from energy.technology import load_technology
from energy.technology.scaling import area_factor, energy_factor

SHIPPED = sorted(
    Path(entry.name).stem
    for entry in resources.files("energy.published").joinpath("chips").iterdir()
    if entry.name.endswith(".yaml")
)
CHIP: dict[str, Any] = {
    "name": "mine",
    "source": "a data sheet",
    "accelerator": {"kind": "crossbar", "settings": {"rows": 64, "columns": 64, "adc_bits": 6, "arrays": 1}},
    "technology": {"name": "cmos45", "node_nm": 28, "vdd_v": 0.8},
    "operands": {"weight_bits": 4, "input_bits": 4},
    "published": {"tops_per_w": 50, "area_mm2": 0.1},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**CHIP, **changes}


def write(folder: Path, data: object) -> Path:
    path = folder / "chip.yaml"
    path.write_text(
        data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False), encoding="utf-8"
    )
    return path


def mean_error(checks: list[Check]) -> float:
    return float(np.mean([abs(check.error) for check in checks]))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_chips_answer(name: str) -> None:
    chip = shipped_chip(name)
    assert chip.name == name and len(chip.source) > 20
    checks = chip_checks(chip, "blind")
    assert checks and all(check.kind == "blind" and check.model > 0 for check in checks)
    assert len({check.name for check in checks}) == len(checks)
    calibrated = chip_checks(chip, "calibrated")
    assert not calibrated or len(calibrated) == len(checks)


def test_every_shipped_chip_is_in_a_target() -> None:
    assert set(SHIPPED) == {"jia", "wang", "colonnade", "tu", "guo", *SURVEY}


@pytest.mark.parametrize("name", ["cim", "dimc", "colonnade"])
def test_bars_are_reached(name: str) -> None:
    found = target(name)
    checks = found.run()
    assert set(found.bar) == {"calibrated", "blind"}
    for kind, bar in found.bar.items():
        rows = [check for check in checks if check.kind == kind]
        assert rows and mean_error(rows) <= bar, kind


def test_calibrated_and_blind_know_different_things() -> None:
    for name in ("jia", "wang", "colonnade"):
        calibrated, blind = (mean_error(chip_checks(shipped_chip(name), k)) for k in ("calibrated", "blind"))
        assert calibrated < 0.05 < blind


def test_technology_holds_what_the_fit_gives() -> None:
    technology = load_technology("cmos45")
    for name, fitted in fit().items():
        assert technology[name].value == pytest.approx(fitted, rel=2e-3), name
        assert technology[name].status == "derived"
    for design in ("jia", "wang", "isaac", "neurram", "tu", "chih", "colonnade", "lee"):
        for name, without in fit(design).items():
            band = technology[name].band
            assert band.low <= without <= band.high, (design, name)


def test_a_fit_without_a_design_does_not_know_it() -> None:
    """Leaving out one of two arrays leaves the other's own value, by hand."""
    wang = 6.107 / (22 / 28) ** 0.5 / 3 / 0.25
    assert fit("jia")["nvm.cell_capacitance"] == pytest.approx(wang, rel=1e-3)
    line = 0.35 * 65 / 28 * 0.5
    jia = [(e / v**2 - line) / (65 / 28) / 0.25 for e, v in ((4.210, 0.85), (8.854, 1.2))]
    assert fit("wang")["nvm.cell_capacitance"] == pytest.approx(np.sqrt(jia[0] * jia[1]), rel=1e-3)
    assert {"jia", "wang", "isaac", "newton", "forms", "neurram", "tu", "colonnade"} <= known_designs()
    for name in known_designs():
        assert dict(fit(name)) != dict(fit())


def test_blind_rows_of_a_stranger_use_the_constants_as_they_are() -> None:
    assert blind_constants("mine") == {}
    assert blind_constants("jia") == fit("jia")


def test_a_chip_given_as_settings_alone(tmp_path: Path) -> None:
    found = chip_target(write(tmp_path, CHIP))
    checks = found.run()
    assert [check.name for check in checks] == ["mine tops_per_w blind", "mine area_mm2 blind"]
    settings = {**CHIP["accelerator"]["settings"], "node_nm": 28, "vdd_v": 0.8}
    peak = make_accelerator("crossbar", settings, load_technology("cmos45")).peak(4, 4)
    assert checks[0].model == pytest.approx(peak.tops_per_w) and checks[0].published == 50
    assert checks[1].model == pytest.approx(peak.area_mm2.nominal)
    assert checks[0].unit == "TOPS/W" and checks[0].source == "a data sheet"


def test_every_figure_is_compared(tmp_path: Path) -> None:
    published = {**dict.fromkeys(FIGURES, 1.0), "shares": {"adc+cells": 50}, "area_shares": {"adc": 20}}
    checks = chip_checks(parse_chip(changed(published=published), "x"), "blind")
    assert len(checks) == len(FIGURES) + 2
    peak = {check.name.split()[1]: check.model for check in checks}
    assert peak["energy_per_mac_j"] == pytest.approx(2e-12 / peak["tops_per_w"])
    assert peak["tops"] == pytest.approx(peak["tops_per_mm2"] * peak["area_mm2"])
    assert [check.unit for check in checks[-2:]] == ["points", "points"]
    assert checks[-2].error == pytest.approx((checks[-2].model - 50) / 100)


def test_operating_points_and_their_constants() -> None:
    points = [
        {"name": "slow", "settings": {"activation_mhz": 10}, "published": {"tops": 0.01}},
        {"name": "fast", "settings": {"activation_mhz": 20}, "technology": {"vdd_v": 1.0}},
    ]
    data = changed(points=points, published={"tops_per_w": 50}, calibrated={"nvm.cell_capacitance": 1.0})
    points[1]["calibrated"] = {"adc.bit_capacitance": 2.0}
    chip = parse_chip(data, "x")
    slow, fast = chip.points
    assert slow.published == {"tops_per_w": 50, "tops": 0.01} and fast.published == {"tops_per_w": 50}
    assert (slow.vdd_v, fast.vdd_v) == (0.8, 1.0)
    assert slow.calibrated == {"nvm.cell_capacitance": 1.0} and len(fast.calibrated) == 2
    blind, calibrated = chip_checks(chip, "blind"), chip_checks(chip, "calibrated")
    assert [c.name for c in blind] == [c.name.replace("calibrated", "blind") for c in calibrated]
    tops = {c.name: c.model for c in blind if "tops " in c.name}
    assert tops == {"mine slow tops blind": pytest.approx(2 * 64 * (64 // 2 // 3) * 10e6 / 4 * 1e-12)}
    rates = [c.model for c in blind if "tops_per_w" in c.name]
    assert rates[0] < [c.model for c in calibrated if "tops_per_w" in c.name][0]


def test_machines_without_a_process_are_scaled() -> None:
    """A systolic array is built at the technology's node; the chip's power and area are the scaled ones."""
    data = changed(
        accelerator={"kind": "systolic", "settings": {"rows": 16, "columns": 16}},
        technology={"node_nm": 28, "vdd_v": 0.9, "overrides": {"clock_hz": 1e9}},
        published={"tops": 0.5, "tops_per_w": 3, "area_mm2": 1},
        operands={"weight_bits": 8, "input_bits": 8},
    )
    tops, per_w, area = (check.model for check in chip_checks(parse_chip(data, "x"), "blind"))
    peak = make_accelerator(
        "systolic", {"rows": 16, "columns": 16}, load_technology("cmos45", {"clock_hz": 1e9})
    ).peak(8, 8)
    assert tops == pytest.approx(peak.tops) and tops == pytest.approx(2 * 256 * 1e9 * 1e-12)
    assert per_w == pytest.approx(peak.tops_per_w / energy_factor(45, 1.0, 28, 0.9).nominal)
    assert area == pytest.approx(peak.area_mm2.nominal * area_factor(45, 28).nominal)


NEST: list[Any] = [1] * 9
for _ in range(8):  # as references in a file: small there, too long to print
    NEST = [NEST] * 9


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("[1, 2", ConfigError, "expected YAML"),
        ("- a\n- b", ConfigError, "chip.yaml=list: expected keys with values"),
        ("name: !!python/object/apply:os.getcwd []", ConfigError, "could not determine a constructor"),
        (changed(nam="x"), UnknownName, "unknown key 'nam'; did you mean 'name'"),
        ({k: v for k, v in CHIP.items() if k != "source"}, ConfigError, "source=None: expected a text"),
        (changed(accelerator={"kind": "crosbar"}), UnknownName, "unknown accelerator kind 'crosbar'"),
        (changed(accelerator={"kind": "crossbar", "settings": {"row": 1}}), UnknownName, "unknown setting of"),
        (changed(accelerator={"kind": "crossbar", "settings": {"rows": "many"}}), ConfigError, "rows=many"),
        (changed(accelerator={"kind": "crossbar", "settings": [1]}), ConfigError, "expected keys with values"),
        (changed(accelerator="crossbar"), ConfigError, "accelerator=crossbar: expected keys with values"),
        (changed(accelerator={"kind": "bitserial"}), ConfigError, "expected a machine that says what it reaches"),
        (changed(technology={"name": "cmos54"}), UnknownName, "did you mean 'cmos45'"),
        (changed(technology={"node": 28}), UnknownName, "unknown key 'node'; did you mean 'node_nm'"),
        (changed(technology={"node_nm": "28 nm"}), ConfigError, "technology.node_nm=28 nm: expected a positive"),
        (changed(technology={"node_nm": 28}), ConfigError, "technology.vdd_v=None: expected the chip's"),
        (changed(operands={"weight_bits": 4}), ConfigError, "operands.input_bits=None"),
        (changed(operands={"weight_bits": 4, "input_bits": 99}), ConfigError, "expected an integer from 1 to 32"),
        (changed(published={}), ConfigError, "published={}: expected one of tops"),
        (changed(published={"topsw": 1}), UnknownName, "unknown key 'topsw'; did you mean 'tops"),
        (changed(published={"tops": -1}), ConfigError, "published.tops=-1: expected a positive number"),
        (changed(published={"tops": float("nan")}), ConfigError, "expected a positive number"),
        (changed(published={"shares": {"adcs": 3}}), UnknownName, "unknown component 'adcs'; did you mean 'adc'"),
        (changed(calibrated={"adc.bits": 3}), UnknownName, "unknown constant 'adc.bits'"),
        (changed(accelerator={"kind": "bitserial"}), ConfigError, "at its peak: addergraph, binary, "),
        (changed(accelerator={"kind": "crossbar", "settings": 0}), ConfigError, "settings=0: expected keys with"),
        (changed(technology={"node_nm": 28, "vdd_v": "9e-1"}), ConfigError, "YAML takes 2e8 for a text: write 2.0e+8"),
        (changed(technology=[]), ConfigError, "technology=list: expected keys with values"),
        (changed(title=3), ConfigError, "title=3: expected a text"),
        (changed(published={"tops": NEST}), ConfigError, "published.tops=list: expected a positive number"),
        (changed(name=NEST), ConfigError, "name=list: expected a text"),
        (changed(points=[]), ConfigError, "expected a list of operating points"),
        (changed(points=[{"nme": "x"}]), UnknownName, "unknown key 'nme'"),
        (changed(operands={"weight_bits": 32, "input_bits": 4}, points=[{"settings": {"columns": 8}}]),
         ConfigError, "weight_bits=32: expected a width that 8 columns hold"),
    ],
)  # fmt: skip
def test_files_that_make_no_sense_are_refused(
    tmp_path: Path, data: object, error: type[DseError], message: str
) -> None:
    with pytest.raises(error) as caught:
        chip_target(write(tmp_path, data)).run()
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a chip's YAML file that can be read"):
        load_chip(tmp_path / "none.yaml")


def test_the_table_of_colonnade_is_whole() -> None:
    rows = colonnade_table()
    energies = [row for row in rows if row["figure"] == "energy"]
    assert len(energies) == 2 * 16 * 3 and len(rows) == len(energies) + 16 * 5
    known = {(r["weight_bits"], r["input_bits"], r["vdd_v"]): float(r["value"]) for r in energies}
    for vdd, printed in (("0.6", 36.8), ("0.7", 91.8), ("0.8", 144.0)):
        assert known["8", "1", vdd] == pytest.approx(printed, rel=3e-3)
