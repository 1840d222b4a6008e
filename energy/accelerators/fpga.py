"""Programmable gate arrays: a network streamed through units of its own, or a bit-serial overlay for all layers.

``streaming``. Every layer has a matrix-vector unit whose LUTs, block RAMs and cycles are FINN's estimates
(``energy.fpga.finn``), folded until all fit the device or reach ``images_per_s`` (``energy.fpga.streaming``).
Nothing is skipped. A layer's latency is what it adds to the end of an image, as layers overlap.

``overlay``. One array of bit-serial elements (``energy.fpga.overlay``). With ``signed`` lanes it is built for the
widest digits that a layer is cut into, and a layer of narrower ones leaves the rest of each lane idle; ``unsigned``
ones take single bits whatever the granularity. LUTs follow the law that was fitted to elements of our own. Activations
go through DRAM, weights where they do not fit.

Both. The clock is that of a published design on the device, stretched for the widest sum. Energy is an estimate:
LUTs whose inputs change, block RAM and DSP slices as the technology's own memories and multipliers, all with wide
bands. There is no area; LUTs, block RAMs and DSP slices are ``resources``.
"""

from __future__ import annotations

from collections.abc import Mapping

from energy.accelerators import register_accelerator
from energy.cost import Cost
from energy.fpga.pricing import ENCODING, NO_AREA, Fabric
from energy.fpga.pricing_overlay import OverlayPricing
from energy.fpga.pricing_streaming import StreamingPricing
from energy.fpga.settings import FpgaConfig
from energy.technology import Technology
from energy.workload import Workload

_STYLES = {"streaming": StreamingPricing, "overlay": OverlayPricing}


@register_accelerator("fpga", FpgaConfig)
class Fpga:
    """See the module's text. All figures are of one image."""

    without_area = NO_AREA

    def __init__(self, config: FpgaConfig, technology: Technology) -> None:
        self.config = config
        whole_bits = config.style == "overlay" and config.lanes == "unsigned"
        self.encodings = (ENCODING, "twos_complement") if whole_bits else (ENCODING,)
        self.fabric = Fabric(config, technology)

    def cost(self, workload: Workload, granularity: Mapping[str, int]) -> Cost:
        """Price ``workload``; only the overlay looks at the granularity.

        Raises:
            ConfigError: a layer of the overlay without a granularity, or with one that is not one of 1, 2, 4, 8.
        """
        return _STYLES[self.config.style](self.fabric, workload, granularity).cost()
