"""What a layer must answer, in double precision and exact integers, apart from every kernel."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from compressors.operators.device.formats import LayerFormat
from compressors.operators.device.kernel import DeviceKernel


class LayerReference:
    """A layer's answer to some images of a batch.

    Attributes:
        images: which ones, ``int64``, spread evenly over the batch with both ends among them.
        output: ``float64``, of the whole layer with what follows it.
        sums: ``int64 [terms, images, rows of an image, N]``; None where weights or inputs are no integers.
        plain: ``float64``, of the layer and its bias alone in front of what follows; as the network's own module.
    """

    def __init__(self, layer: LayerFormat, x: torch.Tensor, count: int, bias: torch.Tensor | None) -> None:
        """``x`` is the whole batch that the layer reads, on the processor; ``count`` images of it are looked at."""
        self.layer, self.batch = layer, len(x)
        self.images = spread(len(x), count)
        read = layer.as_images(x[self.images].to(layer.values).float()).double()
        if layer.grid is not None:
            grid = layer.grid
            codes = (read.float() / grid.scale).round().clamp(grid.low, grid.high).double()
            read = codes * grid.scale
        found = self._convolve(read, layer.weight)
        after = layer.after
        self.plain = self._shaped(found if bias is None else found + _column(bias.double().numpy()), x)
        ahead = found * _column(after.gain) + _column(after.shift)
        self._norm = rms(ahead)
        self.output = self._shaped(ahead.relu() if after.relu else ahead, x)
        self.sums: torch.Tensor | None = None
        if layer.integers:
            assert layer.codes is not None
            each = [self._convolve(codes, term.astype(np.float64)) for term in layer.codes]
            sums = torch.stack(each).permute(0, 1, 3, 4, 2)  # below 2**53, hence exact
            self.sums = sums.reshape(len(each), len(self.images), -1, layer.outputs).long()

    def _convolve(self, values: torch.Tensor, weight: np.ndarray) -> torch.Tensor:
        w = self.layer.window
        dense = torch.from_numpy(np.ascontiguousarray(weight))
        return functional.conv2d(values, dense, None, w.stride, w.padding, w.dilation, w.groups)

    def _shaped(self, found: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        lead = (len(self.images), *x.shape[1:-1])
        return found.reshape(*lead, -1) if self.layer.linear else found

    def error(self, output: torch.Tensor) -> float:
        """Root mean square of an output's error over the reference's in front of a ReLU."""
        found = output.detach()[self.images.to(output.device)].cpu().double()
        return relative(found - self.output, self._norm)

    def wrong(self, kernel: DeviceKernel, x: torch.Tensor) -> tuple[float, str]:
        """A kernel's error on the batch ``x`` on its device, and what is wrong with it; "" if nothing is.

        The sums of integer kernels must be the reference's to the last unit; outputs, as near as it says.
        """
        error = self.error(kernel(x))
        sums = kernel.sums(x)
        if sums is not None and self.sums is not None:
            each = sums.reshape(len(sums), self.batch, -1, self.layer.outputs)
            own = each[:, self.images.to(sums.device)].cpu().long()
            if own.shape != self.sums.shape or not torch.equal(own, self.sums):
                return error, "its integer sums are not exact"
        limit = kernel.tolerance + VALUE_ERRORS[self.layer.values]
        return error, "" if error <= limit else f"error {error:.2g}, above {limit:.2g}"


VALUE_ERRORS = {torch.float32: 0.0, torch.bfloat16: 4e-3, torch.float16: 5e-4}
"""Relative error of a result that is rounded to the type: half a unit in the last place."""


def spread(total: int, count: int) -> torch.Tensor:
    """At most ``count`` of ``total`` indices, evenly spread from the first to the last."""
    return torch.linspace(0, total - 1, min(count, total)).round().long().unique()


def rms(values: torch.Tensor) -> float:
    """Root mean square; 0 of nothing."""
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def relative(error: torch.Tensor, norm: float) -> float:
    """Root mean square of ``error`` over ``norm``; infinite where one of them is no number."""
    own = rms(error)
    if own == 0.0:
        return 0.0
    return own / norm if norm > 0 and own == own else float("inf")


def _column(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))[:, None, None]
