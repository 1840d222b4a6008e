"""Meters: the contract of all of them, and NVML through the real pynvml on a stand-in for its C library."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pynvml
import pytest

from compressors.errors import UnknownName
from energy.meters import Absent, Meter, MeterError, NullMeter, NvmlMeter, open_meter
from energy.meters import doctor as doctor_module
from energy.meters.doctor import cpu_findings, gpu_findings, inspect_machine, rapl_findings
from energy.meters.machine import cpu_quota, memory_bytes
from energy.meters.nvml import list_gpus
from energy.meters.nvml_devices import device_index
from energy.meters.nvml_errors import explain

OK, NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST = 0, 3, 4, 9, 15


class StandInLibrary:
    """What pynvml calls in place of libnvidia-ml: C functions as Python callables. Not a GPU.

    ``failing`` maps the name of a function to the error code that it returns.
    """

    def __init__(self) -> None:
        self.uuids = [b"GPU-aaaa-0", b"GPU-bbbb-1"]
        self.energy_mj, self.instant_mw, self.usage_mw, self.mig = 5_000_250, 401_500, 398_000, 0
        self.failing: dict[str, int] = {}
        self.instant_return = OK
        self.sessions = 0

    def __getattribute__(self, name: str):
        value = object.__getattribute__(self, name)
        if not name.startswith("nvml"):
            return value
        return lambda *arguments: self.failing.get(name) or value(*arguments) or OK

    def nvmlInitWithFlags(self, flags) -> None:
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount_v2(self, count) -> None:
        count._obj.value = len(self.uuids)

    def nvmlDeviceGetHandleByIndex_v2(self, index, device) -> int:
        if index.value >= len(self.uuids):
            return 2
        ctypes.cast(device, ctypes.POINTER(ctypes.c_void_p))[0] = index.value + 1
        return OK

    def nvmlDeviceGetUUID(self, handle, text, length) -> None:
        text.value = self.uuids[ctypes.cast(handle, ctypes.c_void_p).value - 1]

    def nvmlDeviceGetName(self, handle, text, length) -> None:
        text.value = b"Stand-in (not a GPU)"

    def nvmlSystemGetDriverVersion(self, text, length) -> None:
        text.value = b"STAND-IN 1.0"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle, limit) -> None:
        limit._obj.value = 700_000

    def nvmlDeviceGetMigMode(self, handle, current, pending) -> None:
        current._obj.value = pending._obj.value = self.mig

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, energy) -> None:
        energy._obj.value = self.energy_mj

    def nvmlDeviceGetPowerUsage(self, handle, power) -> None:
        power._obj.value = self.usage_mw

    def nvmlDeviceGetFieldValues(self, handle, count, values) -> None:
        field = values._obj[0]
        assert field.fieldId == 186
        field.nvmlReturn, field.value.uiVal = self.instant_return, self.instant_mw


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInLibrary]:
    stand_in = StandInLibrary()
    monkeypatch.setattr(pynvml, "nvmlLib", stand_in)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield stand_in


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str):
        raise OSError(path)

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(pynvml, "CDLL", missing)


class MeterContract:
    """What holds for every meter; a subclass gives the fixture ``meter``."""

    def test_is_either_absent_with_a_reason_or_gives_positive_readings(self, meter: Meter):
        absent = meter.available()
        if absent is not None:
            assert absent.reason
            assert meter.method is None
            assert meter.describe()["absent"] == absent.reason
            with pytest.raises(MeterError) as raised:
                meter.read()
            assert raised.value.absent == absent
            return
        first, second = meter.read(), meter.read()
        value = "energy_j" if meter.method == "counter" else "power_w"
        assert getattr(first, value) > 0
        assert getattr(first, {"energy_j": "power_w", "power_w": "energy_j"}[value]) is None
        assert second.time_s >= first.time_s

    def test_says_what_it_is(self, meter: Meter):
        assert meter.origin == "measured"
        assert meter.describe()["meter"] == meter.name

    def test_opens_again_after_close(self, meter: Meter):
        before = meter.describe()
        meter.close()
        meter.close()
        assert meter.describe() == before


class TestNullMeter(MeterContract):
    @pytest.fixture
    def meter(self) -> Meter:
        return NullMeter("switched off")


class TestNvmlCounter(MeterContract):
    @pytest.fixture
    def meter(self, library: StandInLibrary) -> Iterator[Meter]:
        with NvmlMeter() as meter:
            yield meter
        assert library.sessions == 0


class TestNvmlPower(MeterContract):
    @pytest.fixture
    def meter(self, library: StandInLibrary) -> Iterator[Meter]:
        library.failing["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
        with NvmlMeter() as meter:
            yield meter


class TestNvmlWithoutDriver(MeterContract):
    @pytest.fixture
    def meter(self, no_library: None) -> Meter:
        return NvmlMeter()

    def test_names_the_missing_driver(self, meter: Meter):
        absent = meter.available()
        assert absent is not None and "no NVIDIA driver on this machine" in absent.reason
        assert absent.remedy


def test_millijoules_become_joules_and_milliwatts_watts(library: StandInLibrary):
    assert NvmlMeter().read().energy_j == pytest.approx(5000.25)
    assert NvmlMeter(method="power").read().power_w == pytest.approx(401.5)
    assert NvmlMeter().describe()["power_limit_w"] == pytest.approx(700.0)


def test_a_reading_is_stamped_in_the_middle_of_its_call(library: StandInLibrary):
    times = iter([10.0, 10.5])
    assert NvmlMeter(clock=lambda: next(times)).read().time_s == 10.25


@pytest.mark.parametrize("why", ["not supported", "zero"])
def test_without_a_counter_instant_power_is_taken_and_the_reason_kept(library: StandInLibrary, why: str):
    if why == "zero":
        library.energy_mj = 0
    else:
        library.failing["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
    facts = NvmlMeter().describe()
    assert (facts["method"], facts["source"]) == ("power", "instant power")
    assert list(facts["passed_over"]) == ["total energy counter"]
    assert ("zero" if why == "zero" else "does not support") in facts["passed_over"]["total energy counter"]


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, 13])
def test_a_field_that_failed_inside_a_call_that_did_not_is_passed_over(library: StandInLibrary, code: int):
    library.instant_return = code
    meter = NvmlMeter(method="power")
    assert meter.read().power_w == pytest.approx(398.0)
    assert f"NVML error {code}" in meter.describe()["passed_over"]["instant power"]


def test_a_library_that_lacks_a_function_counts_as_too_old(library: StandInLibrary, monkeypatch):
    monkeypatch.delattr(StandInLibrary, "nvmlDeviceGetTotalEnergyConsumption")
    assert "too old" in NvmlMeter().describe()["passed_over"]["total energy counter"]


def test_no_source_at_all_is_absent_with_every_reason(library: StandInLibrary):
    library.failing = {
        "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
        "nvmlDeviceGetFieldValues": NO_PERMISSION,
        "nvmlDeviceGetPowerUsage": NOT_SUPPORTED,
    }
    absent = NvmlMeter().available()
    assert absent is not None
    assert "does not support" in absent.reason and "no permission" in absent.reason


def test_a_hiccup_gives_a_reading_without_value_and_a_lost_gpu_an_error(library: StandInLibrary):
    meter = NvmlMeter()
    assert meter.read().energy_j is not None
    library.failing["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
    assert meter.read().energy_j is None
    library.failing["nvmlDeviceGetTotalEnergyConsumption"] = GPU_IS_LOST
    with pytest.raises(MeterError, match="GPU was lost.*restart the machine"):
        meter.read()


def test_zero_watts_of_a_running_gpu_is_no_value(library: StandInLibrary):
    meter = NvmlMeter(method="power")
    assert meter.read().power_w is not None
    library.instant_mw = 0
    assert meter.read().power_w is None


def test_mig_is_refused(library: StandInLibrary):
    library.mig = 1
    absent = NvmlMeter().available()
    assert absent is not None and "MIG" in absent.reason
    assert library.sessions == 0


@pytest.mark.parametrize(("device", "uuid"), [(0, "GPU-aaaa-0"), (1, "GPU-bbbb-1"), ("GPU-bb", "GPU-bbbb-1")])
def test_index_and_uuid_find_their_gpu(library: StandInLibrary, device: int | str, uuid: str):
    assert NvmlMeter(device).describe()["uuid"] == uuid


def test_the_first_gpu_that_cuda_shows_is_measured(library: StandInLibrary, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert NvmlMeter(0).describe()["uuid"] == "GPU-bbbb-1"


UUIDS = ["GPU-11aa", "GPU-11bb", "GPU-22cc"]


@pytest.mark.parametrize(
    ("device", "visible", "index"),
    [
        (2, None, 2),
        (0, "2,0", 2),
        (1, " 2 , 0 ", 0),
        (0, "GPU-22", 2),
        (1, "GPU-11bb,1", 1),
        (0, "1,-1,0", 1),
        ("GPU-11b", "2", 1),
    ],
)
def test_device_index(device: int | str, visible: str | None, index: int):
    assert device_index(device, visible, UUIDS) == index


@pytest.mark.parametrize(
    ("device", "visible", "reason"),
    [
        (3, None, "no GPU 3: this process sees 3"),
        (-1, None, "no GPU -1"),
        (1, "1,-1,0", "sees 1"),
        (0, "", "hides every GPU"),
        (0, "-1", "hides every GPU"),
        (0, "7", "hides every GPU"),
        (0, "GPU-11", "hides every GPU"),
        (0, "MIG-5f", "MIG instance"),
        ("MIG-5f", None, "MIG instance"),
        ("GPU-11", None, "more than one GPU"),
        ("GPU-99", None, "no GPU has"),
        ("", None, "no GPU has"),
    ],
)
def test_device_index_says_why_not(device: int | str, visible: str | None, reason: str):
    with pytest.raises(MeterError, match=reason):
        device_index(device, visible, UUIDS)


@pytest.mark.parametrize("code", [*range(1, 31), 999, 12345])
def test_every_nvml_code_has_a_reason_and_a_remedy(code: int):
    absent = explain(code, "nvmlSomething")
    assert absent.reason.endswith(f"[nvmlSomething: NVML error {code}]") and absent.remedy


def test_open_meter_auto_takes_the_gpu(library: StandInLibrary):
    with open_meter("auto", 1) as meter:
        assert (meter.name, meter.describe()["uuid"]) == ("nvml", "GPU-bbbb-1")


@pytest.mark.parametrize("code", [DRIVER_NOT_LOADED, 18, 999])
def test_open_meter_auto_without_a_gpu_says_why(library: StandInLibrary, code: int):
    library.failing["nvmlInitWithFlags"] = code
    meter = open_meter("auto")
    assert isinstance(meter, NullMeter)
    assert meter.available() == explain(code, "nvmlInit")


def test_open_meter_none_is_off_even_with_a_gpu(library: StandInLibrary):
    absent = open_meter("none").available()
    assert absent is not None and absent.reason == "measuring is switched off"


def test_open_meter_names_the_valid_ones():
    with pytest.raises(UnknownName, match="meter.name: unknown meter 'nmvl'.*'nvml'.*auto, none, nvml"):
        open_meter("nmvl")


def test_list_gpus(library: StandInLibrary):
    gpus = list_gpus()
    assert not isinstance(gpus, Absent)
    assert [gpu["uuid"] for gpu in gpus] == ["GPU-aaaa-0", "GPU-bbbb-1"]
    assert gpus[0]["memory_bytes"] is None  # the stand-in does not tell
    library.uuids = []
    assert isinstance(list_gpus(), Absent)
    assert library.sessions == 0


def test_doctor_grades_each_gpu(library: StandInLibrary):
    assert [finding.status for finding in gpu_findings()] == ["ok", "ok"]
    library.failing["nvmlDeviceGetTotalEnergyConsumption"] = NOT_SUPPORTED
    limited = gpu_findings()[1]
    assert (
        limited.status == "limited" and "GPU-bbbb-1" in limited.subject and "instant power" in limited.detail
    )
    library.mig = 1
    assert gpu_findings()[0].status == "missing"


def test_doctor_explains_rapl(tmp_path):
    missing = rapl_findings(tmp_path)[0]
    assert missing.status == "missing" and missing.remedy
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "123"), ("max_energy_range_uj", "1000")):
        (zone / name).write_text(f"{text}\n")
    assert rapl_findings(tmp_path)[0].detail == "readable: package-0; use it with meter=rapl"


@pytest.mark.parametrize(
    ("text", "status", "detail"),
    [
        ("model name : X\nflags : fpu popcnt avx2 avx512_vpopcntdq\n", "ok", "avx512_vpopcntdq"),
        ("Features : fp asimd sve\n", "ok", "sve"),
        ("flags : fpu\n", "limited", "no popcount"),
        ("", "limited", "unknown"),
    ],
)
def test_doctor_reads_cpu_features(tmp_path, text: str, status: str, detail: str):
    (tmp_path / "cpuinfo").write_text(text)
    finding = cpu_findings(tmp_path / "cpuinfo")[1]
    assert finding.status == status and detail in finding.detail


def test_doctor_covers_everything_and_never_raises(no_library: None, monkeypatch):
    def broken():
        raise RuntimeError("broken driver")

    monkeypatch.setattr(doctor_module, "memory_findings", broken)
    findings = inspect_machine()
    subjects = " ".join(finding.subject for finding in findings)
    for subject in ("GPU energy", "RAPL", "CPU", "popcount", "numba threading", "numba cache", "memory"):
        assert subject in subjects
    assert all(finding.detail for finding in findings)
    assert "broken driver" in findings[-1].detail


def test_container_limits_are_seen(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\n")
    assert cpu_quota(tmp_path) == 1.5
    assert memory_bytes(tmp_path / "meminfo", tmp_path) == 1048576
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert cpu_quota(tmp_path) is None
    assert memory_bytes(tmp_path / "meminfo", tmp_path) == 2048 * 1024
