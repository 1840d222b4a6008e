"""``dse sweep``: search, and leave behind everything that shows what was found."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.analysis.folder import refuse_analysis
from dse.errors import ConfigError, DseError, RunFolderError
from dse.memo import content_key
from dse.objectives import select_objectives
from dse.pareto import front_of
from dse.progress import make_progress
from dse.provenance import collect_provenance, write_provenance
from dse.run_folder import MEMO, make_run_folder, rebuild_report, write_config, write_test_accuracy
from dse.search import SearchSettings
from dse.settings import SweepSettings
from dse.space import Space
from dse.study import JOURNAL, Study, open_study
from dse.worker import StopFlag, interruptible, run_worker

if TYPE_CHECKING:
    from dse.evaluate import Evaluator


def run(config: Mapping[str, Any]) -> int:
    """Run or resume the study of ``config``; 130 if interrupted."""
    settings = SweepSettings.from_dict(config)
    objectives = select_objectives(
        settings.objectives, settings.setup.accelerators, settings.setup.evaluation.reuse_block is not None
    )
    search = SearchSettings(
        settings.study.n_trials, settings.sampler, settings.study.seed, settings.study.max_failures
    )
    _prepare(settings.run, config)
    print(f"loading {settings.setup.model.name or settings.setup.model.target} and data ...", file=sys.stderr)
    from dse.evaluate import Evaluator  # torch takes seconds to load, which wrong input need not wait for

    try:
        evaluator = Evaluator(settings.setup, settings.run / MEMO)
    except DseError:
        with contextlib.suppress(OSError):
            settings.run.rmdir()  # made above, of no use unless a study lies in it already
        raise
    if settings.setup.model.float_layers:
        left = ", ".join(settings.setup.model.float_layers)
        print(f"left in floating point and priced by no hardware model: {left}", file=sys.stderr)
    for metric in objectives:
        if metric.name in (absent := evaluator.bench.absent()):
            raise ConfigError(
                "objectives.names",
                metric.name,
                "metrics this machine can give",
                f"absent here: {absent[metric.name]}",
            )
    removable = evaluator.removable if settings.space.pattern == "channel" else ()
    space = Space(settings.space, evaluator.layers, removable, evaluator.weights)
    fingerprint = {
        # new baselines may join a study later
        "space": {key: value for key, value in config["space"].items() if key != "baselines"},
        "setup": settings.setup.fingerprint(),
        "data digest": evaluator.bench.data.digest,
        "seed": settings.study.seed,
        "max_loss": settings.max_loss,
    }
    study = open_study(settings.run, objectives, fingerprint, space.baselines(), search)
    write_config(settings.run, config)
    write_provenance(settings.run, collect_provenance(settings.study.seed, content_key(config)))
    interrupted = _search(study, evaluator, space, settings.max_loss)
    _finish(settings.run, study, evaluator)
    return 130 if interrupted else 0


def _prepare(run: Path, config: Mapping[str, Any]) -> None:
    refuse_analysis(run)
    if config["study"]["fresh"] and (run / JOURNAL).exists():
        raise RunFolderError(
            f"{run} already holds a study and study.fresh=true asks for a new one; choose another study.name, "
            "or move that folder away"
        )
    make_run_folder(run)


def _search(study: Study, evaluator: Evaluator, space: Space, max_loss: float | None) -> bool:
    """Work until the budget is spent; whether it was interrupted before."""
    reasons: set[str] = set()
    stop = StopFlag()
    with (
        make_progress(study.settings.n_trials, study.objectives) as display,
        interruptible(stop, display.notice),
    ):

        def evaluate(trial: Any) -> Any:
            evaluation = evaluator.evaluate(space.suggest(trial))
            for name, reason in evaluation.absent.items():
                if reason not in reasons:
                    reasons.add(reason)
                    display.notice(f"{name} is absent: {reason}")
            if max_loss is None:
                return evaluation
            lost = evaluator.float_accuracy - evaluation.metrics["accuracy"]
            return dataclasses.replace(evaluation, violation=lost - max_loss)

        return run_worker(study, evaluate, display, stop).interrupted


def _finish(run: Path, study: Study, evaluator: Evaluator) -> None:
    from dse.candidate import Candidate

    finished = [record for record in study.records() if record.evaluation is not None]
    front = front_of(finished, study.objectives) if finished else []
    if len(finished) >= study.settings.n_trials:
        print(f"scoring the {len(front)} candidates of the front on the test images ...", file=sys.stderr)
        write_test_accuracy(
            run,
            {r.number: evaluator.test_accuracy(Candidate.from_dict(r.evaluation.candidate)) for r in front},
        )
    evaluator.bench.close()
    rebuild_report(run)
    print(f"{len(finished)} trials, {len(front)} on the front: {run / 'report.html'}", file=sys.stderr)
