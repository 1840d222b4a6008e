"""What can be optimised: the name, unit, direction and origin of every metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dse.errors import ConfigError, UnknownName


@dataclass(frozen=True)
class Metric:
    """One quantity of a candidate.

    ``name`` is what configs and errors say; ``column`` is its heading in the CSV files and
    carries the unit; ``display_scale`` and ``display_unit`` are for plots only.
    """

    name: str
    unit: str
    direction: Literal["maximize", "minimize"]
    origin: Literal["measured", "modelled"]
    title: str
    display_unit: str
    display_scale: float

    @property
    def column(self) -> str:
        return f"{self.name}_{self.unit}" if self.unit else self.name

    @property
    def axis_label(self) -> str:
        unit = f"{self.display_unit}, {self.origin}" if self.display_unit else self.origin
        return f"{self.title} ({unit})"


_FIXED = (
    Metric("accuracy", "", "maximize", "measured", "Accuracy", "%", 100.0),
    Metric("size", "bytes", "minimize", "measured", "Packed model size", "kB", 1e-3),
    Metric("energy.measured", "j", "minimize", "measured", "Energy per inference", "mJ", 1e3),
)
_SHARED = (
    Metric("additions", "", "minimize", "measured", "Additions per inference, sums shared", "million", 1e-6),
    Metric("multiplications", "", "minimize", "measured", "Distinct products per inference", "million", 1e-6),
)
_PER_ACCELERATOR = {
    "energy": ("j", "Energy per inference", "µJ", 1e6),
    "latency": ("s", "Latency per inference", "ms", 1e3),
    "area": ("mm2", "Accelerator area", "mm²", 1.0),
}


def metrics_for(accelerators: Iterable[str], shared: bool = False) -> dict[str, Metric]:
    """Every metric a study with these accelerators can report, by name.

    ``shared``: whether it counts what weights share, see ``EvaluationSettings.reuse_block``.
    """
    metrics = {m.name: m for m in (*_FIXED, *(_SHARED if shared else ()))}
    for accelerator in accelerators:
        for quantity, (unit, title, shown, scale) in _PER_ACCELERATOR.items():
            name = f"{quantity}.{accelerator}"
            metrics[name] = Metric(
                name, unit, "minimize", "modelled", f"{title} on {accelerator}", shown, scale
            )
    return metrics


def select_objectives(
    names: Iterable[str], accelerators: Iterable[str], shared: bool = False
) -> list[Metric]:
    """The metrics called ``names``, in that order; ``shared`` as in :func:`metrics_for`.

    Raises:
        UnknownName: a name that no metric of these accelerators carries.
        ConfigError: a name given twice, or one of what is not counted.
    """
    available = metrics_for(accelerators, shared)
    chosen: list[Metric] = []
    for name in names:
        if name not in available and name in (m.name for m in _SHARED):
            raise ConfigError(
                "objectives.names",
                name,
                "metrics that are counted",
                "set evaluation.reuse_block=[16,144], the outputs and inputs that share sums",
            )
        if name not in available:
            raise UnknownName("objective", name, available, key="objectives.names")
        if available[name] in chosen:
            raise ConfigError("objectives.names", name, "each objective once")
        chosen.append(available[name])
    return chosen
