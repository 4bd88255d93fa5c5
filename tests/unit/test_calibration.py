"""What a kernel's launch reads, by CUPTI, as far as that needs no device."""

import subprocess

import pytest
import torch

from maskbench.timing import calibration
from maskbench.timing import clock as clocks
from tests.unit.fake_gpu import FakeProfile


def launched(monkeypatch, tmp_path, done):
    """What `launch_overhead` says, and how many processes it started; on a card by name alone."""
    started = []
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(calibration.pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(calibration.pynvml, "nvmlSystemGetDriverVersion", lambda: "1.0")
    monkeypatch.setattr(calibration.subprocess, "run", lambda *a, **k: started.append(a) or done)
    return calibration.launch_overhead(), calibration.launch_overhead(), len(started)


def test_a_launch_is_measured_once(monkeypatch, tmp_path):
    done = subprocess.CompletedProcess([], 0, "said before\n1.2e-06\n", "")
    assert launched(monkeypatch, tmp_path, done) == ((1.2e-6, ""), (1.2e-6, ""), 1)


def test_a_launch_that_cannot_be_measured_says_why(monkeypatch, tmp_path):
    done = subprocess.CompletedProcess(
        [], 1, "", "Traceback\nRuntimeError: CUPTI saw 0 of 60 calls\n"
    )
    why = None, "RuntimeError: CUPTI saw 0 of 60 calls"
    assert launched(monkeypatch, tmp_path, done) == (why, why, 2), "and is tried again"


def test_cupti_and_the_events_see_the_same_calls(fake_gpu, monkeypatch):
    monkeypatch.setattr(calibration, "profile", lambda **options: FakeProfile(fake_gpu))
    clock, lasts = (
        clocks.DeviceClock(torch.device("cpu"), launch_overhead_s=0.0),
        iter([1e-3, 2e-3, 3e-3]),
    )

    def call():
        fake_gpu.work(1e-6)  # the launch
        fake_gpu.kernel("attention", next(lasts))
        fake_gpu.work(2e-6)
        fake_gpu.kernel("reduce", 5e-6)

    clock.reset_counters(3)
    ours, theirs = calibration.cupti(clock, call, 3)
    assert theirs == pytest.approx([1.007e-3, 2.007e-3, 3.007e-3])
    assert ours - theirs == pytest.approx([1e-6] * 3, abs=1e-9)
    assert len(clock.sm_clock_hz()) == 3


def test_a_call_that_cupti_did_not_see_has_no_time(fake_gpu, monkeypatch):
    monkeypatch.setattr(calibration, "profile", lambda **options: FakeProfile(fake_gpu))
    clock = clocks.DeviceClock(torch.device("cpu"), launch_overhead_s=0.0)
    with pytest.raises(RuntimeError, match="CUPTI saw 0 of 2 calls"):
        calibration.cupti(clock, lambda: None, 2)
