"""Metrics by name: unit, direction and origin of each, and the choice of objectives among them."""

from __future__ import annotations

import pytest

from dse.errors import ConfigError, UnknownName
from dse.objectives import metrics_for, select_objectives


def test_every_accelerator_brings_its_three_modelled_metrics() -> None:
    metrics = metrics_for(["small", "large"])
    assert list(metrics)[:3] == ["accuracy", "size", "energy.measured"]
    for accelerator in ("small", "large"):
        for quantity, unit in (("energy", "j"), ("latency", "s"), ("area", "mm2")):
            metric = metrics[f"{quantity}.{accelerator}"]
            assert (metric.unit, metric.direction, metric.origin) == (unit, "minimize", "modelled")
            assert metric.column == f"{quantity}.{accelerator}_{unit}"
            assert accelerator in metric.title
    assert all(name == metric.name for name, metric in metrics.items())


def test_what_is_measured_is_never_called_modelled() -> None:
    origins = {name: metric.origin for name, metric in metrics_for(["x"]).items()}
    assert {name for name, origin in origins.items() if origin == "measured"} == {
        "accuracy",
        "size",
        "energy.measured",
    }


def test_only_accuracy_is_to_be_large() -> None:
    larger = [m.name for m in metrics_for(["x"]).values() if m.direction == "maximize"]
    assert larger == ["accuracy"]


def test_objectives_come_in_the_order_they_are_named() -> None:
    names = ["size", "accuracy", "energy.x"]
    assert [metric.name for metric in select_objectives(names, ["x"])] == names


def test_names_that_do_not_exist_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"objectives\.names: unknown objective 'energy\.y'.*'energy\.x'"):
        select_objectives(["accuracy", "energy.y"], ["x"])


def test_an_objective_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.names=accuracy: expected each objective once"):
        select_objectives(["accuracy", "size", "accuracy"], ["x"])


def test_what_is_not_counted_cannot_be_optimised() -> None:
    with pytest.raises(ConfigError, match=r"objectives.names=additions.*evaluation.reuse_block=\[16,144\]"):
        select_objectives(["accuracy", "additions"], ["x"])
    names = ["accuracy", "additions", "multiplications"]
    assert [metric.name for metric in select_objectives(names, ["x"], shared=True)] == names
