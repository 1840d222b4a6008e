"""The calibration images on their way through a network, one operation after the other.

Conversion stops at every layer: it chooses the layer's weights by what the layer reads, then lets the images pass. All
images are at the same place, so statistics over all of them can be had before anything goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from compressors.parallel import Lanes

CHUNK = 64
"""Images that run together. Fixed, for results must not depend on the machine."""


class Stream:
    """One network's values for all images, in chunks of ``CHUNK``.

    Args:
        graph: the traced network, in which nothing writes into its input (see ``compressors.graph.trace``).
        images: what goes in, float32 ``[n, ...]``.
        start: name of the node whose value ``images`` are; the input of the network without one.
    """

    def __init__(
        self, graph: fx.GraphModule, images: torch.Tensor, lanes: Lanes, start: str | None = None
    ) -> None:
        chunks = images.split(CHUNK)
        self._lanes = lanes
        self._runs = [fx.Interpreter(graph, garbage_collect_values=False) for _ in chunks]
        self._nodes = {node.name: node for node in graph.graph.nodes}
        self._rest = list(graph.graph.nodes)
        self._order = {node: i for i, node in enumerate(self._rest)}
        self._last_reader = {source: node for node in self._rest for source in node.all_input_nodes}
        self._held: set[str] = set()
        first = self._rest.pop(0)
        while start is not None and first.name != start:
            first = self._rest.pop(0)
        for run, chunk in zip(self._runs, chunks, strict=True):
            run.env[first] = chunk

    @property
    def nodes(self) -> list[fx.Node]:
        """Every operation, in the order they run."""
        return list(self._nodes.values())

    def __getitem__(self, name: str) -> list[torch.Tensor]:
        """The chunks of the node called ``name``, which must have run and still be read by one to come."""
        return [run.env[self._nodes[name]] for run in self._runs]

    def advance(self, name: str) -> None:
        """Run every operation up to and including the node called ``name``, if it has not run yet.

        Values that nothing later reads are dropped, except the last one.
        """
        while self._nodes[name] in self._rest:
            node = self._rest.pop(0)
            self._lanes.map(lambda run, node=node: run.env.__setitem__(node, run.run_node(node)), self._runs)
            self._drop(node)

    def replace(self, name: str, chunks: Sequence[torch.Tensor]) -> None:
        """Put other values where the node called ``name`` left its own."""
        for run, chunk in zip(self._runs, chunks, strict=True):
            run.env[self._nodes[name]] = chunk

    def hold(self, *names: str) -> None:
        """Keep the values of these nodes alone beyond their last reader."""
        self._held = set(names)

    def _drop(self, current: fx.Node) -> None:
        for run in self._runs:
            for node in list(run.env):
                last = self._last_reader.get(node, node)
                if (
                    self._order[last] <= self._order[current]
                    and node is not current
                    and node.name not in self._held
                ):
                    del run.env[node]
