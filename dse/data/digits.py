"""The UCI optical digits that come with scikit-learn, brought to the 32x32x3 of a CIFAR network."""

from __future__ import annotations

import numpy as np

from dse.data.registry import register_dataset
from dse.data.splits import DataConfig, DataSplits, Images, assemble, deal, permutation
from dse.errors import ConfigError

_DEFAULT_TEST = 300
_LARGEST_VALUE = 16  # of a pixel as scikit-learn gives it
_MEAN, _STD = (0.305,) * 3, (0.324,) * 3


def upsample(images: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear enlargement (half-pixel centres, edges repeated) of ``[n, h, w]`` by an integer factor.

    Returns float64 ``[n, h * factor, w * factor]``. With a factor that is a power of two and integer
    input every step is exact, so the result, and the digest of a split, is the same on every machine.
    """
    for axis in (1, 2):
        size = images.shape[axis]
        position = ((np.arange(size * factor) + 0.5) / factor - 0.5).clip(0, size - 1)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, size - 1)
        share = (position - low).reshape((-1, 1) if axis == 1 else (1, -1))
        images = images.take(low, axis) * (1 - share) + images.take(high, axis) * share
    return images


def read_digits() -> Images:
    """All 1,797 digits in the order of scikit-learn: uint8 ``[1797, 32, 32, 3]``, grey in three channels."""
    # scikit-learn takes longer to import than a command's --help may take.
    from sklearn.datasets import load_digits

    raw = load_digits()
    grey = np.rint(upsample(raw.images, factor=4) * 255 / _LARGEST_VALUE).astype(np.uint8)
    return Images(np.repeat(grey[..., None], 3, axis=3), raw.target.astype(np.int64), _MEAN, _STD)


@register_dataset("digits")
def load(config: DataConfig) -> DataSplits:
    """Deal the digits out in one permuted order: test first, then search, calibration, and train last.

    In this order the test part depends on the seed and its own size alone, the search part on these
    and its own, and so on. 300 test images by default.

    Raises:
        ConfigError: a size is out of range, or ``root`` is given although nothing is read from it.
    """
    if config.root is not None:
        raise ConfigError("data.root", config.root, "null, as the digits come with scikit-learn")
    digits = read_digits()
    test_size = _DEFAULT_TEST if config.test is None else config.test
    sizes = (
        ("data.test", test_size),
        ("data.search", config.search),
        ("data.calibration", config.calibration),
    )
    test, search, calibration, train = deal(permutation(len(digits), config.seed), sizes)
    return assemble(
        "digits",
        tuple("0123456789"),
        train=digits.take(train),
        calibration=digits.take(calibration, labelled=False),
        search=digits.take(search),
        test=digits.take(test),
    )
