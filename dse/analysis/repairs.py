"""The baselines of a space, converted as configured and by other recipes, and what became of repairs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compressors.convert import LayerCache, convert
from compressors.plan import CompressionPlan
from dse.analysis.progress import Steps
from dse.analysis.records import RepairOutcome
from dse.evaluate import Evaluator
from dse.space import FLOAT, Space, SpaceConfig


def planned(
    space: SpaceConfig,
    layers: Sequence[str],
    recipes: Sequence[str],
    removable: Collection[str] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> list[tuple[str, str, CompressionPlan]]:
    """Baseline, recipe and plan of every conversion: the configured recipe first, then the others asked for.

    Args:
        layers, removable, weights: see ``dse.space.Space``.
        recipes: of ``dse.space.REPAIRS``.
    """
    found = []
    for label, spec in space.baselines.items():
        if spec["weights"] == FLOAT:
            continue
        for recipe in dict.fromkeys((spec.get("repair", space.repair[0]), *recipes)):
            one = replace(space, baselines={label: {**spec, "repair": recipe}})
            found.append((label, recipe, Space(one, layers, removable, weights).baseline(label).plan))
    return found


def convert_baselines(
    evaluator: Evaluator,
    plans: Sequence[tuple[str, str, CompressionPlan]],
    known: Callable[..., Any],
    steps: Steps,
) -> list[RepairOutcome]:
    """Convert what is :func:`planned`; ``known(measure, *key)`` remembers what was measured before."""
    outcomes = []
    cache: LayerCache = {}
    for label, recipe, plan in plans:
        with steps.step(f"{label}: {recipe}"):
            facts = known(lambda p=plan: _convert(evaluator, p, cache), "repairs", plan.digest())
        units = {name: tuple(errors) for name, errors in facts["units"].items()}
        outcomes.append(RepairOutcome(label, recipe, **{**facts, "units": units}))
    return outcomes


def _convert(evaluator: Evaluator, plan: CompressionPlan, cache: LayerCache) -> dict[str, Any]:
    model = convert(evaluator.model, plan, evaluator.calibration, cache)
    report = model.report
    lost = evaluator.float_accuracy - evaluator.bench.score(model, "search")[0]
    return {
        "kept": report.kept,
        "planned_kl_nats": report.divergence.get("as planned"),
        "plain_kl_nats": report.divergence.get("without repairs"),
        "accuracy_drop_points": round(100.0 * lost, 9),
        "seconds": dict(report.seconds),
        "units": {name: list(errors) for name, errors in report.unit_errors.items()},
    }
