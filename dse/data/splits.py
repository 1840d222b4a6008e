"""Images in memory, and the four disjoint parts every data set is cut into."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dse.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DataConfig:
    """Which data set to read, and how large its parts are (all sizes in images).

    Attributes:
        name: registered name of the data set.
        root: file or folder that holds it; None for data that is installed or downloaded.
        seed: of the permutation that cuts the parts.
        calibration: images whose labels are never read.
        search: images the sweep scores on.
        test: images the final front is scored on; None takes the data set's own default.
        download: whether a data set without ``root`` may be fetched from the network.
    """

    name: str = "digits"
    root: str | None = None
    seed: int = 0
    calibration: int = 256
    search: int = 400
    test: int | None = None
    download: bool = True


@dataclass(frozen=True)
class Images:
    """Images as they are stored, with the normalisation their network was trained with.

    Attributes:
        pixels: uint8 ``[n, height, width, channels]``.
        labels: int64 ``[n]``; None where labels must not be read.
        mean, std: one number per channel, of ``pixels / 255``.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def tensor(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Images ``start`` to ``stop`` as float32 ``[n, channels, height, width]``, normalised."""
        # Reading a configuration must stay fast, and importing torch takes longer than all the rest.
        import torch

        # A copy: a view of the stored pixels may be read-only, which torch warns of.
        batch = torch.from_numpy(self.pixels[start:stop].copy()).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return ((batch.to(torch.float32) / 255 - mean) / std).contiguous()

    def take(self, index: np.ndarray, *, labelled: bool = True) -> Images:
        """The images at ``index`` (integers ``[m]``); without labels if not ``labelled``."""
        labels = self.labels[index] if labelled and self.labels is not None else None
        return Images(self.pixels[index], labels, self.mean, self.std)


@dataclass(frozen=True)
class DataSplits:
    """The four disjoint parts of a data set; ``calibration`` carries no labels.

    ``digest`` is the SHA-256 of the content of all parts in order, so it changes with the data,
    the seed and every size.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    calibration: Images
    search: Images
    test: Images
    digest: str


def assemble(
    name: str, classes: Sequence[str], *, train: Images, calibration: Images, search: Images, test: Images
) -> DataSplits:
    """Put four parts together and compute their digest."""
    parts = {"train": train, "calibration": calibration, "search": search, "test": test}
    digest = hashlib.sha256(repr((name, tuple(classes))).encode())
    for part, images in parts.items():
        digest.update(repr((part, images.pixels.shape, images.mean, images.std)).encode())
        digest.update(np.ascontiguousarray(images.pixels).data)
        if images.labels is not None:
            digest.update(np.ascontiguousarray(images.labels, dtype="<i8").data)
    return DataSplits(name, tuple(classes), **parts, digest=digest.hexdigest())


def permutation(count: int, seed: int) -> np.ndarray:
    """A fixed order of ``count`` images, int64 ``[count]``.

    Raises:
        ConfigError: ``data.seed`` is negative.
    """
    if seed < 0:
        raise ConfigError("data.seed", seed, "an integer from 0")
    return np.random.default_rng(seed).permutation(count)


def check_size(key: str, size: int, largest: int) -> int:
    """``size`` if it lies in 1..``largest``.

    Raises:
        ConfigError: it does not; the message names ``key`` and the range.
    """
    if not 1 <= size <= largest:
        raise ConfigError(key, size, f"an integer from 1 to {largest} (the images there are for it)")
    return size


def deal(order: np.ndarray, sizes: Sequence[tuple[str, int]]) -> list[np.ndarray]:
    """Cut ``order`` into consecutive parts of the named ``sizes``; what is left comes last.

    Every later part keeps at least one image.

    Raises:
        ConfigError: a size is out of range; ``sizes`` names the key.
    """
    parts, start = [], 0
    for done, (key, size) in enumerate(sizes):
        kept_for_later = len(sizes) - done
        stop = start + check_size(key, size, len(order) - start - kept_for_later)
        parts.append(order[start:stop])
        start = stop
    return [*parts, order[start:]]
