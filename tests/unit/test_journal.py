"""The journal: format shared with Optuna, torn tails, full disks, damaged lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend

from dse.errors import RunFolderError
from dse.journal import JournalFile
from dse.locks import FileLock

FULL_DISK = """
import resource, sys
from pathlib import Path
from dse.errors import RunFolderError
from dse.journal import JournalFile
from dse.locks import FileLock
path = Path(sys.argv[1])
journal = JournalFile(path, FileLock(path.with_suffix(".lock")))
limit = path.stat().st_size + 10
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    journal.append_logs([{"text": "longer than what is left on the disk"}])
except RunFolderError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append_logs([{"text": "after space was freed"}])
"""


def journal_at(path: Path) -> JournalFile:
    return JournalFile(path, FileLock(path.with_suffix(".lock")))


def test_reads_from_any_number_on_and_sees_other_writers(tmp_path: Path) -> None:
    ours, theirs = journal_at(tmp_path / "j.log"), journal_at(tmp_path / "j.log")
    records = [{"n": n, "text": "é\n\r"} for n in range(5)]
    ours.append_logs(records[:3])
    assert theirs.read_logs(0) == records[:3]
    theirs.append_logs(records[3:])
    assert ours.read_logs(3) == records[3:]
    assert ours.read_logs(5) == []
    assert ours.read_logs(1) == records[1:]


def test_optuna_reads_what_we_write(tmp_path: Path) -> None:
    records = [{"op_code": 0, "study_name": "s"}, {"op_code": 4, "state": 1}]
    journal_at(tmp_path / "j.log").append_logs(records)
    assert list(JournalFileBackend(str(tmp_path / "j.log")).read_logs(0)) == records


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=400), padding=st.integers(min_value=0, max_value=200_000))
def test_a_journal_cut_anywhere_loses_only_the_torn_record(
    tmp_path_factory: pytest.TempPathFactory, cut: int, padding: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "j.log"
    records = [{"n": n, "fill": "x" * (10 * n)} for n in range(5)] + [{"fill": "y" * padding}]
    journal_at(path).append_logs(records)
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    whole = (
        [json.loads(line) for line in data[: len(data) - cut].split(b"\n")[:-1]] if cut < len(data) else []
    )
    survivor = journal_at(path)
    assert survivor.read_logs(0) == whole
    survivor.append_logs([{"new": True}])
    assert survivor.read_logs(len(whole)) == [{"new": True}]
    assert journal_at(path).read_logs(0) == [*whole, {"new": True}]


def test_a_tail_torn_by_another_writer_while_we_run_is_mended(tmp_path: Path) -> None:
    ours = journal_at(tmp_path / "j.log")
    ours.append_logs([{"n": 0}])
    assert ours.read_logs(0) == [{"n": 0}]
    with (tmp_path / "j.log").open("ab") as file:
        file.write(b'{"n": 1, "te')
    assert ours.read_logs(1) == []
    ours.append_logs([{"n": 2}])
    assert ours.read_logs(1) == [{"n": 2}]


def test_a_record_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "j.log"
    journal_at(path).append_logs([{"n": 0}])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert str(path) in done.stdout and "free some space" in done.stdout
    assert path.read_bytes() == b'{"n":0}\n{"text":"after space was freed"}\n'


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j.log"
    path.write_bytes(b'{"n":0}\n{"n": 1, "te{"n":2}\n{"n":3}\n')
    for journal in (journal_at(path), JournalFile(path, None)):
        with pytest.raises(RunFolderError, match=r"j\.log, line 2: expected a JSON record"):
            journal.read_logs(0)


def test_a_shortened_journal_is_noticed(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "j.log")
    journal.append_logs([{"n": 0}, {"n": 1}])
    journal.read_logs(0)
    (tmp_path / "j.log").write_bytes(b"")
    with pytest.raises(RunFolderError, match="became shorter"):
        journal.read_logs(2)


def test_read_only_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="reading only"):
        JournalFile(tmp_path / "j.log", None).append_logs([{}])
    with pytest.raises(RunFolderError, match="cannot read"):
        JournalFile(tmp_path / "j.log", None).read_logs(0)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write .*choose another folder"):
        JournalFile(tmp_path / "file" / "j.log", FileLock(tmp_path / "l.lock"))
    journal = journal_at(tmp_path / "gone.log")
    (tmp_path / "gone.log").unlink()
    with pytest.raises(RunFolderError, match="cannot write"):
        journal.append_logs([{}])


def test_optuna_accepts_the_backend_interface() -> None:
    wanted = {n for n in vars(optuna.storages.journal.BaseJournalBackend) if not n.startswith("_")}
    assert wanted <= set(dir(JournalFile))
