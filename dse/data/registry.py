"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from dse.data.splits import DataConfig, DataSplits
from dse.errors import UnknownName

Loader = Callable[[DataConfig], DataSplits]

DATASETS: dict[str, Loader] = {}


def register_dataset(name: str) -> Callable[[Loader], Loader]:
    """Make the decorated loader available as ``data.name=NAME``."""

    def add(loader: Loader) -> Loader:
        DATASETS[name] = loader
        return loader

    return add


def load_data(config: DataConfig) -> DataSplits:
    """Read the data set ``config.name`` and cut it into its four parts.

    Raises:
        UnknownName: no data set of that name.
        ConfigError: a size or the seed is out of range.
        DataError: the files are missing, truncated or not what they should be.
    """
    if config.name not in DATASETS:
        raise UnknownName("data set", config.name, DATASETS, key="data.name")
    return DATASETS[config.name](config)
