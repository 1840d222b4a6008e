"""(float network, plan, calibration) -> compressed network. No labels, no retraining.

The calibration images go through the compressed network one operation after the other (``calibration.stream``). At
each layer its input grid and weights are chosen, by what the layer reads there if the plan asks for it; each batch norm
is repaired before it computes; each unit of the network is reconstructed, if asked, when the images have passed it. So
everything is done in a single pass, on inputs that come through what was compressed before.

A recipe that is dearer than rounding to nearest can be worse. So the plan without repairs is converted as well, and
the network whose answers on the calibration images are nearer to the float network's is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from compressors.calibration.dimensions import ENCODER
from compressors.calibration.observe import Calibration, network_digest
from compressors.calibration.stream import CHUNK
from compressors.calibration.variants import variant
from compressors.conversion import Conversion, LayerCache
from compressors.errors import BadTensor, UnknownName, UnsupportedLayer
from compressors.model import CompressedModel
from compressors.parallel import Lanes, lanes
from compressors.plan import CompressionPlan
from compressors.registry import check_weights

PLANNED, CHEAP = "as planned", "without repairs"


@torch.no_grad()
def convert(
    model: nn.Module, plan: CompressionPlan, calibration: Calibration, cache: LayerCache | None = None
) -> CompressedModel:
    """Compress ``model`` as ``plan`` says; the model itself stays as it is.

    The result does not depend on how many threads torch uses, to the last bit.

    Args:
        model: the float network that ``calibration`` was gathered from.
        plan: what to do with each layer.
        calibration: see ``compressors.calibration.observe.calibrate``.
        cache: layers and units compressed before, by content, plan and what lies in front of them; filled as a side
            effect. One cache serves one float network and one calibration.

    Raises:
        UnknownName: the plan names a layer the network does not have.
        BadTensor: NaN or infinity in a layer's weights (the layer is named), or a calibration of another network.
        UnsupportedLayer: a layer to compress shares its weights with another layer.
    """
    cache = {} if cache is None else cache
    known = {layer.name for layer in calibration.layers}
    for name, layer in plan.layers:
        if name not in known:
            raise UnknownName("layer", name, known, key="plan.layers")
        if layer.weight is not None:
            try:
                check_weights(model.get_submodule(name).weight.detach().float().numpy())
            except BadTensor as error:
                raise BadTensor(f"layer {name}: {error}") from error
    if calibration.network != network_digest(model):
        raise BadTensor(
            "the calibration was gathered from another network, or its weights have changed; calibrate anew"
        )
    _refuse_shared(model, plan, calibration)
    whole = calibration
    model, calibration = variant(model, plan, calibration)
    compressed = _converted(model, plan, calibration, cache)
    if plan.hypervectors is not None:
        _, _, index = whole.narrowed[plan.hypervectors]
        compressed.kept[ENCODER] = np.isin(np.arange(whole.layers[0].input_shape[0]), index)
    return compressed


def _converted(
    model: nn.Module, plan: CompressionPlan, calibration: Calibration, cache: LayerCache
) -> CompressedModel:
    """As planned, or without repairs where that is better."""
    with lanes() as pool:
        cheap = _cheap(plan)
        if cheap == plan:
            return Conversion(model, plan, calibration, cache, pool).run()
        models = {CHEAP: Conversion(model, cheap, calibration, cache, pool).run()}
        # scales beyond float32 on the way: nothing to keep, and no reason to give up
        with suppress(BadTensor):
            models[PLANNED] = Conversion(model, plan, calibration, cache, pool).run()
        target = _answers(model, calibration, pool)
        scores = {
            name: _divergence(target, _answers(m.network, calibration, pool)) for name, m in models.items()
        }
    kept = PLANNED if scores.get(PLANNED, np.inf) <= scores[CHEAP] else CHEAP
    own = models.get(PLANNED, models[CHEAP]).report
    seconds = {**own.seconds, CHEAP: sum(models[CHEAP].report.seconds.values())}
    models[kept].report = replace(own, kept=kept, divergence=scores, seconds=seconds)
    return models[kept]


def _refuse_shared(model: nn.Module, plan: CompressionPlan, calibration: Calibration) -> None:
    """One parameter cannot hold the weights of two layers that are compressed on their own."""
    planned = {name for name, layer in plan.layers if layer.weight is not None}
    owners: dict[int, str] = {}
    for layer in calibration.layers:
        other = owners.setdefault(id(model.get_submodule(layer.name).weight), layer.name)
        if other != layer.name and planned & {other, layer.name}:
            raise UnsupportedLayer(
                f"layers {other} and {layer.name} share their weights, so one cannot be compressed without the other; "
                "give each a copy of its own, or leave both out of the plan"
            )


def _cheap(plan: CompressionPlan) -> CompressionPlan:
    """The plan with weights rounded to nearest and nothing reconstructed."""
    layers = tuple((name, replace(p, rounding="nearest")) for name, p in plan.layers)
    return replace(plan, layers=layers, reconstruct=None)


def _answers(network: nn.Module, calibration: Calibration, pool: Lanes) -> list[torch.Tensor]:
    """Each output of the network for all images."""
    own = copy.deepcopy(network).float().eval()
    chunks = pool.map(lambda images: _outputs(own(images)), calibration.images.split(CHUNK))
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]


def _outputs(answer: Any) -> list[torch.Tensor]:
    if isinstance(answer, torch.Tensor):
        return [answer]
    parts = answer.values() if isinstance(answer, Mapping) else answer
    return [output for part in parts for output in _outputs(part)]


def _divergence(target: list[torch.Tensor], answer: list[torch.Tensor]) -> float:
    """Mean Kullback-Leibler divergence of the answers from the float network's, in nats per image, of all outputs."""
    value = 0.0
    for outputs in zip(target, answer, strict=True):
        p, q = (functional.log_softmax(output.double().flatten(1), 1) for output in outputs)
        value += float((p.exp() * (p - q)).sum(1).mean())
    return value if np.isfinite(value) else float("inf")
