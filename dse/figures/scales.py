"""Axis scales chosen from the data: accuracy by error, costs by decade where they span enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Rounder numbers first: where ticks would crowd, the earlier one stays.
_ACCURACY_TICKS = (
    100,
    90,
    99,
    99.9,
    99.99,
    50,
    95,
    99.5,
    99.95,
    80,
    98,
    99.8,
    99.98,
    10,
    70,
    97,
    99.7,
    60,
    85,
    96,
    92,
    98.5,
    30,
    99.6,
    75,
    94,
    40,
    20,
    88,
    93,
    91,
    0,
)
ROUND_STEPS = (1, 2, 5, 10)
_MIN_TICK_GAP = 0.085
_LOG_FROM_RATIO = 4.0
_ERROR_SCALE_FROM_RATIO = 3.0


def accuracy_axis(axes: Axes, accuracy_pct: Sequence[float]) -> None:
    """Scale the y axis for these accuracies (in percent) so that the good ones are told apart.

    Compressed networks range from "as good as the float network" to chance. On a linear axis the first
    would be one blot; cutting the axis would hide the collapsed ones, baselines among them. So distances are
    those of the logarithm of the error, 100 % - accuracy, with ticks labelled in accuracy: halving the error
    is the same step everywhere, and everything stays on the axis. Where errors lie within a factor of 3 the
    axis is linear.
    """
    values = np.asarray(accuracy_pct, dtype=np.float64)
    errors = 100.0 - values
    offset = _zero_offset(errors)
    if (errors.max() + offset) < _ERROR_SCALE_FROM_RATIO * (errors.min() + offset):
        _linear_accuracy(axes, values)
    else:
        _error_accuracy(axes, values, offset)


def cost_axis(axes: Axes, values: Sequence[float]) -> None:
    """Scale the x axis for these costs (display units): logarithmic where they span a factor of 4 or more."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOG_FROM_RATIO:
        pad = (high / low) ** 0.06
        axes.set_xscale("log")
        axes.set_xlim(low / pad, high * pad)
        _log_ticks(axes, decades=float(np.log10(high / low)))
    else:
        pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND_STEPS))
        axes.ticklabel_format(axis="x", useOffset=False)


def _zero_offset(errors: np.ndarray) -> float:
    """What is added to errors before the logarithm: nothing, unless some candidate makes no error at all."""
    positive = errors[errors > 0]
    if positive.size == errors.size:
        return 0.0
    return float(positive.min()) / 2 if positive.size else 0.1


def _linear_accuracy(axes: Axes, values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    pad = max(0.08 * (high - low), 0.05) if high > low else 0.5
    axes.set_ylim(max(low - pad, -2.0), high + pad)
    ticks = MaxNLocator(6, steps=ROUND_STEPS).tick_values(low - pad, high + pad)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if 0 <= tick <= 100]))
    axes.ticklabel_format(axis="y", useOffset=False)


def _error_accuracy(axes: Axes, values: np.ndarray, offset: float) -> None:
    tiny = 1e-6

    def forward(accuracy: np.ndarray) -> np.ndarray:
        return -np.log10(np.maximum(100.0 + offset - np.asarray(accuracy, dtype=np.float64), tiny))

    def inverse(position: np.ndarray) -> np.ndarray:
        return 100.0 + offset - 10.0 ** -np.asarray(position, dtype=np.float64)

    low, high = forward(values.min()), forward(values.max())
    pad = 0.06 * (high - low)
    bottom, top = low - pad, high + pad
    axes.set_yscale("function", functions=(forward, inverse))
    axes.set_ylim(float(inverse(bottom)), float(inverse(top)))
    shown = [t for t in _ACCURACY_TICKS if bottom <= forward(t) <= top and t <= 100]
    major = _thinned(shown, forward, _MIN_TICK_GAP * (top - bottom))
    axes.yaxis.set_major_locator(FixedLocator(major))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.yaxis.set_minor_locator(FixedLocator([tick for tick in shown if tick not in major]))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _thinned(ticks: Sequence[float], forward: Callable, gap: float) -> list[float]:
    kept: list[float] = []
    for tick in ticks:
        if all(abs(forward(tick) - forward(other)) >= gap for other in kept):
            kept.append(tick)
    return sorted(kept)


def _log_ticks(axes: Axes, decades: float) -> None:
    labelled = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(10, subs=labelled, numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.xaxis.set_minor_locator(LogLocator(10, subs=tuple(range(1, 10)), numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
