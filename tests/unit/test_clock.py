"""The clocks, NVML and the runner, as far as they need no GPU."""

import time

import numpy as np
import pynvml
import pytest
import torch

from maskbench.timing import runner
from maskbench.timing.clock import HostClock, make_clock
from maskbench.timing.device_clock import DeviceClock, DryRun
from maskbench.timing.nvml import FALLBACK_MAX_SM_CLOCK_MHZ, GPUClockState, NVMLDevice
from tests.unit.fake_benchmark import BrokenRounds, FixedTimes, TimedRounds

CPU = torch.device("cpu")


def nvml_device():
    """An `NVMLDevice` whose handle is a string: NVML itself crashes without a GPU."""
    nvml = NVMLDevice(torch.device("cuda"))
    nvml._handle = "handle"
    return nvml


class ConstantClock(DeviceClock):
    """A `DeviceClock` without a device: a call takes 1 ms there, and `host_s` to enqueue."""

    def __init__(self, host_s=1e-4):
        self.host_s, self.late_rounds, self.blocking_kernel_s = host_s, 0, 1e-3
        self.nvml = nvml_device()

    def round(self, call):
        return 1e-3, self.host_s

    def flush_and_block(self):
        pass

    def reset_counters(self, rounds):
        self.late_rounds = 0

    def sm_clock_hz(self):
        return np.full(20, 1.8e9)

    def size_blocking_kernel(self, call):
        return DryRun(self.host_s + 1e-3, self.host_s, 0)


@pytest.fixture
def nvml_unsupported(monkeypatch):
    """NVML answers no query."""

    def refuse(*arguments):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    for name in (
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlSystemGetDriverVersion",
    ):
        monkeypatch.setattr(pynvml, name, refuse)


def test_time_of_failed_call_is_not_saved(pytestconfig):
    benchmark = BrokenRounds()
    with pytest.raises(RuntimeError, match="fallen off the bus"):
        runner.measure(benchmark, lambda: None, HostClock(), pytestconfig)
    assert benchmark.has_error, "pytest-benchmark leaves such a cell out"


def test_pilot_of_slow_call_is_one_round():
    pilot = runner.run_pilot(HostClock(), lambda: time.sleep(0.02), 0.001)
    assert len(pilot.device_s) == len(pilot.host_s) == 1
    assert pilot.round_wall_s >= 0.02


def test_host_clock_times_the_call_alone():
    seconds, host_s = HostClock().round(lambda: time.sleep(0.02))
    assert 0.02 <= seconds == host_s < 0.2


def test_host_clock_saves_no_facts_of_a_gpu(monkeypatch, pytestconfig):
    monkeypatch.setattr(pytestconfig.option, "benchmark_max_time", "0.06")
    clock = make_clock(CPU)
    assert clock.timer.__name__ == "perf_counter"
    saved = runner.measure(TimedRounds(clock), lambda: time.sleep(1e-3), clock, pytestconfig)
    assert saved["host_us"] >= 1000
    assert not saved["host_bound"], "wall time always includes the host's"
    assert saved["peak_memory_bytes"] is None
    assert (saved["call_clock_mhz"], saved["cycles"], saved["throttle"]) == (None, None, [])
    assert saved["sm_clock_mhz"] == [None, None]


@pytest.mark.parametrize(("share", "rounds"), [(1.0, 30), (1 / 3, 10)], ids=["gpu", "cpu"])
def test_cpu_cell_gets_a_third_of_the_time(share, rounds, monkeypatch, pytestconfig):
    class NoisyClock(HostClock):
        time_budget_share = share

        def reset_counters(self, rounds):
            self.rounds = rounds

    clock, pilot = NoisyClock(), runner.Pilot([1e-2, 2e-2] * 5, [1e-2] * 10, 1e-2)
    monkeypatch.setattr(runner, "run_pilot", lambda *arguments: pilot)
    monkeypatch.setattr(pytestconfig.option, "benchmark_max_time", "0.3001")
    runner.measure(FixedTimes(), lambda: None, clock, pytestconfig)
    assert clock.rounds == rounds
    assert (DeviceClock.time_budget_share, HostClock.time_budget_share) == (1.0, 1 / 3)


@pytest.mark.parametrize(
    ("late", "too_short", "blocking_kernel_s"),
    [(0, False, 1e-3), (2, False, 4e-3), (3, True, 8e-3), (7, True, 20e-3), (10, True, 0.0)],
    ids=["none late", "too few to matter", "longer", "longest", "call synchronizes"],
)
def test_blocking_kernel_after_a_pilot(late, too_short, blocking_kernel_s):
    clock = ConstantClock()
    for _ in range(late):
        clock.record_late_round()
    assert clock.blocker_too_short(10) is too_short
    assert (clock.late_rounds, clock.blocking_kernel_s) == (0, blocking_kernel_s)


def test_nvml_gives_clock_and_throttle_reasons(monkeypatch):
    reasons = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", lambda handle: reasons)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", lambda handle, domain: 1755)
    assert ConstantClock().clock_state() == GPUClockState(1755, ["power cap"])


def test_spin_is_counted_by_the_highest_clock(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMaxClockInfo", lambda handle, domain: 1980)
    assert nvml_device().max_sm_clock_hz == 1.98e9


def test_power_limit_is_in_watts(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", lambda handle: 700_000)
    assert nvml_device().power_limit_w() == 700


def test_gpu_without_nvml_can_be_timed(nvml_unsupported):
    nvml = nvml_device()
    assert nvml.max_sm_clock_hz == FALLBACK_MAX_SM_CLOCK_MHZ * 1e6
    assert nvml.clock_state() == GPUClockState(None, [])
    assert (nvml.power_limit_w(), nvml.driver_version()) == (None, None)


@pytest.mark.parametrize(("host_s", "host_bound"), [(2e-3, True), (0.5e-3, False)])
@pytest.mark.usefixtures("nvml_unsupported")
def test_call_with_longer_host_time_is_host_bound(host_s, host_bound, pytestconfig):
    saved = runner.measure(FixedTimes(), lambda: None, ConstantClock(host_s), pytestconfig)
    assert saved["host_bound"] is host_bound
    assert saved["host_us"] == pytest.approx(host_s * 1e6)
    assert saved["call_clock_mhz"] == 1800
    assert saved["cycles"] == pytest.approx(1.8e6)


def test_throttle_reasons_of_a_cell_are_saved(monkeypatch, pytestconfig):
    """The GPU was throttled while the cell was timed, and not before."""
    reasons = iter([0, pynvml.nvmlClocksEventReasonSwThermalSlowdown])
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetCurrentClocksEventReasons", lambda handle: next(reasons)
    )
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", lambda handle, domain: 1980)
    saved = runner.measure(FixedTimes(), lambda: None, ConstantClock(), pytestconfig)
    assert saved["throttle"] == ["software thermal"]
    assert saved["sm_clock_mhz"] == [1980, 1980]


class WarmingClock(ConstantClock):
    """Simulates rounds of 0.3 s. `sm_clocks_ghz` has the SM clock of each window, repeated."""

    device, warm = "cpu", False

    def __init__(self, sm_clocks_ghz):
        super().__init__()
        self.sm_clocks_ghz, self.now, self.windows = sm_clocks_ghz, 0.0, 0

    def perf_counter(self):
        return self.now

    def round(self, call):
        self.now += 0.3

    def sm_clock_hz(self):
        self.windows += 1
        ghz = self.sm_clocks_ghz[(self.windows - 1) % len(self.sm_clocks_ghz)]
        return np.array([ghz * 1e9, np.nan])


@pytest.mark.parametrize(
    ("sm_clocks_ghz", "windows"),
    [([1.83, 1.79, 1.81, 1.8001, 1.8, 1.8, 1.8001], 7), ([1.8], 4), ([1.7, 1.8], 17)],
    ids=["becomes stable", "is stable", "never stable"],
)
def test_warm_up_ends_when_the_clock_is_stable(sm_clocks_ghz, windows, monkeypatch):
    clock = WarmingClock(sm_clocks_ghz)
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    clock.warm_up()
    assert clock.warm
    assert clock.windows == windows, "windows of 1.2 s, for at most 20 s"


@pytest.mark.parametrize(
    ("wall_s", "host_s", "rounds", "pilots"),
    [(0.01, 1e-3, 20, 1), (0.03, 1e-3, 10, 0), (0.1, 1e-3, 6, 0), (0.1, 0.09, 6, 1)],
    ids=["short", "few rounds", "fewest rounds", "synchronizes"],
)
@pytest.mark.usefixtures("nvml_unsupported")
def test_pilot_is_run_if_it_can_change_the_rounds(
    wall_s, host_s, rounds, pilots, monkeypatch, pytestconfig
):
    class LongCallClock(ConstantClock):
        def size_blocking_kernel(self, call):
            return DryRun(wall_s, host_s, 0)

        def reset_counters(self, rounds):
            self.rounds = rounds

    def run_pilot(*arguments):
        calls.append(arguments)
        return runner.Pilot([wall_s] * 10, [host_s], wall_s)

    calls, clock = [], LongCallClock(host_s)
    monkeypatch.setattr(runner, "run_pilot", run_pilot)
    monkeypatch.setattr(pytestconfig.option, "benchmark_max_time", "0.3")
    runner.measure(FixedTimes(), lambda: None, clock, pytestconfig)
    assert (clock.rounds, len(calls)) == (rounds, pilots)


@pytest.mark.usefixtures("nvml_unsupported")
def test_pilot_with_late_rounds_is_repeated(monkeypatch, pytestconfig):
    class LateClock(ConstantClock):
        def round(self, call):
            if self.blocking_kernel_s < 8e-3:  # three rounds of ten
                self.record_late_round()
            calls.append(call)
            return super().round(call)

    calls = []
    monkeypatch.setattr(pytestconfig.option, "benchmark_max_time", "0.3")
    runner.measure(FixedTimes(), lambda: None, LateClock(), pytestconfig)
    assert len(calls) == 2 * runner.PILOT_ROUNDS
