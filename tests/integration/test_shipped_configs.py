"""Every shipped configuration composes into settings that can be used, and the README names only what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dse.cli import COMMANDS, main
from dse.commands.sweep import SearchSettings
from dse.data.registry import DATASETS
from dse.locations import config_dir
from dse.models.registry import MODELS
from dse.objectives import select_objectives
from dse.settings import SweepSettings
from energy.accelerators import make_accelerator
from energy.technology import load_technology

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = config_dir()
PRIMARY = {path.stem for path in CONFIGS.glob("*.yaml")}
GROUPED = sorted(path.relative_to(CONFIGS) for path in CONFIGS.glob("*/*.yaml"))


def composed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["sweep", *words, "--cfg", "job"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    config["study"]["name"] = config["study"]["name"] or "named"  # done when a sweep really starts
    return config


def test_every_command_has_a_primary_file_and_the_other_way_round() -> None:
    assert set(COMMANDS) == PRIMARY


def test_all_groups_are_covered() -> None:
    assert {path.parent.name for path in GROUPED} == {
        path.name for path in CONFIGS.iterdir() if path.is_dir()
    }
    assert list(CONFIGS.glob("*/*/*")) == []


@pytest.mark.parametrize("path", GROUPED, ids=str)
def test_every_option_composes_into_valid_settings(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group, name = path.parent.name, path.stem
    words = {"accelerator": f"accelerator@accelerators.bitserial={name}", "method": f"+method={name}"}
    word = words.get(group, f"{group}={name}")
    words = [word] if group == "experiment" else ["experiment=resnet_ternary", word]
    config = composed(capsys, *words)
    settings = SweepSettings.from_dict(config)
    SearchSettings(settings.study.n_trials, settings.sampler, settings.study.seed)
    assert select_objectives(settings.objectives, settings.setup.accelerators, shared=True)
    technology = load_technology(settings.setup.technology.name, settings.setup.technology.overrides)
    for accelerator in settings.setup.accelerators.values():
        make_accelerator(accelerator.kind, accelerator.settings, technology)


@pytest.mark.parametrize("path", GROUPED, ids=str)
def test_every_option_is_named_after_what_it_chooses_and_says_what_it_is(path: Path) -> None:
    text = (CONFIGS / path).read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    if path.parent.name in ("model", "data", "technology", "sampler", "meter"):
        assert data["name"] == path.stem
    assert "#" in text or path.parent.name == "sampler"


def test_named_things_exist(capsys: pytest.CaptureFixture[str]) -> None:
    import dse.models.resnet  # noqa: F401 (registers the networks)

    for path in GROUPED:
        if path.parent.name == "model":
            assert path.stem in MODELS
        if path.parent.name == "data":
            assert path.stem in DATASETS


def test_keys_shown_by_help_are_those_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    config = composed(capsys, "experiment=resnet_ternary")
    again = SweepSettings.from_dict(config)
    shown = set(config["data"]) | set(config["model"]) | set(config["evaluation"])
    plain = again.setup.to_dict()
    assert shown == set(plain["data"]) | set(plain["model"]) | set(plain["evaluation"])


def test_the_readme_names_commands_options_and_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    words = set(re.findall(r"(?:python -m |^\s*\$? ?)dse ([a-z]+)", text, flags=re.MULTILINE))
    assert "sweep" in words
    assert words <= set(COMMANDS) | {"help"}
    experiments = set(re.findall(r"experiment=([a-z_0-9]+)", text))
    assert experiments <= {path.stem for path in GROUPED if path.parent.name == "experiment"}
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (ROOT / link).exists(), link
