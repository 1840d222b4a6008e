"""What an accelerator has to do: loop bounds, operand formats and activity of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from energy.activity import InputActivity, ReuseActivity, WeightActivity

FLOAT_BITS = 32


@dataclass(frozen=True, eq=False)
class LayerWork:
    """One convolution or linear layer, for one image.

    Attributes:
        name: path of the layer in its network.
        outputs: output channels, ``N``.
        inputs: input channels in all.
        groups: channel groups; every output reads ``inputs / groups`` channels.
        kernel, stride, dilation: ``(height, width)``; ``(1, 1)`` for a linear layer.
        output_size: ``(height, width)`` of the output; ``(1, 1)`` for a linear layer.
        weights: encoding -> activity of the weights; empty for float weights.
        input: activity of the input; None for a float input.
        output_bits: bits at which the next layer reads this output.
        added, kept: the output is added to a residual stream; the stream is needed again later.
        reuse: what weights share; None where it was not counted, or the weights are float.
    """

    name: str
    outputs: int
    inputs: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    output_size: tuple[int, int]
    weights: Mapping[str, WeightActivity]
    input: InputActivity | None
    output_bits: int
    added: bool = False
    kept: bool = False
    reuse: ReuseActivity | None = None

    @property
    def reduction(self) -> int:
        """Products per output, ``K``."""
        return self.inputs // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def pixels(self) -> int:
        return self.output_size[0] * self.output_size[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the uncompressed layer."""
        return self.outputs * self.reduction * self.pixels

    def bit_products(self, encoding: str) -> int:
        """One-bit products without skipping: planes of the weights times planes of the input times ``macs``."""
        if self.is_float:
            raise ValueError(f"layer {self.name} is in floating point")
        return len(self.weights[encoding].nonzero[1]) * len(self.input.nonzero[1]) * self.macs

    @property
    def is_float(self) -> bool:
        """Either operand is floating point, so the layer runs on floating-point units."""
        return not self.weights or self.input is None

    @property
    def input_bits(self) -> int:
        return FLOAT_BITS if self.input is None else self.input.bits

    def to_dict(self) -> dict[str, Any]:
        nested = ("weights", "input", "reuse")
        plain = {n: getattr(self, n) for n in self.__dataclass_fields__ if n not in nested}
        plain["weights"] = {encoding: a.to_dict() for encoding, a in self.weights.items()}
        plain["input"] = None if self.input is None else self.input.to_dict()
        plain["reuse"] = None if self.reuse is None else self.reuse.to_dict()
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerWork:
        fields = dict(data)
        for name in ("kernel", "stride", "dilation", "output_size"):
            fields[name] = tuple(fields[name])
        fields["weights"] = {e: WeightActivity.from_dict(a) for e, a in fields["weights"].items()}
        fields["input"] = None if fields["input"] is None else InputActivity.from_dict(fields["input"])
        fields["reuse"] = None if fields["reuse"] is None else ReuseActivity.from_dict(fields["reuse"])
        return cls(**fields)


@dataclass(frozen=True, eq=False)
class Workload:
    """A network's layers in the order they run, and the bits of one input image.

    ``unpriced`` names parts of the network that no accelerator model covers (left in floating point by the user).
    """

    layers: tuple[LayerWork, ...]
    image_bits: int
    unpriced: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def shared_operations(self) -> tuple[int, int]:
        """Additions of an inference by adder graphs, and multiplications with each distinct weight taken once.

        These are two ways to compute the same sums. A layer whose sharing was not counted, as one in floating point,
        counts all its products and sums.
        """
        additions = multiplications = 0
        for layer in self.layers:
            reuse = layer.reuse
            additions += layer.macs if reuse is None else layer.pixels * (reuse.adders + reuse.combining)
            multiplications += layer.macs if reuse is None else layer.pixels * reuse.multiplications
        return additions, multiplications

    def to_dict(self) -> dict[str, Any]:
        layers = [layer.to_dict() for layer in self.layers]
        return {"layers": layers, "image_bits": self.image_bits, "unpriced": list(self.unpriced)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Workload:
        layers = tuple(LayerWork.from_dict(layer) for layer in data["layers"])
        return cls(layers, data["image_bits"], tuple(data["unpriced"]))
