"""Lanes: order, gradient mode, errors, and torch's threads as they were."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from compressors.parallel import lanes


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_pieces(threads: int) -> None:
    def slow_first(a: int, b: int) -> int:
        time.sleep(0.01 * (a == 0))
        return 10 * a + b

    with lanes() as pool:
        assert pool.map(slow_first, range(5), [1, 2, 3, 4, 5]) == [1, 12, 23, 34, 45]
        assert pool.map(slow_first, [], []) == []


def test_every_operation_runs_on_one_thread(threads: int) -> None:
    with lanes() as pool:
        assert torch.get_num_threads() == 1
        assert set(pool.map(lambda _: torch.get_num_threads(), range(6))) == {1}
    assert torch.get_num_threads() == threads


def test_as_many_pieces_at_once_as_torch_had_threads(threads: int) -> None:
    together = threading.Barrier(threads)
    with lanes() as pool:  # the barrier opens only if all wait at it at once
        pool.map(lambda _: together.wait(timeout=5), range(threads))


@pytest.mark.parametrize("enabled", [True, False])
def test_the_gradient_mode_is_the_callers(threads: int, enabled: bool) -> None:
    with lanes() as pool, torch.set_grad_enabled(enabled):
        assert set(pool.map(lambda _: torch.is_grad_enabled(), range(4))) == {enabled}


def test_an_error_reaches_the_caller_and_the_threads_come_back(threads: int) -> None:
    def fails(piece: int) -> None:
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 0"), lanes() as pool:
        pool.map(fails, range(3))
    assert torch.get_num_threads() == threads
