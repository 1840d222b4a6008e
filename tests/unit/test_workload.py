"""Workloads: derived shapes, and a JSON round trip that loses nothing."""

from __future__ import annotations

import json

import pytest

from energy.activity import ReuseActivity
from energy.workload import FLOAT_BITS, LayerWork, Workload
from tests.energy_workloads import inputs, layer


def test_loop_bounds_of_a_strided_grouped_convolution() -> None:
    work = layer(outputs=12, inputs=6, groups=3, kernel=(3, 5), output_size=(7, 4))
    assert work.reduction == 2 * 3 * 5  # every output reads 6/3 channels
    assert work.pixels == 28
    assert work.macs == 12 * 30 * 28


@pytest.mark.parametrize(
    ("changes", "is_float", "input_bits"),
    [
        ({}, False, 8),
        ({"input": inputs(bits=3)}, False, 3),
        ({"input": None}, True, FLOAT_BITS),
        ({"weights": {}}, True, 8),
        ({"weights": {}, "input": None}, True, FLOAT_BITS),
    ],
)
def test_a_layer_is_float_where_either_operand_is(changes: dict, is_float: bool, input_bits: int) -> None:
    work = layer(**changes)
    assert (work.is_float, work.input_bits) == (is_float, input_bits)


def test_json_round_trip_is_exact() -> None:
    layers = (
        layer("a", added=True, stride=(2, 1), dilation=(1, 2)),
        layer("b", kept=True, input=None, output_bits=3),
        layer("c", weights={}, input=inputs(bits=5, signed=True)),
        layer("d", reuse=ReuseActivity(9, 7, 31, 3, 2, 1, 11, 4)),
    )
    told = Workload(layers, 12345, ("head", "tail")).to_dict()
    text = json.dumps(told)
    read = Workload.from_dict(json.loads(text))
    assert json.dumps(read.to_dict()) == text
    assert (read.image_bits, read.unpriced) == (12345, ("head", "tail"))
    for before, after in zip(layers, read.layers, strict=True):
        for name in LayerWork.__dataclass_fields__:
            if name not in ("weights", "input"):
                assert getattr(after, name) == getattr(before, name)
                assert type(getattr(after, name)) is type(getattr(before, name))
        assert after.is_float == before.is_float
    assert read.macs == sum(work.macs for work in layers)


def test_shared_operations_by_hand() -> None:
    shared = layer("a", output_size=(3, 4), reuse=ReuseActivity(9, 7, 31, 3, 2, 1, 11, 4))
    plain = layer("b", weights={})
    assert Workload((shared, plain), 1).shared_operations == (12 * (7 + 1) + plain.macs, 12 * 4 + plain.macs)


def test_one_bit_products_are_planes_by_planes_by_macs() -> None:
    work = layer(input=inputs(bits=3))
    planes = len(work.weights["sign_magnitude"].nonzero[1])
    assert work.bit_products("sign_magnitude") == planes * 3 * work.macs
    with pytest.raises(ValueError, match="in floating point"):
        layer(input=None).bit_products("sign_magnitude")
