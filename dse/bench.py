"""The bench: data, accelerators and meter that every compressed network is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from compressors.errors import BadTensor, UnsupportedLayer
from compressors.model import CompressedModel
from dse.candidate import Candidate
from dse.data import DataSplits, Images, load_data
from dse.errors import ConfigError, UnknownName
from dse.settings import Setup
from dse.tracing import trace_workload
from energy.accelerators import Accelerator, make_accelerator, requests
from energy.meters import Absent, ProtocolSettings, RaplMeter, measure_energy, open_meter
from energy.technology import load_technology
from energy.workload import Workload

_SWEEP_PROTOCOL = {"idle_settle_s": 0.5, "idle_s": 1.0, "warmup_s": 0.5, "block_s": 0.5, "n_blocks": 6}
"""One candidate of many: about five seconds instead of half a minute; ``meter.protocol`` overrides each."""


class Bench:
    """Scores compressed networks as a ``Setup`` says.

    Raises (when built):
        DseError: data, accelerator, technology or meter cannot be had as configured.
    """

    def __init__(self, setup: Setup) -> None:
        if setup.evaluation.threads is not None:
            torch.set_num_threads(setup.evaluation.threads)
        self.setup = setup
        self.data: DataSplits = load_data(setup.data)
        technology = load_technology(setup.technology.name, setup.technology.overrides)
        self.accelerators: dict[str, Accelerator] = {
            name: make_accelerator(a.kind, a.settings, technology, f"accelerators.{name}")
            for name, a in setup.accelerators.items()
        }
        self.requests = requests(self.accelerators, setup.evaluation.reuse_block)
        self.calibration_images = self.data.calibration.tensor()
        if setup.evaluation.activity_images > len(self.calibration_images):
            raise ConfigError(
                "evaluation.activity_images",
                setup.evaluation.activity_images,
                f"at most the {len(self.calibration_images)} calibration images",
            )
        self._meter = open_meter(setup.meter.name, setup.meter.device)
        for key in setup.meter.protocol:
            if key not in ProtocolSettings.__dataclass_fields__:
                raise UnknownName(
                    "constant of the protocol",
                    key,
                    ProtocolSettings.__dataclass_fields__,
                    key="meter.protocol",
                )
        self._protocol = ProtocolSettings(**{**_SWEEP_PROTOCOL, **setup.meter.protocol})

    def close(self) -> None:
        self._meter.close()

    def meter_identity(self) -> dict[str, Any]:
        """What a stored measurement must have been taken with to count as this bench's."""
        return {
            k: v
            for k, v in self._meter.describe().items()
            if k in ("meter", "device", "uuid", "driver", "absent")
        }

    def absent(self) -> dict[str, str]:
        """Metrics that this machine cannot give, and why."""
        absent = self._meter.available()
        return {**self.without_area, **({} if absent is None else {"energy.measured": str(absent)})}

    @property
    def without_area(self) -> dict[str, str]:
        """Areas that accelerators do not have, and why."""
        reasons = {name: getattr(a, "without_area", "") for name, a in self.accelerators.items()}
        return {f"area.{name}": reason for name, reason in reasons.items() if reason}

    def part(self, split: str) -> Images:
        """The labelled images of ``search`` or ``test``."""
        if split not in ("search", "test"):
            raise UnknownName("part of the data", split, ("search", "test"), key="split")
        return self.data.search if split == "search" else self.data.test

    @torch.inference_mode()
    def accuracy(self, model: nn.Module, split: str) -> float:
        """Fraction of a part's images whose largest logit is that of their label."""
        images = self.part(split)
        correct = 0
        for start in range(0, len(images), self.setup.evaluation.batch):
            stop = min(start + self.setup.evaluation.batch, len(images))
            predicted = model(images.tensor(start, stop)).argmax(1)
            correct += int((predicted == torch.from_numpy(images.labels[start:stop])).sum())
        return correct / len(images)

    def score(self, model: CompressedModel, split: str) -> tuple[float, str]:
        """Accuracy of a compressed network on a part's images, and the arithmetic it was computed in.

        Raises:
            UnsupportedLayer, BadTensor: ``evaluation.arithmetic`` is ``integers`` and it cannot be lowered.
        """
        wanted = self.setup.evaluation.arithmetic
        if wanted == "float":
            return self.accuracy(model, split), "float"
        try:
            return self.accuracy(model.lower(threads=torch.get_num_threads()), split), "integers"
        except (UnsupportedLayer, BadTensor) as error:
            if wanted == "integers":
                raise
            return self.accuracy(model, split), f"float, as it cannot be lowered: {error}"

    def workload(self, model: CompressedModel, further: Iterable[str] = ()) -> Workload:
        """Layers, formats and activity of ``model``, the activity counted on calibration images.

        ``further`` are weight encodings to count beside those that the study's accelerators ask for.
        """
        images = self.calibration_images[: self.setup.evaluation.activity_images]
        asked = self.requests
        return trace_workload(
            model,
            images,
            (*asked.encodings, *further),
            self.setup.model.float_layers,
            asked.reuse_block,
            columns=asked.columns,
        )

    def price(self, workload: Workload, candidate: Candidate) -> tuple[dict[str, float], dict[str, Any]]:
        """Modelled metrics by name, and the breakdown of each accelerator."""
        metrics: dict[str, float] = {}
        breakdown: dict[str, Any] = {}
        if self.setup.evaluation.reuse_block is not None:
            metrics["additions"], metrics["multiplications"] = workload.shared_operations
        for name, accelerator in self.accelerators.items():
            cost = accelerator.cost(workload, dict(candidate.granularity))
            metrics[f"energy.{name}"] = cost.total_energy_j.nominal
            metrics[f"latency.{name}"] = cost.total_latency_s
            if f"area.{name}" not in self.without_area:
                metrics[f"area.{name}"] = cost.total_area_mm2.nominal
            breakdown[name] = cost.breakdown()
        return metrics, breakdown

    def measured_energy(self, model: CompressedModel) -> Mapping[str, Any] | Absent:
        """Joules of one inference, batch by batch of the search images, or why there is no such figure.

        On the processor the network runs lowered to integers where it can be, on a GPU in its floating-point form.
        """
        absent = self._meter.available()
        if absent is not None:
            return absent
        if isinstance(self._meter, RaplMeter):
            return self._on_processor(model)
        if not torch.cuda.is_available():
            return Absent("this torch cannot use the GPU", "install a torch build with CUDA")
        device = torch.device(
            "cuda", self.setup.meter.device if isinstance(self.setup.meter.device, int) else 0
        )
        images = self.data.search.tensor(0, min(self.setup.evaluation.batch, len(self.data.search))).to(
            device
        )
        model = model.to(device)
        try:
            with torch.inference_mode():
                result = measure_energy(
                    self._meter, lambda: model(images), lambda: torch.cuda.synchronize(device), self._protocol
                )
        finally:
            model.to("cpu")
        if isinstance(result, Absent):
            return result
        return {"energy_j": result.energy_j / len(images), "batch": len(images), "kernels": "dense fp32"}

    def _on_processor(self, model: CompressedModel) -> Mapping[str, Any] | Absent:
        images = self.data.search.tensor(0, min(self.setup.evaluation.batch, len(self.data.search)))
        network: nn.Module = model.lower(threads=torch.get_num_threads())
        kernels = "integers"
        with torch.inference_mode():
            try:
                network(images)
            except (UnsupportedLayer, BadTensor):
                network, kernels = model, "dense fp32"
            result = measure_energy(self._meter, lambda: network(images), lambda: None, self._protocol)
        if isinstance(result, Absent):
            return result
        return {"energy_j": result.energy_j / len(images), "batch": len(images), "kernels": kernels}
