"""Types of every configuration key, for Hydra to check values against before anything runs.

Ranges and names are checked where the values are used (``dse.settings`` and what it builds).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from dse.expected import EXAMPLE

# OmegaConf reads these annotations; it wants typing's own names.
# ruff: noqa: UP006, UP007, UP035, UP045
from typing import Dict, List  # isort: skip


_BASELINE = {"weights": "uniform-4", "activation_bits": 4, "sparsity": 0.0, "granularity": 4}


@dataclass
class StudySchema:
    name: Optional[str] = None
    folder: str = "results"
    n_trials: int = 100
    seed: int = 0
    max_failures: int = 5
    fresh: bool = False


@dataclass
class SamplerSchema:
    name: str = "auto"


@dataclass
class ObjectivesSchema:
    names: List[str] = MISSING
    max_loss: Optional[float] = None


@dataclass
class ModelSchema:
    name: Optional[str] = None
    target: Optional[str] = None
    args: Dict[str, Any] = field(default_factory=dict)
    checkpoint: Optional[str] = None
    float_layers: List[str] = field(default_factory=list)


@dataclass
class DataSchema:
    name: str = MISSING
    root: Optional[str] = None
    seed: int = 0
    calibration: int = 256
    search: int = 400
    test: Optional[int] = None
    download: bool = True


@dataclass
class EdgeSchema:
    weights: str = MISSING
    activation_bits: int = MISSING


@dataclass
class SpaceSchema:
    grain: str = "stage"
    weights: Dict[str, Optional[Dict[str, List[Any]]]] = field(
        default_factory=dict, metadata={EXAMPLE: {"uniform": {"bits": [4, 8]}}}
    )
    activation_bits: List[int] = field(default_factory=lambda: [8])
    sparsity: List[float] = field(default_factory=lambda: [0.0])
    granularity: List[int] = field(default_factory=lambda: [1, 2, 4, 8])
    first: Optional[EdgeSchema] = None
    last: Optional[EdgeSchema] = None
    pattern: str = "element"
    threshold: str = "layer"
    activation_clip: str = "mse"
    repair: List[str] = field(default_factory=lambda: ["nearest"])
    batch_norm: str = "match"
    bias: str = "keep"
    equalize: bool = False
    reconstruct: int = 300
    augment: int = 1
    baselines: Dict[str, Dict[str, Any]] = field(
        default_factory=dict, metadata={EXAMPLE: {"NAME": _BASELINE}}
    )


@dataclass
class AcceleratorSchema:
    kind: str = MISSING
    settings: Dict[str, Any] = field(default_factory=dict)


@dataclass
class TechnologySchema:
    name: str = "cmos45"
    overrides: Dict[str, float] = field(default_factory=dict, metadata={EXAMPLE: {"dram_energy": 4.0}})


@dataclass
class MeterSchema:
    name: str = "auto"
    device: Any = 0
    protocol: Dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluationSchema:
    batch: int = 100
    activity_images: int = 8
    threads: Optional[int] = None
    arithmetic: str = "auto"
    reuse_block: Optional[List[int]] = field(default=None, metadata={EXAMPLE: [16, 144]})


@dataclass
class SweepSchema:
    study: StudySchema = field(default_factory=StudySchema)
    sampler: SamplerSchema = field(default_factory=SamplerSchema)
    objectives: ObjectivesSchema = field(default_factory=ObjectivesSchema)
    model: ModelSchema = field(default_factory=ModelSchema)
    data: DataSchema = field(default_factory=DataSchema)
    space: SpaceSchema = field(default_factory=SpaceSchema)
    accelerators: Dict[str, AcceleratorSchema] = field(default_factory=dict)
    technology: TechnologySchema = field(default_factory=TechnologySchema)
    meter: MeterSchema = field(default_factory=MeterSchema)
    evaluation: EvaluationSchema = field(default_factory=EvaluationSchema)


@dataclass
class AnalyzeOptions:
    layers: Optional[List[str]] = None
    choices: Optional[List[str]] = None
    roundings: List[str] = field(default_factory=lambda: ["nearest", "second_order"])
    activation_bits: List[int] = field(default_factory=lambda: [8, 4, 3, 2])
    repairs: List[str] = field(default_factory=lambda: ["nearest", "second_order"])


@dataclass
class AnalyzeSchema(SweepSchema):
    analyze: AnalyzeOptions = field(default_factory=AnalyzeOptions)


@dataclass
class ReportSchema:
    run: str = MISSING


@dataclass
class ExportSchema:
    run: str = MISSING
    select: str = "knee"
    trial: Optional[int] = None
    format: Optional[str] = None
    layer: Optional[str] = None


@dataclass
class EvaluateSchema:
    candidate: str = MISSING
    split: str = "search"
    data_root: Optional[str] = None
    target: Optional[str] = None
    threads: Optional[int] = None
    lowered: Optional[str] = None


@dataclass
class PriceSchema:
    workload: str = MISSING
    granularity: int = 4
    accelerators: Dict[str, AcceleratorSchema] = field(default_factory=dict)
    technology: TechnologySchema = field(default_factory=TechnologySchema)


@dataclass
class ValidateSchema:
    target: Optional[str] = None
    figures: Optional[bool] = None
    out: Optional[str] = None


@dataclass
class DoctorSchema:
    json: bool = False


SCHEMAS: Dict[str, type] = {
    "sweep": SweepSchema,
    "analyze": AnalyzeSchema,
    "report": ReportSchema,
    "export": ExportSchema,
    "evaluate": EvaluateSchema,
    "price": PriceSchema,
    "validate": ValidateSchema,
    "doctor": DoctorSchema,
}
"""Command -> types of its whole configuration."""


def register_schemas() -> None:
    """Tell Hydra the types of every command's configuration."""
    store = ConfigStore.instance()
    for command, node in SCHEMAS.items():
        store.store(name=f"{command}_schema", node=node)
