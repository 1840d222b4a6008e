"""Candidate -> Evaluation. What the network computes is memoised by plan; the hardware is priced anew."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressors.calibration.observe import calibrate
from compressors.convert import LayerCache, convert
from compressors.model import CompressedModel
from compressors.shrink import removable
from dse.bench import Bench
from dse.candidate import Candidate
from dse.memo import Memo, Recent, content_key
from dse.models import load_model
from dse.records import Evaluation
from dse.settings import Setup
from energy.meters import Absent
from energy.workload import Workload

_LAYERS_KEPT = 2000  # compressed layers kept for later candidates: a hundred networks of twenty layers


class Evaluator:
    """Converts and scores candidates of one float network.

    Args:
        setup: network, data, accelerators, meter.
        memo_folder: where results by plan are kept; None keeps them in memory alone.

    Raises:
        DseError: anything of the setup that cannot be had or used.
    """

    def __init__(self, setup: Setup, memo_folder: Path | None = None) -> None:
        self.bench = Bench(setup)
        self.model = load_model(setup.model, self.bench.data)
        self.calibration = calibrate(self.model, self.bench.calibration_images, setup.model.float_layers)
        self._tensors: LayerCache = Recent(_LAYERS_KEPT)
        self._memo = Memo(memo_folder)
        self._context = self._context_digest(setup)

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the compressible layers in the order they run."""
        return tuple(layer.name for layer in self.calibration.layers)

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Float weights of the compressible layers."""
        modules = dict(self.model.named_modules())
        return {name: modules[name].weight.detach().float().numpy() for name in self.layers}

    @cached_property
    def removable(self) -> frozenset[str]:
        """Layers that channels can be taken out of."""
        example = self.calibration.images[:1]
        return frozenset(removable(self.model, example, self.calibration.float_layers))

    @cached_property
    def float_accuracy(self) -> float:
        """Accuracy of the float network on the search images."""
        return self.bench.accuracy(self.model, "search")

    def compress(self, candidate: Candidate) -> CompressedModel:
        """The candidate's network."""
        return convert(self.model, candidate.plan, self.calibration, self._tensors)

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Accuracy on the search images, size, and modelled and measured cost of one candidate."""
        seconds: dict[str, float] = {}
        facts = self._facts(candidate, seconds)
        with _timed(seconds, "price"):
            workload = Workload.from_dict(facts["workload"])
            modelled, breakdown = self.bench.price(workload, candidate)
        metrics = {"accuracy": facts["accuracy"], "size": facts["size"], **modelled}
        if "energy.measured" in facts:
            metrics["energy.measured"] = facts["energy.measured"]
        return Evaluation(
            candidate.plan.digest(),
            metrics,
            candidate.to_dict(),
            {**self.bench.without_area, **facts["absent"]},
            breakdown,
            seconds,
            kept=facts["kept"],
            arithmetic=facts["arithmetic"],
        )

    def workload(self, candidate: Candidate) -> Workload:
        """What accelerators have to do for the candidate."""
        return Workload.from_dict(self._facts(candidate, {})["workload"])

    def test_accuracy(self, candidate: Candidate) -> float:
        """Accuracy on the test images; asked for the final front alone."""
        key = content_key(candidate.plan.digest(), self._context, "test")
        known = self._memo.get(key)
        if known is None:
            known, _ = self.bench.score(self.compress(candidate), "test")
            self._memo.put(key, known)
        return known

    def _facts(self, candidate: Candidate, seconds: dict[str, float]) -> dict[str, Any]:
        """What depends on the plan alone, from the memo if it is there."""
        key = content_key(candidate.plan.digest(), self._context)
        facts = self._memo.get(key)
        if facts is None:
            facts = self._run(candidate, seconds)
            self._memo.put(key, facts)
        return facts

    def _run(self, candidate: Candidate, seconds: dict[str, float]) -> dict[str, Any]:
        """What depends on the plan alone, as plain data."""
        with _timed(seconds, "convert"):
            model = self.compress(candidate)
        seconds.update({f"convert: {step}": spent for step, spent in model.report.seconds.items()})
        with _timed(seconds, "accuracy"):
            accuracy, arithmetic = self.bench.score(model, "search")
        with _timed(seconds, "activity"):
            workload = self.bench.workload(model)
        facts = {
            "accuracy": accuracy,
            "arithmetic": arithmetic,
            "size": model.size_bytes(),
            "kept": model.report.kept if model.report.divergence else "",
            "workload": workload.to_dict(),
            "absent": {},
        }
        with _timed(seconds, "measure"):
            measured = self.bench.measured_energy(model)
        if isinstance(measured, Absent):
            facts["absent"] = {"energy.measured": str(measured)}
        else:
            facts["energy.measured"] = measured["energy_j"]
        return facts

    def _context_digest(self, setup: Setup) -> str:
        """Everything but the plan that the network's figures depend on."""
        weights = content_key(
            {name: value.numpy().tobytes().hex() for name, value in self.model.state_dict().items()}
        )
        evaluation = {k: v for k, v in asdict(setup.evaluation).items() if k != "threads"}
        accelerators = {name: a.encodings for name, a in self.bench.accelerators.items()}
        counted = [self.bench.requests.columns, self.bench.requests.reuse_block]
        machine = [version("torch"), torch.get_num_threads(), self.bench.meter_identity()]
        return content_key(
            weights,
            setup.model.float_layers,
            self.bench.data.digest,
            evaluation,
            accelerators,
            counted,
            machine,
        )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
