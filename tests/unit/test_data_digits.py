"""The digits: their enlargement, and the four parts they are dealt into."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from dse.data import DATASETS, DataConfig, DataSplits, Images, load_data
from dse.data.digits import read_digits, upsample
from dse.data.splits import deal
from dse.errors import ConfigError, UnknownName

DEFAULT = DataConfig()


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data(DEFAULT)


def rows(images: Images) -> set[bytes]:
    return {image.tobytes() for image in images.pixels}


def test_upsampling_against_torch() -> None:
    raw = load_digits().images[:50]
    tensor = torch.from_numpy(raw)[:, None]
    expected = torch.nn.functional.interpolate(tensor, scale_factor=4, mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(upsample(raw, 4), expected[:, 0].numpy())


def test_pixels_and_labels_are_those_of_scikit_learn() -> None:
    images = read_digits()
    assert images.pixels.shape == (1797, 32, 32, 3) and images.pixels.dtype == np.uint8
    assert (images.pixels == images.pixels[..., :1]).all()
    # The corners are not interpolated, so they must be the source's corners.
    corners = np.rint(load_digits().images[:, ::7, ::7] * 255 / 16)
    np.testing.assert_array_equal(images.pixels[:, ::31, ::31, 0], corners)
    np.testing.assert_array_equal(images.labels, load_digits().target)


def test_parts_are_disjoint_and_complete(digits: DataSplits) -> None:
    parts = [digits.test, digits.search, digits.calibration, digits.train]
    assert [len(part) for part in parts] == [300, 400, 256, 841]
    together = set().union(*(rows(part) for part in parts))
    assert together == rows(read_digits()) and len(together) == 1797


def test_labels_belong_to_their_images_and_calibration_has_none(digits: DataSplits) -> None:
    assert digits.calibration.labels is None
    everything = read_digits()
    truth = {
        image.tobytes(): label for image, label in zip(everything.pixels, everything.labels, strict=True)
    }
    for part in (digits.train, digits.search, digits.test):
        assert [truth[image.tobytes()] for image in part.pixels] == part.labels.tolist()


def test_a_part_does_not_depend_on_the_sizes_of_later_ones(digits: DataSplits) -> None:
    other = load_data(replace(DEFAULT, calibration=10, search=60))
    np.testing.assert_array_equal(other.test.pixels, digits.test.pixels)
    np.testing.assert_array_equal(other.search.pixels, digits.search.pixels[:60])


def test_digest_names_the_content_and_the_cut(digits: DataSplits) -> None:
    changed = [replace(DEFAULT, seed=1), replace(DEFAULT, test=299), replace(DEFAULT, calibration=255)]
    digests = {load_data(config).digest for config in [DEFAULT, *changed]}
    assert len(digests) == 4 and digits.digest in digests


def test_default_split_is_pinned(digits: DataSplits) -> None:
    """The shipped weights were trained on this train part; another library version must not move it."""
    assert digits.digest == "adbcc725a5af678dd615bb242ea7d4cf199f2ddf88202f1751f0172c1a839f20"


def test_tensor_is_normalised_and_ordered(digits: DataSplits) -> None:
    images = Images(
        np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), None, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    )
    x = images.tensor(1, 2)
    assert x.shape == (1, 3, 2, 2) and x.dtype == torch.float32 and x.is_contiguous()
    assert x[0, 2, 0, 1].item() == pytest.approx((17 / 255 - 0.3) / 0.125)
    everything = digits.train.tensor()
    assert everything.mean().abs() < 0.02 and abs(everything.std() - 1) < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": 0}, "data.search=0: expected an integer from 1 to 1495"),
        ({"search": 1496}, "data.search=1496: expected an integer from 1 to 1495"),
        ({"test": 1795}, "data.test=1795: expected an integer from 1 to 1794"),
        ({"calibration": -3}, "data.calibration=-3: expected an integer from 1 to 1096"),
        ({"calibration": 1097}, "data.calibration=1097: expected an integer from 1 to 1096"),
        ({"seed": -1}, "data.seed=-1: expected an integer from 0"),
        ({"root": "/somewhere"}, "data.root=/somewhere: expected null"),
    ],
)
def test_values_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_data(replace(DEFAULT, **change))
    assert message in str(caught.value)


def test_unknown_data_set() -> None:
    with pytest.raises(UnknownName, match=r"data\.name: unknown data set 'cifar'; did you mean 'cifar10'"):
        load_data(DataConfig(name="cifar"))
    assert {"digits", "cifar10"} <= DATASETS.keys()


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 40), sizes=st.lists(st.integers(-1, 30), max_size=4))
def test_dealing_loses_nothing_or_refuses(count: int, sizes: list[int]) -> None:
    named = [(f"data.{place}", size) for place, size in enumerate(sizes)]
    possible = all(size >= 1 for size in sizes) and sum(sizes) < count
    if possible:
        parts = deal(np.arange(count), named)
        assert [len(part) for part in parts] == [*sizes, count - sum(sizes)]
        assert np.concatenate(parts).tolist() == list(range(count))
    else:
        with pytest.raises(ConfigError):
            deal(np.arange(count), named)
