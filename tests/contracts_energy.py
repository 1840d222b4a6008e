"""What every accelerator model must fulfil; subclass ``AcceleratorContract`` once per model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressors.slicing import ENCODINGS, GRANULARITIES, from_codes
from compressors.tensor import SlicedTensor
from energy.accelerators import Accelerator, requests
from energy.activity import input_activity, reuse_activity, weight_activity
from energy.cost import OPERANDS, Cost
from energy.workload import LayerWork
from tests.energy_workloads import inputs, integer_weights, layer, ternary_weights, workload

granularities = st.sampled_from(GRANULARITIES)
each_subclass = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)
relative = 1e-9  # of rounding in sums of a dozen floats


def uniform_mode(layers: tuple[LayerWork, ...], g: int) -> dict[str, int]:
    return {work.name: g for work in layers}


def dynamic_j(cost: Cost) -> float:
    """Nominal energy without leakage."""
    parts = (c.items() for c in cost.energy_j.values())
    return sum(band.nominal for items in parts for name, band in items if name != "leakage")


def nested_codes(codes: np.ndarray, low_bit: np.ndarray) -> np.ndarray:
    """The same numbers with one more binary place behind them."""
    return codes * 2 + np.where(codes < 0, -low_bit, low_bit)


class AcceleratorContract:
    """``make`` builds the accelerator with its defaults, changed by ``settings``.

    ``skips_zeros``: zero weights take no time, and nothing of the array. ``counts_alone``: the array's energy follows
    its products and nothing else, so channel groups save exactly theirs.
    """

    skips_zeros = True
    counts_alone = True

    def make(self, **settings: Any) -> Accelerator:
        raise AssertionError("a subclass builds its accelerator here")

    def price(self, *layers: LayerWork, g: int = 4, accelerator: Accelerator | None = None) -> Cost:
        accelerator = accelerator or self.make()
        return accelerator.cost(workload(*layers), uniform_mode(layers, g))

    def layer(self, name: str = "conv", tensor: SlicedTensor | None = None, **changes: Any) -> LayerWork:
        """A layer with all that the accelerator asks to be counted on its weights, ``tensor`` or the usual ones."""
        if "weights" in changes:
            return layer(name, **changes)
        work = layer(name, **changes, weights={})
        if tensor is None:
            tensor = integer_weights(work.outputs, work.reduction, bits=4, density=0.5, seed=1)
        asked = requests({name: self.make()})
        counted = {e: weight_activity(tensor, e, asked.columns, work.groups) for e in ENCODINGS}
        shared = None
        if asked.reuse_block is not None and work.input is not None:
            block, given = asked.reuse_block, work.input
            shared = reuse_activity(tensor, work.groups, block, given.bits, given.signed)
        return replace(work, weights=counted, reuse=shared)

    shapes = st.fixed_dictionaries(
        {
            "outputs": st.sampled_from([1, 3, 10, 16, 33]),
            "kernel": st.sampled_from([(1, 1), (3, 3), (1, 5)]),
            "output_size": st.sampled_from([(1, 1), (1, 7), (8, 8), (5, 9)]),
            "stride": st.sampled_from([(1, 1), (2, 2)]),
            "added": st.booleans(),
            "kept": st.booleans(),
        }
    )

    @each_subclass
    @given(shapes, granularities, st.floats(0, 1), st.integers(1, 8))
    def test_parts_add_up_and_every_figure_is_possible(
        self, shape: dict, g: int, density: float, bits: int
    ) -> None:
        reduction = 8 * shape["kernel"][0] * shape["kernel"][1]
        tensor = integer_weights(shape["outputs"], reduction, bits=4, density=density, seed=2)
        first = self.layer("first", tensor, input=inputs(bits=bits), **shape)
        layers = (first, self.layer("second", output_size=(3, 3)), layer("third", weights={}, input=None))
        cost = self.price(*layers, g=g)
        names = [work.name for work in layers]
        assert list(cost.energy_j) == list(cost.latency_s) == list(cost.utilisation) == names
        parts = [band for components in cost.energy_j.values() for band in components.values()]
        for band in [*parts, *cost.area_mm2.values()]:
            assert 0 <= band.low <= band.nominal <= band.high < float("inf")
        assert cost.total_energy_j.nominal == pytest.approx(sum(band.nominal for band in parts))
        assert cost.total_latency_s == pytest.approx(sum(cost.latency_s.values()))
        assert cost.total_area_mm2.nominal == pytest.approx(sum(b.nominal for b in cost.area_mm2.values()))
        assert cost.total_energy_j.low < cost.total_energy_j.nominal < cost.total_energy_j.high
        assert cost.total_area_mm2.nominal > 0
        assert all(0 < share <= 1 for share in cost.utilisation.values())
        self.assert_operands_add_up(cost)

    def test_layers_are_priced_one_by_one_apart_from_shared_memory_and_leakage(self) -> None:
        a, b = self.layer("a"), self.layer("b", output_size=(4, 4), outputs=16)
        both, alone = self.price(a, b), self.price(b)
        assert both.energy_j["b"]["pe array"] == alone.energy_j["b"]["pe array"]
        assert both.latency_s["b"] == alone.latency_s["b"]
        assert both.utilisation["b"] == alone.utilisation["b"]
        assert both.area_mm2["pe array"] == alone.area_mm2["pe array"]

    def test_the_same_question_has_the_same_answer(self) -> None:
        layers = (self.layer("a"), layer("b", weights={}))
        assert self.price(*layers).breakdown() == self.price(*layers).breakdown()

    @each_subclass
    @given(granularities, st.floats(0, 1), st.floats(0, 1), st.integers(2, 8))
    def test_fewer_zero_weights_never_cost_less(self, g: int, one: float, other: float, bits: int) -> None:
        sparse, dense = (
            self.layer(tensor=integer_weights(32, 72, bits=bits, density=density, seed=5))
            for density in sorted((one, other))
        )
        self.assert_no_cheaper(self.price(dense, g=g), self.price(sparse, g=g))

    @each_subclass
    @given(granularities, st.floats(0, 1), st.floats(0, 1), st.integers(1, 8), st.booleans())
    def test_fewer_zero_inputs_never_cost_less(
        self, g: int, one: float, other: float, bits: int, signed: bool
    ) -> None:
        bits = max(bits, 1 + signed)
        sparse, dense = (
            self.layer(input=inputs(bits=bits, density=density, signed=signed))
            for density in sorted((one, other))
        )
        self.assert_no_cheaper(self.price(dense, g=g), self.price(sparse, g=g))

    @each_subclass
    @given(granularities, st.integers(2, 7), st.integers(0, 1000))
    def test_more_weight_bits_never_cost_less(self, g: int, bits: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        largest = (1 << (bits - 1)) - 1
        codes = rng.integers(-largest, largest + 1, (1, 32, 72))
        finer = nested_codes(codes, rng.integers(0, 2, codes.shape))
        few, many = (
            self.layer(tensor=from_codes(c, np.ones((1, 32, 1)), shape=(32, 72), bits=b))
            for c, b in ((codes, bits), (finer, bits + 1))
        )
        self.assert_no_cheaper(self.price(many, g=g), self.price(few, g=g))

    @each_subclass
    @given(granularities, st.integers(1, 7), st.integers(0, 1000))
    def test_more_input_bits_never_cost_less(self, g: int, bits: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 1 << bits, (1, 300))
        finer = nested_codes(codes, rng.integers(0, 2, codes.shape))
        few = self.layer(input=input_activity(codes, bits, False))
        many = self.layer(input=input_activity(finer, bits + 1, False))
        self.assert_no_cheaper(self.price(many, g=g), self.price(few, g=g))

    @pytest.mark.parametrize("g", GRANULARITIES)
    def test_another_term_never_costs_less(self, g: int) -> None:
        costs = [
            self.price(self.layer(tensor=ternary_weights(32, 72, terms=t, density=0.6, seed=3)), g=g)
            for t in (1, 2, 3)
        ]
        for few, many in zip(costs, costs[1:], strict=False):
            self.assert_no_cheaper(many, few)

    @pytest.mark.parametrize("larger", [{"outputs": 48}, {"output_size": (9, 9)}, {"output_bits": 16}])
    def test_more_work_never_costs_less(self, larger: dict) -> None:
        small = self.layer(tensor=integer_weights(32, 72, bits=4, density=1.0, seed=1))
        more = integer_weights(larger.get("outputs", 32), 72, bits=4, density=1.0, seed=1)
        self.assert_no_cheaper(self.price(self.layer(tensor=more, **larger)), self.price(small))

    def test_float_costs_more_than_eight_bits(self) -> None:
        eight = self.layer(tensor=integer_weights(32, 72, bits=8, density=1.0, seed=1))
        as_float = layer(weights={}, input=None, output_bits=32)
        integer, floating = self.price(eight, g=8), self.price(as_float, g=8)
        assert floating.total_energy_j.nominal > 2 * integer.total_energy_j.nominal
        assert floating.total_area_mm2.nominal > integer.total_area_mm2.nominal

    def test_a_layer_of_zeros_only_moves_its_operands_and_leaks(self) -> None:
        """No product, no cycle: the array and the machine's leakage over no time cost nothing.

        A machine that looks at no zeros takes the time it always takes, and no more energy than that of others.
        """
        zero = integer_weights(32, 72, bits=4, density=0.0, seed=1)
        cost = self.price(self.layer("idle", zero), self.layer("busy"))
        assert cost.latency_s["busy"] > 0
        if not self.skips_zeros:
            assert cost.latency_s["idle"] == cost.latency_s["busy"]
            arrays = [cost.energy_j[name]["pe array"].nominal for name in ("idle", "busy")]
            assert arrays[0] <= arrays[1]
            return
        assert cost.energy_j["idle"]["pe array"].nominal == 0
        assert cost.latency_s["idle"] == 0
        assert cost.energy_j["idle"]["leakage"].nominal == 0

    def test_leakage_is_power_times_time(self) -> None:
        cost = self.price(self.layer("a"), self.layer("b", output_size=(16, 16)))
        power = {name: cost.energy_j[name]["leakage"].nominal / cost.latency_s[name] for name in ("a", "b")}
        assert power["a"] == pytest.approx(power["b"]) and power["a"] > 0

    @pytest.mark.parametrize("g", GRANULARITIES)
    @pytest.mark.parametrize("groups", [2, 4, 8])
    def test_grouping_channels_never_saves_more_than_its_products(self, g: int, groups: int) -> None:
        """Filters of different groups read different inputs, so they cannot fill the array together."""
        plain = self.price(self.dense_layer(groups=1), g=g)
        grouped = self.price(self.dense_layer(groups=groups), g=g)
        assert grouped.total_latency_s >= plain.total_latency_s / groups * (1 - relative)
        ratio = grouped.energy_j["conv"]["pe array"].nominal / plain.energy_j["conv"]["pe array"].nominal
        if self.counts_alone:
            assert ratio == pytest.approx(1 / groups)
        assert ratio >= 1 / groups * (1 - relative)

    def dense_layer(self, groups: int) -> LayerWork:
        codes = np.full((1, 32, 32 // groups * 9), -5)
        tensor = from_codes(codes, np.ones((1, 32, 1)), shape=codes.shape[1:], bits=4)
        return self.layer(tensor=tensor, inputs=32, groups=groups)

    def test_unpriced_parts_are_named(self) -> None:
        work = replace(workload(self.layer()), unpriced=("head.softmax",))
        notes = self.make().cost(work, {"conv": 4}).notes
        assert any("not priced: head.softmax" in note for note in notes)

    def assert_operands_add_up(self, cost: Cost) -> None:
        """Where a component serves operands, their parts are all of its energy."""
        for name, components in cost.operand_j.items():
            for component, parts in components.items():
                assert set(parts) <= set(OPERANDS)
                whole = cost.energy_j[name][component].nominal
                assert sum(band.nominal for band in parts.values()) == pytest.approx(whole), component

    def test_what_binds_a_layer_is_said(self) -> None:
        cost = self.price(self.layer("a"), self.layer("b"))
        assert list(cost.bound) == ["a", "b"] and all(cost.bound.values())

    def assert_no_cheaper(self, more: Cost, less: Cost) -> None:
        assert dynamic_j(more) >= dynamic_j(less) * (1 - relative)
        assert more.total_latency_s >= less.total_latency_s * (1 - relative)
        # leakage follows the weight buffer, which a bitmap beside almost dense digits makes a little larger
        assert more.total_energy_j.nominal >= less.total_energy_j.nominal * (1 - 1e-3)
        for part in less.area_mm2.keys() - {"weight buffer"}:
            assert more.area_mm2[part].nominal >= less.area_mm2[part].nominal * (1 - relative), part
