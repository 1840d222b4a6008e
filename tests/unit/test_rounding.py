"""The rounding kernel against every choice of levels, GPTQ written plainly, and least squares."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from compressors.kernels.rounding import fit_rows, round_rows

STARTS = np.array([0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0])
TERNARY = np.array([[-1, 0, 1]])
TWO_TERMS = np.array([[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)]).T
UNEVEN = np.array([[-5, -1, 0, 2, 3]])


def moments(columns: int, seed: int, samples: int | None = None) -> np.ndarray:
    """Second moments of correlated inputs, slightly damped."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((columns, columns)) + 1.5 * rng.standard_normal((1, columns))
    x = rng.standard_normal((samples or 4 * columns, columns)) @ mix
    hessian = x.T @ x / len(x)
    return hessian + 0.01 * np.trace(hessian) / columns * np.eye(columns)


def rounded_rows(
    weight: np.ndarray,
    hessian: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    *,
    keep: np.ndarray | None = None,
    groups: int = 1,
    starts: np.ndarray | None = None,
    rounds: int = 0,
    kicks: int = 200,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chosen values ``[N, K]``, errors, scales and indices; ``codes [terms, L]``, ``scale [terms, N, groups]``."""
    keep = np.ones(weight.shape, bool) if keep is None else keep
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T.copy()
    group = np.repeat(np.arange(groups), weight.shape[1] // groups)
    choice, errors, scale = np.zeros(weight.shape, np.int64), np.zeros(len(weight)), scale.copy()
    round_rows(
        weight,
        hessian,
        upper,
        codes.astype(np.float64)[:, None, None],
        scale,
        group,
        keep,
        np.ones(1) if starts is None else starts,
        rounds,
        kicks,
        choice,
        errors,
    )
    values = np.zeros(weight.shape)
    for n, k in np.ndindex(*weight.shape):
        if keep[n, k]:
            values[n, k] = scale[:, n, group[k]] @ codes[:, choice[n, k]]
    return values, errors, scale, choice


def levels_of(codes: np.ndarray, scale: np.ndarray, keep: np.ndarray) -> list[list[float]]:
    """The levels of each column of one row; ``scale [terms]``."""
    return [sorted(scale @ codes) if kept else [0.0] for kept in keep]


@pytest.mark.parametrize(
    ("codes", "columns"), [(TERNARY, 7), (UNEVEN, 5), (TWO_TERMS, 4)], ids=["ternary", "uneven", "two terms"]
)
def test_nearly_always_the_best_of_all_choices(codes: np.ndarray, columns: int) -> None:
    rng, best, cases = np.random.default_rng(0), 0, 40
    for seed in range(cases):
        hessian, weight = moments(columns, seed), rng.standard_normal((1, columns))
        scale = rng.uniform(0.2, 1.2, (len(codes), 1, 1))
        keep = rng.random((1, columns)) < 0.85
        values, errors, after, _ = rounded_rows(weight, hessian, codes, scale, keep=keep)
        assert np.array_equal(after, scale)
        choices = levels_of(codes, scale[:, 0, 0], keep[0])
        least = naive.least_quadratic(hessian, weight[0], choices)
        plain = naive.quadratic(hessian, weight[0], naive.gptq(hessian, weight[0], choices))
        nearest = [min(own, key=lambda v: abs(v - w)) for own, w in zip(choices, weight[0], strict=True)]
        assert errors[0] == pytest.approx(naive.quadratic(hessian, weight[0], values[0]), rel=1e-9)
        assert errors[0] <= plain * (1 + 1e-9)
        assert errors[0] <= naive.quadratic(hessian, weight[0], nearest) * (1 + 1e-9)
        assert least * (1 - 1e-9) <= errors[0]
        best += errors[0] <= least * (1 + 1e-9)
        assert not values[~keep].any()
    assert best >= 0.95 * cases


def test_without_the_search_it_still_beats_plain_gptq() -> None:
    rng = np.random.default_rng(1)
    for seed in range(10):
        columns = 40
        hessian, weight = moments(columns, seed), rng.standard_normal((3, columns))
        scale = np.full((1, 3, 1), 0.7)
        _, errors, _, _ = rounded_rows(weight, hessian, TERNARY, scale, kicks=0)
        _, searched, _, _ = rounded_rows(weight, hessian, TERNARY, scale)
        for n in range(3):
            choices = levels_of(TERNARY, scale[:, n, 0], np.ones(columns, bool))
            assert errors[n] <= naive.quadratic(
                hessian, weight[n], naive.gptq(hessian, weight[n], choices)
            ) * (1 + 1e-9)
        assert (searched <= errors * (1 + 1e-12)).all()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("codes", [TERNARY, TWO_TERMS, UNEVEN], ids=["ternary", "two terms", "uneven"])
def test_scales_are_the_least_squares_ones_for_the_codes(codes: np.ndarray, groups: int) -> None:
    """No other scales do better for the codes chosen; fitting them helps."""
    rng, (rows, columns) = np.random.default_rng(2), (4, 12)
    hessian, weight = moments(columns, 5), rng.standard_normal((rows, columns))
    scale = rng.uniform(0.3, 0.9, (len(codes), rows, groups))
    keep = rng.random(weight.shape) < 0.8
    options = {"keep": keep, "groups": groups, "starts": STARTS}
    values, errors, fitted, choice = rounded_rows(weight, hessian, codes, scale, rounds=4, **options)
    _, fixed, _, _ = rounded_rows(weight, hessian, codes, scale, keep=keep, groups=groups)
    assert errors.sum() < 0.9 * fixed.sum()
    half = np.linalg.cholesky(hessian).T
    for n in range(rows):
        assert errors[n] == pytest.approx(naive.quadratic(hessian, weight[n], values[n]), rel=1e-8)
        parts = np.zeros((columns, len(codes), groups))
        for k in range(columns):
            if keep[n, k]:
                parts[k, :, k // (columns // groups)] = codes[:, choice[n, k]]
        parts = parts.reshape(columns, -1)
        best, *_ = np.linalg.lstsq(half @ parts, half @ weight[n], rcond=None)
        least = naive.quadratic(hessian, weight[n], parts @ best)
        # the last change may have been one of codes, under the scales of the fit before it
        assert least <= errors[n] * (1 + 1e-9) and errors[n] <= 1.05 * least
    assert not values[~keep].any() and np.isfinite(fitted).all()


def test_one_fit_of_one_code_is_exact() -> None:
    """With all codes forced there is a formula: the scale is ``c'Hw / c'Hc``."""
    hessian, weight = moments(6, 0), np.abs(np.random.default_rng(3).standard_normal((1, 6)))
    _, errors, scale, _ = rounded_rows(weight, hessian, np.array([[1]]), np.ones((1, 1, 1)), rounds=4)
    ones = np.ones(6)
    assert scale[0, 0, 0] == pytest.approx((ones @ hessian @ weight[0]) / (ones @ hessian @ ones), rel=1e-6)
    assert errors[0] == pytest.approx(naive.quadratic(hessian, weight[0], scale[0, 0, 0] * ones), rel=1e-9)


def test_rows_do_not_see_one_another_and_runs_repeat() -> None:
    hessian, weight = moments(20, 1), np.random.default_rng(4).standard_normal((5, 20))
    scale = np.full((1, 5, 1), 0.8)
    first = rounded_rows(weight, hessian, TERNARY, scale, starts=STARTS, rounds=4, kicks=0)
    again = rounded_rows(weight, hessian, TERNARY, scale, starts=STARTS, rounds=4, kicks=0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for n in range(5):
        alone = rounded_rows(
            weight[n : n + 1], hessian, TERNARY, scale[:, :1], starts=STARTS, rounds=4, kicks=0
        )
        assert np.array_equal(alone[0][0], first[0][n]) and alone[1][0] == first[1][n]


def test_rows_without_anything_to_round() -> None:
    hessian = moments(4, 0)
    weight, keep = np.zeros((3, 4)), np.ones((3, 4), bool)
    weight[1], keep[1] = 1.0, False
    weight[2] = 0.5
    scale = np.array([0.0, 1.0, 0.0]).reshape(1, 3, 1)
    values, errors, after, _ = rounded_rows(weight, hessian, TERNARY, scale, keep=keep, rounds=4)
    assert not values[:2].any() and errors[0] == 0.0
    assert errors[1] == pytest.approx(naive.quadratic(hessian, np.ones(4), np.zeros(4)))
    assert np.isfinite(after).all()
    one = rounded_rows(np.array([[0.3]]), np.eye(1), TERNARY, np.full((1, 1, 1), 0.5), rounds=4)
    assert one[0].item() == pytest.approx(0.3) and one[1].item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("columns", [1, 5, 30])
def test_refitted_weights_are_least_squares_on_the_support(columns: int, even: bool) -> None:
    """To the last digit where inputs are little correlated; else it stops when nearly all is gained."""
    rng = np.random.default_rng(columns)
    hessian, weight = moments(columns, 2), rng.standard_normal((4, columns))
    if even:
        hessian = np.corrcoef(rng.standard_normal((20 * columns, columns)).T).reshape(columns, columns)
    keep = rng.random(weight.shape) < 0.6
    keep[1] = False
    start = np.where(keep, weight, 0.0)
    fitted = start.copy()
    fit_rows(weight, hessian, keep, fitted)
    half = np.linalg.cholesky(hessian).T
    for n in range(4):
        expected = np.zeros(columns)
        expected[keep[n]] = np.linalg.lstsq(half[:, keep[n]], half @ weight[n], rcond=None)[0]
        before, error, least = (
            naive.quadratic(hessian, weight[n], q) for q in (start[n], fitted[n], expected)
        )
        assert error - least <= (1e-5 if even else 0.05) * (before - least) + 1e-12
        if even:
            assert fitted[n] == pytest.approx(expected, abs=1e-3)
    assert not fitted[~keep].any()
