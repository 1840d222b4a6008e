"""Single measurements of the accuracy benchmark, and the folder in which an interrupted run finds them again."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from compressors.calibration.observe import Calibration, calibrate
from compressors.convert import convert
from compressors.model import CompressedModel
from dse.files import write_atomically
from tests.benchmarks.cifar import Stopwatch, Subject, percent_right
from tests.benchmarks.conditions import PLAIN, Condition, Recipe, macs
from tests.benchmarks.peers import NotInstalled, Peer, quiet, refusal
from tests.benchmarks.processes import ROOT


@dataclass(frozen=True)
class Scored:
    """One converted network.

    Attributes:
        percent: of the test images that it gets right.
        seconds: wall time of calibration and conversion, together.
        stages: step of the conversion -> seconds.
        kept: what the conversion kept, see ``ConversionReport``.
        zeros: fraction of the compressed weights that is zero.
        macs: fraction of the float network's multiply-accumulates that is left.
    """

    percent: float
    seconds: float
    stages: dict[str, float]
    kept: str
    zeros: float
    macs: float


@dataclass(frozen=True)
class Run:
    """A condition with the calibration images of one seed, by its recipe and by the plain one."""

    repaired: Scored
    plain: Scored

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Run:
        return cls(Scored(**data["repaired"]), Scored(**data["plain"]))


@dataclass(frozen=True)
class PeerRun:
    """One peer: the per cent it gets right and the seconds it took, or ``absent`` says why there is neither."""

    name: str
    percent: float | None = None
    seconds: float | None = None
    absent: str = ""


@dataclass(frozen=True)
class Store:
    """Results as files of JSON, by what they depend on. Safe to delete."""

    folder: Path
    base: tuple[object, ...]

    def get(
        self, label: str, key: tuple[object, ...], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The stored result, else what ``measure`` returns, which is then stored."""
        text = json.dumps([*self.base, label, *key], default=str)
        slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        path = self.folder / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        result = measure()
        write_atomically(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        return result


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run share.

    Attributes:
        subject: network and images.
        store: where results are kept.
        images: to calibrate on.
        steps: of reconstructions, instead of the recipe's; None for the recipe's.
        threads: that torch uses.
    """

    subject: Subject
    store: Store
    images: int
    steps: int | None = None
    threads: int = field(default_factory=torch.get_num_threads)

    def float_percent(self) -> float:
        def measure() -> dict[str, Any]:
            return {"percent": percent_right(self.subject.model, self.subject.test)}

        return self.store.get("float", (torch.__version__,), measure)["percent"]

    def run(self, condition: Condition, seed: int) -> Run:
        """Convert and score by the condition's recipe, and by the plain one."""

        def measure() -> dict[str, Any]:
            model = self.subject.model
            # Anew each time: a conversion must not find what another one left with its calibration.
            with Stopwatch() as watch:
                calibration = calibrate(model, self.subject.calibration(self.images, seed))
            recipes = {"repaired": condition.recipe, "plain": PLAIN}
            return {
                n: asdict(self._score(condition, r, calibration, watch.seconds)) for n, r in recipes.items()
            }

        versions = (
            torch.__version__,
            source_digest("compressors"),
            source_digest("tests/benchmarks/cifar.py"),
        )
        settings = (asdict(condition.recipe), self._layers(condition), seed, self.images, self.steps)
        key = (*versions, *settings, self.threads)
        return Run.from_dict(self.store.get(f"{condition.name} seed {seed}", key, measure))

    def peer(self, condition: str, peer: Peer, seed: int) -> PeerRun:
        """A peer's network, scored; or the reason that there is none."""

        def measure() -> dict[str, Any]:
            name, images = peer.name, self.subject.calibration(self.images, seed)
            try:
                with quiet():
                    with Stopwatch() as watch:
                        torch.manual_seed(seed)
                        network = peer.quantize(copy.deepcopy(self.subject.model), images)
                    percent = percent_right(network, self.subject.test)
            except ImportError as error:
                raise NotInstalled(f"{peer.package} is not whole: {error}") from error
            except Exception as error:  # whatever a peer answers with is its answer
                return asdict(PeerRun(name, absent=refusal(error)))
            return asdict(PeerRun(name, percent, watch.seconds))

        key = (source_digest("tests/benchmarks/peers.py"), peer.setting, seed, self.images)
        try:
            found = self.store.get(f"{peer.package} {peer.setting}", key, measure)
        except NotInstalled as error:  # not stored: it may be there next time, or for another Python
            return PeerRun(f"{peer.package} {peer.setting}", absent=str(error))
        return PeerRun(**found)

    def _score(
        self, condition: Condition, recipe: Recipe, calibration: Calibration, calibrated_s: float
    ) -> Scored:
        model = self.subject.model
        plan = condition.plan(model, calibration, recipe, self.steps)
        with Stopwatch() as watch:
            network = convert(model, plan, calibration)
        report = network.report
        return Scored(
            percent_right(network, self.subject.test),
            calibrated_s + watch.seconds,
            {"calibration": calibrated_s, **report.seconds},
            report.kept,
            zeros(network),
            macs(network.layers) / macs(calibration.layers),
        )

    def _layers(self, condition: Condition) -> str:
        """What the condition does to each layer, as it stands in plans."""
        calibration = calibrate(self.subject.model, self.subject.calibration(1, 0))
        plan = condition.plan(self.subject.model, calibration, PLAIN)
        return plan.digest()


def zeros(network: CompressedModel) -> float:
    """Fraction of the compressed weights, of those still there, that is zero."""
    weights = [tensor.to_dense() for tensor in network.tensors.values()]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.size for w in weights))


@cache
def source_digest(part: str) -> str:
    """Twelve hexadecimal digits that change with a file, or with any Python file in a folder, of the checkout.

    Looked up once, so that results of a long run are not stored under code that was edited meanwhile.
    """
    path = ROOT / part
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    text = b"".join(file.relative_to(ROOT).as_posix().encode() + file.read_bytes() for file in files)
    return hashlib.sha256(text).hexdigest()[:12]
