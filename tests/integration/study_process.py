"""A worker on a study with a cheap evaluator, run as a process of its own by the tests beside it.

python study_process.py RUN N_TRIALS SAMPLER SLEEP_S
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dse.objectives import Metric, metrics_for
from dse.records import Evaluation
from dse.study import Baseline, SearchSettings, Study, open_study
from dse.worker import StopFlag, interruptible, run_worker

if TYPE_CHECKING:
    from optuna.trial import Trial

METHODS = ["ternary", "binary", "uniform"]
BASELINES = [
    Baseline("float", {"bits": 8, "method": "uniform", "sparsity": 0.0, "planes": 3}),
    Baseline("ternary", {"bits": 4, "method": "ternary", "sparsity": 0.0, "planes": 1}),
]


def objectives() -> list[Metric]:
    metrics = metrics_for(["bitserial"])
    return [metrics["accuracy"], metrics["energy.bitserial"]]


def evaluate(trial: Trial) -> Evaluation:
    """A smooth trade-off with its optimum inside the space; depends on the parameters alone."""
    bits = trial.suggest_int("bits", 2, 8)
    method = trial.suggest_categorical("method", METHODS)
    sparsity = trial.suggest_float("sparsity", 0.0, 0.9)
    planes = trial.suggest_int("planes", 1, 3)
    energy_j = 1e-6 * bits * planes * (1.0 - sparsity) * (1 + METHODS.index(method))
    accuracy = 1.0 - 0.5**bits - 0.3 * sparsity**4 / planes
    return Evaluation(
        plan=str(sorted(trial.params)), metrics={"accuracy": accuracy, "energy.bitserial": energy_j}
    )


def make_study(run: Path, n_trials: int, sampler: str) -> Study:
    settings = SearchSettings(n_trials=n_trials, sampler=sampler, seed=7)
    return open_study(run, objectives(), {"space": {"bits": [2, 8]}}, BASELINES, settings)


def main() -> int:
    run, n_trials, sampler, sleep_s = sys.argv[1:]

    def slow(trial: Trial) -> Evaluation:
        evaluation = evaluate(trial)
        print(trial.number, flush=True)
        time.sleep(float(sleep_s))
        return evaluation

    study = make_study(Path(run), int(n_trials), sampler)
    stop = StopFlag()
    with interruptible(stop):
        outcome = run_worker(study, slow, stop=stop, poll_s=0.02)
    return 130 if outcome.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
