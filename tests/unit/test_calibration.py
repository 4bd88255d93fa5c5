"""The launch overhead and CUPTI's times, tested on the fake GPU of tests/unit/fake_gpu.py."""

import subprocess

import pynvml
import pytest
import torch

from maskbench.timing import calibration
from maskbench.timing.device_clock import DeviceClock
from tests.unit.fake_gpu import FakeProfile


@pytest.fixture
def gpu_by_name(monkeypatch, tmp_path):
    """A GPU with a name and a driver version only, and an empty cache folder."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "1.0")


def launch_overhead_twice(monkeypatch, process):
    """The results of two calls of `launch_overhead`, and the options of the processes started."""
    started = []

    def run(command, **options):
        started.append((command, options))
        return process

    monkeypatch.setattr(calibration.subprocess, "run", run)
    return calibration.launch_overhead(), calibration.launch_overhead(), started


@pytest.mark.usefixtures("gpu_by_name")
def test_launch_overhead_is_measured_once(monkeypatch):
    process = subprocess.CompletedProcess([], 0, "a warning\n1.2e-06\n", "")
    first, second, started = launch_overhead_twice(monkeypatch, process)
    assert first == second == (1.2e-6, "")
    ((command, options),) = started
    assert command[1:] == ["-m", calibration.__name__]
    assert (options["cwd"] / "maskbench" / "timing" / "calibration.py").is_file()


@pytest.mark.usefixtures("gpu_by_name")
def test_failed_measurement_gives_its_reason_and_is_repeated(monkeypatch):
    stderr = "Traceback\nRuntimeError: CUPTI saw 0 of 60 calls\n"
    process = subprocess.CompletedProcess([], 1, "", stderr)
    first, second, started = launch_overhead_twice(monkeypatch, process)
    assert first == second == (None, "RuntimeError: CUPTI saw 0 of 60 calls")
    assert len(started) == 2


def test_launch_overhead_without_nvml_gives_the_reason(monkeypatch):
    def refuse():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    overhead_s, reason = calibration.launch_overhead()
    assert overhead_s is None
    assert reason.startswith("NVML: ")


@pytest.mark.usefixtures("gpu_by_name")
@pytest.mark.parametrize("name", ["device_clock.py", "nvml.py", "sm_cycles.py", "calibration.py"])
def test_stored_result_is_of_the_current_code(name, monkeypatch, tmp_path):
    copies = []
    for source in calibration.SOURCES:
        copies.append(tmp_path / source.name)
        copies[-1].write_bytes(source.read_bytes())
    before = calibration.cache_path()
    monkeypatch.setattr(calibration, "SOURCES", copies)
    assert calibration.cache_path() == before
    with (tmp_path / name).open("a") as file:
        file.write("# changed\n")
    assert calibration.cache_path() != before


def test_clock_and_cupti_time_the_same_calls(fake_gpu, monkeypatch):
    monkeypatch.setattr(calibration, "profile", lambda **options: FakeProfile(fake_gpu))
    clock = DeviceClock(torch.device("cpu"), launch_overhead_s=0.0)
    kernel_times_s = iter([1e-3, 2e-3, 3e-3])

    def call():
        fake_gpu.work(1e-6)  # the launch
        fake_gpu.kernel("attention", next(kernel_times_s))
        fake_gpu.work(2e-6)
        fake_gpu.kernel("reduce", 5e-6)

    clock.reset_counters(3)
    events_s, cupti_s = calibration.measure_with_cupti(clock, call, 3)
    assert cupti_s == pytest.approx([1.007e-3, 2.007e-3, 3.007e-3])
    assert events_s - cupti_s == pytest.approx([1e-6] * 3, abs=1e-9)
    assert len(clock.sm_clock_hz()) == 3


def test_cupti_must_record_every_call(fake_gpu, monkeypatch):
    monkeypatch.setattr(calibration, "profile", lambda **options: FakeProfile(fake_gpu))
    clock = DeviceClock(torch.device("cpu"), launch_overhead_s=0.0)
    with pytest.raises(RuntimeError, match="CUPTI saw 0 of 2 calls"):
        calibration.measure_with_cupti(clock, lambda: None, 2)


def overhead_of(launch_s, fake_gpu, monkeypatch):
    """`measure_launch_overhead` of a kernel of 2 us that takes `launch_s` to start."""

    def call():
        fake_gpu.work(launch_s)
        fake_gpu.kernel("add", 2e-6)

    monkeypatch.setattr(calibration, "profile", lambda **options: FakeProfile(fake_gpu))
    monkeypatch.setattr(calibration, "tiny_kernel", lambda: call)
    monkeypatch.setattr(calibration, "DeviceClock", lambda device: DeviceClock(torch.device("cpu")))
    return calibration.measure_launch_overhead()


def test_launch_overhead_is_what_events_read_beyond_cupti(fake_gpu, monkeypatch):
    assert overhead_of(1e-6, fake_gpu, monkeypatch) == pytest.approx(1e-6, abs=1e-9)


def test_implausible_launch_overhead_is_refused(fake_gpu, monkeypatch):
    with pytest.raises(RuntimeError, match=r"events and CUPTI are 6\.00 us apart"):
        overhead_of(6e-6, fake_gpu, monkeypatch)


@pytest.mark.usefixtures("gpu_by_name")
@pytest.mark.parametrize("text", ["", "text", "nan", "-1", "5e9"])
def test_a_damaged_stored_overhead_is_measured_again(monkeypatch, text):
    path = calibration.cache_path()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    process = subprocess.CompletedProcess([], 0, "1.2e-06\n", "")
    first, second, started = launch_overhead_twice(monkeypatch, process)
    assert first == second == (1.2e-6, "")
    assert len(started) == 1


@pytest.mark.usefixtures("gpu_by_name")
def test_an_overhead_that_cannot_be_stored_is_used(monkeypatch, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "maskbench").touch()  # in the place of the folder
    process = subprocess.CompletedProcess([], 0, "1.2e-06\n", "")
    first, second, _ = launch_overhead_twice(monkeypatch, process)
    assert first == second == (1.2e-6, "")


@pytest.mark.usefixtures("gpu_by_name")
def test_a_measurement_that_cannot_start_gives_its_reason(monkeypatch):
    def refuse(command, **options):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(calibration.subprocess, "run", refuse)
    overhead_s, reason = calibration.launch_overhead()
    assert overhead_s is None
    assert "Resource temporarily unavailable" in reason
