"""Serial multipliers: the contract, a case worked by hand, and how time follows bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dse.errors import ConfigError, UnknownName
from energy.accelerators import make_accelerator
from energy.accelerators.temporal import Temporal
from energy.technology import load_technology
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import activities, inputs, integer_weights, layer, workload

PJ = 1e-12
TECHNOLOGY = load_technology("cmos45")
ENERGY = {
    n.rsplit(".", 1)[1]: c.value for n, c in TECHNOLOGY.constants.items() if n.startswith("pe_parts.energy.")
}


def temporal(**settings: Any) -> Temporal:
    return make_accelerator("temporal", settings, TECHNOLOGY)  # type: ignore[return-value]


class TemporalContract(AcceleratorContract):
    skips_zeros = False
    counts_alone = False
    defaults: dict[str, Any] = {}

    def make(self, **settings: Any) -> Temporal:
        return temporal(**{**self.defaults, **settings})


class TestStripes(TemporalContract):
    pass


class TestSerialWeights(TemporalContract):
    defaults = {"serial": "weights", "digit": 2, "encoding": "sign_magnitude"}


class TestLoom(TemporalContract):
    defaults = {"serial": "both"}


def test_serial_inputs_worked_by_hand() -> None:
    """2 filters x 4 lanes x 4 pixels; inputs of 3 bits come in bit by bit, weights of 8 bits whole."""
    tensor = integer_weights(3, 6, bits=8, density=1.0, seed=1)
    given = inputs(bits=3, density=0.5)
    work = layer(
        outputs=3, inputs=2, kernel=(1, 3), output_size=(1, 5), weights=activities(tensor), input=given
    )
    cost = temporal(filters=2, lanes=4, pixels=4).cost(workload(work), {})
    # 2 passes of filters, ceil(6 / 4) steps of 3 bits, 2 tiles of pixels.
    cycles = 2 * 2 * 3 * 2
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    busy = 3 * 6 * 5 * 3
    assert cost.utilisation["conv"] == pytest.approx(busy / (cycles * 32))
    ones = float(
        np.mean(given.nonzero[1])
    )  # of the bits of the inputs; the others leave the row of products at rest
    element = 8 * ones * ENERGY["products"] + 4.5 * ENERGY["operand_bits"] + ENERGY["elements"] / 4
    below = 4.5 * (ENERGY["accumulator_bits"] + ENERGY["fusion_bits"])
    expected = busy * element + 3 * 5 * 2 * 3 * below
    assert cost.energy_j["conv"]["pe array"].nominal == pytest.approx(expected * PJ)
    # weights are read once per tile and held for all bits of the inputs, those once per pass
    assert cost.operand_j["conv"]["local buffers"]["weights"].nominal == pytest.approx(
        18 * 8 * 2 * 1.414 / 64 * PJ
    )
    assert cost.operand_j["conv"]["local buffers"]["inputs"].nominal == pytest.approx(
        2 * 5 * 6 * 3 * 1.414 / 64 * PJ
    )
    assert cost.extrapolated and any("8 x 1 bits" in note for note in cost.notes)


@pytest.mark.parametrize(
    ("serial", "weights", "given", "cycles"),
    [
        ("inputs", 8, 5, 5),
        ("inputs", 4, 5, 5),
        ("weights", 5, 8, 5),
        ("both", 5, 3, 15),
        ("weights", 5, 9, 10),
    ],
)
def test_time_follows_the_bits_of_the_serial_operand(
    serial: str, weights: int, given: int, cycles: int
) -> None:
    tensor = integer_weights(16, 16, bits=weights, density=1.0, seed=1)
    work = layer(
        outputs=16,
        inputs=16,
        kernel=(1, 1),
        output_size=(1, 1),
        weights=activities(tensor),
        input=inputs(bits=given, density=1.0),
    )
    cost = temporal(serial=serial, pixels=1).cost(workload(work), {})
    assert cost.total_latency_s == pytest.approx(cycles / 500e6)
    assert temporal(serial=serial).full(weights, given)[0] == pytest.approx(1 / cycles)


def test_wider_digits_take_fewer_cycles() -> None:
    work = workload(layer(input=inputs(bits=8, density=1.0)))
    times = [temporal(digit=d).cost(work, {}).total_latency_s for d in (1, 2, 4, 8)]
    assert times == pytest.approx([times[0] / d for d in (1, 2, 4, 8)])


def test_the_peak_is_as_fast_as_multipliers_at_eight_bits() -> None:
    machine = temporal(pixels=8)
    assert machine.peak(8, 8).ops_per_s == 2 * 256 * 500e6
    assert machine.peak(8, 4).ops_per_s == 2 * machine.peak(8, 8).ops_per_s


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"serial": "input"}, UnknownName, "unknown serial operand 'input'; did you mean 'inputs'"),
        ({"digit": 3}, ConfigError, "accelerator.digit=3"),
        ({"parallel_bits": 1}, ConfigError, "accelerator.parallel_bits=1"),
        ({"encoding": "cds"}, UnknownName, "did you mean 'csd'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        temporal(**settings)
