"""``dse evaluate``: score an exported candidate from its packed weights; JSON on standard output."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dse.errors import ConfigError
from dse.export import WEIGHTS, read_export
from dse.settings import Setup


def run(config: Mapping[str, Any]) -> int:
    """Print accuracy, size and modelled cost of the network that ``candidate`` holds."""
    folder = Path(config["candidate"])
    export = read_export(folder)
    export.check_weights(folder / WEIGHTS)
    setup = _localise(export.setup, config)
    from compressors.graph import find_layers
    from compressors.serialize import load
    from dse.bench import Bench
    from dse.models import build_model

    bench = Bench(setup)
    images = bench.data.calibration
    network = build_model(setup.model, classes=len(bench.data.classes), channels=images.pixels.shape[-1])
    network = network.float().eval()
    example, float_layers = bench.calibration_images[:1], setup.model.float_layers
    layers = find_layers(network, example, float_layers)
    model = load(folder / WEIGHTS, network, layers, example, float_layers)
    accuracy, arithmetic = bench.score(model, config["split"])
    modelled, breakdown = bench.price(bench.workload(model), export.candidate)
    result = {
        "candidate": str(folder),
        "trial": export.trial,
        "split": config["split"],
        "arithmetic": arithmetic,
        "metrics": {"accuracy": accuracy, "size": model.size_bytes(), **modelled},
        "breakdown": breakdown,
    }
    if config["lowered"] is not None:
        from dse.lowered import run_lowered

        result["lowered"] = run_lowered(bench, model, config["split"], config["lowered"])
    print(json.dumps(result, indent=2, ensure_ascii=False))
    return 0


def _localise(setup: Setup, config: Mapping[str, Any]) -> Setup:
    """The export's setup with what differs on this machine; code is named here, never by the export."""
    model, data, evaluation = setup.model, setup.data, setup.evaluation
    if model.target is not None and config["target"] is None:
        raise ConfigError(
            "target",
            "null",
            f"the import path of the network; the candidate names {model.target!r}",
            f"add target={model.target} if you trust that code",
        )
    model = dataclasses.replace(model, target=config["target"])
    if config["data_root"] is not None:
        data = dataclasses.replace(data, root=config["data_root"])
    if config["threads"] is not None:
        evaluation = dataclasses.replace(evaluation, threads=config["threads"])
    return dataclasses.replace(setup, model=model, data=data, evaluation=evaluation)
