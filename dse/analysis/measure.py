"""Measuring an analysis: layer by layer and choice by choice, each result kept by content so that it resumes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np

from compressors.calibration.variants import variant
from compressors.errors import BadTensor
from compressors.parallel import Lanes, lanes
from compressors.plan import ActivationConfig, CompressionPlan
from compressors.registry import MethodConfig, compress, config_to_dict
from compressors.slicing import ENCODINGS
from compressors.tensor import SlicedTensor
from dse.analysis.branches import Branches
from dse.analysis.distributions import describe_weights, oracle_error, relative_error, stage_histograms
from dse.analysis.progress import Steps
from dse.analysis.records import (
    REUSE_BLOCK,
    Analysis,
    LayerWeights,
    OracleError,
    ReuseCount,
    Sensitivity,
    SliceCount,
)
from dse.analysis.repairs import convert_baselines, planned
from dse.analysis.settings import AnalyzeSettings
from dse.analysis.site import Effect, Site
from dse.evaluate import Evaluator
from dse.memo import Memo, content_key
from dse.settings import SweepSettings
from dse.weight_choices import weight_choices
from energy.activity import reuse_activity, weight_activity

T = TypeVar("T")
_REUSE_COUNTS = tuple(n for n in ReuseCount.__dataclass_fields__ if n not in ("layer", "choice"))


class Analyser:
    """Analyses the layers of one float network.

    Args:
        evaluator: network, images and bench.
        sweep: the space whose choices are tried, and the name of the study.
        settings: what is looked at.
        memo: where results are kept.

    Raises:
        UnknownName: a layer the network does not have, or a choice the space does not have.
    """

    def __init__(
        self, evaluator: Evaluator, sweep: SweepSettings, settings: AnalyzeSettings, memo: Memo
    ) -> None:
        self._evaluator, self._sweep, self._settings, self._memo = evaluator, sweep, settings, memo
        self.layers = settings.chosen(evaluator.layers)
        self.choices = settings.some_of(weight_choices(sweep.space.weights))
        self._model, self._calibration = variant(
            evaluator.model, CompressionPlan(equalize=sweep.space.equalize), evaluator.calibration
        )
        self._conversions = planned(
            sweep.space, evaluator.layers, settings.repairs, evaluator.removable, evaluator.weights
        )
        self._groups = {layer.name: layer.groups for layer in self._calibration.layers}
        self._context = self._context_digest()

    @property
    def steps(self) -> int:
        """How many results there are to be had."""
        per_layer = len(self.choices) * len(self._settings.roundings) + len(self._settings.activation_bits)
        return len(self.layers) * per_layer + len(self._conversions)

    def run(self, steps: Steps) -> Analysis:
        """Everything, telling ``steps`` of each result."""
        modules = dict(self._model.named_modules())
        weights = {n: modules[n].weight.detach().float().numpy().astype(np.float64) for n in self.layers}
        described = [describe_weights(name, weights[name]) for name in self.layers]
        oracles: list[OracleError] = []
        slices: list[SliceCount] = []
        reuses: list[ReuseCount] = []
        sensitivities: list[Sensitivity] = []
        with lanes() as pool:
            branches = self._branches(pool)
            for layer in described:
                for label, config in self.choices.items():
                    facts = self._weight_facts(layer.layer, config, weights[layer.layer])
                    oracles.append(self._oracle(layer, label, config, facts["weight_error"]))
                    slices += [SliceCount(layer.layer, label, **row) for row in facts["slices"]]
                    reuses.append(ReuseCount(layer.layer, label, **facts["reuse"]))
                sensitivities += self._layer_sensitivities(branches, layer.layer, steps)
            float_accuracy = branches.float_accuracy
        repairs = convert_baselines(self._evaluator, self._conversions, self._known, steps)
        return Analysis(
            self._sweep.study.name,
            tuple(self.choices),
            float_accuracy,
            {"calibration": len(self._calibration.images), "search": len(branches.labels)},
            tuple(described),
            tuple(stage_histograms(described, weights)),
            tuple(oracles),
            tuple(sensitivities),
            tuple(slices),
            tuple(reuses),
            tuple(repairs),
        )

    def _branches(self, pool: Lanes) -> Branches:
        search = self._evaluator.bench.part("search")
        space = self._sweep.space
        plan = CompressionPlan(batch_norm=space.batch_norm, bias=space.bias)
        images = search.tensor(0, len(search))
        return Branches(self._model, self._calibration, images, search.labels, plan, pool)

    def _weight_facts(self, layer: str, config: MethodConfig, weight: np.ndarray) -> dict[str, Any]:
        def measure() -> dict[str, Any]:
            try:
                tensor = compress(weight, config)
            except BadTensor as error:
                raise BadTensor(f"layer {layer}: {error}") from error
            error = relative_error(weight, tensor.to_dense())
            return {
                "weight_error": error,
                "slices": count_slices(tensor),
                "reuse": count_reuse(tensor, self._groups[layer]),
            }

        return self._known(measure, "weights", layer, config_to_dict(config))

    def _oracle(
        self, layer: LayerWeights, label: str, config: MethodConfig, weight_error: float | None
    ) -> OracleError:
        if layer.family is None:
            return OracleError(layer.layer, label, None, None, None, weight_error)
        plain, columns = config_to_dict(config), layer.weights // layer.shape[0]
        family = layer.family
        long = self._known(lambda: oracle_error(family, config), "oracle", family, plain)
        same = self._known(lambda: oracle_error(family, config, columns), "oracle", family, plain, columns)
        return OracleError(layer.layer, label, family, long, same, weight_error)

    def _layer_sensitivities(self, branches: Branches, layer: str, steps: Steps) -> list[Sensitivity]:
        place: list[Site] = []

        def site() -> Site:  # the images go on to this layer only if something of it is not known yet
            if not place:
                place.append(branches.layer(layer))
            return place[0]

        rows = []
        for rounding in self._settings.roundings:
            for label, config in self.choices.items():
                with steps.step(f"{layer}: {label}, {rounding}"):
                    facts = self._known(
                        lambda config=config, rounding=rounding: self._weights_alone(
                            branches, site(), config, rounding
                        ),
                        "alone",
                        layer,
                        config_to_dict(config),
                        rounding,
                    )
                rows.append(Sensitivity(layer, "weights", label, rounding, **facts))
        for bits in self._settings.activation_bits:
            config = ActivationConfig(bits, self._sweep.space.activation_clip)
            with steps.step(f"{layer}: input of {bits} bits"):
                facts = self._known(
                    lambda config=config: self._input_alone(branches, site(), layer, config),
                    "alone",
                    layer,
                    asdict(config),
                )
            rows.append(Sensitivity(layer, "input", f"input-{bits}", "", **facts))
        return rows

    def _weights_alone(
        self, branches: Branches, site: Site, config: MethodConfig, rounding: str
    ) -> dict[str, Any]:
        tensor, seconds = site.compress(config, rounding)
        dense = tensor.to_dense()
        own = relative_error(site.weight, dense)
        bits = tensor.storage_bits / site.weight.size
        return _facts(bits, own, site.with_weights(dense), branches.float_accuracy, seconds)

    def _input_alone(
        self, branches: Branches, site: Site, layer: str, config: ActivationConfig
    ) -> dict[str, Any]:
        before = time.perf_counter()
        grid = self._calibration.grid(layer, config)
        seconds = time.perf_counter() - before
        own = site.input_error(grid)
        return _facts(None, own, site.with_input(grid), branches.float_accuracy, seconds)

    def _known(self, measure: Callable[[], T], *key: Any) -> T:
        """What was measured before under ``key``, or is now; plain data."""
        digest = content_key(self._context, *key)
        known = self._memo.get(digest)
        if known is None:
            known = measure()
            self._memo.put(digest, known)
        return known

    def _context_digest(self) -> str:
        evaluator = self._evaluator
        state = hashlib.sha256()
        for name, value in evaluator.model.state_dict().items():
            state.update(f"{name}{tuple(value.shape)}".encode() + value.numpy().tobytes())
        return content_key(
            "analysis 2",  # with the number of what is kept per weight choice
            state.hexdigest(),
            evaluator.calibration.float_layers,
            evaluator.bench.data.digest,
            [self._sweep.space.batch_norm, self._sweep.space.bias, self._sweep.space.equalize],
            [version("torch"), version("numpy")],
        )


def count_slices(tensor: SlicedTensor) -> list[dict[str, Any]]:
    """Non-zero digits in every encoding and granularity; a single row for planes that stay as they are in all."""
    native = tensor.encoding in ("ternary", "binary")
    weights = tensor.shape[0] * tensor.columns
    rows = []
    for encoding in [tensor.encoding] if native else ENCODINGS:
        for g, counts in weight_activity(tensor, encoding).nonzero.items():
            if native and g > 1:
                break
            planes = counts.shape[0]
            share = float(counts.sum()) / (planes * weights)
            rows.append(
                {"encoding": encoding, "granularity_bits": g, "planes": planes, "nonzero_share": share}
            )
    return rows


def count_reuse(tensor: SlicedTensor, groups: int) -> dict[str, int]:
    """Additions of a layer's products before and after blocks of weights share partial sums, and multiplications."""
    # the width of the input matters to the width of the adders alone, which is not shown
    found = reuse_activity(tensor, groups, REUSE_BLOCK, bits=8, signed=False)
    return {name: getattr(found, name) for name in _REUSE_COUNTS}


def _facts(
    bits: float | None, own: float | None, effect: Effect, float_accuracy: float, seconds: float
) -> Mapping[str, Any]:
    return {
        "storage_bits_per_weight": bits,
        "own_error": own,
        "output_error": effect.output_error,
        "kl_nats": effect.kl_nats,
        "accuracy_drop_points": round(100.0 * (float_accuracy - effect.accuracy), 9),
        "seconds_s": seconds,
    }
