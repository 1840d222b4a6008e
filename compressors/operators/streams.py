"""Operations between layers on integers: adds, ReLU, pooling, slicing and reshaping of streams."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from compressors.errors import UnsupportedLayer
from compressors.operators.fixed import FRACTION, fixed, half

_LANES = 16
PASSED = (nn.Identity, nn.Dropout, nn.Dropout2d)
_RESHAPES = (torch.flatten, "flatten", "view", "reshape", "squeeze")
_PRECISION = 24


@dataclass(eq=False)
class Stream:
    """Integers ``int64 [batch * height * width, channels and padding]`` in units of ``2**-FRACTION``.

    Attributes:
        shape: batch, height, width, channels.
        bound: no magnitude is larger.
    """

    data: np.ndarray
    shape: tuple[int, int, int, int]
    bound: int

    @property
    def view(self) -> np.ndarray:
        """Without padding, ``[batch, height, width, channels]``."""
        return self.data.reshape(*self.shape[:3], -1)[..., : self.shape[3]]

    @classmethod
    def empty(cls, shape: Sequence[int], bound: int) -> Stream:
        """Zeros."""
        batch, height, width, channels = shape
        data = np.zeros((batch * height * width, -(-channels // _LANES) * _LANES), np.int64)
        return cls(data, (batch, height, width, channels), bound)


Operation = tuple[Stream, "Callable[[], None] | None"]


def stream_operation(node: fx.Node, target: Any, sources: Sequence[Stream]) -> Operation:
    """The stream that an operation makes, and the function that fills it; None where nothing has to be done.

    Args:
        node: with the shape of its value in ``meta["tensor_meta"]``.
        target: module, function or name of a method.
        sources: streams of its tensors.

    Raises:
        UnsupportedLayer: it has no meaning on integers here.
    """
    shape = channels_last(tuple(node.meta["tensor_meta"].shape))
    first = sources[0]
    if isinstance(target, PASSED) or target is functional.dropout:
        return first, None
    if isinstance(target, nn.ReLU | nn.ReLU6) or target in (
        functional.relu,
        torch.relu,
        "relu",
        functional.relu6,
    ):
        six = isinstance(target, nn.ReLU6) or target is functional.relu6
        high = 6 << FRACTION if six else first.bound
        out = Stream.empty(shape, min(first.bound, high))
        return out, lambda: np.clip(first.view, 0, high, out=out.view)
    if target in (operator.add, torch.add, "add") and len(sources) == 2 and not node.kwargs:
        out = Stream.empty(shape, sum(s.bound for s in sources))
        return out, lambda: np.add(sources[0].view, sources[1].view, out=out.view)
    if is_reshape(target):
        return _reshaped(node, first, shape)
    if target is operator.getitem:
        return _indexed(node, first, shape)
    if target is functional.pad or isinstance(target, nn.ZeroPad2d):
        return _padded(node, target, first, shape)
    if target is torch.cat:
        return _joined(node, sources, shape)
    if target == "unflatten":
        return _split(node, first, shape)
    if target == "amax":
        return _largest(node, first, shape)
    return _pooled(node, target, first, shape)


def is_reshape(target: Any) -> bool:
    """Whether a module, function or method only gives a value another shape."""
    return isinstance(target, nn.Flatten) or target in _RESHAPES


def channels_last(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Batch, height, width and channels of ``[batch, channels, ...]``."""
    batch, channels, height, width = (*shape, 1, 1)[:4]
    return batch, height, width, channels


def _refused(node: fx.Node, why: str) -> UnsupportedLayer:
    return UnsupportedLayer(f"{node.name}: {why} cannot be lowered to integers")


def _reshaped(node: fx.Node, source: Stream, shape: tuple[int, int, int, int]) -> Operation:
    if shape[0] != source.shape[0] or shape[1:3] != (1, 1):
        raise _refused(node, "a reshape that is not flattening behind the batch")
    out = Stream.empty(shape, source.bound)

    def run() -> None:
        out.view[:, 0, 0] = source.view.transpose(0, 3, 1, 2).reshape(shape[0], -1)

    return out, run


def _indexed(node: fx.Node, source: Stream, shape: tuple[int, int, int, int]) -> Operation:
    index = node.args[1]
    if not isinstance(index, tuple) or not all(isinstance(i, slice) for i in index) or len(index) > 4:
        raise _refused(node, f"indexing by {index}")
    batch, channels, height, width = (*index, *[slice(None)] * 4)[:4]
    out = Stream.empty(shape, source.bound)
    return out, lambda: np.copyto(out.view, source.view[batch, height, width, channels])


def _padded(node: fx.Node, target: Any, source: Stream, shape: tuple[int, int, int, int]) -> Operation:
    if isinstance(target, nn.ZeroPad2d):
        amounts: Sequence[int] = target.padding
    else:
        named = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | dict(node.kwargs)
        amounts = named["pad"]
        if named.get("mode", "constant") != "constant" or named.get("value", None):
            raise _refused(node, "padding with anything but zeros")
    before = [*amounts[::2], *[0] * 3][:3]  # of width, height, channels
    after = [*amounts[1::2], *[0] * 3][:3]
    if min(*before, *after) < 0 or len(amounts) > 6:
        raise _refused(node, f"padding by {tuple(amounts)}")
    out = Stream.empty(shape, source.bound)
    x, y, c = before
    place = out.view[:, y : y + source.shape[1], x : x + source.shape[2], c : c + source.shape[3]]
    return out, lambda: np.copyto(place, source.view)


def _joined(node: fx.Node, sources: Sequence[Stream], shape: tuple[int, int, int, int]) -> Operation:
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if axis not in (1, 1 - len(node.meta["tensor_meta"].shape)):
        raise _refused(node, f"joining along axis {axis}")
    out = Stream.empty(shape, max(s.bound for s in sources))
    return out, lambda: np.concatenate([s.view for s in sources], axis=3, out=out.view)


def _split(node: fx.Node, source: Stream, shape: tuple[int, int, int, int]) -> Operation:
    """``[n, a * b]`` as ``[n, a, b]``."""
    if node.args[1:2] != (1,) or source.shape[1:3] != (1, 1) or len(node.meta["tensor_meta"].shape) != 3:
        raise _refused(node, "anything but one axis of features split in two")
    batch, parts, _, channels = shape
    out = Stream.empty(shape, source.bound)

    def run() -> None:
        out.view[:, :, 0] = source.view.reshape(batch, channels, parts).transpose(0, 2, 1)

    return out, run


def _largest(node: fx.Node, source: Stream, shape: tuple[int, int, int, int]) -> Operation:
    """The largest along the last of three axes."""
    if node.args[1:] not in ((2,), (-1,)) or node.kwargs or source.shape[2] != 1:
        raise _refused(node, "a maximum over other axes than the last of three")
    out = Stream.empty(shape, source.bound)
    return out, lambda: np.max(source.view, axis=1, keepdims=True, out=out.view)


def _pooled(node: fx.Node, target: Any, source: Stream, shape: tuple[int, int, int, int]) -> Operation:
    """Pooling; averages are sums times a factor, rounded, and where windows hold a power of two a shift."""
    windows, average = _windows(node, target, source, shape)
    out = Stream.empty(shape, source.bound)
    if not average:

        def largest() -> None:
            np.max(windows(source.view, np.iinfo(np.int64).min), axis=(3, 4), out=out.view)

        return out, largest
    count = windows(source.view, 0).shape[3:5]
    size = count[0] * count[1]
    factor, shift = fixed(np.array([1.0 / size]), _PRECISION, np.array(source.bound * size, object))

    whole = count == source.shape[1:3]

    def mean() -> None:
        view = source.view
        sums = view.sum((1, 2), keepdims=True) if whole else windows(view, 0).sum((3, 4))
        out.view[:] = (sums * factor[0] + half(shift)) >> shift

    return out, mean


def _windows(
    node: fx.Node, target: Any, source: Stream, shape: tuple[int, int, int, int]
) -> tuple[Callable[[np.ndarray, int], np.ndarray], bool]:
    """A function from ``[batch, height, width, C]`` to ``[batch, oh, ow, kh, kw, C]``, and whether to average."""
    height, width = source.shape[1:3]
    padding = (0, 0)
    if target in (torch.mean, "mean"):
        axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        axes = axes if isinstance(axes, tuple | list) else (axes,)
        if sorted(a % 4 if isinstance(a, int) else -1 for a in axes) != [2, 3]:
            raise _refused(node, f"a mean over axes {tuple(axes)}")
        kernel = stride = (height, width)
        average = True
    elif isinstance(target, nn.AdaptiveAvgPool2d) or target is functional.adaptive_avg_pool2d:
        if height % shape[1] or width % shape[2]:
            raise _refused(node, f"adaptive pooling of {height} x {width} to {shape[1]} x {shape[2]}")
        kernel = stride = (height // shape[1], width // shape[2])
        average = True
    else:
        kernel, stride, padding, average = _pool_settings(node, target)
    if average and padding != (0, 0):
        raise _refused(node, "average pooling with padding")

    def windows(values: np.ndarray, border: int) -> np.ndarray:
        if padding != (0, 0):
            sides = ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0))
            values = np.pad(values, sides, constant_values=border)
        seen = np.lib.stride_tricks.sliding_window_view(values, kernel, axis=(1, 2))
        taken = seen[:, :: stride[0], :: stride[1]][:, : shape[1], : shape[2]]
        return taken.transpose(0, 1, 2, 4, 5, 3)

    return windows, average


def _pool_settings(
    node: fx.Node, target: Any
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool]:
    if isinstance(target, nn.MaxPool2d | nn.AvgPool2d):
        given = {k: getattr(target, k) for k in ("kernel_size", "stride", "padding", "ceil_mode")}
        given["dilation"] = getattr(target, "dilation", 1)
        given["divisor_override"] = getattr(target, "divisor_override", None)
        average = isinstance(target, nn.AvgPool2d)
    elif target in (functional.max_pool2d, functional.avg_pool2d):
        names = ("input", "kernel_size", "stride", "padding")
        given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        average = target is functional.avg_pool2d
        if len(node.args) > 4:
            raise _refused(node, "pooling with so many settings")
    else:
        raise _refused(node, f"{getattr(target, '__name__', type(target).__name__)}")
    if given.get("ceil_mode") or _pair(given.get("dilation", 1)) != (1, 1) or given.get("divisor_override"):
        raise _refused(node, "pooling with ceil_mode, dilation or another divisor")
    kernel = _pair(given["kernel_size"])
    stride = given.get("stride")
    return kernel, _pair(stride if stride else kernel), _pair(given.get("padding", 0)), average


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return int(first), int(second)
