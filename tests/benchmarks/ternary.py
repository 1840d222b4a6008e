"""How far below the uniform 8-bit network the best ternary one stays, on the same accelerator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressors.slicing import GRANULARITIES
from dse.evaluate import Evaluator
from dse.records import TrialRecord
from dse.run_folder import MEMO, read_config, read_test_accuracy
from dse.settings import SweepSettings
from dse.space import Space
from dse.study import load_records
from dse.summary import FLOAT_LABEL, REFERENCE_LABEL

ENERGY = "energy.bitserial"
LOSS = 0.01


@dataclass(frozen=True)
class Comparison:
    """Energies in joules per inference, accuracies as fractions on the search split.

    Attributes:
        ternary: trial of least energy among those with ternary weights between first and last layer that lose
            at most ``LOSS`` against float; None where there is none.
        float_accuracy: of the float baseline.
        uniform_j: granularity -> energy of the uniform 8-bit network with every layer cut that way.
        baseline_j: energy of the study's own ``uniform 8`` trial.
        test_accuracy: of ``ternary`` on the test split; None where it is not on the front.
    """

    ternary: TrialRecord | None
    float_accuracy: float
    uniform_j: Mapping[int, float]
    baseline_j: float
    test_accuracy: float | None

    @property
    def cheapest(self) -> int:
        """The granularity at which the uniform 8-bit network costs least."""
        return min(self.uniform_j, key=lambda g: self.uniform_j[g])

    def factor(self, reference_j: float) -> float | None:
        """How many times less than ``reference_j`` the ternary trial takes."""
        return None if self.ternary is None else reference_j / self.ternary.evaluation.metrics[ENERGY]


def is_ternary(record: TrialRecord, layers: Sequence[str]) -> bool:
    """Whether every layer but the first and the last (``layers`` in the order they run) has ternary weights."""
    if record.evaluation is None:
        return False
    plans = record.evaluation.candidate["plan"]["layers"]
    weights = [plans.get(name, {}).get("weight") for name in layers[1:-1]]
    return bool(weights) and all(w is not None and w["method"] == "ternary" for w in weights)


def best_ternary(
    records: Sequence[TrialRecord], layers: Sequence[str], float_accuracy: float
) -> TrialRecord | None:
    """The ternary trial of least energy that loses at most ``LOSS``, ties going to the lower number."""
    # Accuracies are k/n: a loss of exactly one point must not fail by a rounding error.
    floor = float_accuracy - LOSS - 1e-9
    eligible = [r for r in records if is_ternary(r, layers) and r.evaluation.metrics["accuracy"] >= floor]
    return min(eligible, key=lambda r: (r.evaluation.metrics[ENERGY], r.number), default=None)


def compare(run: Path) -> Comparison:
    """Read the study in ``run``, and price the uniform 8-bit network at every granularity."""
    settings = SweepSettings.from_dict(read_config(run))
    evaluator = Evaluator(settings.setup, run / MEMO)
    uniform = Space(settings.space, evaluator.layers).baseline(REFERENCE_LABEL)
    uniform_j = {}
    for g in GRANULARITIES:
        cut = tuple((name, g) for name, _ in uniform.granularity)
        uniform_j[g] = evaluator.evaluate(dataclasses.replace(uniform, granularity=cut)).metrics[ENERGY]
    evaluator.bench.close()
    records = load_records(run)
    baselines = {r.label: r.evaluation.metrics for r in records if r.label and r.evaluation is not None}
    float_accuracy = baselines[FLOAT_LABEL]["accuracy"]
    ternary = best_ternary(records, evaluator.layers, float_accuracy)
    tested = read_test_accuracy(run).get(ternary.number) if ternary else None
    return Comparison(ternary, float_accuracy, uniform_j, baselines[REFERENCE_LABEL][ENERGY], tested)
