"""``dse price``: a workload file on accelerators, without a network, data or torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressors.slicing import GRANULARITIES
from dse.errors import ConfigError
from dse.settings import accelerator_settings, technology_settings
from energy.accelerators import check_counted, make_accelerator
from energy.technology import load_technology
from energy.workload_file import read_workload


def run(config: Mapping[str, Any]) -> int:
    """Print, as JSON, what one inference of the workload costs on each accelerator."""
    if config["granularity"] not in GRANULARITIES:
        raise ConfigError(
            "granularity", config["granularity"], f"one of {', '.join(map(str, GRANULARITIES))}"
        )
    workload = read_workload(Path(config["workload"]))
    technology = technology_settings(config)
    constants = load_technology(technology.name, technology.overrides)
    granularity = {layer.name: config["granularity"] for layer in workload.layers}
    found = {}
    for name, settings in accelerator_settings(config).items():
        accelerator = make_accelerator(settings.kind, settings.settings, constants, f"accelerators.{name}")
        check_counted(accelerator, workload, f"accelerators.{name}")
        cost = accelerator.cost(workload, granularity)
        found[name] = {
            "energy_j": cost.total_energy_j.nominal,
            "latency_s": cost.total_latency_s,
            # a programmable device has no area of its own; the notes say so
            "area_mm2": cost.total_area_mm2.nominal if cost.area_mm2 else None,
            "breakdown": cost.breakdown(),
        }
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0
