"""Results by content: the same key for the same content, and a file that may vanish or break at any time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dse.errors import RunFolderError
from dse.memo import Memo, Recent, content_key

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain))
def test_the_order_of_keys_makes_no_difference(data: dict) -> None:
    assert content_key(data) == content_key(dict(reversed(data.items())))


@given(plain, plain)
def test_parts_are_not_run_together(one: object, two: object) -> None:
    assert content_key(one, two) != content_key([one, two])
    assert content_key(one) != content_key(one, one)


def test_keys_are_the_same_in_every_process() -> None:
    data = {"b": [1, 2.5, None], "a": "ä"}
    script = f"from dse.memo import content_key; print(content_key({data!r}, 7))"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == content_key(data, 7)


def test_kept_for_other_workers(tmp_path: Path) -> None:
    Memo(tmp_path / "memo").put("key", {"x": [1.5, "y"]})
    assert Memo(tmp_path / "memo").get("key") == {"x": [1.5, "y"]}
    assert Memo(tmp_path / "memo").get("other") is None
    assert [path.name for path in (tmp_path / "memo").iterdir()] == ["key.json"]


def test_without_a_folder_it_lasts_as_long_as_the_process() -> None:
    memo = Memo(None)
    assert memo.get("key") is None
    memo.put("key", 3)
    assert memo.get("key") == 3
    assert Memo(None).get("key") is None


@pytest.mark.parametrize("content", ["", '{"x": 1', "\x00\x01", "\udcff"])
def test_a_broken_file_is_a_result_not_known_yet(tmp_path: Path, content: str) -> None:
    (tmp_path / "key.json").write_bytes(content.encode(errors="surrogateescape"))
    memo = Memo(tmp_path)
    assert memo.get("key") is None
    memo.put("key", 1)
    assert Memo(tmp_path).get("key") == 1


def test_may_be_deleted_while_in_use(tmp_path: Path) -> None:
    memo = Memo(tmp_path)
    memo.put("key", 1)
    (tmp_path / "key.json").unlink()
    assert memo.get("key") == 1
    assert Memo(tmp_path).get("key") is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "memo").write_text("in the way")
    with pytest.raises(RunFolderError, match="memo"):
        Memo(tmp_path / "memo").put("key", 1)


def test_an_altered_or_misplaced_file_is_a_result_not_known(tmp_path: Path) -> None:
    Memo(tmp_path).put("a", {"accuracy": 0.5})
    text = (tmp_path / "a.json").read_text("utf-8")
    assert Memo(tmp_path).get("a") == {"accuracy": 0.5}
    for content in ('{"x": 1}', "[]", "1", text.replace("0.5", "0.9"), text[:-3]):
        (tmp_path / "a.json").write_text(content, "utf-8")
        assert Memo(tmp_path).get("a") is None
    (tmp_path / "b.json").write_text(text, "utf-8")
    assert Memo(tmp_path).get("b") is None


def test_recent_forgets_what_was_not_asked_for_the_longest() -> None:
    kept = Recent(2)
    kept["a"], kept["b"] = 1, 2
    assert kept["a"] == 1
    kept["c"] = 3
    assert set(kept) == {"a", "c"} and "b" not in kept
    kept["a"] = 4
    kept["d"] = 5
    assert dict(kept.items()) == {"a": 4, "d": 5}
