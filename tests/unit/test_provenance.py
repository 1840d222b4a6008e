"""Provenance: complete where it can be, reasons where it cannot, and no entry lost."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path

import pytest

from dse import provenance
from dse.errors import RunFolderError
from dse.provenance import collect_provenance, git_commit, git_dirty, read_provenance, write_provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose package ``dse`` holds a file of the name that is looked for."""
    package = tmp_path / "dse"
    package.mkdir()
    (package / "provenance.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_versions_are_those_installed_and_the_rest_has_reasons():
    entry = collect_provenance(seed=7, config_digest="abc", packages=("numpy", "no-such-thing"))
    assert (entry["seed"], entry["config_digest"]) == (7, "abc")
    assert entry["versions"]["numpy"] == metadata.version("numpy")
    assert entry["versions"]["no-such-thing"] is None
    assert entry["absent"]["versions.no-such-thing"] == "not installed"
    assert entry["versions"]["python"] == sys.version.split()[0]
    age = datetime.now(timezone.utc) - datetime.fromisoformat(entry["time_utc"])
    assert timedelta(0) <= age < timedelta(minutes=5)
    json.dumps(entry, allow_nan=False)


def test_what_is_none_is_explained():
    entry = collect_provenance(None, None)
    for group in ("versions", "git", "machine"):
        for name, value in entry[group].items():
            assert (value is None) == (f"{group}.{name}" in entry["absent"])
    assert (entry["gpus"] is None) == ("gpus" in entry["absent"])
    assert all(entry["absent"].values())


def test_never_raises(monkeypatch):
    def broken(*arguments: object, **options: object):
        raise RuntimeError("broken")

    for name in (
        "platform",
        "cpu_model",
        "usable_cores",
        "memory_bytes",
        "list_gpus",
        "git_commit",
        "git_dirty",
        "cpu_quota",
    ):
        monkeypatch.setattr(provenance, name, broken)
    entry = collect_provenance(0, "x")
    assert entry["machine"]["cpu"] is None and "broken" in entry["absent"]["machine.cpu"]
    assert entry["gpus"] is None and entry["git"]["commit"] is None


def test_versions_do_not_need_the_packages_imported():
    code = (
        "import sys; from dse.provenance import collect_provenance; collect_provenance(0, '')\n"
        "heavy = {'torch', 'optuna', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_passwords_of_addresses_are_left_out(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dse", "storage.url=postgresql://me:s3cr3t@host:5432/db", "seed=1"])
    command = collect_provenance(0, "")["command"]
    assert command == ["dse", "storage.url=postgresql://me:***@host:5432/db", "seed=1"]


def test_commit_and_dirty_of_a_checkout(checkout: Path):
    package = checkout / "dse"
    assert git_commit(package) == git(checkout, "rev-parse", "HEAD")
    assert git_dirty(package) is False
    (checkout / "notes.txt").write_text("outside the code")
    assert git_dirty(package) is False
    (package / "new.py").write_text("")
    assert git_dirty(package) is True
    (package / "new.py").unlink()
    (package / "provenance.py").write_text("changed")
    assert git_dirty(package) is True


def test_a_hook_s_git_dir_does_not_mislead(checkout: Path, monkeypatch):
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert git_commit(checkout / "dse") == commit


def test_files_installed_inside_another_repository_have_no_commit(checkout: Path):
    installed = checkout / "venv" / "dse"
    installed.mkdir(parents=True)
    (installed / "provenance.py").write_text("")
    with pytest.raises(provenance.Unknown, match="did not match"):
        git_commit(installed)


def test_no_repository_and_no_git_are_reasons(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(provenance.Unknown, match="no commit to name"):
        git_commit(tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(provenance.Unknown, match="git could not be run"):
        git_commit(tmp_path)


def test_each_session_adds_an_entry(tmp_path: Path):
    path = write_provenance(tmp_path / "run", {"seed": 1})
    write_provenance(tmp_path / "run", {"seed": 2})
    assert path == tmp_path / "run" / "provenance.json"
    assert read_provenance(tmp_path / "run") == [{"seed": 1}, {"seed": 2}]


def test_sessions_at_the_same_time_lose_nothing(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: write_provenance(tmp_path, {"seed": seed}), range(24)))
    assert sorted(entry["seed"] for entry in read_provenance(tmp_path)) == list(range(24))


@pytest.mark.parametrize("text", ['[{"seed": 1}, {"se', '{"seed": 1}', "[3]", ""])
def test_a_damaged_file_is_kept_aside(tmp_path: Path, text: str):
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(RunFolderError, match="provenance.json"):
        read_provenance(tmp_path)
    write_provenance(tmp_path, {"seed": 2})
    assert read_provenance(tmp_path) == [{"seed": 2}]
    assert (tmp_path / "provenance.json.damaged-1").read_text() == text


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file"):
        write_provenance(tmp_path / "file" / "run", {"seed": 1})


def test_no_file_is_no_entry(tmp_path: Path):
    assert read_provenance(tmp_path) == []
