"""The command line: what it answers, with which exit code, and whose configurations win."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dse.cli import COMMANDS, main
from dse.expected import expectation
from dse.locations import USER_CONFIGS
from dse.schema import SCHEMAS

SWEEP = ["sweep", "+experiment=resnet_ternary"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder, with no configurations of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(USER_CONFIGS, raising=False)


def composed(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main([*words, "--cfg", "job"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: python -m dse COMMAND")
    for command in COMMANDS:
        assert f"\n  {command} " in out


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: python -m dse COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"dse {command}: ")
    assert f"Usage: python -m dse {command}" in out
    assert list(Path.cwd().iterdir()) == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import dse

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == dse.__version__


@pytest.mark.parametrize(
    ("word", "nearest"), [("sweeep", "sweep"), ("evalute", "evaluate"), ("Report", "report")]
)
def test_unknown_command_is_answered_with_the_nearest(
    word: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, "x=1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"dse: unknown command {word!r}; did you mean {nearest!r}")
    assert err.count("\n") == 1


def test_from_a_shell() -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for words, code in (["--help"], 0), (["nonsense"], 2):
        done = subprocess.run(
            [sys.executable, "-m", "dse", *words], capture_output=True, text=True, env=environment
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert bool(done.stdout) == (code == 0)


@pytest.mark.parametrize("word", ["experiment=resnet_ternary", "+experiment=resnet_ternary"])
def test_experiment_with_and_without_plus(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = composed(capsys, "sweep", word, "study.n_trials=3", "space.sparsity=[0.0,0.5]")
    assert config["study"]["n_trials"] == 3
    assert config["space"]["sparsity"] == [0.0, 0.5]
    assert config["model"]["name"] == "resnet20"
    assert list(Path.cwd().iterdir()) == []  # showing is not running


def test_groups_are_swapped_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    config = composed(capsys, *SWEEP, "data=cifar10", "sampler=nsga2", "meter=none", "objectives=energy")
    assert (config["data"]["name"], config["sampler"]["name"], config["meter"]["name"]) == (
        "cifar10",
        "nsga2",
        "none",
    )
    assert config["objectives"]["names"] == ["accuracy", "energy.bitserial"]


def test_a_second_accelerator_beside_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    config = composed(
        capsys,
        *SWEEP,
        "+accelerator@accelerators.dense=bitserial",
        "accelerators.dense.settings.skip=none",
    )
    skips = {name: a["settings"]["skip"] for name, a in config["accelerators"].items()}
    assert skips == {"bitserial": "weights", "dense": "none"}


def test_keys_of_open_mappings_need_no_plus(capsys: pytest.CaptureFixture[str]) -> None:
    config = composed(
        capsys,
        *SWEEP,
        "technology.overrides={dram_energy: 4, pe_energy.8/2: 0.5}",
        "model.args={width: 2}",
        "meter.protocol.block_s=1",
        "space.weights.ternary.terms=[1]",
        "space.weights.binary=null",
        "space.baselines.mine={weights: ternary-2, activation_bits: 4, sparsity: 0.0, granularity: 1}",
    )
    assert config["technology"]["overrides"] == {"dram_energy": 4.0, "pe_energy.8/2": 0.5}
    assert (config["model"]["args"], config["meter"]["protocol"]) == ({"width": 2}, {"block_s": 1})
    assert config["space"]["weights"]["ternary"] == {"terms": [1]}
    assert config["space"]["weights"]["binary"] is None
    assert list(config["space"]["baselines"])[-1] == "mine"


def test_twice_in_one_process_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.argv)
    first = composed(capsys, *SWEEP, "study.seed=5")
    assert main([*SWEEP, "study.sed=5"]) == 2
    second = composed(capsys, *SWEEP)
    assert (first["study"]["seed"], second["study"]["seed"]) == (5, 0)
    assert sys.argv == before


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """A folder like the shipped one: an experiment of its own, and a sampler of the same name as a shipped one."""
    folder = tmp_path / "my configs"
    for group, name, text in (
        ("experiment", "mine", "# @package _global_\ndefaults:\n  - override /sampler: tpe\n"),
        ("sampler", "tpe", "name: random\n"),
    ):
        (folder / group).mkdir(parents=True)
        (folder / group / f"{name}.yaml").write_text(text)
    return folder


def test_files_of_the_users_own_folder_win(
    user_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(USER_CONFIGS, str(user_folder))
    config = composed(capsys, "sweep", "experiment=mine")
    assert config["sampler"]["name"] == "random"  # the shipped tpe.yaml says tpe
    assert config["space"]["grain"] == "stage"  # what the user does not have comes from the shipped ones
    monkeypatch.delenv(USER_CONFIGS)
    assert composed(capsys, *SWEEP, "sampler=tpe")["sampler"]["name"] == "tpe"


def test_the_first_of_several_user_folders_wins(
    user_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other" / "sampler").mkdir(parents=True)
    (tmp_path / "other" / "sampler" / "tpe.yaml").write_text("name: nsga2\n")
    both = [str(tmp_path / "other"), str(user_folder)]
    monkeypatch.setenv(USER_CONFIGS, os.pathsep.join(both))
    assert composed(capsys, "sweep", "experiment=mine")["sampler"]["name"] == "nsga2"
    monkeypatch.setenv(USER_CONFIGS, os.pathsep.join(reversed(both)))
    assert composed(capsys, "sweep", "experiment=mine")["sampler"]["name"] == "random"


@pytest.mark.parametrize("form", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_config_dir_is_a_user_folder_too(
    user_folder: Path, form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(user_folder) for word in form]
    assert composed(capsys, "sweep", *words, "experiment=mine")["sampler"]["name"] == "random"
    assert USER_CONFIGS not in os.environ
    assert main(["sweep", *words, "experiment=mien"]) == 2
    assert "experiment: unknown experiment 'mien'; did you mean 'mine'" in capsys.readouterr().err


def test_a_user_folder_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(USER_CONFIGS, "/no/such/folder")
    assert main([*SWEEP, "--cfg", "job"]) == 2
    assert "$DSE_CONFIG_PATH=/no/such/folder: expected a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["space=null", "model=null", "experiment=null"])
def test_a_group_set_to_nothing_is_no_traceback(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP[:1], "study.name=x", word]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dse: Config group override must be a string or a list") and word in err


def test_several_values_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "-m", "study.n_trials=0,-1"]) == 2
    err = capsys.readouterr().err
    assert "dse: study.n_trials=0: " in err and "dse: study.n_trials=-1: " in err


TYPES = {
    "study.n_trials=": "study.n_trials='': expected a whole number, as in study.n_trials=100",
    "study.seed=true": "study.seed=true: expected a whole number, as in study.seed=0",
    "study.folder=null": "study.folder=null: expected text, as in study.folder=results",
    "study.name=[a]": "study.name=[a]: expected null, or text",
    "study=5": "study=5: expected a mapping with the keys name, folder, n_trials",
    "space.equalize=maybe": "space.equalize=maybe: expected true or false, as in space.equalize=false",
    "space.repair=nearest": "space.repair=nearest: expected a list, each item text, as in 'space.repair=[nearest]'",
    "space.sparsity={a: 1}": "space.sparsity={a: 1}: expected a list, each item a number, as in 'space.sparsity=[0.0]'",
    "space.first=abc": "space.first=abc: expected null, or a mapping with the keys weights, activation_bits",
    "space.first.activation_bits=x": "space.first.activation_bits=x: expected a whole number",
    "space.weights=5": "space.weights=5: expected a mapping, as in 'space.weights={uniform: {bits: [4,8]}}'",
    "space.weights={ternary: 3}": "space.weights.ternary=3: expected null, or a mapping to lists",
    "space.weights.ternary.terms=3": "space.weights.ternary.terms=3: expected a list, as in 'space.weights.ternary.te",
    "space.baselines.x=5": "space.baselines.x=5: expected a mapping, as in 'space.baselines.x={weights: uniform-4, ",
    "technology.overrides.dram_energy=abc": "technology.overrides.dram_energy=abc: expected a number, as in ",
    "technology.overrides={pe_energy.8/2: abc}": "technology.overrides.pe_energy.8/2=abc: expected a number",
    "evaluation.reuse_block=4": "evaluation.reuse_block=4: expected null, or a list, each item a whole number, as in '",
    "accelerators.bitserial=5": "accelerators.bitserial=5: expected a mapping with the keys kind, settings",
    "objectives.max_loss=x": "objectives.max_loss=x: expected null, or a number",
    "space.sparsity=[0,0.5": "space.sparsity=[0,0.5: cannot be read as key=value; close every bracket and quote",
}


@pytest.mark.parametrize("word", TYPES)
def test_a_value_of_the_wrong_type_is_answered_with_what_is_expected(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SWEEP, word]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"dse: {TYPES[word]}") and err.count("\n") == 1
    for foreign in ("full_key", "reference_type", "Schema", "DictConfig", "http"):
        assert foreign not in err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_suggested_composes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every example of every key, as it would be typed."""
    given = ["study.name=x"] if name in ("sweep", "analyze") else []
    words = [word for key in leaves(SCHEMAS[name]) if (word := suggestion(name, key))]
    assert main([name, *given, *words, "--cfg", "job"]) == 0, capsys.readouterr().err


def leaves(schema: type, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(schema):
        inner = getattr(schema(), field.name)
        if dataclasses.is_dataclass(inner):
            yield from leaves(type(inner), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def suggestion(name: str, key: str) -> str:
    found = expectation(SCHEMAS[name], key, "")
    assert found is not None and found[0]
    return found[1].removeprefix("as in ").strip("'")


def test_a_wrong_type_in_a_file_is_answered_with_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nstudy: {n_trials: many}\n")
    assert main(["sweep", "--config-dir", str(tmp_path), "experiment=mine", "study.n_trials=5"]) == 2
    assert capsys.readouterr().err == (
        "dse: study.n_trials=many: expected a whole number, as in study.n_trials=100; "
        "correct it in experiment/mine.yaml\n"
    )


def test_weights_given_as_one_mapping_may_have_any_setting(capsys: pytest.CaptureFixture[str]) -> None:
    config = composed(capsys, *SWEEP, "space.weights={ternary: {terms: [1], group: [16]}}")
    assert config["space"]["weights"]["ternary"] == {"terms": [1], "group": [16]}
    assert config["space"]["weights"]["uniform"]  # what is not named stays


@pytest.mark.parametrize(
    ("command", "key"),
    [("report", "run"), ("export", "run"), ("evaluate", "candidate"), ("sweep", "study.name")],
)
def test_what_must_be_given_is_asked_for(command: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"dse: {key}") and err.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "export"])
@pytest.mark.parametrize("content", [None, "a file"])
def test_a_folder_that_holds_no_study(
    command: str, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir() if content is None else run.write_text(content)
    assert main([command, f"run={run}"]) == 2
    err = capsys.readouterr().err
    assert str(run) in err and "no study" in err
    assert content is not None or list(run.iterdir()) == []  # looking leaves nothing behind
