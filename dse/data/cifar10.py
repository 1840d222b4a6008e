"""CIFAR-10 (Krizhevsky 2009): 60,000 photographs of ten classes, 32x32 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dse.data.batches import ARCHIVE, RawImages, read_root, read_tar
from dse.data.registry import register_dataset
from dse.data.splits import DataConfig, DataSplits, Images, assemble, check_size, deal, permutation
from dse.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The ImageNet numbers: the widely shared CIFAR ResNets were trained with these.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_MD5 = "c58f30108f718f92721af3b95e74349a"
_TIMEOUT_S = 30


@register_dataset("cifar10")
def load(config: DataConfig) -> DataSplits:
    """Calibration images come out of the training set; search and test are halves of the test set.

    The networks in use were trained on the training images, so only test images can score them. All of
    a half by default for ``test``; the search part is the first ``search`` images of the other half.
    """
    raw = _read(config)
    training, testing = (
        Images(raw.x_train, raw.y_train, _MEAN, _STD),
        Images(raw.x_test, raw.y_test, _MEAN, _STD),
    )
    calibration, train = deal(
        permutation(len(training), config.seed), [("data.calibration", config.calibration)]
    )
    first, second = np.array_split(permutation(len(testing), config.seed), 2)
    search_size = check_size("data.search", config.search, len(first))
    test_size = len(second) if config.test is None else check_size("data.test", config.test, len(second))
    return assemble(
        "cifar10",
        CLASSES,
        train=training.take(train),
        calibration=training.take(calibration, labelled=False),
        search=testing.take(first[:search_size]),
        test=testing.take(second[:test_size]),
    )


def _read(config: DataConfig) -> RawImages:
    if config.root is not None:
        return read_root(Path(config.root).expanduser())
    return read_tar(_fetch(config.download))


def _fetch(download: bool) -> Path:
    """The published archive in the user's cache, fetched and checked where it is not there yet.

    Raises:
        DataError: not there, and not allowed or not possible to fetch.
    """
    import pooch

    cache = Path(pooch.os_cache("dse"))
    by_hand = f"put {ARCHIVE} (from {_URL}) into {cache}, or give its folder as data.root=PATH"
    if not download and not (cache / ARCHIVE).is_file():
        raise DataError(f"CIFAR-10 is not in {cache} and data.download=false; {by_hand}")
    try:
        # A network that swallows packets must end in a message, not in a wait without end.
        fetch = pooch.HTTPDownloader(timeout=_TIMEOUT_S) if download else _refuse
        return Path(pooch.retrieve(_URL, f"md5:{_MD5}", fname=ARCHIVE, path=cache, downloader=fetch))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
        raise DataError(f"CIFAR-10 could not be fetched into {cache} ({error}); {by_hand}") from error


def _refuse(url: str, output_file: str, pooch: object) -> None:
    """Stands in for the downloader where the cached archive is stale and fetching is not allowed."""
    raise ValueError(f"its checksum is not {_MD5} and data.download=false")
