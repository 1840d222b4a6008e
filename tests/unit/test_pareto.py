"""Fronts, hypervolume, knee and selection rules against brute force and hand-worked cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import ConfigError, UnknownName
from dse.objectives import Metric, metrics_for
from dse.pareto import (
    hypervolume,
    hypervolume_history,
    knee,
    non_dominated,
    normalised_hypervolume,
    on_log_scale,
    reference_point,
    select,
)
from dse.records import Evaluation, TrialRecord

SIDE = 5
ALL = metrics_for(["bitserial", "systolic"])
OBJECTIVES = [ALL["accuracy"], ALL["energy.bitserial"]]


@st.composite
def grids(draw: st.DrawFn) -> tuple[np.ndarray, list[str]]:
    """Points with whole coordinates in [0, SIDE], many of them equal, and directions."""
    m = draw(st.integers(min_value=1, max_value=4))
    points = draw(st.lists(st.lists(st.integers(0, SIDE), min_size=m, max_size=m), min_size=1, max_size=12))
    directions = draw(st.lists(st.sampled_from(["minimize", "maximize"]), min_size=m, max_size=m))
    return np.array(points, dtype=float), directions


def dominates(a: np.ndarray, b: np.ndarray, directions: list[str]) -> bool:
    better = [x > y if d == "maximize" else x < y for x, y, d in zip(a, b, directions, strict=True)]
    worse = [x < y if d == "maximize" else x > y for x, y, d in zip(a, b, directions, strict=True)]
    return any(better) and not any(worse)


def cells_dominated(points: np.ndarray, directions: list[str], reference: list[int]) -> int:
    """Unit cells between the points and the reference, counted one by one."""
    costs = np.where([d == "maximize" for d in directions], SIDE - points, points)
    corner = np.where([d == "maximize" for d in directions], SIDE - np.array(reference), reference)
    cells = itertools.product(*(range(int(c)) for c in corner))
    return sum(1 for cell in cells if (costs <= np.array(cell)).all(axis=1).any())


@given(grids())
def test_front_equals_brute_force(case: tuple[np.ndarray, list[str]]) -> None:
    points, directions = case
    expected = [not any(dominates(b, a, directions) for b in points) for a in points]
    assert non_dominated(points, directions).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(grids(), st.data())
def test_hypervolume_equals_counted_cells(case: tuple[np.ndarray, list[str]], data: st.DataObject) -> None:
    points, directions = case
    reference = [data.draw(st.integers(0, SIDE)) for _ in directions]
    assert hypervolume(points, directions, reference) == pytest.approx(
        cells_dominated(points, directions, reference), abs=1e-9
    )


def inclusion_exclusion(costs: np.ndarray, corner: np.ndarray) -> float:
    total = 0.0
    for size in range(1, len(costs) + 1):
        for subset in itertools.combinations(costs, size):
            total -= (-1) ** size * float(np.prod(np.clip(corner - np.max(subset, axis=0), 0, None)))
    return total


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_hypervolume_equals_inclusion_exclusion(m: int) -> None:
    rng = np.random.default_rng(m)
    for _ in range(5):
        costs, corner = rng.random((9, m)), np.full(m, 0.9)
        value = hypervolume(costs, ["minimize"] * m, corner)
        assert value == pytest.approx(inclusion_exclusion(costs, corner), rel=1e-9, abs=1e-12)


def test_hypervolume_near_monte_carlo_on_a_large_front() -> None:
    rng = np.random.default_rng(0)
    points = np.abs(rng.normal(size=(150, 3)))
    points = 1 - points / np.linalg.norm(points, axis=1, keepdims=True)
    samples = rng.random((20_000, 3))
    hit = (points[None] <= samples[:, None]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points, ["minimize"] * 3, [1, 1, 1]) == pytest.approx(hit, abs=0.015)


@settings(max_examples=80, deadline=None)
@given(grids())
def test_history_grows_to_the_hypervolume_of_all(case: tuple[np.ndarray, list[str]]) -> None:
    points, directions = case
    history = hypervolume_history(points, directions)
    reference = reference_point(points, directions)
    ideal = [c.max() if d == "maximize" else c.min() for c, d in zip(points.T, directions, strict=True)]
    box = float(np.prod(np.abs(reference - ideal)))
    expected = [hypervolume(points[: i + 1], directions, reference) / box for i in range(len(points))]
    assert history == pytest.approx(expected, abs=1e-9)
    assert (np.diff(history) >= 0).all() and 0 < history[-1] <= 1
    assert normalised_hypervolume(points, directions) == pytest.approx(history[-1], abs=1e-9)


def test_history_of_hand_worked_points() -> None:
    # accuracy up, energy down; ideal (1, 0), worst (0, 10), reference (-0.1, 11); box 1.1 x 11 = 12.1
    points = [[1.0, 10.0], [0.0, 0.0], [0.5, 5.0], [0.4, 6.0]]
    first, second, middle = 1.1 * 1.0, 0.1 * 10.0, 0.5 * 5.0
    areas = np.cumsum([first, second, middle, 0.0])
    assert hypervolume_history(points, ["maximize", "minimize"]) == pytest.approx(areas / 12.1)
    assert reference_point(points, ["maximize", "minimize"]) == pytest.approx([-0.1, 11.0])


def test_odd_inputs() -> None:
    assert hypervolume_history([], ["minimize", "maximize"]).shape == (0,)
    assert normalised_hypervolume([], ["minimize"]) == 0.0
    assert normalised_hypervolume([[3.0, 3.0], [3.0, 3.0]], ["minimize", "maximize"]) == pytest.approx(1.0)
    assert non_dominated([[1.0, 1.0], [1.0, 1.0]], ["minimize", "minimize"]).tolist() == [True, True]
    with pytest.raises(ValueError, match="NaN"):
        non_dominated([[float("nan"), 1.0]], ["minimize", "minimize"])
    with pytest.raises(ValueError, match="2 objectives"):
        non_dominated([[1.0]], ["minimize", "minimize"])
    with pytest.raises(ValueError, match="direction='up'"):
        non_dominated([[1.0]], ["up"])


def test_knee_of_hand_worked_fronts() -> None:
    minimize = ["minimize", "minimize"]
    assert knee([[0, 10], [1, 2], [5, 1], [10, 0], [9, 9]], minimize) == 1
    assert knee([[0, 1000], [10, 1], [1, 100], [4, 90]], minimize) == 2  # scale of the units is of no matter
    assert knee([[1.0, 0.0], [0.9, 0.8]], ["maximize", "maximize"]) == 0  # two extremes: the first
    assert knee([[5.0, 5.0]], minimize) == 0
    assert knee([[3.0], [1.0], [2.0]], ["minimize"]) == 1
    assert knee([[0, 4, 4], [4, 0, 4], [4, 4, 0], [1, 1, 1], [2, 0.5, 2]], ["minimize"] * 3) == 3
    with pytest.raises(ValueError, match="no points"):
        knee([], minimize)


@given(grids())
def test_knee_lies_on_the_front(case: tuple[np.ndarray, list[str]]) -> None:
    points, directions = case
    assert non_dominated(points, directions)[knee(points, directions)]


def row(number: int, accuracy: float, energy: float, **other: float) -> TrialRecord:
    metrics = {"accuracy": accuracy, "energy.bitserial": energy, **other}
    return TrialRecord(number, "COMPLETE", "", {}, Evaluation("p", metrics=metrics))


ROWS = [
    row(0, 0.99, 9e-6, size=400.0),
    TrialRecord(1, "FAIL", "", {}, None, error="boom"),
    row(2, 0.99, 5e-6, size=300.0),
    row(3, 0.98, 2e-6, size=300.0),
    row(4, 0.90, 1e-6, size=100.0),
    row(5, 0.90, 1e-6, **{"size": 100.0, "energy.systolic": 3e-6}),
]


@pytest.mark.parametrize(
    ("rule", "number"),
    [
        ("knee", 3),
        ("trial=4", 4),
        ("trial 2", 2),
        ("max_accuracy", 2),  # not 0, which is as accurate and dominated
        ("MIN_ENERGY", 4),  # 4 and 5 tie: the lower number
        ("min_energy.bitserial", 4),
        ("min_acc", 4),
        ("min_size", 4),  # no objective, but a metric
        ("max_size", 0),
        ("min_energy.systolic", 5),
        ("lowest energy with accuracy >= 0.98", 3),
        ("min_energy where accuracy>=0.98", 3),
        ("min_energy where accuracy >= 98.5%", 2),
        ("lowest energy with accuracy ≥ 98 %", 3),
        ("min_energy where accuracy > 98%", 2),
        ("max_accuracy where energy <= 4e-6", 3),
        ("highest accuracy subject to energy < 5e-6 and size <= 200", 4),
        ("min_energy where accuracy >= 0.9, size > 100", 3),
        ("knee where size <= 100", 4),
    ],
)
def test_select(rule: str, number: int) -> None:
    assert select(ROWS, OBJECTIVES, rule).number == number


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("best one", r"select=best one: expected knee, trial=N, min_METRIC"),
        ("", "expected knee"),
        ("min_energy where accuracy", "expected a condition such as 'accuracy >= 98%' instead of 'accuracy'"),
        ("trial=9", "expected a trial from 0 to 5"),
        ("trial=1", "trial 1 is FAIL"),
        ("min_energy where accuracy >= 99.5%", r"met by none of 5; trial 0 comes closest with 0\.99"),
        ("max_accuracy where energy < 1e-7", "trial 4 comes closest with 1e-06"),
        ("knee where accuracy >= 99% and energy <= 1e-6", "energy.bitserial <= 1e-06 is met by none of 2"),
        ("min_latency", "unknown metric 'latency'; .*available: .*size"),
        ("min_energy where precision > 0.5", "unknown metric 'precision'"),
    ],
)
def test_select_refuses(rule: str, message: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=message):
        select(ROWS, OBJECTIVES, rule)


def test_an_ambiguous_start_names_what_it_may_be() -> None:
    objectives: list[Metric] = [ALL["accuracy"], ALL["energy.bitserial"], ALL["energy.systolic"]]
    with pytest.raises(ConfigError, match=r"energy\.bitserial or energy\.systolic"):
        select(ROWS[-1:], objectives, "min_energy")
    with pytest.raises(ConfigError, match="a study with a finished trial"):
        select(ROWS[1:2], objectives, "knee")


def test_log_scale_is_for_positive_costs_alone_and_keeps_the_front() -> None:
    directions = ["maximize", "minimize", "minimize"]
    points = np.array([[0.9, 1e-6, 0.0], [0.8, 1e-4, 2.0], [0.95, 1e-5, 1.0]])
    scaled = on_log_scale(points, directions)
    assert scaled[:, 0] == pytest.approx(points[:, 0])
    assert scaled[:, 1] == pytest.approx([-6, -4, -5])
    assert scaled[:, 2] == pytest.approx(points[:, 2])  # a cost of zero has no logarithm
    assert (non_dominated(scaled, directions) == non_dominated(points, directions)).all()
    assert points[0, 1] == 1e-6  # the caller's array is left alone
