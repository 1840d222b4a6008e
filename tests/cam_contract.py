"""The accelerator contract where the work is done by searches of match lines instead of an array of elements."""

from __future__ import annotations

import pytest

from compressors.slicing import GRANULARITIES
from tests.contracts_energy import AcceleratorContract
from tests.energy_workloads import integer_weights, layer


class CamContract(AcceleratorContract):
    """What says ``pe array`` in the contract is ``work`` here; groups save the sums over their inputs, too."""

    work = "search"

    def test_layers_are_priced_one_by_one_apart_from_shared_memory_and_leakage(self) -> None:
        a, b = self.layer("a"), self.layer("b", output_size=(4, 4), outputs=16)
        both, alone = self.price(a, b), self.price(b)
        assert both.energy_j["b"][self.work] == alone.energy_j["b"][self.work]
        assert both.latency_s["b"] == alone.latency_s["b"]
        assert both.utilisation["b"] == alone.utilisation["b"]

    def test_float_costs_more_than_eight_bits(self) -> None:
        """Passes may cost more than a multiplier; floating-point units still take their own area."""
        eight = self.layer(tensor=integer_weights(32, 72, bits=8, density=1.0, seed=1))
        as_float = layer("float", weights={}, input=None, output_bits=32)
        integer, both = self.price(eight), self.price(eight, as_float)
        assert both.energy_j["float"]["float units"].nominal > 0
        assert both.area_mm2["float units"].nominal > 0 and "float units" not in integer.area_mm2

    def test_a_layer_of_zeros_only_moves_its_operands_and_leaks(self) -> None:
        zero = integer_weights(32, 72, bits=4, density=0.0, seed=1)
        cost = self.price(self.layer("idle", zero), self.layer("busy"))
        moved = {
            "activation buffer",
            "chip router",
            "interconnect",
            "program memory",
            "post-processing",
            "dram",
        }
        assert set(cost.energy_j["idle"]) <= {*moved, "leakage"}
        assert cost.latency_s["idle"] == 0
        assert cost.energy_j["idle"]["leakage"].nominal == 0
        assert cost.latency_s["busy"] > 0

    @pytest.mark.parametrize("g", GRANULARITIES)
    @pytest.mark.parametrize("groups", [2, 4, 8])
    def test_grouping_channels_never_saves_more_than_its_products(self, g: int, groups: int) -> None:
        plain = self.price(self.dense_layer(groups=1), g=g)
        grouped = self.price(self.dense_layer(groups=groups), g=g)
        ratio = grouped.energy_j["conv"][self.work].nominal / plain.energy_j["conv"][self.work].nominal
        assert ratio > 0.8 / groups  # the sums over inputs of other groups, a fifth at most, go too
