"""Cutting a network where one value carries everything."""

from __future__ import annotations

import pytest
import torch
from networks import NETWORKS, TwoHeads, images, network
from torch import nn

from compressors.graph import Unit, find_layers, find_units, trace
from dse.models.resnet import CifarResNet


def units(model: nn.Module, only: set[str] | None = None) -> tuple[Unit, ...]:
    names = {layer.name for layer in find_layers(model, images(1))}
    return find_units(trace(model), names if only is None else only)


def test_a_residual_block_is_one_unit() -> None:
    found = units(network("residual"))
    assert [unit.layers for unit in found] == [("conv1",), ("conv2", "conv3"), ("depthwise",), ("linear",)]
    assert [unit.end for unit in found] == ["relu", "relu_2", "flatten", "linear"]
    assert found[1].nodes == ("conv2", "bn2", "relu_1", "conv3", "bn3", "add", "relu_2")


def test_each_layer_of_a_chain_is_one_unit() -> None:
    found = units(network("vgg"))
    assert [unit.layers for unit in found] == [("0",), ("4",), ("9",), ("12",)]
    assert [unit.nodes for unit in found][:2] == [("_0", "_1", "_2", "_3"), ("_4", "_5", "_6", "_7", "_8")]


def test_depthwise_and_pointwise_are_apart_but_around_a_shortcut() -> None:
    assert [unit.layers for unit in units(network("separable"))] == [
        ("stem.0",),
        ("depthwise1.0",),
        ("pointwise1.0",),
        ("depthwise2.0", "pointwise2.0"),
        ("linear",),
    ]


def test_the_blocks_of_a_resnet() -> None:
    found = units(CifarResNet(3, 10, 3).eval())
    assert [len(unit.layers) for unit in found] == [1, *[2] * 9, 1]
    assert found[4].layers == ("layer2.0.conv1", "layer2.0.conv2")  # with the shortcut between stages


def test_layers_that_are_not_asked_for_make_no_unit() -> None:
    found = units(network("residual"), {"conv2", "linear"})
    assert [unit.layers for unit in found] == [("conv2",), ("linear",)]
    assert units(network("residual"), set()) == ()


def test_two_outputs_are_a_unit_that_is_not_whole() -> None:
    found = units(TwoHeads().eval())
    assert [unit.layers for unit in found] == [("trunk",), ("left", "right")]
    assert [unit.whole for unit in found] == [True, False]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_units_follow_one_another_and_carry_everything(name: str) -> None:
    model = network(name)
    graph, found = trace(model), units(model)
    nodes = [node.name for node in graph.graph.nodes if node.op != "output"]
    assert [nodes[0], *(n for unit in found for n in unit.nodes)] == nodes
    assert all(unit.end == unit.nodes[-1] and unit.whole for unit in found)
    assert [unit.start for unit in found] == [nodes[0], *(unit.end for unit in found[:-1])]
    position = {node: i for i, node in enumerate(nodes)}
    for node in graph.graph.nodes:  # whatever is read across a cut is the value at the cut
        for source in node.all_input_nodes:
            for unit in found:
                cut = position[unit.end]
                if position[source.name] < cut < position.get(node.name, len(nodes)):
                    raise AssertionError(f"{node} reads {source} across {unit.end}")
