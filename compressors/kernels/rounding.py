"""Rounding a row of weights so that the layer's output, not the weights, stays close.

For inputs with second moments ``H`` an output channel's squared error is ``(w - q)' H (w - q)``. Minimising it over
the levels of a grid is hard; three steps find good points: rounding column by column with the error of each passed
on to the columns after it (Frantar et al., GPTQ, arXiv 2210.17323), descent over single columns until no change
helps, and least squares for the scales with the codes held.

Everything that compiles stands in this one file (see ``compressors.kernels.bits``).
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SWEEPS = 20  # descent stops by itself long before
_FITTING_SWEEPS = 60
_KICKED = 4  # columns moved at once by the local search


@njit(cache=True, nogil=True)
def _nearest(levels, value):  # type: ignore[no-untyped-def]
    """Index of the level next to ``value``; levels ascend."""
    low, high = 0, levels.shape[0] - 1
    while low < high:
        middle = (low + high) // 2
        if value > 0.5 * (levels[middle] + levels[middle + 1]):
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _lay_levels(codes, scale, levels, order):  # type: ignore[no-untyped-def]
    """Sorted levels of every group of one row: ``codes [terms, groups or 1, L]``, ``scale [terms, groups]``."""
    terms, groups, count = codes.shape[0], scale.shape[1], codes.shape[2]
    for g in range(groups):
        source = g if codes.shape[1] > 1 else 0
        values = np.zeros(count)
        for t in range(terms):
            for i in range(count):
                values[i] += scale[t, g] * codes[t, source, i]
        ranks = np.argsort(values, kind="mergesort")
        for i in range(count):
            order[g, i] = ranks[i]
            levels[g, i] = values[ranks[i]]


@njit(cache=True, nogil=True)
def _feed_back(weight, upper, levels, order, group, keep, choice, rounded):  # type: ignore[no-untyped-def]
    """Column by column; ``upper`` is the upper Cholesky factor of the inverse of ``H``."""
    columns = weight.shape[0]
    rest = weight.copy()
    for k in range(columns):
        if keep[k]:
            g = group[k]
            i = _nearest(levels[g], rest[k])
            choice[k] = order[g, i]
            rounded[k] = levels[g, i]
        else:
            rounded[k] = 0.0
        error = (rest[k] - rounded[k]) / upper[k, k]
        row = upper[k]
        for j in range(k + 1, columns):
            rest[j] -= error * row[j]


@njit(cache=True, nogil=True)
def _pull(weight, hessian, rounded, gradient):  # type: ignore[no-untyped-def]
    """``H (w - q)`` into ``gradient``; returns ``(w - q)' H (w - q)``."""
    columns = weight.shape[0]
    gradient[:] = 0.0
    for k in range(columns):
        difference = weight[k] - rounded[k]
        if difference != 0.0:
            row = hessian[k]
            for j in range(columns):
                gradient[j] += row[j] * difference
    error = 0.0
    for k in range(columns):
        error += (weight[k] - rounded[k]) * gradient[k]
    return error


@njit(cache=True, nogil=True)
def _move(k, value, hessian, rounded, gradient):  # type: ignore[no-untyped-def]
    """Give column ``k`` another value; returns by how much the error falls."""
    step = value - rounded[k]
    gain = step * (2.0 * gradient[k] - step * hessian[k, k])
    rounded[k] = value
    row = hessian[k]
    for j in range(rounded.shape[0]):
        gradient[j] -= row[j] * step
    return gain


@njit(cache=True, nogil=True)
def _descend(hessian, levels, order, group, keep, first, choice, rounded, gradient):  # type: ignore[no-untyped-def]
    """Change single columns, from ``first`` on, while that lowers the error; returns by how much it fell."""
    columns = rounded.shape[0]
    total = 0.0
    for _ in range(_SWEEPS):
        changed = False
        for c in range(columns):
            k = (first + c) % columns
            if not keep[k]:
                continue
            g = group[k]
            i = _nearest(levels[g], rounded[k] + gradient[k] / hessian[k, k])
            step = levels[g, i] - rounded[k]
            if step * (2.0 * gradient[k] - step * hessian[k, k]) > 1e-9 * abs(step * gradient[k]):
                total += _move(k, levels[g, i], hessian, rounded, gradient)
                choice[k] = order[g, i]
                changed = True
        if not changed:
            break
    return total


@njit(cache=True, nogil=True)
def _search(hessian, levels, order, group, keep, kicks, state, choice, rounded, gradient, error):  # type: ignore[no-untyped-def]
    """Iterated local search: kick a few columns to next levels, descend, go back if that did not help.

    Returns the error reached. ``state`` is a generator's, for the same kicks on every machine.
    """
    columns, count = rounded.shape[0], levels.shape[1]
    own_choice, own_rounded, own_gradient = choice.copy(), rounded.copy(), gradient.copy()
    for _ in range(kicks):
        reached = error
        place = 0
        for _ in range(_KICKED):
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            draw = state >> np.uint64(33)
            k = np.int64(draw % np.uint64(columns))
            if not keep[k]:
                continue
            g = group[k]
            i = _nearest(levels[g], own_rounded[k]) + (1 if (draw >> np.uint64(20)) & np.uint64(1) else -1)
            if 0 <= i < count:
                reached -= _move(k, levels[g, i], hessian, own_rounded, own_gradient)
                own_choice[k] = order[g, i]
                place = k + 1  # the kicked column's turn to go back comes last
        reached -= _descend(hessian, levels, order, group, keep, place, own_choice, own_rounded, own_gradient)
        if reached < error * (1.0 - 1e-9):
            error = reached
            choice[:], rounded[:], gradient[:] = own_choice, own_rounded, own_gradient
        else:
            own_choice[:], own_rounded[:], own_gradient[:] = choice, rounded, gradient
    return error


@njit(cache=True, nogil=True)
def _solve(matrix, right):  # type: ignore[no-untyped-def]
    """Solution of a small positive definite system, by Cholesky in place; False where it is singular."""
    size = right.shape[0]
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for m in range(j):
                total -= matrix[i, m] * matrix[j, m]
            if i == j:
                if total <= 0.0:
                    return False
                matrix[i, i] = np.sqrt(total)
            else:
                matrix[i, j] = total / matrix[j, j]
    for i in range(size):
        for m in range(i):
            right[i] -= matrix[i, m] * right[m]
        right[i] /= matrix[i, i]
    for i in range(size - 1, -1, -1):
        for m in range(i + 1, size):
            right[i] -= matrix[m, i] * right[m]
        right[i] /= matrix[i, i]
    return True


@njit(cache=True, nogil=True)
def _fit_scale(pull, hessian, codes, group, keep, choice, scale):  # type: ignore[no-untyped-def]
    """Least-squares scales for the chosen codes; ``pull`` is ``H w``. False where the codes do not fix them."""
    terms, groups = scale.shape
    columns = choice.shape[0]
    unknowns = terms * groups
    own = np.zeros((terms, columns))  # the code of each column in each term
    for k in range(columns):
        if keep[k]:
            source = group[k] if codes.shape[1] > 1 else 0
            for t in range(terms):
                own[t, k] = codes[t, source, choice[k]]
    matrix = np.zeros((unknowns, unknowns))
    right = np.zeros(unknowns)
    for t in range(terms):
        for k in range(columns):
            if own[t, k] == 0.0:
                continue
            u = t * groups + group[k]
            right[u] += own[t, k] * pull[k]
            row = hessian[k]
            for s in range(terms):
                for j in range(columns):
                    if own[s, j] != 0.0:
                        matrix[u, s * groups + group[j]] += own[t, k] * row[j] * own[s, j]
    largest = 0.0
    for u in range(unknowns):
        largest = max(largest, matrix[u, u])
    for u in range(unknowns):
        matrix[u, u] += 1e-9 * largest
        if matrix[u, u] <= 0.0:  # nothing in this group uses the term
            matrix[u, u] = 1.0
    if not _solve(matrix, right):
        return False
    for t in range(terms):
        for g in range(groups):
            scale[t, g] = right[t * groups + g]
    return True


@njit(cache=True, nogil=True)
def round_rows(weight, hessian, upper, codes, scale, group, keep, starts, rounds, kicks, choice, errors):  # type: ignore[no-untyped-def]
    """Round rows that read the same inputs.

    Args:
        weight: ``float64 [N, K]``, what the levels should compute.
        hessian: ``float64 [K, K]``, positive definite second moments of the inputs.
        upper: ``float64 [K, K]``, upper Cholesky factor of the inverse of ``hessian``.
        codes: ``float64 [terms, N or 1, groups or 1, L]``.
        scale: ``float64 [terms, N, groups]``, where to start; overwritten with the best.
        group: ``int64 [K]``, group of each column.
        keep: booleans ``[N, K]``, False where a weight is zero for good.
        starts: ``float64 [m]``, factors on the scales to start from.
        rounds: fits of the scales per start; 0 keeps them as they are.
        kicks: of the local search from the best that the starts reached.
        choice: ``int64 [N, K]``, filled with the index of each weight's codes.
        errors: ``float64 [N]``, filled with the squared error of each row.
    """
    rows, columns = weight.shape
    terms, _, groups = scale.shape
    count = codes.shape[3]
    levels, order = np.empty((groups, count)), np.empty((groups, count), np.int64)
    trial, rounded, gradient = np.zeros(columns, np.int64), np.zeros(columns), np.zeros(columns)
    for n in range(rows):
        own = codes[:, n if codes.shape[1] > 1 else 0]
        first, best = scale[:, n].copy(), scale[:, n].copy()
        pull = np.zeros(columns)
        _pull(weight[n], hessian, pull.copy(), pull)
        errors[n] = np.inf
        for start in range(starts.shape[0] + 1):
            last = start == starts.shape[0]  # the local search, from the best so far
            current = best.copy() if last else first * starts[start]
            if last:
                trial[:] = choice[n]
            for fit in range(rounds + 1):
                _lay_levels(own, current, levels, order)
                if fit == 0 and not last:
                    _feed_back(weight[n], upper, levels, order, group, keep[n], trial, rounded)
                else:
                    _place(own, current, group, keep[n], trial, rounded)
                error = _pull(weight[n], hessian, rounded, gradient)
                error -= _descend(hessian, levels, order, group, keep[n], 0, trial, rounded, gradient)
                if last and kicks:
                    state = np.uint64(n * 977 + fit + 1)
                    error = _search(
                        hessian, levels, order, group, keep[n], kicks, state, trial, rounded, gradient, error
                    )
                before = errors[n]
                if error < errors[n]:
                    errors[n] = error
                    choice[n] = trial
                    best[:] = current
                if fit == rounds or (fit > 0 and not error < before):
                    break
                if not _fit_scale(pull, hessian, own, group, keep[n], trial, current):
                    break
                _place(own, current, group, keep[n], trial, rounded)
                error = _pull(weight[n], hessian, rounded, gradient)
                if error < errors[n]:
                    errors[n] = error
                    choice[n] = trial
                    best[:] = current
        scale[:, n] = best


@njit(cache=True, nogil=True)
def _place(codes, scale, group, keep, choice, rounded):  # type: ignore[no-untyped-def]
    """The value of each column's chosen codes."""
    for k in range(choice.shape[0]):
        rounded[k] = 0.0
        if keep[k]:
            source = group[k] if codes.shape[1] > 1 else 0
            for t in range(scale.shape[0]):
                rounded[k] += scale[t, group[k]] * codes[t, source, choice[k]]


@njit(cache=True, nogil=True)
def fit_rows(weight, hessian, keep, fitted):  # type: ignore[no-untyped-def]
    """Least-squares weights on a given support, column by column until they rest (Gauss-Seidel).

    Args:
        weight: ``float64 [N, K]``, what the rows should compute.
        hessian: ``float64 [K, K]``, positive definite second moments of the inputs.
        keep: booleans ``[N, K]``, the support.
        fitted: ``float64 [N, K]``, where to start, zero off the support; overwritten.
    """
    columns = weight.shape[1]
    gradient = np.empty(columns)
    for n in range(weight.shape[0]):
        _pull(weight[n], hessian, fitted[n], gradient)
        first = 0.0
        for sweep in range(_FITTING_SWEEPS):
            largest = 0.0
            for k in range(columns):
                if keep[n, k]:
                    step = gradient[k] / hessian[k, k]
                    fitted[n, k] += step
                    largest = max(largest, abs(step * gradient[k]))
                    row = hessian[k]
                    for j in range(columns):
                        gradient[j] -= row[j] * step
            if sweep == 0:
                first = largest
            if largest <= 1e-6 * first:
                break
