"""A generated circuit: its Verilog, its ports, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Port:
    """A port of ``width`` bits; numbers of several lanes lie side by side in it, the first one lowest."""

    name: str
    width: int
    output: bool = False

    @property
    def declaration(self) -> str:
        return f"{'output' if self.output else 'input'} [{self.width - 1}:0] {self.name}"


@dataclass(frozen=True)
class Design:
    """A circuit of one clock.

    Attributes:
        name: of the top module.
        text: Verilog-2001 of it and all modules below it.
        ports: of the top module beside the clock ``clk``, which all have.
        latency: cycles from inputs to outputs; 0 where no register lies between.
        parameters: what the generator was asked for, by name.
    """

    name: str
    text: str
    ports: tuple[Port, ...]
    latency: int
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Port, ...]:
        return tuple(port for port in self.ports if not port.output)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return tuple(port for port in self.ports if port.output)

    def describe(self) -> dict[str, object]:
        """Ports, latency and parameters as plain data."""
        return {
            "module": self.name,
            "inputs": {port.name: port.width for port in self.inputs},
            "outputs": {port.name: port.width for port in self.outputs},
            "latency": self.latency,
            "parameters": dict(self.parameters),
        }


def packed(values: Iterable[int], width: int) -> int:
    """Numbers side by side as one, ``width`` bits each in two's complement, the first one lowest."""
    word = 0
    for place, value in enumerate(values):
        word |= (int(value) & ((1 << width) - 1)) << (place * width)
    return word


def unpacked(word: int, width: int, count: int, signed: bool) -> list[int]:
    """The inverse of :func:`packed`."""
    found = []
    for place in range(count):
        value = word >> (place * width) & ((1 << width) - 1)
        found.append(value - (1 << width) if signed and value >> (width - 1) else value)
    return found


def levels(terms: int) -> int:
    """Additions of pairs one after another until ``terms`` numbers are one."""
    return max(terms - 1, 0).bit_length()
