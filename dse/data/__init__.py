"""Data sets, each cut into train, calibration, search and test parts."""

from __future__ import annotations

from dse.data import cifar10, digits  # noqa: F401  (importing a data set registers it)
from dse.data.registry import DATASETS, load_data, register_dataset
from dse.data.splits import DataConfig, DataSplits, Images

__all__ = ["DATASETS", "DataConfig", "DataSplits", "Images", "load_data", "register_dataset"]
