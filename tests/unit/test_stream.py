"""The images on their way through a network: the same values as the network itself computes, kept while read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from networks import NETWORKS, images, network
from torch import nn

from compressors.calibration.stream import CHUNK, Stream
from compressors.graph import trace
from compressors.parallel import Lanes, lanes


@pytest.fixture
def pool() -> Iterator[Lanes]:
    with torch.no_grad(), lanes() as opened:
        yield opened


def opened(model: nn.Module, batch: torch.Tensor, pool: Lanes) -> Stream:
    return Stream(trace(model), batch, pool)


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_end_is_what_the_network_answers(pool: Lanes, name: str, count: int) -> None:
    model, batch = network(name), images(count)
    expected = torch.cat([model(chunk) for chunk in batch.split(CHUNK)])
    stream = opened(model, batch, pool)
    last = [node.name for node in stream.nodes if node.op != "output"][-1]
    stream.advance(last)
    assert [len(chunk) for chunk in stream[last]] == [len(chunk) for chunk in batch.split(CHUNK)]
    assert torch.equal(torch.cat(stream[last]), expected)


def test_values_stay_while_something_reads_them(pool: Lanes) -> None:
    stream = opened(network("residual"), images(70), pool)
    stream.advance("conv3")  # `relu` is still to be added
    assert stream["relu"][1].shape == (6, 6, 8, 8)
    with pytest.raises(KeyError):
        stream["bn1"]
    stream.advance("relu_2")
    with pytest.raises(KeyError):
        stream["relu"]
    stream.advance("conv1")  # has run: nothing happens
    assert torch.is_tensor(stream["relu_2"][0])


def test_held_values_stay_until_others_are_held(pool: Lanes) -> None:
    stream = opened(network("residual"), images(3), pool)
    stream.advance("relu")
    before = stream["relu"][0].clone()
    stream.hold("relu")
    stream.advance("linear")
    assert torch.equal(stream["relu"][0], before)


def test_replaced_values_are_what_the_next_reads(pool: Lanes) -> None:
    model = network("perceptron")
    stream = opened(model, images(70), pool)
    stream.advance("_1")
    stream.replace("_1", [chunk + 1 for chunk in stream["_1"]])
    stream.advance("_2")
    expected = torch.relu(model[1](images(70).flatten(1)) + 1)
    assert torch.allclose(torch.cat(stream["_2"]), expected, atol=1e-5)


def test_a_stream_may_start_inside(pool: Lanes) -> None:
    graph = trace(network("residual"))
    whole = Stream(graph, images(70), pool)
    whole.advance("relu")
    part = Stream(graph, torch.cat(whole["relu"]), pool, "relu")
    for stream in (whole, part):
        stream.advance("linear")
    assert all(torch.equal(a, b) for a, b in zip(whole["linear"], part["linear"], strict=True))
