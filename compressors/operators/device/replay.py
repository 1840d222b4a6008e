"""Work recorded once as a CUDA graph and replayed without launches from Python; and how long calls take."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_WARM_UP = 3  # calls before a capture: libraries choose algorithms and compile in them
_MOST_CALLS = 10_000

Run = Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Replay:
    """A call that may be a recorded graph.

    Attributes:
        run: does the work; of a graph, the answer lies where it lay when it was recorded.
        answer: of the recorded call; None where none was recorded.
        obstacle: why it is no graph; "" where it is one.
    """

    run: Run
    answer: Any
    obstacle: str


def record(run: Run, device: torch.device) -> Replay:
    """``run`` as a CUDA graph where that can be, or as it is, with the reason.

    ``run`` must read and write the same memory at every call but for what it allocates through PyTorch.
    """
    if device.type != "cuda":
        return Replay(run, None, "CUDA graphs need a GPU, and the device is a processor")
    try:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream(device).wait_stream(side)
        gc.collect()  # memory that Numba frees during a capture would end it
        graph = torch.cuda.CUDAGraph()
        # other threads, such as one that reads a meter, may call the driver meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            answer = run()
    except Exception as error:  # libraries refuse captures in ways of their own
        return Replay(run, None, f"it cannot be recorded: {first_line(error)}")
    return Replay(graph.replay, answer, "")


def seconds_each(runs: Sequence[Run], device: torch.device, rounds: int, round_s: float) -> list[float]:
    """Seconds of one call of each, timed in turns; the median of ``rounds``, each at least ``round_s`` long."""
    counts = []
    for run in runs:
        run()
        once = max(_seconds(run, 1, device), 1e-7)
        counts.append(min(_MOST_CALLS, max(1, round(round_s / once))))
    taken = [[_seconds(r, n, device) / n for r, n in zip(runs, counts, strict=True)] for _ in range(rounds)]
    return [statistics.median(each) for each in zip(*taken, strict=True)]


def _seconds(run: Run, count: int, device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(count):
            run()
        return time.perf_counter() - begin
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record(torch.cuda.current_stream(device))
    for _ in range(count):
        run()
    last.record(torch.cuda.current_stream(device))
    last.synchronize()
    return first.elapsed_time(last) * 1e-3


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
