"""A study: the trials of one search, kept in the journal of a run folder.

Any number of processes may work on one folder. Everything that decides about trials (closing those
of dead workers, counting the budget, choosing the next) happens under one lock, the *ask lock*;
evaluating happens outside it. A trial goes through these states:

    enqueued (WAITING, with its ask index) -> handed to a worker (RUNNING) -> COMPLETE or FAIL

A trial whose worker died becomes FAIL (*orphaned*), and one with the same parameters and the same
ask index is enqueued in its place. The seed of a trial follows from its ask index alone, so that a
single worker proposes the same candidates however often it was killed and started again.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from dse.analysis.folder import refuse_analysis
from dse.errors import ConfigError
from dse.fingerprint import plain, refuse_mismatch
from dse.journal import JournalFile, describe_missing
from dse.locks import FileLock, is_held
from dse.objectives import Metric
from dse.records import Evaluation, TrialRecord
from dse.samplers import Nsga2, TrialSampler
from dse.search import (
    About,
    Baseline,
    Budget,
    SearchSettings,
    automatic_sampler,
    population_size,
    trial_seed,
)
from dse.trials import ORPHANED, objective_values, plain_evaluation, record_of

__all__ = [
    "Baseline",
    "Budget",
    "SearchSettings",
    "Study",
    "StudyInfo",
    "load_records",
    "load_study_info",
    "open_study",
]

JOURNAL = "journal.log"
_LOCKS = "workers"
_NAME = "dse"


class _Backend(JournalFile, BaseJournalBackend):
    """The journal file, as Optuna asks for it."""


class Study:
    """The trials of a run folder; made by `open_study`. May be shared by threads."""

    def __init__(
        self, run: Path, objectives: Sequence[Metric], settings: SearchSettings, storage: JournalStorage
    ) -> None:
        self.run, self.objectives, self.settings = run, list(objectives), settings
        self._storage = storage
        self._ask_lock = _ask_lock(run)
        self._reader = self._optuna(RandomSampler())
        attributes = self._reader.user_attrs
        self._about = About(**attributes["about"])
        self._baselines = [Baseline(**each) for each in attributes["baselines"]]

    @property
    def sampler(self) -> str:
        """The sampler in use; ``auto`` was decided when the study was created."""
        return self._about.auto_sampler if self.settings.sampler == "auto" else self.settings.sampler

    def records(self) -> list[TrialRecord]:
        """Every trial so far, by number."""
        return [record_of(trial) for trial in self._trials()]

    @contextmanager
    def worker(self) -> Iterator[str]:
        """The identity of a worker, alive for as long as the block runs or until its process dies."""
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        lock = FileLock(_worker_lock(self.run, name))
        lock.acquire()
        try:
            yield name
        finally:
            lock.release(remove=True)

    def ask(self, worker: str) -> tuple[Trial | None, Budget]:
        """The next trial for ``worker``, or None while the trials others have in hand may suffice."""
        with self._ask_lock:
            self._close_orphans()
            trials = self._trials()
            budget = self._budget(trials)
            if not budget.open:
                return None, budget
            waiting = next((t for t in trials if t.state == TrialState.WAITING), None)
            index = self._enqueue_next(trials) if waiting is None else waiting.user_attrs["ask_index"]
            seed = trial_seed(self.settings.seed, index)
            sampler = TrialSampler(
                self.sampler,
                seed,
                population_size=self._about.population_size,
                n_baselines=len(self._baselines),
            )
            trial = self._optuna(sampler).ask()
            trial.set_user_attr("worker", worker)
            sampler.recording = trial
            return trial, budget

    def tell(self, trial: Trial, evaluation: Evaluation) -> None:
        """Finish ``trial``. Without effect if it was taken from this worker meanwhile.

        Raises:
            BadTensor: a metric is NaN or infinite; nothing is told.
            DseError: an objective is absent; nothing is told.
        """
        values = objective_values(evaluation, self.objectives)
        data = plain_evaluation(evaluation)
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr("evaluation", data)
            if evaluation.violation is not None:
                trial.set_constraint("accuracy", evaluation.violation)
            trial.study.tell(trial, values, skip_if_finished=True)

    def fail(self, trial: Trial, error: str) -> None:
        """Close ``trial`` as failed, keeping why. Without effect if it was taken meanwhile."""
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr("error", error)
            trial.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def finished_since(self, seen: Set[int]) -> tuple[list[TrialRecord], Budget]:
        """The complete and failed trials whose numbers are not in ``seen``, and the budget as of then."""
        trials = self._trials()
        fresh = [record_of(t) for t in trials if t.state.is_finished() and t.number not in seen]
        return fresh, self._budget(trials)

    def _optuna(self, sampler: BaseSampler) -> optuna.Study:
        return optuna.load_study(study_name=_NAME, storage=self._storage, sampler=sampler)

    def _trials(self) -> list[FrozenTrial]:
        return self._reader.get_trials(deepcopy=False)

    def _budget(self, trials: Sequence[FrozenTrial]) -> Budget:
        states = [trial.state for trial in trials]
        complete, running = states.count(TrialState.COMPLETE), states.count(TrialState.RUNNING)
        return Budget(complete, running, self.settings.n_trials)

    def _enqueue_next(self, trials: Sequence[FrozenTrial]) -> int:
        """Enqueue the next baseline nobody was handed yet, else a trial to be sampled; its ask index."""
        index = 1 + max((trial.user_attrs["ask_index"] for trial in trials), default=-1)
        tried = {trial.user_attrs.get("label") for trial in trials}
        attributes: dict[str, Any] = {"ask_index": index}
        for baseline in self._baselines:
            if baseline.label not in tried:
                attributes["label"] = baseline.label
                self._enqueue(baseline.params, attributes, Nsga2.first_generation())
                return index
        self._enqueue({}, attributes, {})
        return index

    def _enqueue(
        self, params: Mapping[str, Any], user_attrs: Mapping[str, Any], system_attrs: Mapping[str, Any]
    ) -> None:
        fixed = {**system_attrs, "fixed_params": dict(params)}
        trial = create_trial(state=TrialState.WAITING, user_attrs=dict(user_attrs), system_attrs=fixed)
        self._reader.add_trial(trial)

    def _close_orphans(self) -> None:
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and self._is_orphan(trial):
                self._storage.set_trial_user_attr(trial._trial_id, "orphaned", True)
                self._storage.set_trial_user_attr(trial._trial_id, "error", ORPHANED)
                self._reader.tell(trial.number, state=TrialState.FAIL)
        # Apart from the loop above, as a worker may also be killed between the two.
        trials = self._trials()
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            if trial.user_attrs.get("orphaned") and trial.number not in retried:
                self._retry(trial)

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is not None and is_held(_worker_lock(self.run, worker)):
            return False
        # The worker may have finished the trial and left since the trials were read.
        return self._storage.get_trial(trial._trial_id).state == TrialState.RUNNING

    def _retry(self, orphan: FrozenTrial) -> None:
        system = dict(orphan.system_attrs)
        params = {**system.pop("fixed_params", {}), **orphan.params}
        kept = {k: orphan.user_attrs[k] for k in ("ask_index", "label", "seed_of") if k in orphan.user_attrs}
        if "seed" in orphan.user_attrs:
            kept["seed_of"] = orphan.number
        self._enqueue(params, {**kept, "retry_of": orphan.number}, system)


@dataclass(frozen=True)
class StudyInfo:
    """What a run folder says of its study: objectives in order, fingerprint, ISO time of creation (UTC)."""

    objectives: list[Metric]
    fingerprint: dict[str, Any]
    created: str


def open_study(
    run: Path,
    objectives: Sequence[Metric],
    fingerprint: Mapping[str, Any],
    baselines: Sequence[Baseline],
    settings: SearchSettings,
) -> Study:
    """Create the study of a run folder, or load it to go on with it.

    Baselines are tried first, each once in the life of a study; new ones may join later.

    Args:
        fingerprint: nested plain data; everything a change of which makes it another study.

    Raises:
        StudyMismatch: the folder holds a study with another fingerprint or other objectives.
        ConfigError: no objective, or two baselines with one label.
        RunFolderError: the folder cannot be written, or holds an analysis.
    """
    refuse_analysis(run)
    if not objectives:
        raise ConfigError("objectives.names", "[]", "at least one objective")
    labels = [baseline.label for baseline in baselines]
    if len(set(labels)) < len(labels):
        raise ConfigError("baselines", labels, "labels that differ from each other")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _ask_lock(run):
        storage = JournalStorage(_Backend(run / JOURNAL, FileLock(run / _LOCKS / "journal.lock")))
        if not optuna.get_all_study_names(storage):
            optuna.create_study(
                storage=storage, study_name=_NAME, directions=[m.direction for m in objectives]
            )
        inner = optuna.load_study(study_name=_NAME, storage=storage)
        _describe(run, inner, objectives, plain(fingerprint), settings)
        known = inner.user_attrs.get("baselines", [])
        new = [asdict(b) for b in baselines if b.label not in {each["label"] for each in known}]
        if new or "baselines" not in inner.user_attrs:
            inner.set_user_attr("baselines", [*known, *new])
        return Study(run, objectives, settings, storage)


def load_records(run: Path) -> list[TrialRecord]:
    """Every trial of a run folder, by number; writes nothing.

    Raises:
        RunFolderError: the folder holds no study, or a damaged one.
    """
    return [record_of(trial) for trial in _load(run).get_trials(deepcopy=False)]


def load_study_info(run: Path) -> StudyInfo:
    """What the study of a run folder is about; writes nothing.

    Raises:
        RunFolderError: the folder holds no study, or a damaged one.
    """
    about = About(**_load(run).user_attrs["about"])
    return StudyInfo([Metric(**each) for each in about.objectives], about.fingerprint, about.created)


def _load(run: Path) -> optuna.Study:
    if not (run / JOURNAL).is_file():
        raise describe_missing(run, [JOURNAL])
    storage = JournalStorage(_Backend(run / JOURNAL, None))
    studies = storage.get_all_studies()
    if not studies or "about" not in studies[0].user_attrs:
        raise describe_missing(run, [f"study in {JOURNAL}"])
    return optuna.load_study(study_name=_NAME, storage=storage)


def _describe(
    run: Path,
    inner: optuna.Study,
    objectives: Sequence[Metric],
    fingerprint: dict[str, Any],
    settings: SearchSettings,
) -> None:
    """Write what the study is about, or compare with what was written."""
    now = {**_numbered(f"{m.name} {m.direction}" for m in objectives), **fingerprint}
    if "about" in inner.user_attrs:
        about = About(**inner.user_attrs["about"])
        stored = _numbered(f"{m['name']} {m['direction']}" for m in about.objectives)
        was = {**stored, **about.fingerprint}
        refuse_mismatch(run, was, now)
        return
    # A process killed between the two writes leaves a study with directions alone.
    directions = _numbered(direction.name.lower() for direction in inner.directions)
    refuse_mismatch(run, directions, _numbered(m.direction for m in objectives))
    n_trials = settings.n_trials
    about = About(
        objectives=[asdict(metric) for metric in objectives],
        fingerprint=fingerprint,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        auto_sampler=automatic_sampler(n_trials),
        population_size=population_size(n_trials),
    )
    inner.set_user_attr("about", asdict(about))


def _numbered(objectives: Iterable[str]) -> dict[str, str]:
    return {f"objective {i}": text for i, text in enumerate(objectives, start=1)}


def _ask_lock(run: Path) -> FileLock:
    return FileLock(run / _LOCKS / "ask.lock")


def _worker_lock(run: Path, worker: str) -> Path:
    return run / _LOCKS / f"{worker}.lock"
