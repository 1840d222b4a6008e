"""Further versions of calibration images, and the equalised network."""

from __future__ import annotations

import pytest
import torch
from networks import images, network

from compressors.calibration.observe import calibrate
from compressors.calibration.variants import augmented, variant
from compressors.plan import CompressionPlan


@pytest.mark.parametrize("count", [1, 24])
@pytest.mark.parametrize("versions", [1, 2, 5])
def test_the_images_come_first_and_each_has_as_many_versions(count: int, versions: int) -> None:
    batch = images(count)
    found = augmented(batch, versions)
    assert found.shape == (versions * count, 3, 8, 8)
    assert torch.equal(found[:count], batch)
    assert torch.equal(augmented(batch, versions), found)


def test_every_version_is_a_shift_or_a_mirrored_shift_of_its_image() -> None:
    batch = images(6)
    padded = torch.nn.functional.pad(batch, (1, 1, 1, 1))
    kinds = set()
    for place, version in enumerate(augmented(batch, 8)[6:]):
        origin = padded[place % 6]
        shifts = {
            (top, left, mirrored): origin[:, top : top + 8, left : left + 8].flip(2)
            if mirrored
            else origin[:, top : top + 8, left : left + 8]
            for top in range(3)
            for left in range(3)
            for mirrored in (False, True)
        }
        same = [kind for kind, shifted in shifts.items() if torch.equal(shifted, version)]
        assert len(same) == 1
        kinds.update(same)
    assert len(kinds) > 9 and {kind[2] for kind in kinds} == {False, True}


def test_what_is_no_image_has_no_versions() -> None:
    rows = torch.randn(4, 7)
    assert augmented(rows, 3) is rows


def test_without_equalisation_nothing_is_copied() -> None:
    model = network("vgg")
    calibration = calibrate(model, images())
    assert variant(model, CompressionPlan(), calibration) == (model, calibration)
    assert not calibration.equalized


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_the_equalised_network_answers_alike_and_is_made_once(dtype: torch.dtype) -> None:
    model = network("vgg").to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calibration = calibrate(model, images())
    plan = CompressionPlan(equalize=True)
    network_, own = variant(model, plan, calibration)
    assert variant(model, plan, calibration)[0] is network_
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.equal(network_[9].weight, model[9].weight.float())
    reference = network("vgg").to(dtype).float()
    assert torch.allclose(network_(images()), reference(images()), atol=1e-4)
    assert own.layers == calibration.layers and own.images is calibration.images
