"""Cycles that SCALE-Sim counts for layers of ResNet-18 on systolic arrays, beside ours.

SCALE-Sim (Samajdar et al., ISPASS 2020; version 3.0.0 of the package ``scalesim``) walks the array's demands cycle by
cycle; the figures are the column ``Total Cycles`` of its COMPUTE_REPORT without stalls. The report numbers cycles from
zero and gives the last one's number, so ours are one more. Convolutions are padded as in the network.
"""

from __future__ import annotations

from energy.accelerators.systolic_counts import Folds, Product
from energy.published import Check, register_target

SOURCE = "scalesim 3.0.0, COMPUTE_REPORT, Total Cycles"

LAYERS = {
    "conv2_1": Product(pixels=56 * 56, reduction=64 * 9, filters=64),
    "conv3_2": Product(pixels=28 * 28, reduction=128 * 9, filters=128),
    "conv5_2": Product(pixels=7 * 7, reduction=512 * 9, filters=512),
    "fc": Product(pixels=1, reduction=512, filters=1000),
}
"""3x3 convolutions of ResNet-18 (64, 128 and 512 channels), and its classifier."""

CYCLES = {
    ("weight_stationary", 32, 32): (116279, 126431, 329471, 48639),
    ("output_stationary", 256, 256): (14117, 6647, 10235),
    ("weight_stationary", 12, 14): (761279, 787199, 1207679),
    ("input_stationary", 32, 32): (278711, 199799, 174527, 17503),
    ("output_stationary", 32, 32): (125047, 121399, 149439, 18367),
    ("weight_stationary", 128, 128): (17589, 10493, 62063, 12255),
    ("output_stationary", 128, 128): (20749, 9841, 19447, 6127),
    ("input_stationary", 128, 128): (55749, 32129, 32183, 5527),
}
"""Dataflow, rows and columns -> cycles of ``LAYERS`` in order, as far as they were run."""


@register_target("scalesim", "SCALE-Sim: cycles of ResNet-18 layers on systolic arrays", blind=0.02)
def scalesim() -> list[Check]:
    """Nothing in the model is fitted to these."""
    checks = []
    for (dataflow, rows, columns), published in CYCLES.items():
        for (name, product), cycles in zip(LAYERS.items(), published, strict=False):
            ours = Folds(dataflow, product, rows, columns).cycles()
            label = f"{name}, {dataflow.replace('_', ' ')}, {rows}x{columns}"
            checks.append(Check(label, "cycles", cycles, ours, "blind", SOURCE))
    return checks
