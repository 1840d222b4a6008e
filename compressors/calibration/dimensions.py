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

    A dimension is worth what it adds to the margin between the class a sample is given and the runner-up, on average,
    over how much that varies: helping every sample a little is worth more than helping a few a lot. The first ones are
    taken where as many samples keep their class with them.

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
    worth = _worth(vectors, model.memory.weight.detach(), model.centroids)
    best = np.sort(np.argsort(-worth, kind="stable")[: plan.dimensions])
    kept = [_agreement(vectors, model, index) for index in (best, first)]
    return best if kept[0] > kept[1] else first


def _classifier(model: nn.Module) -> HypervectorClassifier:
    if not isinstance(model, HypervectorClassifier):
        raise ConfigError(
            "hypervectors", type(model).__name__, "a hyperdimensional classifier, as other networks have none"
        )
    return model


def _worth(vectors: torch.Tensor, memory: torch.Tensor, centroids: int) -> np.ndarray:
    """float64 ``[dimensions]``."""
    scores = (vectors @ memory.T).unflatten(1, (-1, centroids))
    by_class, which = scores.max(2)
    top = by_class.topk(min(2, by_class.shape[1]), 1).indices
    rows = top * centroids + which.gather(1, top)
    margin = memory[rows[:, 0]] - memory[rows[:, -1]]
    gains = (vectors * margin).double()
    return (gains.mean(0) / (gains.std(0, correction=0) + 1e-12)).numpy() * (gains.abs().mean(0) > 0).numpy()


def _agreement(vectors: torch.Tensor, model: HypervectorClassifier, index: np.ndarray) -> int:
    """Samples that keep their class."""
    memory, columns = model.memory.weight.detach(), torch.from_numpy(index)
    before = _classes(vectors @ memory.T, model.centroids)
    after = _classes(vectors[:, columns] @ memory[:, columns].T, model.centroids)
    return int((before == after).sum())


def _classes(scores: torch.Tensor, centroids: int) -> torch.Tensor:
    return scores.argmax(1) // centroids
