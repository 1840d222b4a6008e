"""Every mistake a user can make: the message, the exit code, and that nothing found so far comes to harm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dse.models
from compressors.serialize import FORMAT
from dse.cli import main
from dse.export import PLAN, WEIGHTS
from dse.memo import content_key
from dse.study import load_records
from tests.benchmarks.killing import audit, differing
from tests.integration.sweeping import (
    N_TRIALS,
    complete,
    content,
    copied,
    finish,
    start,
    sweep,
)

pytestmark = pytest.mark.usefixtures("own_threads")

SHIPPED = Path(dse.models.__file__).parent / "weights" / "resnet20_digits.safetensors"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run that a mistake may happen to."""
    return copied(finished_run, tmp_path / "run")


@pytest.fixture
def refused(run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refused(*words)``: what is told when they are; the finished run must be as it was."""

    def check(*words: str) -> str:
        before = content(run)
        capsys.readouterr()
        code = main(list(words)) if words[0] != "sweep" else sweep(run, *words[1:])
        captured = capsys.readouterr()
        assert code == 2
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert content(run) == before
        message = captured.err.rpartition("dse: ")
        assert message[0] == "" or message[0].startswith("loading ")  # one message, told once
        return message[2]

    return check


# --- words of the command line

WORDS: list[tuple[list[str], list[str]]] = [
    (
        ["experiment=resnet_ternry"],
        ["unknown experiment 'resnet_ternry'", "did you mean 'resnet_ternary'"],
    ),
    (
        ["space.weights.ternry.terms=[1]"],
        ["space.weights: unknown compressor 'ternry'", "did you mean 'ternary'"],
    ),
    (
        ["space.weights.uniform.bit=[4]"],
        ["space.weights.uniform: unknown setting", "'bit'", "did you mean 'bits'"],
    ),
    (
        ["space.activation_bits=abc"],
        [
            "space.activation_bits=abc: expected a list, each item a whole number, as in 'space.activation_bits=[8]'"
        ],
    ),
    (["space.activation_bits=4"], ["as in 'space.activation_bits=[4]'"]),
    (
        ["space.activation_bits=[abc]"],
        ["space.activation_bits[0]=abc: expected a whole number, as in 'space.activation_bits=[8]'"],
    ),
    (["space.activation_bits=[9]"], ["space.activation_bits=9: expected an integer from 1 to 8"]),
    (["space.activation_bits=[0]"], ["space.activation_bits=0: expected an integer from 1 to 8"]),
    (["space.weights.uniform.bits=[abc]"], ["space.weights.uniform.bits=abc: expected an integer from 2 to"]),
    (["space.weights.uniform.bits=abc"], ["space.weights.uniform.bits=abc: expected a list, as in 'space."]),
    (
        ["space.weights.uniform.bits=[]"],
        ["space.weights.uniform.bits=[]: expected at least one value to try"],
    ),
    (["space.repair=[]"], ["space.repair=[]: expected a list, at least one of nearest, second_order"]),
    (
        ["space.weights={ternary:{terms:[1],grup:[16]}}"],
        [
            "space.weights.ternary: unknown setting of 'ternary' 'grup'",
            "available: asymmetric, group, per, refine",
        ],
    ),
    (["space.pattern=2:4"], ["space.sparsity=0.1: expected 0 or 0.5", "give 'space.sparsity=[0,0.5]'"]),
    (["space.weights.uniform.bits=[1]"], ["space.weights.uniform.bits=1: expected an integer from 2 to"]),
    (["space.weights.uniform.bits=[99]"], ["space.weights.uniform.bits=99: expected an integer from 2 to"]),
    (["space.weights.ternary.terms=[0]"], ["space.weights.ternary.terms=0: expected an integer from 1 to"]),
    (["space.sparsity=[1.0]"], ["space.sparsity=1.0: expected a number from 0 up to, not including, 1"]),
    (["space.sparsity=[-0.1]"], ["space.sparsity=-0.1: expected a number from 0"]),
    (["space.granularity=[3]"], ["space.granularity=3: expected one of 1, 2, 4, 8"]),
    (["space.grain=stge"], ["space.grain: unknown grain 'stge'", "did you mean 'stage'"]),
    (["space.sparsty=[0.0]"], ["unknown key 'sparsty'", "did you mean 'sparsity'"]),
    (
        ["objectives.names=[accuracy,energy.bitseral]"],
        ["objectives.names: unknown objective 'energy.bitseral'", "did you mean 'energy.bitserial'"],
    ),
    (["objectives=enrgy"], ["unknown objectives 'enrgy'", "did you mean 'energy'"]),
    (["sampler=rndom"], ["unknown sampler 'rndom'", "did you mean 'random'"]),
    (["sampler.name=rndom"], ["sampler.name: unknown sampler 'rndom'", "did you mean 'random'"]),
    (["model.name=resnet21"], ["model.name: unknown model 'resnet21'", "'resnet20'"]),
    (["model.target=no_such_module:build"], ["model.target=no_such_module:build", "that can be imported"]),
    (["study.n_trials=0"], ["study.n_trials=0: expected a whole number of at least 1"]),
    (["study.n_trials=-3"], ["study.n_trials=-3: expected a whole number of at least 1"]),
    (["study.n_trials=many"], ["study.n_trials=many: expected a whole number, as in study.n_trials=100"]),
    (["study.name=a/b"], ["study.name='a/b': expected the name of a folder"]),
    (["study.fresh=true"], ["already holds a study", "choose another study.name"]),
    (["data.search=0"], ["data.search=0"]),
    (["data.search=100000"], ["data.search=100000"]),
    (["data.root=/nonexistent"], ["data.root=/nonexistent: expected null"]),
    (
        ["data=cifar10", "data.root=/nonexistent"],
        ["data.root=/nonexistent: no CIFAR-10 there", "cifar-10-batches-py", "correct data.root"],
    ),
    (["accelerators.bitserial.kind=bitseral"], ["'bitseral'", "did you mean 'bitserial'"]),
    (["technology.overrides.dram_enrgy=4.0"], ["'dram_enrgy'", "did you mean 'dram_energy'"]),
]


@pytest.mark.parametrize(("words", "messages"), WORDS, ids=[" ".join(words) for words, _ in WORDS])
def test_a_wrong_word_is_named_with_what_was_expected(
    words: list[str], messages: list[str], refused: Callable[..., str]
) -> None:
    told = refused("sweep", *words)
    for message in messages:
        assert message in told


CHANGES = {
    "space.sparsity=[0.0,0.5]": "space.sparsity: was [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], now [",
    "space.weights.binary=null": "space.weights.binary",
    "objectives=energy": 'objective 3: was "area.bitserial minimize", now absent',
    "objectives.names=[accuracy,size,energy.bitserial]": 'objective 2: was "energy.bitserial minimize", now "size ',
    "study.seed=5": "seed: was 0, now 5",
    "data.search=61": "setup.data.search: was 60, now 61",
    "accelerators.bitserial.settings.skip=none": 'setup.accelerators.bitserial.settings.skip: was "weights", now ',
}


@pytest.mark.parametrize("word", CHANGES)
def test_a_study_is_not_resumed_as_another(word: str, refused: Callable[..., str]) -> None:
    told = refused("sweep", word)
    assert "holds a study of something else:" in told
    assert f"\n  {CHANGES[word]}" in told
    assert "study.name=ANOTHER_NAME" in told


def test_what_the_other_commands_refuse(run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    empty, away = tmp_path / "empty", tmp_path / "away"
    empty.mkdir()
    assert "unknown command 'swep'; did you mean 'sweep'" in refused("swep")
    assert "select=best: expected knee, trial=N, min_METRIC" in refused("export", f"run={run}", "select=best")
    assert f"expected a trial from 0 to {N_TRIALS - 1}" in refused("export", f"run={run}", "trial=99")
    assert "unknown metric 'energi'; did you mean 'energy" in refused(
        "export", f"run={run}", "select=min_energi"
    )
    assert "is met by none" in refused("export", f"run={run}", "select=min_energy where accuracy >= 101%")
    for folder in (empty, away):
        assert f"{folder} holds no study" in refused("report", f"run={folder}")
        assert f"{folder} holds no study" in refused("export", f"run={folder}")
        told = refused("evaluate", f"candidate={folder}")
        assert f"{folder / 'plan.json'}: cannot be read" in told and "a folder that export wrote" in told
    assert list(empty.iterdir()) == [] and not away.exists()
    assert "cannot be read" in refused("evaluate", f"candidate={run}")


# --- exported candidates


@pytest.fixture
def candidate(run: Path, tmp_path: Path) -> Path:
    """An exported trial with ternary weights."""
    number = next(record.number for record in load_records(run) if record.label == "ternary")
    assert main(["export", f"run={run}", f"select=trial={number}"]) == 0
    return (run / "exports" / str(number)).rename(tmp_path / "candidate")


def rewrite(candidate: Path, change: Callable[[dict[str, Any]], str]) -> None:
    """Other facts in the weights' header, by someone who knows the checksums."""
    with safe_open(candidate / WEIGHTS, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
    save_file(load_file(candidate / WEIGHTS), candidate / WEIGHTS, metadata={FORMAT: change(header)})
    plan = json.loads((candidate / PLAN).read_text())
    del plan["sha256"]
    plan["weights_sha256"] = hashlib.sha256((candidate / WEIGHTS).read_bytes()).hexdigest()
    (candidate / PLAN).write_text(json.dumps({**plan, "sha256": content_key(plan)}))


def with_scale(scale: str) -> Callable[[dict[str, Any]], str]:
    def change(header: dict[str, Any]) -> str:
        header["grids"]["layer1.0.conv1"]["scale"] = "HERE"
        return json.dumps(header).replace('"HERE"', scale)

    return change


def with_bits(header: dict[str, Any]) -> str:
    header["tensors"]["layer1.0.conv1"]["bits"] = 2
    return json.dumps(header)


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "a grid beyond float32": (with_scale("1e300"), "grids.layer1.0.conv1.scale=1e+300, expected"),
    "an integer beyond floats": (
        with_scale("1" + 400 * "0"),
        "an integer of 401 digits, expected at most 300",
    ),
    "nested too deep": (lambda _: "[" * 100_000, "more than 64 lists and mappings inside one another"),
    "other bits than the planes": (with_bits, "layer1.0.conv1: its planes do not hold what bits=2"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_candidate_whose_weights_are_described_wrongly(
    header: str, candidate: Path, refused: Callable[..., str]
) -> None:
    change, message = HEADERS[header]
    rewrite(candidate, change)
    told = refused("evaluate", f"candidate={candidate}")
    assert told.startswith(str(candidate / WEIGHTS)) and message in told and "write it again" in told


def test_a_candidate_whose_weights_are_only_written_anew(candidate: Path) -> None:
    rewrite(candidate, json.dumps)
    assert main(["evaluate", f"candidate={candidate}"]) == 0


def test_a_candidate_nested_too_deep(candidate: Path, refused: Callable[..., str]) -> None:
    (candidate / PLAN).write_text("[" * 100_000)
    told = refused("evaluate", f"candidate={candidate}")
    assert f"{candidate / PLAN}: not JSON: more than 64" in told and "export the trial again" in told


# --- files of weights


class Trap:
    """Makes a folder when it is unpickled: stands for any code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def truncated(source: Path, target: Path) -> Path:
    shutil.copy(source, target)
    os.truncate(target, target.stat().st_size // 2)
    return target


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_truncated_checkpoint(kind: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(load_file(SHIPPED), whole)
    broken = (
        truncated(SHIPPED, tmp_path / "half.safetensors")
        if kind == "safetensors"
        else truncated(whole, tmp_path / "half.pt")
    )
    told = refused("sweep", f"model.checkpoint={broken}")
    assert told.startswith(str(broken)) and "truncated or of another format" in told


def test_a_checkpoint_that_is_not_there(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert f"no checkpoint at {tmp_path}/no.pt" in refused("sweep", f"model.checkpoint={tmp_path}/no.pt")


def test_a_checkpoint_of_another_shape(tmp_path: Path, refused: Callable[..., str]) -> None:
    weights = load_file(SHIPPED)
    weights["linear.weight"] = torch.zeros(7, 64)
    del weights["linear.bias"]
    save_file(weights, tmp_path / "other.safetensors")
    told = refused("sweep", f"model.checkpoint={tmp_path}/other.safetensors")
    assert "missing linear.bias" in told
    assert "linear.weight is (7, 64), expected (10, 64)" in told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite(value: float, tmp_path: Path, refused: Callable[..., str]) -> None:
    weights = load_file(SHIPPED)
    weights["layer2.1.conv1.weight"][3, 2, 1, 0] = value
    save_file(weights, tmp_path / "broken.safetensors")
    told = refused("sweep", f"model.checkpoint={tmp_path}/broken.safetensors")
    assert "has NaN or infinity in layer2.1.conv1.weight" in told


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_checkpoint_that_would_run_code_does_not(
    name: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    sprung, made = tmp_path / "sprung", tmp_path / "made.pt"
    torch.save({**load_file(SHIPPED), "trap": Trap(sprung)}, made)
    torch.load(made, weights_only=False)
    assert sprung.is_dir()  # the trap works
    sprung.rmdir()
    path = made.rename(tmp_path / name)
    told = refused("sweep", f"model.checkpoint={path}")
    assert not sprung.exists()
    assert told.startswith(str(path))
    assert ("reading it could run code" in told) == (name == "weights.pt")


# --- places that cannot be written


def test_a_file_where_the_results_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for run in (tmp_path / "file" / "run", tmp_path / "file"):
        assert sweep(run) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"dse: cannot make the run folder {run}: ")
        assert "set study.folder to a place that can be written" in told
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_where_the_figures_should_be(
    run: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "figures")
    (run / "figures").write_text("mine")
    for again in (lambda: main(["report", f"run={run}"]), lambda: sweep(run)):
        assert again() == 2
        told = capsys.readouterr().err
        assert f"cannot write {run / 'figures'}/" in told and "move it away" in told
    assert (run / "figures").read_text() == "mine"
    assert load_records(run) == load_records(finished_run)
    (run / "figures").unlink()
    assert main(["report", f"run={run}"]) == 0


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where no folder can be made")
def test_a_place_where_no_folder_can_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(Path("/proc/run")) == 2
    assert "dse: cannot make the run folder /proc/run: " in capsys.readouterr().err


def mounting(script: str, folder: Path) -> list[str]:
    """A command prefix: ``script`` mounts something on ``$0``, the folder, and runs ``"$@"``, the command behind."""
    prefix = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let tests mount")
    return prefix


def limiting(size_bytes: int) -> list[str]:
    """A command prefix under which no file can grow beyond ``size_bytes``."""
    script = (
        "import os, resource, sys; size, hard = int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard)); os.execv(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-c", script, str(size_bytes)]


def test_a_read_only_run_folder(run: Path, tmp_path: Path) -> None:
    before, log = content(run), tmp_path / "log"
    prefix = mounting('mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', run)
    assert finish(start(run, f"study.n_trials={N_TRIALS + 1}", log=log, prefix=prefix)) == 2
    told = log.read_text()
    assert f"dse: cannot lock {run}/" in told or f"dse: cannot write {run}/" in told
    assert "Read-only file system" in told and "Traceback" not in told
    assert content(run) == before


def test_a_full_disk_keeps_what_was_found(finished_run: Path, tmp_path: Path) -> None:
    disk, saved, log = tmp_path / "disk", tmp_path / "saved", tmp_path / "log"
    disk.mkdir()
    # The small disk goes with the process, so what lies on it is copied away before.
    script = (
        f'mount -t tmpfs -o size=200k none "$0" && {{ "$@"; code=$?; cp -r "$0/." {saved}; exit $code; }}'
    )
    assert finish(start(disk / "run", log=log, prefix=mounting(script, disk))) == 2
    told = log.read_text()
    assert f"dse: cannot write {disk}/run/" in told and "No space left on device" in told
    assert "free some space" in told and "Traceback" not in told
    found = load_records(saved / "run")
    assert 0 < len(complete(found)) < N_TRIALS
    assert differing(found, load_records(finished_run)[: len(complete(found))]) == 0


@pytest.mark.slow
def test_a_journal_that_cannot_grow_is_completed_once_it_can(finished_run: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    journal = (finished_run / "journal.log").stat().st_size
    others = max(path.stat().st_size for path in (finished_run / "memo").iterdir())
    assert others < 0.8 * journal  # so that it is the journal that meets the limit
    assert finish(start(run, log=log, prefix=limiting(int(0.8 * journal)))) == 2
    told = log.read_text()
    assert f"dse: cannot write {run}/journal.log: File too large; nothing finished so far is lost" in told
    assert "Traceback" not in told
    found = complete(load_records(run))
    assert 0 < len(found) < N_TRIALS
    assert sweep(run) == 0
    records = load_records(run)
    assert [record for record in records if record.number in {kept.number for kept in found}] == found
    assert (audit(records).finished, audit(records).lost_or_doubled) == (N_TRIALS, 0)
    assert differing(records, load_records(finished_run)) == 0
