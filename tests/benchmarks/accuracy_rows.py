"""Rows of the accuracy benchmark's table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dse.reference import Row
from tests.benchmarks.accuracy_runs import PeerRun, Run
from tests.benchmarks.conditions import CONDITIONS, PLAIN, Condition

_TIMED_THREADS = 2


@dataclass(frozen=True)
class Measured:
    """Everything a table and a figure are made of.

    Attributes:
        subject: name of network and data.
        float_percent: of the test images that the float network gets right.
        test_images, images: to score and to calibrate on.
        threads: that torch used.
        quick: too small for any bar to count.
        runs: condition -> a run per seed.
        peers: condition -> results of other toolkits.
    """

    subject: str
    float_percent: float
    test_images: int
    images: int
    threads: int
    quick: bool
    runs: Mapping[str, Sequence[Run]]
    peers: Mapping[str, Sequence[PeerRun]] = field(default_factory=dict)

    def losses(self, name: str) -> list[float]:
        """Points below the float network, per seed, by the condition's recipe."""
        return [self.float_percent - run.repaired.percent for run in self.runs[name]]

    def plain_losses(self, name: str) -> list[float]:
        """The same by the plain recipe."""
        return [self.float_percent - run.plain.percent for run in self.runs[name]]

    def peer_losses(self, name: str) -> dict[str, float]:
        """Peer -> points below the float network, for those that gave a network, the best first."""
        found = {
            p.name: self.float_percent - p.percent for p in self.peers.get(name, ()) if p.percent is not None
        }
        return dict(sorted(found.items(), key=lambda item: item[1]))


def loss_row(measured: Measured, condition: Condition) -> Row:
    """What a condition costs in points of accuracy, mean over the seeds, beside the best peer."""
    losses = measured.losses(condition.name)
    peers = measured.peer_losses(condition.name)
    best = next(iter(peers), "")
    return Row(
        check=f"{measured.subject}, weights / activations {condition.name}: loss against float",
        ours=statistics.mean(losses),
        bar=None if measured.quick else condition.bar,
        better="lower",
        unit="points",
        note="; ".join(_notes(measured, condition)),
        peer=peers.get(best),
        peer_name=best,
    )


def _notes(measured: Measured, condition: Condition) -> list[str]:
    runs = measured.runs[condition.name]
    repaired, plain = measured.losses(condition.name), measured.plain_losses(condition.name)
    notes = [
        f"mean of {len(runs)} seeds, {_span(repaired)}",
        f"{condition.recipe.name}, {statistics.median(run.repaired.seconds for run in runs):.0f} s",
        f"{PLAIN.name}: {statistics.mean(plain):.2f} ({_span(plain)})",
        f"float {measured.float_percent:.2f} % of {measured.test_images} test images",
        f"{measured.images} calibration images",
    ]
    replaced = sum(run.repaired.kept != "as planned" for run in runs)
    if replaced:
        notes.append(
            f"the conversion itself fell back on the plain recipe for {replaced} of {len(runs)} seeds"
        )
    zeros, macs = runs[0].repaired.zeros, runs[0].repaired.macs
    notes.append(f"{100 * zeros:.1f} % of the weights zero")
    if macs < 1:
        notes.append(f"{100 * macs:.1f} % of the MACs left")
    return notes + _peer_notes(measured, condition.name)


def _peer_notes(measured: Measured, name: str) -> list[str]:
    """Seconds of the best peer, the other peers, and those that gave nothing with the reason."""
    losses = measured.peer_losses(name)
    found = []
    for i, peer in enumerate(losses):
        seconds = next(run.seconds or 0.0 for run in measured.peers[name] if run.name == peer)
        found.append(f"peer {'as named' if i == 0 else peer}: {losses[peer]:.2f} in {seconds:.0f} s")
    absent = [
        f"peer {p.name}: {' '.join(p.absent.split())}"
        for p in measured.peers.get(name, ())
        if p.percent is None
    ]
    return found + absent


def time_row(measured: Measured, condition: Condition, bar_s: float) -> Row:
    """How long a conversion takes by the condition's recipe, median over the seeds."""
    runs = measured.runs[condition.name]
    seconds = [run.repaired.seconds for run in runs]
    stages = {
        stage: statistics.median(r.repaired.stages.get(stage, 0.0) for r in runs) for stage in _stages(runs)
    }
    slowest = _slowest(measured, condition)
    return Row(
        check=f"{measured.subject}, {condition.name}: one conversion by {condition.recipe.name}",
        ours=statistics.median(seconds),
        bar=bar_s if measured.threads == _TIMED_THREADS and not measured.quick else None,
        better="lower",
        unit="s",
        note=f"median of {len(runs)}, {min(seconds):.1f} to {max(seconds):.1f} s, on {measured.threads} threads; "
        f"calibration and conversion of the whole network on {measured.images} images, its plain competitor included: "
        + ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items())
        + f"; slowest condition: {slowest}",
    )


def _slowest(measured: Measured, timed: Condition) -> str:
    """The condition whose conversion took longest among those of the same recipe that were measured."""
    same = [c.name for c in CONDITIONS if c.recipe == timed.recipe and c.name in measured.runs]
    medians = {n: statistics.median(run.repaired.seconds for run in measured.runs[n]) for n in same}
    name = max(medians, key=lambda n: medians[n])
    return f"{name}, {medians[name]:.1f} s"


def _stages(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(stage for run in runs for stage in run.repaired.stages))


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
