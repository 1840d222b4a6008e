"""JSON of strangers: the same data as the standard library reads, or a ``ValueError``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressors.parsing import DEEPEST, LONGEST, parse_json
from dse.errors import RunFolderError
from dse.memo import Memo
from dse.provenance import read_provenance
from dse.run_folder import read_config, read_test_accuracy
from dse.study import JOURNAL, load_records

data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
DEEP = {
    "lists": "[" * 100_000,
    "closed lists": "[" * 50_000 + "]" * 50_000,
    "mappings": '{"a": ' * 100_000,
    "just too deep": "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
    "deep at one place": '{"a": [1, 2], "b": ' + "[" * DEEPEST + "7" + "]" * DEEPEST + "}",
}


@given(data)
def test_plain_data_comes_back(value: object) -> None:
    text = json.dumps(value)
    assert parse_json(text) == json.loads(text) == value
    assert parse_json(text.encode()) == value


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_what_is_too_deep_is_refused(text: str) -> None:
    for content in (text, text.encode()):
        with pytest.raises(ValueError, match=f"more than {DEEPEST} lists and mappings"):
            parse_json(content)


def test_depth_is_not_the_number_of_brackets() -> None:
    deepest = "[" * DEEPEST + "]" * DEEPEST
    many = [{"a": [{}]}] * 1000
    assert json.dumps(parse_json(deepest)) == deepest
    assert parse_json(json.dumps(many)) == many
    assert parse_json(json.dumps("[" * 1000)) == "[" * 1000


def test_integers_that_no_float_holds_are_refused() -> None:
    assert float(parse_json("9" * LONGEST)) > 1e299
    for digits in (LONGEST + 1, 400, 5000):
        with pytest.raises(ValueError, match=f"an integer of {digits} digits, expected at most {LONGEST}"):
            parse_json(f'{{"scale": {"9" * digits}}}')


@pytest.mark.parametrize("content", ["", "{", "nothing", b"\xff\xff", b"\x00"])
def test_what_is_no_json_is_refused(content: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(content)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000], ids=["deep", "long"])
def test_files_of_a_run_folder_say_what_is_damaged(text: str, tmp_path: Path) -> None:
    for name in (JOURNAL, "provenance.json", "test_accuracy.json"):
        (tmp_path / name).write_text(f"{text}\n")
    with pytest.raises(RunFolderError, match="journal.log, line 1: expected a JSON record"):
        load_records(tmp_path)
    with pytest.raises(RunFolderError, match="provenance.json is no JSON.*; move it away"):
        read_provenance(tmp_path)
    with pytest.raises(RunFolderError, match="test_accuracy.json: damaged .*; delete it"):
        read_test_accuracy(tmp_path)
    (tmp_path / "key.json").write_text(text)
    assert Memo(tmp_path).get("key") is None


def test_a_deep_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("[" * 100_000)
    with pytest.raises(RunFolderError, match="config.yaml: cannot be read"):
        read_config(tmp_path)
