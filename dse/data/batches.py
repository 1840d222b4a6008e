"""The files CIFAR-10 comes in: python batches (a folder or the tar of it), and one ``.npz``."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dse.errors import DataError, DseError

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES = ("test_batch",)
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
NPZ = "cifar10.npz"
_SHAPE = (3, 32, 32)
_CLASSES = 10
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class RawImages:
    """All images as published: pixels uint8 ``[n, 32, 32, 3]``, labels int64 ``[n]``."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def read_root(root: Path) -> RawImages:
    """Read CIFAR-10 from a file, or from a folder that holds it in any of the known forms.

    Raises:
        DataError: nothing is there, or a file is truncated, altered or of another kind.
    """
    for path, reader in _candidates(root):
        if path.is_file():
            return reader(path)
    raise DataError(
        f"data.root={root}: no CIFAR-10 there; expected a folder with {FOLDER}/, {ARCHIVE} or {NPZ} in it, "
        f"or the path of an .npz file with {', '.join(_NPZ_KEYS)}; put one there or correct data.root"
    )


def _candidates(root: Path) -> list[tuple[Path, Callable[[Path], RawImages]]]:
    """Where to look, in this order, and how to read what is found."""
    if root.is_file():
        return [(root, read_npz if root.suffix == ".npz" else read_tar)]
    signs = (folder / name for folder in (root / FOLDER, root) for name in TEST_FILES + TRAIN_FILES)
    batches = [(path, lambda found: read_folder(found.parent)) for path in signs]
    return [*batches, (root / NPZ, read_npz), (root / ARCHIVE, read_tar)]


def read_npz(path: Path) -> RawImages:
    """``.npz`` with x_train, x_test uint8 ``[n, 32, 32, 3]`` and y_train, y_test integers ``[n]``."""
    with _reading(path), path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        if missing := [key for key in _NPZ_KEYS if key not in file.files]:
            raise DataError(f"{path} has no {', '.join(missing)}; found {', '.join(file.files) or 'nothing'}")
        arrays = {key: file[key] for key in _NPZ_KEYS}
    for part in ("train", "test"):
        _check(arrays[f"x_{part}"], arrays[f"y_{part}"], (*_SHAPE[1:], _SHAPE[0]), f"{path}, x_{part}")
    return RawImages(
        **{key: a.astype(np.int64).reshape(-1) if key[0] == "y" else a for key, a in arrays.items()}
    )


def read_folder(folder: Path) -> RawImages:
    """The six python batches of ``folder``."""

    def content(name: str) -> bytes:
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name} is missing; expected {', '.join(TRAIN_FILES + TEST_FILES)} beside it"
            )
        with _reading(folder / name):
            return (folder / name).read_bytes()

    return _from_batches({name: content(name) for name in TRAIN_FILES + TEST_FILES}, folder)


def read_tar(path: Path) -> RawImages:
    """The six python batches inside the published archive, read without unpacking it to disk."""
    contents: dict[str, bytes] = {}
    with _reading(path), tarfile.open(path) as archive:
        for member in archive:
            name = Path(member.name).name
            if member.isfile() and name in TRAIN_FILES + TEST_FILES:
                file = archive.extractfile(member)
                contents[name] = file.read() if file is not None else b""
    if missing := [name for name in TRAIN_FILES + TEST_FILES if name not in contents]:
        raise DataError(f"{path} has no {', '.join(missing)}; expected the archive {ARCHIVE} as published")
    return _from_batches(contents, path)


def _from_batches(contents: Mapping[str, bytes], where: Path) -> RawImages:
    train = [read_batch(contents[name], where / name) for name in TRAIN_FILES]
    test = [read_batch(contents[name], where / name) for name in TEST_FILES]
    x_train, y_train = (np.concatenate(parts) for parts in zip(*train, strict=True))
    x_test, y_test = (np.concatenate(parts) for parts in zip(*test, strict=True))
    return RawImages(x_train, y_train, x_test, y_test)


def read_batch(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 ``[n, 32, 32, 3]`` and labels int64 ``[n]`` of one pickled batch.

    Raises:
        DataError: cut short, altered, or holding more than arrays and plain values; names ``path``.
    """
    with _reading(path):
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        data, labels = np.asarray(batch["data"]), np.asarray(batch["labels"])
    _check(data, labels, (int(np.prod(_SHAPE)),), str(path))
    return np.ascontiguousarray(data.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)), labels.astype(np.int64)


def _check(pixels: np.ndarray, labels: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    """Images of ``shape`` (without the count), and as many labels within 0..9."""
    if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or len(pixels) == 0:
        raise DataError(
            f"{where}: expected uint8 [n, {', '.join(map(str, shape))}], got {pixels.dtype} {pixels.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.size != len(pixels):
        raise DataError(f"{where}: expected {len(pixels)} integer labels, got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= _CLASSES:
        raise DataError(f"{where}: expected labels from 0 to 9, got {labels.min()} to {labels.max()}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Report whatever a broken file raises (pickle alone documents a handful of kinds) as a DataError."""
    try:
        yield
    except DseError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise DataError(
            f"{path} cannot be read ({reason}); it is truncated or altered: fetch it again"
        ) from error


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """What Python 3 pickles bytes as at protocol 2, without the door to every other codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding} is not allowed")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays and plain values; any other class or function ends the reading."""

    # The function numpy rebuilds arrays with; its module was renamed in 2.0, and files of either age are met.
    _RECONSTRUCT = np.empty(0).__reduce__()[0]
    _ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(
                f"refused: it asks for {module}.{name}, which a data set does not need"
            )
        return self._ALLOWED[module, name]
