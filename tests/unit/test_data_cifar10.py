"""CIFAR-10 in each form it is met, and each kind of damage, on small synthetic files."""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pooch
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dse.data import DataConfig, DataSplits, Images, load_data
from dse.data import cifar10 as module
from dse.data.batches import FOLDER, TEST_FILES, TRAIN_FILES, read_batch
from dse.errors import ConfigError, DataError

PER_FILE = 8
TRAIN, TEST = PER_FILE * len(TRAIN_FILES), PER_FILE
CONFIG = DataConfig(name="cifar10", calibration=6, search=3)


def python_batch(pixels: np.ndarray, labels: np.ndarray, protocol: int = 2) -> bytes:
    """As published: one row of 3072 bytes an image, the three colour planes one after the other."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return pickle.dumps({"data": rows, "labels": labels.tolist(), "filenames": [b"a.png"]}, protocol=protocol)


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"train": TRAIN, "test": TEST}
    images = {f"x_{p}": rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for p, n in shapes.items()}
    return images | {f"y_{p}": rng.integers(0, 10, n) for p, n in shapes.items()}


@pytest.fixture
def batches(truth: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """A folder that holds ``cifar-10-batches-py``."""
    folder = tmp_path / "downloads" / FOLDER
    folder.mkdir(parents=True)
    for place, name in enumerate(TRAIN_FILES):
        part = slice(place * PER_FILE, (place + 1) * PER_FILE)
        (folder / name).write_bytes(python_batch(truth["x_train"][part], truth["y_train"][part]))
    (folder / TEST_FILES[0]).write_bytes(python_batch(truth["x_test"], truth["y_test"]))
    return folder.parent


@pytest.fixture
def npz(truth: dict[str, np.ndarray], tmp_path: Path) -> Path:
    np.savez(tmp_path / "cifar10.npz", **truth)
    return tmp_path / "cifar10.npz"


def make_tar(batches: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(batches / FOLDER, arcname=FOLDER)
    return path


def load(root: Path, **change: object) -> DataSplits:
    return load_data(replace(CONFIG, root=str(root), **change))


def pairs(images: Images) -> set[tuple[bytes, int]]:
    return {(x.tobytes(), int(y)) for x, y in zip(images.pixels, images.labels, strict=True)}


def test_every_form_gives_the_same_split(batches: Path, npz: Path, tmp_path: Path) -> None:
    (tmp_path / "tarred").mkdir()
    tar = make_tar(batches, tmp_path / "tarred" / "cifar-10-python.tar.gz")
    roots = [batches, batches / FOLDER, tar, tar.parent, npz, npz.parent]
    assert len({load(root).digest for root in roots}) == 1


def test_parts_come_from_the_right_images(npz: Path, truth: dict[str, np.ndarray]) -> None:
    data = load(npz)
    train = {(x.tobytes(), int(y)) for x, y in zip(truth["x_train"], truth["y_train"], strict=True)}
    test = {(x.tobytes(), int(y)) for x, y in zip(truth["x_test"], truth["y_test"], strict=True)}
    calibration = {x.tobytes() for x in data.calibration.pixels}
    assert data.calibration.labels is None and len(calibration) == 6
    assert pairs(data.train) == {pair for pair in train if pair[0] not in calibration}
    assert calibration == {x for x, _ in train - pairs(data.train)}
    assert len(data.search) == 3 and len(data.test) == 4
    assert not pairs(data.search) & pairs(data.test)
    assert pairs(data.search) | pairs(data.test) < test


def test_test_part_does_not_depend_on_the_search_size(npz: Path) -> None:
    assert pairs(load(npz, search=1).test) == pairs(load(npz, search=4).test)
    assert pairs(load(npz, test=2).test) < pairs(load(npz).test)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": 5}, "data.search=5: expected an integer from 1 to 4"),
        ({"test": 5}, "data.test=5: expected an integer from 1 to 4"),
        ({"calibration": 40}, "data.calibration=40: expected an integer from 1 to 39"),
    ],
)
def test_sizes_out_of_range(npz: Path, change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(npz, **change)
    assert message in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_batches_of_every_pickle_protocol(truth: dict[str, np.ndarray], protocol: int) -> None:
    content = python_batch(truth["x_test"], truth["y_test"], protocol)
    pixels, labels = read_batch(content, Path("test_batch"))
    np.testing.assert_array_equal(pixels, truth["x_test"])
    np.testing.assert_array_equal(labels, truth["y_test"])


def test_batch_written_by_python_2() -> None:
    """One black image in the byte strings of Python 2, which the published files are made of."""
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00"
        b"\x85U\x01b\x87Rq\x05(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03"
        b"U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + bytes(3072) + b"tb"
        b"U\x06labelsq\x08]q\x09K\x07au."
    )
    pixels, labels = read_batch(content, Path("data_batch_1"))
    assert pixels.shape == (1, 32, 32, 3) and not pixels.any()
    assert labels.tolist() == [7]


class RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("packed", [False, True])
def test_code_in_a_batch_is_refused_and_not_run(batches: Path, tmp_path: Path, packed: bool) -> None:
    trace = tmp_path / "it_ran"
    (batches / FOLDER / "data_batch_3").write_bytes(pickle.dumps({"data": RunsCode(trace)}))
    root = make_tar(batches, tmp_path / "c.tar.gz") if packed else batches
    with pytest.raises(DataError, match=r"data_batch_3 cannot be read \(refused: it asks for \w+\.mkdir"):
        load(root)
    assert not trace.exists()


def test_pickled_array_in_an_npz_is_refused(truth: dict[str, np.ndarray], tmp_path: Path) -> None:
    trace = tmp_path / "it_ran"
    np.savez(tmp_path / "c.npz", **(truth | {"y_test": np.array([RunsCode(trace)], dtype=object)}))
    with pytest.raises(DataError, match=r"c\.npz cannot be read"):
        load(tmp_path / "c.npz")
    assert not trace.exists()


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_truncated_files_are_named(batches: Path, npz: Path, tmp_path: Path) -> None:
    tar = cut(make_tar(batches, tmp_path / "c.tar.gz"))
    cut(batches / FOLDER / "data_batch_2")
    cut(npz)
    for root, name in [(tar, "c.tar.gz"), (batches, "data_batch_2"), (npz, "cifar10.npz")]:
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            load(root)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_batch_is_a_data_error_or_harmless(
    truth: dict[str, np.ndarray], data: st.DataObject
) -> None:
    content = bytearray(python_batch(truth["x_test"][:1], truth["y_test"][:1]))
    # The structure is in front of the pixels and behind them; a changed pixel is no damage to find.
    place = data.draw(st.integers(0, 250) | st.integers(len(content) - 60, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    try:
        pixels, labels = read_batch(bytes(content), Path("batch"))
    except DataError as error:
        assert "batch" in str(error)
    else:
        assert pixels.shape == (1, 32, 32, 3) and labels.shape == (1,)


def test_missing_batch_and_missing_arrays(
    batches: Path, truth: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (batches / FOLDER / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing"):
        load(batches)
    with pytest.raises(DataError, match="has no data_batch_4"):
        load(make_tar(batches, tmp_path / "c.tar.gz"))
    np.savez(tmp_path / "c.npz", x_train=truth["x_train"], images=truth["x_test"])
    with pytest.raises(DataError, match=r"has no y_train, x_test, y_test; found x_train, images"):
        load(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("x_test", lambda a: a.astype(np.float32) / 255, "expected uint8"),
        ("x_train", lambda a: a.transpose(0, 3, 1, 2), r"expected uint8 \[n, 32, 32, 3\]"),
        ("y_test", lambda a: a[:-1], "expected 8 integer labels"),
        ("y_train", lambda a: a + 5, "expected labels from 0 to 9"),
        ("y_train", lambda a: a.astype(np.float64), "integer labels, got float64"),
    ],
)
def test_arrays_of_the_wrong_kind(
    truth: dict[str, np.ndarray],
    tmp_path: Path,
    key: str,
    change: Callable[[np.ndarray], np.ndarray],
    message: str,
) -> None:
    np.savez(tmp_path / "c.npz", **(truth | {key: change(truth[key])}))
    with pytest.raises(DataError, match=message):
        load(tmp_path / "c.npz")


@pytest.mark.parametrize("exists", [True, False])
def test_root_without_data_is_never_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("tried to fetch"))
    root = tmp_path / "nothing"
    if exists:
        root.mkdir()
    with pytest.raises(DataError, match=rf"data\.root={root}: no CIFAR-10 there; expected a folder"):
        load(root)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, moved to a temporary folder."""
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "dse"


def test_download_forbidden(cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_data(replace(CONFIG, download=False))
    assert f"not in {cache}" in str(caught.value) and "data.root=PATH" in str(caught.value)


def test_no_network_tells_what_to_put_where(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of the own machine: nobody answers there.
    monkeypatch.setattr(module, "_URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DataError) as caught:
        load_data(CONFIG)
    message = str(caught.value)
    assert "could not be fetched" in message and str(cache) in message and "data.root=PATH" in message


def test_cached_archive_is_checked_and_used_without_network(
    cache: Path, batches: Path, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    tar = make_tar(batches, cache / "cifar-10-python.tar.gz")
    offline = replace(CONFIG, download=False)
    with pytest.raises(DataError, match="checksum"):
        load_data(offline)
    monkeypatch.setattr(module, "_MD5", pooch.file_hash(str(tar), alg="md5"))
    assert load_data(offline).digest == load(npz).digest
