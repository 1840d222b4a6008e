"""What the accuracy benchmark measures: one declarative list of conditions, each with the loss that is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from compressors.calibration.observe import Calibration
from compressors.graph import Layer
from compressors.methods.binary import BinaryConfig
from compressors.methods.ternary import TernaryConfig
from compressors.methods.uniform import UniformConfig
from compressors.plan import ActivationConfig, CompressionPlan, LayerPlan, Reconstruction
from compressors.registry import MethodConfig
from compressors.shrink import removable

Layers = Callable[[nn.Module, Calibration], dict[str, LayerPlan]]


@dataclass(frozen=True)
class Recipe:
    """How weights are repaired; batch norms and biases are always matched.

    Attributes:
        name: for people.
        rounding: of a layer's weights.
        steps: of reconstruction per unit; None for none.
        augment: versions of each calibration image.
    """

    name: str
    rounding: str
    steps: int | None = None
    augment: int = 1


PLAIN = Recipe("nearest, batch norms matched", "nearest")
SECOND_ORDER = Recipe("second order", "second_order")
RECONSTRUCTION = Recipe("second order + reconstruction", "second_order", steps=270)


@dataclass(frozen=True)
class Condition:
    """One line of the table.

    Attributes:
        name: weights / activations in bits.
        bar: loss in points of accuracy, at most; None where none was asked for.
        recipe: repairs in use.
        layers: what is done to which layer.
    """

    name: str
    bar: float | None
    recipe: Recipe
    layers: Layers

    def plan(
        self, model: nn.Module, calibration: Calibration, recipe: Recipe, steps: int | None = None
    ) -> CompressionPlan:
        """The plan with a recipe; ``steps`` replaces those of a reconstruction."""
        plans = self.layers(model, calibration)
        reconstruct = None if recipe.steps is None else Reconstruction(steps=steps or recipe.steps)
        return CompressionPlan(
            tuple((name, replace(plan, rounding=recipe.rounding)) for name, plan in plans.items()),
            batch_norm="match",
            bias="match",
            augment=recipe.augment,
            reconstruct=reconstruct,
        )


def everywhere(
    weight: MethodConfig,
    activation: int | None,
    ends: MethodConfig | None = None,
    ends_activation: int | None = None,
    pattern: str = "element",
) -> Layers:
    """The same for every layer; ``ends`` and ``ends_activation`` for the first and the last one, where given."""

    def layers(_: nn.Module, calibration: Calibration) -> dict[str, LayerPlan]:
        grid = None if activation is None else ActivationConfig(activation)
        names = [layer.name for layer in calibration.layers]
        plans = {name: LayerPlan(weight, grid, pattern=pattern) for name in names}
        if ends is not None:
            end_grid = grid if ends_activation is None else ActivationConfig(ends_activation)
            plans |= {name: LayerPlan(ends, end_grid) for name in (names[0], names[-1])}
        return plans

    return layers


def inside(weight: MethodConfig, pattern: str) -> Layers:
    """A pattern in all layers but the first and the last, whose weights get the same grid and stay dense."""

    def layers(model: nn.Module, calibration: Calibration) -> dict[str, LayerPlan]:
        names = [layer.name for layer in calibration.layers]
        plans = everywhere(weight, None, pattern=pattern)(model, calibration)
        return plans | {name: LayerPlan(weight) for name in (names[0], names[-1])}

    return layers


def unstructured(fraction: float) -> Layers:
    """``fraction`` of all weights are zero, as much of every layer but the first and the last; the rest have 8 bits."""

    def layers(model: nn.Module, calibration: Calibration) -> dict[str, LayerPlan]:
        sizes = {layer.name: math.prod(layer.weight_shape) for layer in calibration.layers}
        names = list(sizes)
        share = fraction * sum(sizes.values()) / sum(sizes[name] for name in names[1:-1])
        ends = (names[0], names[-1])
        return {n: LayerPlan(UniformConfig(8), sparsity=0.0 if n in ends else share) for n in names}

    return layers


def structured(share: float) -> Layers:
    """Channels go wherever only layers read them, in equal parts, until at most ``share`` of the work is left.

    The last step is taken layer by layer, from the last one on, and no further than needed.
    """

    def layers(model: nn.Module, calibration: Calibration) -> dict[str, LayerPlan]:
        readers = removable(model, calibration.images[:1], calibration.float_layers)
        bound = share * macs(calibration.layers)
        sparsity = dict.fromkeys(readers, 0.0)
        steps = ((name, fraction) for fraction in np.arange(0.005, 1.0, 0.005) for name in reversed(readers))
        while _macs_left(calibration.layers, readers, sparsity) > bound:
            name, fraction = next(steps)
            sparsity[name] = float(fraction)
        return {
            layer.name: LayerPlan(UniformConfig(8), sparsity=sparsity[layer.name], pattern="channel")
            if layer.name in readers
            else LayerPlan(UniformConfig(8))
            for layer in calibration.layers
        }

    return layers


def macs(layers: Sequence[Layer]) -> int:
    """Multiply-accumulates of all layers for one image."""
    return sum(math.prod(layer.weight_shape) * _pixels(layer) for layer in layers)


def _macs_left(
    layers: Sequence[Layer], readers: Mapping[str, Sequence[str]], sparsity: Mapping[str, float]
) -> float:
    """The same with that part of the output channels of each layer in ``sparsity`` gone."""
    sources = {reader: name for name, names in readers.items() for reader in names}
    widths = {layer.name: layer.weight_shape[0] for layer in layers}

    def kept(name: str | None) -> float:
        return 1.0 if name not in sparsity else 1.0 - round(sparsity[name] * widths[name]) / widths[name]

    return sum(
        math.prod(layer.weight_shape) * _pixels(layer) * kept(layer.name) * kept(sources.get(layer.name))
        for layer in layers
    )


def _pixels(layer: Layer) -> int:
    return math.prod(layer.output_shape[1:]) if layer.kind == "conv2d" else math.prod(layer.output_shape[:-1])


_EIGHT = UniformConfig(8)
_TERNARY, _TERNARY_2 = TernaryConfig(1), TernaryConfig(2, refine="joint")
_BINARY_2 = BinaryConfig(2, refine="joint")

CONDITIONS = (
    Condition("8 / 8", 0.1, SECOND_ORDER, everywhere(_EIGHT, 8)),
    Condition("4 / 8", 0.2, SECOND_ORDER, everywhere(UniformConfig(4), 8)),
    Condition("4 / 4", 0.5, RECONSTRUCTION, everywhere(UniformConfig(4), 4)),
    Condition("4 / 4, ends 8 bits", 0.5, SECOND_ORDER, everywhere(UniformConfig(4), 4, _EIGHT, 8)),
    Condition("3 / 8", 0.6, SECOND_ORDER, everywhere(UniformConfig(3), 8)),
    Condition("2 / 8", 1.5, SECOND_ORDER, everywhere(UniformConfig(2), 8)),
    Condition("ternary / float", 2.0, SECOND_ORDER, everywhere(_TERNARY, None)),
    Condition("ternary / 8", 2.5, SECOND_ORDER, everywhere(_TERNARY, 8)),
    Condition("ternary, ends 8 bits / float", 1.2, SECOND_ORDER, everywhere(_TERNARY, None, _EIGHT)),
    Condition("ternary, ends 8 bits / 8", 1.6, SECOND_ORDER, everywhere(_TERNARY, 8, _EIGHT)),
    Condition("ternary, two planes / 8", 0.3, SECOND_ORDER, everywhere(_TERNARY_2, 8)),
    Condition("binary, two planes / 8", 2.0, SECOND_ORDER, everywhere(_BINARY_2, 8)),
    Condition("8, 2:4 sparse / float", 0.5, RECONSTRUCTION, inside(_EIGHT, "2:4")),
    Condition("8, 70 % zeros / float", 1.0, SECOND_ORDER, unstructured(0.7)),
    Condition("8, 80 % zeros / float", 3.0, RECONSTRUCTION, unstructured(0.8)),
    Condition("8, 73 % of the MACs / float", 1.5, RECONSTRUCTION, structured(0.73)),
)
"""In the order of the table; "ends" are the first and the last layer, which count like all others unless named."""

SECONDS = (("ternary / 8", 20.0), ("8, 2:4 sparse / float", 60.0))
"""Condition whose conversion is timed -> seconds on two cores, at most."""

QUICK = ("ternary / 8", "8, 73 % of the MACs / float")
"""Conditions of the quick run: a recipe each, and channels that go."""
