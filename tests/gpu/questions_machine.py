"""What the open questions are put to: a GPU's sensor and a load that can be switched on and off."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

_SIDE = 4096  # of the matrices that are multiplied


@dataclass(frozen=True)
class Look:
    """One look at the sensor: s, mJ, mW; None where it gave nothing. ``busy`` while the load was on."""

    time_s: float
    counter_mj: int | None
    instant_mw: int | None
    average_mw: int | None
    busy: bool


class Machine(ABC):
    """A GPU that can be loaded and looked at.

    Attributes:
        facts: device, driver and such, for records.
        simulated: whether it is none.
    """

    facts: dict[str, Any]
    simulated: bool

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle

    @abstractmethod
    def now(self) -> float:
        """Seconds."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    def begin_context(self) -> None:
        """Make a CUDA context and the load ready; the device draws more from then on."""

    @abstractmethod
    def step(self, busy: bool, seconds: float, kind: str = "weights") -> tuple[Look, float]:
        """Work or rest for about that long, with a look in the middle; also the calls of the load that were made.

        ``kind`` says what is multiplied: ``weights`` of a trained network, or ``zeros``.
        """

    def look(self, busy: bool = False) -> Look:
        """The sensor now."""
        nvml = self.nvml
        counter = self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption)
        return Look(self.now(), counter, self._field("INSTANT"), self._field("AVERAGE"), busy)

    def samples(self) -> tuple[list[tuple[int, int]], str]:
        """The driver's own history of power, ``(microseconds, mW)``, or why there is none."""
        try:
            _, found = self.nvml.nvmlDeviceGetSamples(self.handle, self.nvml.NVML_TOTAL_POWER_SAMPLES, 0)
        except self.nvml.NVMLError as error:
            return [], str(error)
        return [(int(s.timeStamp), int(s.sampleValue.uiVal)) for s in found], ""

    def _ask(self, function: Callable[..., Any]) -> int | None:
        try:
            return int(function(self.handle))
        except self.nvml.NVMLError:
            return None

    def _field(self, which: str) -> int | None:
        field = getattr(self.nvml, f"NVML_FI_DEV_POWER_{which}")
        try:
            found = self.nvml.nvmlDeviceGetFieldValues(self.handle, [field])[0]
        except self.nvml.NVMLError:
            return None
        return int(found.value.uiVal) if found.nvmlReturn == self.nvml.NVML_SUCCESS else None


class Gpu(Machine):
    """A real one, through NVML and PyTorch."""

    simulated = False

    def __init__(self, nvml: ModuleType, handle: Any, facts: dict[str, Any]) -> None:
        super().__init__(nvml, handle)
        self.facts = facts
        self._operands: dict[str, Any] = {}
        self._call_s = 0.0

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def begin_context(self) -> None:
        import torch

        device = torch.device("cuda", 0)
        trained = torch.from_numpy(trained_matrix(_SIDE)).to(device, torch.float16)
        self._operands = {"weights": trained, "zeros": torch.zeros_like(trained)}
        self._torch, self._out = torch, torch.empty_like(trained)
        for _ in range(20):
            self._multiply("weights")
        torch.cuda.synchronize()
        begin_s = self.now()
        for _ in range(50):
            self._multiply("weights")
        torch.cuda.synchronize()
        self._call_s = (self.now() - begin_s) / 50

    def step(self, busy: bool, seconds: float, kind: str = "weights") -> tuple[Look, float]:
        begin_s = self.now()
        if not busy:
            self.sleep(seconds / 2)
            look = self.look()
            self.sleep(max(0.0, begin_s + seconds - self.now()))
            return look, 0.0
        calls = max(1, round(seconds / self._call_s))
        for _ in range(calls):
            self._multiply(kind)
        look = self.look(True)  # the GPU works meanwhile
        self._torch.cuda.synchronize()
        return look, float(calls)

    def _multiply(self, kind: str) -> None:
        self._torch.mm(self._operands[kind], self._operands[kind], out=self._out)


def trained_matrix(side: int) -> np.ndarray:
    """``float32 [side, side]``, weights of the network that comes with the project, over and over."""
    from importlib.resources import files

    from safetensors.numpy import load

    data = load((files("dse.models") / "weights" / "resnet20_digits.safetensors").read_bytes())
    weights = np.concatenate([v.reshape(-1) for n, v in sorted(data.items()) if v.ndim >= 2])
    return np.resize(weights.astype(np.float32), (side, side))


@contextmanager
def open_gpu(index: int) -> Iterator[Gpu]:
    """A GPU without a CUDA context yet.

    Raises:
        MeterError: no driver, no GPU, or one that NVML cannot reach.
    """
    from energy.meters.nvml import describe_device, nvml_session
    from energy.meters.nvml_devices import find_device

    with nvml_session() as nvml:
        handle = find_device(nvml, index)
        yield Gpu(nvml, handle, describe_device(nvml, handle))
