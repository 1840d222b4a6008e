"""The files of an exported candidate: exact through disk, and altered ones told from whole ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from compressors.methods.ternary import TernaryConfig
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan
from dse.candidate import Candidate
from dse.data import DataConfig
from dse.errors import CandidateError
from dse.export import METRICS, PLAN, WEIGHTS, WORKLOAD, Export, read_export, write_export
from dse.memo import content_key
from dse.models import ModelConfig
from dse.settings import AcceleratorSettings, EvaluationSettings, MeterSettings, Setup, TechnologySettings

BYTES = b"packed planes"
CANDIDATE = Candidate(
    CompressionPlan((("conv", LayerPlan(TernaryConfig(2), ActivationConfig(3), 0.1)),)), (("conv", 2),)
)
SETUP = Setup(
    ModelConfig(float_layers=("pool",)),
    DataConfig(search=60),
    EvaluationSettings(),
    {"a": AcceleratorSettings("bitserial", {"lanes": 8})},
    TechnologySettings(overrides={"dram_energy": 0.1 + 0.2}),
    MeterSettings("none"),
)
EXPORT = Export(CANDIDATE, SETUP, 17, hashlib.sha256(BYTES).hexdigest())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_export(
        tmp_path / "17", EXPORT, BYTES, "layers: []\n", {"trial": 17, "metrics": {"accuracy": 0.1 + 0.2}}
    )
    return tmp_path / "17"


def alter(folder: Path, path: str, value: Any, *, sign: bool = False) -> None:
    data = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    *parents, last = path.split("/")
    inner = data
    for key in parents:
        inner = inner[key]
    inner[last] = value
    if sign:  # whoever knows the checksum still meets the checks of the values
        del data["sha256"]
        data["sha256"] = content_key(data)
    (folder / PLAN).write_text(json.dumps(data), encoding="utf-8")


def test_round_trip_through_disk_is_exact(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([PLAN, WEIGHTS, METRICS, WORKLOAD])
    assert read_export(folder) == EXPORT
    EXPORT.check_weights(folder / WEIGHTS)
    assert json.loads((folder / METRICS).read_text())["metrics"] == {"accuracy": 0.1 + 0.2}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("plan/layers/conv/weight/terms", 3),
        ("plan/layers/conv/activation/bits", 4),
        ("granularity/conv", 4),
        ("trial", 18),
        ("setup/data/search", 61),
        ("setup/technology/overrides", {}),
        ("weights_sha256", "0" * 64),
        ("note", "a key more"),
        ("sha256", "0" * 64),
    ],
)
def test_values_that_were_edited_are_noticed(folder: Path, path: str, value: Any) -> None:
    alter(folder, path, value)
    with pytest.raises(CandidateError, match=r"plan\.json: .*altered since the export"):
        read_export(folder)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "dse-candidate-9", "expected the format 'dse-candidate-1'"),
        ("plan/layers/conv/weight/terms", 99, "ternary.terms=99: expected an integer from 1 to 8"),
        ("plan/layers/conv/weight/method", "ternry", "unknown compressor 'ternry'; did you mean 'ternary'"),
        ("granularity/conv", 3, "granularity: expected layer -> one of"),
        ("setup/model/colour", 1, "model: unknown key 'colour'"),
        ("setup/evaluation/batch", "many", "evaluation.batch='many': expected a whole number"),
        ("setup/accelerators", {}, "at least one accelerator"),
        ("setup", None, "setup|TypeError|AttributeError"),
        ("trial", "x", "ValueError"),
        ("trial", float("inf"), "OverflowError"),
    ],
)
def test_values_out_of_range_are_named_even_behind_a_right_checksum(
    folder: Path, path: str, value: Any, message: str
) -> None:
    alter(folder, path, value, sign=True)
    with pytest.raises(CandidateError, match=message) as caught:
        read_export(folder)
    assert str(folder / PLAN) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": "dse-candidate-1"}', "\x00"])
def test_what_is_no_plan_is_refused(folder: Path, content: str) -> None:
    (folder / PLAN).write_text(content)
    with pytest.raises(CandidateError, match=r"plan\.json"):
        read_export(folder)


@pytest.mark.parametrize(
    ("value", "message"),
    [("[" * 100_000, "more than 64 lists"), ("9" * 401, "an integer of 401 digits")],
    ids=["deep", "long"],
)
def test_numbers_and_nesting_beyond_all_bounds_are_refused(folder: Path, value: str, message: str) -> None:
    text = (folder / PLAN).read_text(encoding="utf-8")
    (folder / PLAN).write_text(text.replace('"trial": 17', f'"trial": {value}'))
    with pytest.raises(CandidateError, match=rf"plan\.json: .*{message}.*; export the trial again"):
        read_export(folder)


def test_no_candidate_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=r"plan\.json: cannot be read.*a folder that export wrote"):
        read_export(tmp_path)


@pytest.mark.parametrize("content", [BYTES[:-1], BYTES + b"\0", b""])
def test_weights_that_were_altered_or_cut_are_noticed(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CandidateError, match=r"weights\.safetensors: SHA-256 .*truncated or was altered"):
        read_export(folder).check_weights(folder / WEIGHTS)


def test_missing_weights_are_noticed(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(CandidateError, match=r"weights\.safetensors: cannot be read"):
        read_export(folder).check_weights(folder / WEIGHTS)
