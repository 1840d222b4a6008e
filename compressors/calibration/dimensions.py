"""Fewer dimensions for a hyperdimensional classifier, those that decide most on unlabelled samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from compressors.errors import ConfigError
from compressors.hypervectors import HypervectorClassifier
from compressors.plan import HypervectorPlan

ENCODER = "encoder"
"""Path of a classifier's encoder, and the name under which what stays of its dimensions is stored."""
_CHUNK = 256
_STEPS = 64


def narrow(model: nn.Module, index: np.ndarray) -> HypervectorClassifier:
    """The classifier with the dimensions ``index`` alone, ``int64 [d]``; ``model`` stays as it is.

    Raises:
        ConfigError: not a hyperdimensional classifier.
    """
    model = _classifier(model)
    vectors = model.memory.weight.detach()[:, torch.from_numpy(index)]
    return HypervectorClassifier(model.encoder.select(index), vectors, model.centroids, model.facts)


@torch.no_grad()
def choose_dimensions(model: nn.Module, samples: torch.Tensor, plan: HypervectorPlan) -> np.ndarray:
    """Which dimensions stay, ``int64 [plan.dimensions]`` in rising order.

    They are taken a few at a time, those first that raise most the likelihood of the whole classifier's own decisions,
    given what is taken already: dimensions that decide where others are in doubt, not copies of one another. The first
    ones are taken instead where as many samples keep their class with them.

    Raises:
        ConfigError: not a hyperdimensional classifier, or more dimensions than there are.
    """
    model = _classifier(model)
    every = model.encoder.dimensions
    if plan.dimensions > every:
        raise ConfigError(
            "hypervectors.dimensions", plan.dimensions, f"at most the {every} dimensions of the classifier"
        )
    first = np.arange(plan.dimensions)
    if plan.choice == "first" or plan.dimensions == every:
        return first
    vectors = torch.cat([model.encoder(chunk) for chunk in samples.split(_CHUNK)])
    best = _greedy(vectors, model, plan.dimensions)
    kept = [_agreement(vectors, model, index) for index in (best, first)]
    return best if kept[0] >= kept[1] else first


def _classifier(model: nn.Module) -> HypervectorClassifier:
    if not isinstance(model, HypervectorClassifier):
        raise ConfigError(
            "hypervectors", type(model).__name__, "a hyperdimensional classifier, as other networks have none"
        )
    return model


def _greedy(vectors: torch.Tensor, model: HypervectorClassifier, count: int) -> np.ndarray:
    """``count`` dimensions in rising order, taken in steps along the gradient of the log likelihood."""
    memory = model.memory.weight.detach()
    whole = vectors @ memory.T
    decided = whole.argmax(1, keepdim=True)
    margins = whole.topk(min(2, whole.shape[1]), 1).values
    # what the classifier is sure of by its typical margin counts as decided, however many dimensions are taken
    unit = float((margins[:, 0] - margins[:, -1]).median()) / whole.shape[1] ** 0.5 or 1.0
    scores = torch.zeros_like(whole)
    taken = torch.zeros(memory.shape[1], dtype=torch.bool)
    while (missing := count - int(taken.sum())) > 0:
        share = max(int(taken.sum()), 1) / memory.shape[1]
        doubt = -(scores / (unit * share**0.5)).softmax(1)
        doubt.scatter_add_(1, decided, torch.ones(len(doubt), 1))
        gain = ((vectors.T @ doubt) * memory.T).sum(1).masked_fill(taken, -torch.inf)
        chosen = gain.argsort(descending=True, stable=True)[: min(missing, -(-count // _STEPS))]
        taken[chosen] = True
        scores += vectors[:, chosen] @ memory[:, chosen].T
    return np.flatnonzero(taken.numpy())


def _agreement(vectors: torch.Tensor, model: HypervectorClassifier, index: np.ndarray) -> int:
    """Samples that keep their class."""
    memory, columns = model.memory.weight.detach(), torch.from_numpy(index)
    before = _classes(vectors @ memory.T, model.centroids)
    after = _classes(vectors[:, columns] @ memory[:, columns].T, model.centroids)
    return int((before == after).sum())


def _classes(scores: torch.Tensor, centroids: int) -> torch.Tensor:
    return scores.argmax(1) // centroids
