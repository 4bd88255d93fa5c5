"""The clock as far as it needs no device: a toy card (tests/toy_card.py) stands in for one."""

import statistics
import time

import numpy as np
import pytest
import torch

from maskbench.timing import clock as clocks
from maskbench.timing import runner


def test_a_time_that_was_cut_short_is_not_saved(pytestconfig):
    class Benchmark:
        enabled, has_error = True, False

        def pedantic(self, *arguments, **options):
            raise RuntimeError("the card fell off the bus")

    benchmark = Benchmark()
    with pytest.raises(RuntimeError, match="fell off the bus"):
        runner.measure(benchmark, lambda: None, clocks.HostClock(), pytestconfig)
    assert benchmark.has_error, "pytest-benchmark leaves such a cell out"


def test_pilot_of_a_slow_call_is_one_round():
    times, hosts, wall = runner.pilot(clocks.HostClock(), lambda: time.sleep(0.02), 0.001)
    assert len(times) == len(hosts) == 1
    assert wall >= 0.02


def test_host_clock_times_the_call_alone():
    seconds, host = clocks.HostClock().round(lambda: time.sleep(0.02))
    assert 0.02 <= seconds == host < 0.2


def device_clock(blocking_kernel_s=1e-3, late_rounds=0):
    """A DeviceClock without its device, for what needs none."""
    clock = object.__new__(clocks.DeviceClock)
    clock.blocking_kernel_s, clock.late_rounds, clock._nvml = (
        blocking_kernel_s,
        late_rounds,
        "the card",
    )
    return clock


@pytest.mark.parametrize(
    ("late", "adapted", "blocker"),
    [(0, False, 1e-3), (2, False, 4e-3), (3, True, 8e-3), (7, True, 20e-3), (10, True, 0.0)],
    ids=["never", "no quartile sees so few", "longer", "no longer than this", "waits"],
)
def test_blocker_after_a_pilot(late, adapted, blocker):
    clock = device_clock()
    for _ in range(late):
        clock.record_late_round()
    assert clock.blocker_too_short(10) is adapted
    assert (clock.late_rounds, clock.blocking_kernel_s) == (0, blocker)


def test_card_says_its_clock_and_why_it_is_held_down(monkeypatch):
    both = clocks.pynvml.nvmlClocksEventReasonSwPowerCap
    both |= clocks.pynvml.nvmlClocksEventReasonGpuIdle
    monkeypatch.setattr(clocks.pynvml, "nvmlDeviceGetCurrentClocksEventReasons", lambda card: both)
    monkeypatch.setattr(clocks.pynvml, "nvmlDeviceGetClockInfo", lambda card, which: 1755)
    assert device_clock().clock_state() == {"sm_clock_mhz": 1755, "throttle": ["power cap"]}


def test_a_spin_is_counted_by_the_highest_clock(monkeypatch):
    monkeypatch.setattr(clocks.pynvml, "nvmlDeviceGetMaxClockInfo", lambda card, which: 1980)
    assert device_clock().max_sm_clock_hz == 1.98e9


def test_card_that_does_not_answer_stops_nothing(monkeypatch):
    def refuse(*arguments):
        raise clocks.pynvml.NVMLError(clocks.pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(clocks.pynvml, "nvmlDeviceGetCurrentClocksEventReasons", refuse)
    monkeypatch.setattr(clocks.pynvml, "nvmlDeviceGetClockInfo", refuse)
    monkeypatch.setattr(clocks.pynvml, "nvmlDeviceGetMaxClockInfo", refuse)
    assert device_clock().max_sm_clock_hz == clocks.FALLBACK_MAX_SM_CLOCK_MHZ * 1e6
    assert device_clock().clock_state() == {"sm_clock_mhz": None, "throttle": []}


class Timed:
    """pytest-benchmark's fixture, of which each round took 1 ms."""

    enabled, stats = True, {"median": 1e-3, "data": [1e-3] * 20}

    def pedantic(self, call, setup, rounds):
        setup()


class Card(clocks.DeviceClock):
    """A device clock without a device: each round takes 1 ms there and `host` s to enqueue."""

    def __init__(self, host):
        self.host, self.late_rounds, self._nvml = host, 0, "the card"

    def round(self, call):
        return 1e-3, self.host

    def flush_and_block(self):
        pass

    def reset_counters(self, rounds):
        self.late_rounds = 0

    def sm_clock_hz(self):
        return np.full(20, 1.8e9)

    def size_blocking_kernel(self, call):
        return clocks.DryRun(self.host + 1e-3, self.host, 0)


@pytest.fixture
def quiet_card(monkeypatch):
    """Not asked: a card that is not there crashes the driver's own library."""
    monkeypatch.setattr(Card, "card", lambda self: {"sm_clock_mhz": None, "throttle": []})


@pytest.mark.parametrize(("host", "bound"), [(2e-3, True), (0.5e-3, False)])
def test_a_call_that_its_host_takes_longer_for_is_host_bound(host, bound, quiet_card, pytestconfig):
    measured = runner.measure(Timed(), lambda: None, Card(host), pytestconfig)
    assert measured["host_bound"] is bound
    assert measured["host_us"] == pytest.approx(host * 1e6)
    assert measured["call_clock_mhz"] == 1800
    assert measured["cycles"] == pytest.approx(1.8e6)


def test_a_throttled_cell_says_so(monkeypatch, pytestconfig):
    """Held down while it was timed: before the cell the card said nothing."""
    said = iter([0, clocks.pynvml.nvmlClocksEventReasonSwThermalSlowdown])
    reasons = "nvmlDeviceGetCurrentClocksEventReasons"
    monkeypatch.setattr(clocks.pynvml, reasons, lambda card: next(said))
    monkeypatch.setattr(clocks.pynvml, "nvmlDeviceGetClockInfo", lambda card, which: 1980)
    measured = runner.measure(Timed(), lambda: None, Card(1e-4), pytestconfig)
    assert measured["throttle"] == ["software thermal"]
    assert measured["sm_clock_mhz"] == [1980, 1980]


class Warming(Card):
    """Rounds of 0.3 s by a clock of its own; the SM clock in GHz by second, then again."""

    device, warm = "cpu", False

    def __init__(self, clocks):
        super().__init__(1e-4)
        self.clocks, self.now, self.windows = clocks, 0.0, 0

    def perf_counter(self):
        return self.now

    def round(self, call):
        self.now += 0.3

    def sm_clock_hz(self):
        self.windows += 1
        return np.array([self.clocks[(self.windows - 1) % len(self.clocks)] * 1e9, np.nan])


@pytest.mark.parametrize(
    ("clocks", "windows"),
    [([1.83, 1.79, 1.81, 1.8001, 1.8, 1.8, 1.8001], 7), ([1.8], 4), ([1.7, 1.8], 17)],
    ids=["settles", "has settled", "never settles"],
)
def test_the_card_is_at_work_until_its_clock_is_steady(clocks, windows, monkeypatch):
    clock = Warming(clocks)
    monkeypatch.setattr(clocks.time, "perf_counter", clock.perf_counter)
    clock.warm_up()
    assert clock.warm
    assert clock.windows == windows, "of 1.2 s, for 20 s at most"


def test_a_device_clock_takes_off_events_and_a_launch(fake_gpu):
    clock = clocks.DeviceClock(torch.device("cpu"), launch_overhead_s=0.25e-6)
    assert clock.overhead == pytest.approx(1e-6)
    assert clock.timer.__name__ == "cuda_kernel_timer"
    assert clock.round(lambda: fake_gpu.work(1e-3))[0] == pytest.approx(1e-3 - 0.25e-6)
    unknown = clocks.DeviceClock(torch.device("cpu"))
    assert unknown.timer.__name__ == "cuda_event_timer"
    assert unknown.round(lambda: fake_gpu.work(1e-3))[0] == pytest.approx(1e-3)


def test_a_long_call_has_a_longer_blocker(fake_gpu, monkeypatch):
    clock = clocks.DeviceClock(torch.device("cpu"))
    clock.size_blocking_kernel(lambda: None)
    short = clock.blocking_kernel_s
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: time.sleep(0.1))
    clock.size_blocking_kernel(lambda: None)
    assert short < 1e-3 < clock.blocking_kernel_s < 0.01


def test_what_a_device_clock_saves(fake_gpu, pytestconfig):
    clock = clocks.DeviceClock(torch.device("cpu"), launch_overhead_s=0.0)

    class Rounds(Timed):
        def pedantic(self, call, setup, rounds):
            self.stats = {"data": []}
            for _ in range(rounds):
                setup()
                start = clock.timer()
                call()
                self.stats["data"].append(clock.timer() - start)
            self.stats["median"] = statistics.median(self.stats["data"])

    measured = runner.measure(Rounds(), lambda: fake_gpu.work(1e-3), clock, pytestconfig)
    assert measured["call_clock_mhz"] == pytest.approx(1800)
    assert measured["cycles"] == pytest.approx(1.8e6, rel=1e-3)
    assert measured["peak_memory_bytes"] == 64
    assert measured["late_rounds"] == 0
    assert measured["interval"] < 1e-6


@pytest.mark.parametrize(
    ("wall", "host", "rounds", "pilots"),
    [(0.01, 1e-3, 20, 1), (0.03, 1e-3, 10, 0), (0.1, 1e-3, 6, 0), (0.1, 0.09, 6, 1)],
    ids=["short", "few rounds", "fewest rounds", "waits for the device"],
)
def test_a_pilot_is_run_where_it_has_a_say(
    wall, host, rounds, pilots, quiet_card, monkeypatch, pytestconfig
):
    class Long(Card):
        def size_blocking_kernel(self, call):
            return clocks.DryRun(wall, host, 0)

        def reset_counters(self, rounds):
            self.asked = rounds

    def one(*arguments):
        seen.append(arguments)
        return [wall] * 10, [host], wall

    seen, clock = [], Long(host)
    monkeypatch.setattr(runner, "pilot", one)
    monkeypatch.setattr(pytestconfig.option, "benchmark_max_time", "0.3")
    runner.measure(Timed(), lambda: None, clock, pytestconfig)
    assert (clock.asked, len(seen)) == (rounds, pilots)
