"""The baselines of a space, converted as configured and with dearer repairs, and what became of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from compressors.convert import LayerCache, convert
from compressors.plan import CompressionPlan, Reconstruction
from dse.analysis.progress import Steps
from dse.analysis.records import RepairOutcome
from dse.analysis.settings import AnalyzeSettings
from dse.evaluate import Evaluator
from dse.space import FLOAT, Space, SpaceConfig

CONFIGURED = "as configured"


def recipes(plan: CompressionPlan, settings: AnalyzeSettings) -> dict[str, CompressionPlan]:
    """Recipe -> plan: the configured one, and with each of the repairs added to it that it does not have."""
    second = tuple(
        (name, layer if layer.weight is None else replace(layer, rounding="second_order"))
        for name, layer in plan.layers
    )
    added = {
        "second_order": replace(plan, layers=second),
        "reconstruct": replace(plan, reconstruct=Reconstruction(settings.reconstruct_steps)),
    }
    extra = {name: added[name] for name in settings.repairs if added[name] != plan}
    return {CONFIGURED: plan, **extra}


def count_conversions(space: SpaceConfig, settings: AnalyzeSettings) -> int:
    """How many steps :func:`convert_baselines` takes."""
    return len(_compressed(space)) * (1 + len(settings.repairs))


def convert_baselines(
    evaluator: Evaluator,
    space: SpaceConfig,
    settings: AnalyzeSettings,
    known: Callable[..., Any],
    steps: Steps,
) -> list[RepairOutcome]:
    """Every baseline but float, by every recipe; ``known(measure, *key)`` remembers what was measured before."""
    if not _compressed(space):
        return []
    whole = Space(space, evaluator.layers)
    outcomes = []
    cache: LayerCache = {}
    for label in _compressed(space):
        plans = recipes(whole.baseline(label).plan, settings)
        for recipe in (CONFIGURED, *settings.repairs):
            with steps.step(f"{label}: {recipe}"):
                if recipe not in plans:  # configured already
                    continue
                facts = known(
                    lambda p=plans[recipe]: _convert(evaluator, p, cache), "repairs", plans[recipe].digest()
                )
            units = {name: tuple(errors) for name, errors in facts["units"].items()}
            outcomes.append(RepairOutcome(label, recipe, **{**facts, "units": units}))
    return outcomes


def _convert(evaluator: Evaluator, plan: CompressionPlan, cache: LayerCache) -> dict[str, Any]:
    model = convert(evaluator.model, plan, evaluator.calibration, cache)
    report = model.report
    lost = evaluator.float_accuracy - evaluator.bench.accuracy(model, "search")
    return {
        "kept": report.kept,
        "planned_kl_nats": report.divergence.get("as planned"),
        "plain_kl_nats": report.divergence.get("without repairs"),
        "accuracy_drop_points": round(100.0 * lost, 9),
        "seconds": dict(report.seconds),
        "units": {name: list(errors) for name, errors in report.unit_errors.items()},
    }


def _compressed(space: SpaceConfig) -> list[str]:
    return [label for label, spec in space.baselines.items() if spec["weights"] != FLOAT]
