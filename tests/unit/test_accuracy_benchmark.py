"""The accuracy benchmark's own arithmetic: what is compressed how far, what a row says, what is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressors.calibration.observe import Calibration, calibrate
from compressors.convert import convert
from compressors.model import CompressedModel
from tests.benchmarks import peers
from tests.benchmarks.accuracy import choose
from tests.benchmarks.accuracy_figure import draw_losses
from tests.benchmarks.accuracy_rows import Measured, loss_row, time_row
from tests.benchmarks.accuracy_runs import Bench, PeerRun, Run, Scored, Store, zeros
from tests.benchmarks.cifar import Subject, decode, digits_resnet20, percent_right
from tests.benchmarks.conditions import CONDITIONS, PLAIN, QUICK, SECONDS, Condition, macs

NAMED = {condition.name: condition for condition in CONDITIONS}


@pytest.fixture(scope="module")
def subject() -> Subject:
    return digits_resnet20(50)


@pytest.fixture(scope="module")
def calibration(subject: Subject) -> Calibration:
    return calibrate(subject.model, subject.calibration(16, 0))


def plain(subject: Subject, calibration: Calibration, name: str) -> CompressedModel:
    return convert(subject.model, NAMED[name].plan(subject.model, calibration, PLAIN), calibration)


def scored(percent: float, seconds: float = 10.0, kept: str = "as planned") -> Scored:
    return Scored(percent, seconds, {"second order": seconds}, kept, 0.25, 1.0)


def measured(quick: bool = False, threads: int = 2) -> Measured:
    """Float 90 %; three seeds that lose 0.1, 0.2 and 0.6, and twice as much plainly; two peers and a refusal."""
    runs = [Run(scored(90 - loss, 10 * loss), scored(90 - 2 * loss)) for loss in (0.1, 0.2, 0.6)]
    reached = [PeerRun("brevitas 1 W4A8", 89.5, 7.0), PeerRun("torchao 2 W4", 88.0, 1.0)]
    found = [*reached, PeerRun("nncf 3 W4A8", absent="ValueError: no such width")]
    return Measured("net", 90.0, 500, 64, threads, quick, {"4 / 8": runs}, {"4 / 8": found})


def test_conditions_are_those_asked_for() -> None:
    assert len(NAMED) == len(CONDITIONS) == 16
    assert set(peers.PEERS) <= set(NAMED) >= {*QUICK, *(name for name, _ in SECONDS)}
    bars = [condition.bar for condition in CONDITIONS if condition.bar is not None]
    assert bars == [0.1, 0.2, 0.5, 0.5, 0.6, 1.5, 2.0, 2.5, 1.2, 1.6, 0.3, 2.0, 0.5, 1.0, 3.0, 1.5]


@pytest.mark.parametrize(
    ("name", "levels", "ends"), [("ternary / 8", 3, 3), ("ternary, ends 8 bits / 8", 3, 256)]
)
def test_every_layer_is_compressed_unless_said(
    subject: Subject, calibration: Calibration, name: str, levels: int, ends: int
) -> None:
    network = plain(subject, calibration, name)
    order = [layer.name for layer in network.layers]
    assert set(network.tensors) == set(network.grids) == set(order)
    most = {n: max(len(np.unique(row)) for row in network.tensors[n].to_dense()) for n in order}
    assert all(most[n] <= levels for n in order[1:-1])
    assert all(3 < most[n] <= ends or most[n] <= ends == 3 for n in (order[0], order[-1]))


@pytest.mark.parametrize(("name", "share"), [("8, 70 % zeros / float", 0.7), ("8, 80 % zeros / float", 0.8)])
def test_unstructured_counts_zeros_among_all_weights(
    subject: Subject, calibration: Calibration, name: str, share: float
) -> None:
    network = plain(subject, calibration, name)
    assert share - 1e-3 < zeros(network) < share + 0.02  # rounding to eight bits adds a few
    pruned = subject.model.get_submodule(network.layers[0].name).weight
    assert np.count_nonzero(network.tensors[network.layers[0].name].to_dense()) > 0.95 * pruned.numel()


def test_two_of_four_inside(subject: Subject, calibration: Calibration) -> None:
    network = plain(subject, calibration, "8, 2:4 sparse / float")
    inner = network.tensors[network.layers[5].name].to_dense()
    runs = inner.reshape(inner.shape[0], -1, 4, *inner.shape[2:])
    assert ((runs != 0).sum(2) <= 2).all() and (runs != 0).mean() > 0.45


def test_structured_is_measured_on_the_network_that_is_left(
    subject: Subject, calibration: Calibration
) -> None:
    network = plain(subject, calibration, "8, 73 % of the MACs / float")
    left = macs(network.layers) / macs(calibration.layers)
    assert 0.72 < left <= 0.73
    counted = []

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        counted.append(module.weight.numel() * output[0].numel() // output.shape[1])

    for module in network.network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(calibration.images[:1])
    assert sum(counted) == macs(network.layers)


def test_a_row_has_mean_range_and_best_peer() -> None:
    row = loss_row(measured(), NAMED["4 / 8"])
    assert row.ours == pytest.approx(0.3) and row.bar == 0.2 and row.verdict == "MISSED"
    assert (row.peer, row.peer_name) == (0.5, "brevitas 1 W4A8")
    for part in ("3 seeds, 0.10 to 0.60", "0.60 (0.20 to 1.20)", "torchao 2 W4: 2.00", "ValueError: no such"):
        assert part in row.note
    assert loss_row(measured(quick=True), NAMED["4 / 8"]).verdict == "no bar"


def test_time_is_held_against_the_bar_on_two_cores_alone() -> None:
    row = time_row(measured(), NAMED["4 / 8"], 20.0)
    assert row.ours == pytest.approx(2.0) and row.verdict == "reached"
    assert "1.0 to 6.0 s" in row.note and "slowest condition: 4 / 8, 2.0 s" in row.note
    assert time_row(measured(threads=1), NAMED["4 / 8"], 20.0).bar is None


def test_figure_of_a_part(tmp_path: Path) -> None:
    png, svg = draw_losses(measured(), [NAMED["4 / 8"]], tmp_path / "accuracy")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text(encoding="utf-8")
    assert ">torchao<" in text and ">nncf<" not in text  # a peer that refused has no mark


def test_only_takes_parts_of_names() -> None:
    assert choose(None, False) == list(CONDITIONS)
    assert [c.name for c in choose(["4 / 4", "80 %"], False)] == [
        "4 / 4",
        "4 / 4, ends 8 bits",
        "8, 80 % zeros / float",
    ]
    assert [c.name for c in choose(None, True)] == list(QUICK)
    with pytest.raises(SystemExit, match="expected a part of 8 / 8"):
        choose(["5 / 5"], False)


def test_results_are_measured_once_for_each_key(tmp_path: Path) -> None:
    asked = []

    def measure(value: int) -> Callable[[], dict[str, int]]:
        return lambda: asked.append(value) or {"value": value}

    store, other = Store(tmp_path, ("a",)), Store(tmp_path, ("b",))
    assert [store.get("x", (1,), measure(1)), store.get("x", (1,), measure(2))] == [{"value": 1}] * 2
    assert store.get("x", (2,), measure(3)) == {"value": 3}
    assert other.get("x", (1,), measure(4)) == {"value": 4}
    assert asked == [1, 3, 4]


def test_a_run_is_stored_whole(tmp_path: Path, subject: Subject) -> None:
    bench = Bench(subject, Store(tmp_path, ()), images=8)
    condition = Condition("4 / 8", 0.2, PLAIN, NAMED["4 / 8"].layers)
    run = bench.run(condition, 0)
    assert run.repaired.percent == run.plain.percent > 50 and run.repaired.macs == 1
    assert set(run.repaired.stages) >= {"calibration", "nearest"}
    assert bench.run(condition, 0) == run  # seconds too: read, not measured again


def test_peers_that_are_absent_or_refuse_say_so(tmp_path: Path, subject: Subject) -> None:
    def refuse(model: nn.Module, images: torch.Tensor) -> nn.Module:
        raise ValueError("only eight bits\nand more")

    bench = Bench(subject, Store(tmp_path, ()), images=4)
    absent = bench.peer("4 / 8", peers.Peer("no-such-package", "W4", refuse), 0)
    assert (absent.percent, absent.absent) == (None, "no-such-package is not installed")
    assert not list(tmp_path.iterdir())
    refused = bench.peer("4 / 8", peers.Peer("numpy", "W4", refuse), 0)
    assert (refused.percent, refused.absent) == (None, "ValueError: only eight bits")
    good = bench.peer("4 / 8", peers.Peer("numpy", "as it is", lambda model, images: model), 0)
    assert good.percent == percent_right(subject.model, subject.test) and good.name.startswith("numpy 2")


def test_folding_changes_no_answer(subject: Subject) -> None:
    folded, images = peers.fold_batch_norms(subject.model), subject.calibration(8, 0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), subject.model(images), rtol=1e-4, atol=1e-4)


def test_calibration_follows_the_seed(subject: Subject) -> None:
    first = subject.calibration(16, 0)
    assert torch.equal(first, subject.calibration(16, 0)) and not torch.equal(
        first, subject.calibration(16, 1)
    )
    assert subject.pool.labels is None


def test_decoding_undoes_the_residual_coding(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    red, green, blue = np.moveaxis(images, -1, 0)
    planes = np.stack([red - green, green, blue - green])
    for axis in (3, 2):
        planes = np.diff(planes, axis=axis, prepend=np.uint8(0)).astype(np.uint8)
    np.savez(tmp_path / "coded.npz", x_res=planes, y=np.arange(5))
    pixels, labels = decode(tmp_path / "coded.npz", 4)
    assert np.array_equal(pixels, images[:4]) and labels.tolist() == [0, 1, 2, 3]
