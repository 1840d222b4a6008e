"""A converted network run on integers: its accuracy, how long it takes, and the operations that it executes."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from compressors.kernels.machine import kernels, machine
from compressors.model import CompressedModel
from dse.bench import Bench

_ROUNDS = 15
_SHORTEST_S = 0.02  # of one round: shorter ones are repeated within it


@torch.inference_mode()
def run_lowered(bench: Bench, model: CompressedModel, split: str, rescale: str) -> dict[str, Any]:
    """Lower ``model``, score it, and time it beside the floating-point form of the same network.

    Both see one image at a time, on one thread, in turns; latencies are medians in seconds, measured on this machine.
    Beside a layer's operations stand the one-bit products that accelerator models price: 32 to a popcount, but for
    channels that do not fill words.

    Raises:
        UnsupportedLayer: the network cannot be lowered; the layer is named.
    """
    lowered = model.lower(rescale=rescale)
    images = bench.part(split)
    image = images.tensor(0, 1)
    accuracy = bench.accuracy(lowered, split)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        own, floating = _medians(lowered, model, image)
    finally:
        torch.set_num_threads(threads)
    layers = {name: asdict(executed) for name, executed in lowered.executed(tuple(image.shape)).items()}
    for work in bench.workload(model).layers:
        layers[work.name]["modelled_bit_products"] = work.bit_products(next(iter(work.weights)))
    return {
        "accuracy": accuracy,
        "latency.measured": own,
        "latency.measured_float": floating,
        "kernels": kernels(),
        "processor": machine().name,
        "rescale": rescale,
        "operations": {name: counts for name, counts in layers.items() if any(counts.values())},
    }


def _medians(first: nn.Module, second: nn.Module, image: torch.Tensor) -> tuple[float, float]:
    """Seconds of one call of each, in turns."""
    repeats = [max(1, int(_SHORTEST_S / max(_seconds(model, image, 3), 1e-9))) for model in (first, second)]
    rounds = [
        [_seconds(model, image, n) for model, n in zip((first, second), repeats, strict=True)]
        for _ in range(_ROUNDS)
    ]
    own, other = zip(*rounds, strict=True)
    return statistics.median(own), statistics.median(other)


def _seconds(model: nn.Module, image: torch.Tensor, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        model(image)
    return (time.perf_counter() - start) / repeats
