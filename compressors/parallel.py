"""Work on several cores whose result does not depend on how many there are.

torch splits one operation over threads and may then add numbers in another order. Here every operation runs on one
thread, and different pieces of the work (chunks of images, ranges of rows) run side by side; pieces are of fixed size
and what is summed over them is summed in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Lanes:
    """As many pieces at once as torch was given threads; made by :func:`lanes`."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def map(self, work: Callable[..., T], *pieces: Iterable[Any]) -> list[T]:
        """``[work(a, b, ...) for a, b, ... in zip(*pieces)]`` with the caller's gradient mode."""
        gradients = torch.is_grad_enabled()

        def run(*piece: Any) -> T:
            with torch.set_grad_enabled(gradients):
                return work(*piece)

        return list(self._pool.map(run, *pieces))


@contextmanager
def lanes() -> Iterator[Lanes]:
    """While open, torch runs each operation on one thread and :meth:`Lanes.map` uses the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield Lanes(pool)
    finally:
        torch.set_num_threads(threads)
