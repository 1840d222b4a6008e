"""Reading an NVIDIA GPU through NVML. How to measure well with it is ``protocol``'s concern.

Every NVML figure is in thousandths (mJ, mW); they become J and W in ``_from_milli`` and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any, ClassVar, Literal, NamedTuple

from energy.meters.base import Absent, Meter, MeterError, Method, Reading
from energy.meters.nvml_devices import find_device
from energy.meters.nvml_errors import TRANSIENT_CODES, explain


class NvmlFailure(MeterError):
    """An NVML call that returned an error code."""

    def __init__(self, code: int, call: str) -> None:
        self.code = code
        super().__init__(explain(code, call))


class _Source(NamedTuple):
    method: Method
    read: Callable[[], float]
    label: str


def _from_milli(value: int) -> float:
    """mJ -> J, mW -> W."""
    return value * 1e-3


@contextmanager
def nvml_session() -> Iterator[ModuleType]:
    """NVML initialised, and shut down again at the end (NVML counts nested sessions).

    Yields:
        The ``pynvml`` module of nvidia-ml-py.

    Raises:
        MeterError: the binding or the driver is missing, or NVML cannot start.
    """
    try:
        import pynvml
    except ImportError:
        raise MeterError(Absent("the NVML binding is not installed", "pip install nvidia-ml-py")) from None
    if not hasattr(pynvml, "_nvmlGetFunctionPointer"):
        raise MeterError(
            Absent(
                "another package called pynvml hides NVIDIA's binding",
                "pip uninstall pynvml && pip install --force-reinstall nvidia-ml-py",
            )
        )
    _call("nvmlInit", pynvml.nvmlInit)
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):  # a lost GPU must not hide the error that told of it
            pynvml.nvmlShutdown()


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` with NVML's errors turned into MeterError."""
    from pynvml import NVMLError

    try:
        return function(*arguments)
    except NVMLError as error:
        raise NvmlFailure(error.value, name) from None


class NvmlMeter(Meter):
    """One GPU: its cumulative energy counter where it has one (found by asking it), else its power.

    Args:
        device: UUID, or index among the GPUs that ``CUDA_VISIBLE_DEVICES`` shows, its numbers taken in PCI
            order. CUDA puts the fastest GPU first unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID``: where GPUs
            differ, set that or pass the UUID.
        method: ``auto``, or insist on ``counter`` or ``power`` (for comparing the two).
        clock: monotonic seconds; the one the measurement protocol uses.
    """

    name: ClassVar[str] = "nvml"

    def __init__(
        self,
        device: int | str = 0,
        method: Literal["auto", "counter", "power"] = "auto",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._wanted, self._clock = device, method, clock
        self._stack = ExitStack()
        self._source: _Source | None = None
        self._absent: Absent | None = None
        self._facts: dict[str, Any] = {}

    def available(self) -> Absent | None:
        if self._source is None and self._absent is None:
            try:
                self._open()
            except MeterError as error:
                self.close()
                self._absent = error.absent
        return self._absent

    @property
    def method(self) -> Method | None:
        return self._source.method if self.available() is None and self._source else None

    def read(self) -> Reading:
        absent = self.available()
        if absent is not None or self._source is None:
            raise MeterError(absent or Absent("the meter is closed"))
        before_s = self._clock()
        try:
            # A running GPU has no zero: an occasional one is a look that failed.
            value = self._source.read() or None
        except NvmlFailure as failure:
            if failure.code not in TRANSIENT_CODES:
                raise
            value = None
        # The driver answers some time within the call; the middle has the smallest expected error.
        time_s = 0.5 * (before_s + self._clock())
        if self._source.method == "counter":
            return Reading(time_s, energy_j=value)
        return Reading(time_s, power_w=value)

    def describe(self) -> dict[str, Any]:
        absent = self.available()
        if absent is not None:
            return {"meter": self.name, "absent": absent.reason, "remedy": absent.remedy}
        return dict(self._facts)

    def close(self) -> None:
        self._source, self._absent, self._facts = None, None, {}
        self._stack.close()

    def _open(self) -> None:
        nvml = self._stack.enter_context(nvml_session())
        handle = find_device(nvml, self._device)
        self._refuse_mig(nvml, handle)
        self._source, passed_over = self._probe(nvml, handle)
        self._facts = {
            "meter": self.name,
            **describe_device(nvml, handle),
            "method": self._source.method,
            "source": self._source.label,
            "passed_over": passed_over,
        }

    @staticmethod
    def _refuse_mig(nvml: ModuleType, handle: Any) -> None:
        mode = _value_or_none(nvml, nvml.nvmlDeviceGetMigMode, handle)
        if mode is not None and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            raise MeterError(
                Absent(
                    "the GPU is split by MIG, and NVML has no energy of a single instance",
                    "measure on a GPU with MIG switched off",
                )
            )

    def _probe(self, nvml: ModuleType, handle: Any) -> tuple[_Source, dict[str, str]]:
        """The first source that answers with a positive number, and why those before it were passed over."""
        passed_over: dict[str, str] = {}
        for source in _sources(nvml, handle):
            if self._wanted not in ("auto", source.method):
                continue
            try:
                value = source.read()
            except MeterError as error:
                passed_over[source.label] = error.absent.reason
                continue
            if value > 0:
                return source, passed_over
            passed_over[source.label] = "it reads zero"
        reasons = "; ".join(f"{label}: {reason}" for label, reason in passed_over.items())
        raise MeterError(
            Absent(f"the GPU answers none of the energy queries ({reasons})", "use a GPU with a power sensor")
        )


def _sources(nvml: ModuleType, handle: Any) -> tuple[_Source, ...]:
    """What can be asked, best first. ``GetPowerUsage`` is a 1 s mean on Ampere (but GA100) and newer."""

    def ask(name: str) -> Callable[[], float]:
        return lambda: _from_milli(_call(name, getattr(nvml, name), handle))

    def instant_power() -> float:
        fields = [nvml.NVML_FI_DEV_POWER_INSTANT]
        field = _call("nvmlDeviceGetFieldValues", nvml.nvmlDeviceGetFieldValues, handle, fields)[0]
        # The call succeeds as a whole even where this field did not.
        if field.nvmlReturn != nvml.NVML_SUCCESS:
            raise NvmlFailure(field.nvmlReturn, "NVML_FI_DEV_POWER_INSTANT")
        return _from_milli(field.value.uiVal)

    return (
        _Source("counter", ask("nvmlDeviceGetTotalEnergyConsumption"), "total energy counter"),
        _Source("power", instant_power, "instant power"),
        _Source("power", ask("nvmlDeviceGetPowerUsage"), "power usage (1 s mean on newer GPUs)"),
    )


def _value_or_none(nvml: ModuleType, function: Callable[..., Any], *arguments: Any) -> Any:
    """The answer to a question that may stay open: None where NVML has none."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def describe_device(nvml: ModuleType, handle: Any) -> dict[str, Any]:
    """Name, UUID, driver, memory (bytes) and power limit (W) of a GPU; None where NVML does not say."""
    memory = _value_or_none(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    limit_mw = _value_or_none(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return {
        "device": _value_or_none(nvml, nvml.nvmlDeviceGetName, handle),
        "uuid": _value_or_none(nvml, nvml.nvmlDeviceGetUUID, handle),
        "driver": _value_or_none(nvml, nvml.nvmlSystemGetDriverVersion),
        "memory_bytes": None if memory is None else int(memory.total),
        "power_limit_w": None if limit_mw is None else _from_milli(limit_mw),
    }


def list_gpus() -> list[dict[str, Any]] | Absent:
    """Every NVIDIA GPU of the machine as ``describe_device`` tells it, or why there is none."""
    try:
        with nvml_session() as nvml:
            count = _call("nvmlDeviceGetCount", nvml.nvmlDeviceGetCount)
            handles = [
                _call("nvmlDeviceGetHandleByIndex", nvml.nvmlDeviceGetHandleByIndex, i) for i in range(count)
            ]
            return [describe_device(nvml, h) for h in handles] or explain(28, "nvmlDeviceGetCount")
    except MeterError as error:
        return error.absent
