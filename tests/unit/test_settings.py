"""The configuration of a study as plain data: parsed once, exact through JSON, unknown keys refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from dse.errors import ConfigError, DseError, UnknownName
from dse.settings import EvaluationSettings, Setup, StudySettings, SweepSettings

PLAIN: dict[str, Any] = {
    "study": {
        "name": "run",
        "folder": "results",
        "n_trials": 7,
        "seed": 1,
        "max_failures": 2,
        "fresh": False,
    },
    "model": {"name": "resnet20", "target": None, "args": {}, "checkpoint": None, "float_layers": ["pool"]},
    "data": {
        "name": "digits",
        "root": None,
        "seed": 0,
        "calibration": 32,
        "search": 60,
        "test": 50,
        "download": True,
    },
    "evaluation": {"batch": 100, "activity_images": 8, "threads": None},
    "accelerators": {"bitserial": {"kind": "bitserial", "settings": {"lanes": 16}}},
    "technology": {"name": "cmos45", "overrides": {"dram_energy": 4.0}},
    "meter": {"name": "none", "device": 0, "protocol": {}},
    "space": {"weights": {"ternary": {"terms": [1, 2]}}, "activation_bits": [2, 4]},
    "sampler": {"name": "tpe"},
    "objectives": {"names": ["accuracy", "size"]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(PLAIN)
    *parents, last = path.split("/")
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return data


def test_every_group_arrives() -> None:
    settings = SweepSettings.from_dict(PLAIN)
    assert settings.run == Path("results/run")
    assert settings.study == StudySettings("run", "results", 7, 1, 2)
    assert (settings.sampler, settings.objectives) == ("tpe", ("accuracy", "size"))
    assert settings.space.weights == {"ternary": {"terms": [1, 2]}}
    setup = settings.setup
    assert (setup.model.name, setup.model.float_layers) == ("resnet20", ("pool",))
    assert (setup.data.calibration, setup.evaluation.batch) == (32, 100)
    assert setup.accelerators["bitserial"].settings == {"lanes": 16}
    assert setup.technology.overrides == {"dram_energy": 4.0}


def test_setup_round_trip_through_json_is_exact() -> None:
    setup = Setup.from_dict(PLAIN)
    assert Setup.from_dict(json.loads(json.dumps(setup.to_dict()))) == setup


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("meter/name", "auto"),
        ("meter/protocol", {"block_s": 1.0}),
        ("evaluation/threads", 1),
        ("evaluation/batch", 10),
        ("data/download", False),
    ],
)
def test_what_leaves_the_figures_alone_leaves_the_fingerprint_alone(path: str, value: Any) -> None:
    assert Setup.from_dict(changed(path, value)).fingerprint() == Setup.from_dict(PLAIN).fingerprint()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model/name", "resnet8"),
        ("model/checkpoint", "weights.pt"),
        ("model/float_layers", []),
        ("data/search", 61),
        ("data/seed", 1),
        ("evaluation/activity_images", 4),
        ("accelerators/bitserial/settings", {"lanes": 8}),
        ("technology/overrides", {}),
    ],
)
def test_what_changes_the_figures_changes_the_fingerprint(path: str, value: Any) -> None:
    assert Setup.from_dict(changed(path, value)).fingerprint() != Setup.from_dict(PLAIN).fingerprint()


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        ("study/n_trial", 3, UnknownName, "study: unknown key 'n_trial'; did you mean 'n_trials'"),
        (
            "study/name",
            "a/b",
            ConfigError,
            "study.name='a/b': expected the name of a folder, without slashes",
        ),
        ("study/name", "", ConfigError, "study.name=''"),
        ("study/name", "..", ConfigError, "study.name='..'"),
        ("model/chekpoint", "x", UnknownName, "model: unknown key 'chekpoint'; did you mean 'checkpoint'"),
        ("model", None, ConfigError, "model=None: expected a mapping"),
        ("data", [], ConfigError, r"data=\[\]: expected a mapping"),
        ("evaluation/batch", 0, ConfigError, "evaluation.batch=0: expected a whole number of at least 1"),
        ("evaluation/activity_images", -1, ConfigError, "evaluation.activity_images=-1"),
        ("evaluation/threads", 0, ConfigError, "evaluation.threads=0: .*or null"),
        ("accelerators", {}, ConfigError, "accelerators={}: expected at least one accelerator"),
        ("accelerators/bitserial/lanes", 3, UnknownName, "accelerators.bitserial: unknown key 'lanes'"),
        ("accelerators/x", 3, ConfigError, "x=3: expected a mapping"),
        ("space/grian", "stage", UnknownName, "space: unknown key 'grian'; did you mean 'grain'"),
        ("space/activation_bits", [12], ConfigError, "space.activation_bits=12"),
    ],
)
def test_wrong_values_are_named(path: str, value: Any, error: type[DseError], message: str) -> None:
    with pytest.raises(error, match=message):
        SweepSettings.from_dict(changed(path, value))


def test_evaluation_settings_are_checked_on_their_own() -> None:
    assert EvaluationSettings(threads=1).threads == 1
    with pytest.raises(ConfigError, match="evaluation.threads"):
        EvaluationSettings(threads=-2)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("model/args", [1], "model.args=.*expected a mapping"),
        ("evaluation/batch", 10.0, "evaluation.batch=10.0: expected a whole number"),
        ("evaluation/batch", True, "evaluation.batch=True: expected a whole number"),
        ("evaluation/threads", 10**6, "evaluation.threads=1000000: expected 1 to 1024"),
        ("evaluation/threads", "2", "evaluation.threads='2': expected a whole number or null"),
        ("evaluation/arithmetic", "fixed", "unknown arithmetic 'fixed'"),
        ("evaluation/reuse_block", [16], r"evaluation.reuse_block=\[16\]: expected rows and columns"),
        ("evaluation/reuse_block", [16, 0], "evaluation.reuse_block"),
        ("data/search", "60", "data.search='60': expected a whole number"),
        ("data/seed", "x", "data.seed='x'"),
        ("model/checkpoint", 5, "model.checkpoint=5: expected text or null"),
        ("model/float_layers", "pool", "model.float_layers='pool': expected a list"),
    ],
)
def test_values_of_another_type(path: str, value: Any, expected: str) -> None:
    with pytest.raises(DseError, match=expected):
        SweepSettings.from_dict(changed(path, value))
