"""What an analysis finds, as plain data: tables, figures and the page are made from these alone.

Errors are squared errors relative to the energy of what was rounded or computed, hence without a unit. What could not
be had is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerWeights:
    """How a layer's weights are distributed.

    Attributes:
        mean, std: of all weights of the layer.
        kurtosis_excess: of the weights, each divided by its channel's root mean square; 0 for Gauss, 3 for Laplace.
        near_zero_share: fraction whose magnitude is below a tenth of its channel's root mean square.
        family: the likeliest of ``gauss``, ``laplace`` and ``uniform``, each with a scale of its own per channel.
        nats_per_weight: family -> mean log-likelihood of a weight.
    """

    layer: str
    shape: tuple[int, ...]
    mean: float
    std: float
    kurtosis_excess: float | None
    near_zero_share: float | None
    family: str | None
    nats_per_weight: Mapping[str, float]

    @property
    def weights(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def stage(self) -> str:
        """First part of the layer's path."""
        return self.layer.partition(".")[0]


@dataclass(frozen=True)
class Histogram:
    """Share of a stage's weights, each divided by its channel's root mean square, per bin and unit of width."""

    stage: str
    weights: int
    edges: tuple[float, ...]
    density: tuple[float, ...]


@dataclass(frozen=True)
class OracleError:
    """A method's error on a layer beside its error on the family that the layer's weights resemble.

    Attributes:
        oracle_error: on one long channel drawn from the family.
        oracle_error_same_shape: on channels as long as the layer's, whose scales fit their few weights better.
        weight_error: on the layer itself, rounded to nearest.
    """

    layer: str
    choice: str
    family: str | None
    oracle_error: float | None
    oracle_error_same_shape: float | None
    weight_error: float | None


@dataclass(frozen=True)
class Sensitivity:
    """What the network suffers from one layer compressed alone.

    Attributes:
        part: ``weights`` or ``input``.
        choice: such as ``ternary-1``, or ``input-4``.
        rounding: of the weights; empty for inputs.
        storage_bits_per_weight: scales included; None for inputs.
        own_error: error of the weights, or of the input, that were rounded.
        output_error: of the layer's output on the calibration images; the mean of each channel does not count where
            a repair of the batch norm behind, or of the bias, takes it up.
        kl_nats: mean Kullback-Leibler divergence from the float network's answers on the calibration images.
        accuracy_drop_points: against the float network on the search images, in percentage points.
        seconds_s: to choose the weights or the grid.
    """

    layer: str
    part: str
    choice: str
    rounding: str
    storage_bits_per_weight: float | None
    own_error: float | None
    output_error: float | None
    kl_nats: float
    accuracy_drop_points: float
    seconds_s: float


@dataclass(frozen=True)
class SliceCount:
    """Non-zero digits of a layer's weights, rounded to nearest and written in ``encoding``.

    Attributes:
        granularity_bits: of one digit; ternary and binary planes are the same at any.
        planes: digits per weight.
        nonzero_share: fraction of the digits that are not zero.
    """

    layer: str
    choice: str
    encoding: str
    granularity_bits: int
    planes: int
    nonzero_share: float


REUSE_BLOCK = (16, 144)
"""Outputs and inputs that share partial sums: what a processing element holds."""


@dataclass(frozen=True)
class ReuseCount:
    """What sharing saves in a layer's products, for one input each, weights rounded to nearest.

    Attributes:
        adders_before, adders: additions without and with common sub-expressions in blocks of ``REUSE_BLOCK``.
        depth: additions on the longest way.
        multiplications_before: weights that are not zero; multiplications: distinct magnitudes, added up over blocks,
            with which it is as many products if inputs of equal weight are added first.
    """

    layer: str
    choice: str
    adders_before: int
    adders: int
    depth: int
    multiplications_before: int
    multiplications: int


@dataclass(frozen=True)
class RepairOutcome:
    """How one baseline was converted with one recipe.

    Attributes:
        recipe: ``nearest``, ``second_order`` or ``reconstruct``.
        kept: ``as planned``, or ``without repairs`` where that came nearer to the float network.
        planned_kl_nats, plain_kl_nats: divergence on the calibration images with and without repairs; None where
            nothing competed.
        seconds: wall time by step.
        units: unit of the network -> error of its output before and after its reconstruction.
    """

    baseline: str
    recipe: str
    kept: str
    planned_kl_nats: float | None
    plain_kl_nats: float | None
    accuracy_drop_points: float
    seconds: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """Everything that was found.

    Attributes:
        choices: labels of the weight choices, in the order of the space.
        float_accuracy: fraction, on the search images.
        images: part of the data -> how many images were used.
    """

    name: str
    choices: tuple[str, ...]
    float_accuracy: float
    images: Mapping[str, int]
    layers: tuple[LayerWeights, ...]
    histograms: tuple[Histogram, ...]
    oracles: tuple[OracleError, ...]
    sensitivities: tuple[Sensitivity, ...]
    slices: tuple[SliceCount, ...]
    reuses: tuple[ReuseCount, ...]
    repairs: tuple[RepairOutcome, ...]
