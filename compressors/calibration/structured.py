"""Which channels of a layer to give up, by what the layers that read them lose.

Without input ``c`` (its columns ``S`` of the reading layer's weights ``W``), and with the other weights making up for
it, the reading layer's squared error grows by ``tr(W_S [(H^-1)_SS]^-1 W_S')``; the channel that costs least goes, ``W``
and ``H^-1`` are updated, and so on (Optimal Brain Surgeon by blocks, as in Frantar & Alistarh, arXiv 2208.11580).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import fx, nn

from compressors.calibration.observe import Calibration
from compressors.calibration.second_order import input_moments
from compressors.calibration.stream import Stream
from compressors.errors import ConfigError
from compressors.methods.prune import keep_mask
from compressors.parallel import Lanes
from compressors.plan import LayerPlan
from compressors.shrink import removable


def kept_channels(
    graph: fx.GraphModule,
    plans: Mapping[str, LayerPlan],
    calibration: Calibration,
    network: nn.Module,
    lanes: Lanes,
) -> dict[str, np.ndarray]:
    """Booleans ``[outputs]`` of every layer that is to lose channels.

    Args:
        graph: the float network, traced.
        plans: layer -> plan.
        calibration: of the float network.
        network: the float network.

    Raises:
        ConfigError: channels that something other than layers reads (a residual add, say).
    """
    wanted = {n: p for n, p in plans.items() if p.pattern == "channel" and p.sparsity > 0}
    if not wanted:
        return {}
    readers = removable(network, calibration.images[:1], calibration.float_layers)
    for name in wanted:
        if name not in readers:
            raise ConfigError(
                f"plan.layers.{name}.pattern",
                "channel",
                f"a pattern that leaves all its outputs, or a layer among {', '.join(sorted(readers)) or 'none'}",
                "what else reads these channels needs all of them",
            )
    second = {n for n, p in wanted.items() if p.rounding == "second_order"}
    modules = dict(network.named_modules())
    stream = Stream(graph, calibration.images, lanes)
    moments = _reading_moments(stream, modules, {r for n in second for r in readers[n]}, lanes)
    kept: dict[str, np.ndarray] = {}
    for name, plan in wanted.items():
        weight = modules[name].weight.detach().numpy()
        if name in second:
            parts = [(modules[r].weight.detach().double().flatten(1), moments[r]) for r in readers[name]]
            kept[name] = _cheapest(parts, len(weight), plan.sparsity)
        else:
            mask = keep_mask(np.abs(weight), plan.sparsity, "channel")
            kept[name] = mask.reshape(len(weight), -1).any(1)
    return kept


def _reading_moments(
    stream: Stream, modules: Mapping[str, nn.Module], layers: set[str], lanes: Lanes
) -> dict[str, torch.Tensor]:
    """Centred, damped second moments of what each of ``layers`` reads, ``float64 [K, K]``."""
    found: dict[str, torch.Tensor] = {}
    for node in stream.nodes:
        if node.op == "call_module" and str(node.target) in layers:
            source = node.all_input_nodes[0].name
            stream.advance(source)
            read = stream[source]
            moments = input_moments(modules[str(node.target)], read, read, centred=True, lanes=lanes)
            found[str(node.target)] = moments.second[0]
    return found


def _cheapest(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]], channels: int, sparsity: float
) -> np.ndarray:
    """Channels that stay, given the weights and moments of all layers that read them."""
    states = []
    for weight, second in parts:
        energy = ((weight @ second) * weight).sum().clamp_min(1e-30)
        states.append((weight.clone(), torch.cholesky_inverse(torch.linalg.cholesky(second)), energy))
    kept = np.ones(channels, bool)
    for _ in range(min(round(sparsity * channels), channels - 1)):
        costs = torch.zeros(channels, dtype=torch.float64)
        for weight, inverse, energy in states:
            run = weight.shape[1] // channels
            blocks = inverse.reshape(channels, run, channels, run).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
            split = weight.reshape(len(weight), channels, run).permute(1, 0, 2)
            eye = 1e-12 * torch.eye(run, dtype=torch.float64)
            solved = torch.linalg.solve(blocks + eye, split.transpose(1, 2))
            costs += (split.transpose(1, 2) * solved).sum((1, 2)) / energy
        costs[torch.from_numpy(~kept)] = torch.inf
        gone = int(costs.argmin())
        kept[gone] = False
        for i, (weight, inverse, energy) in enumerate(states):
            run = weight.shape[1] // channels
            part = slice(gone * run, (gone + 1) * run)
            update = torch.linalg.solve(inverse[part, part], inverse[part])
            weight = weight - weight[:, part] @ update
            inverse = inverse - inverse[:, part] @ update
            weight[:, part] = 0.0
            inverse[part] = 0.0
            inverse[:, part] = 0.0
            inverse[range(part.start, part.stop), range(part.start, part.stop)] = 1.0
            states[i] = (weight, inverse, energy)
    return kept
