"""What a kernel's launch reads, by CUPTI, as far as that needs no device."""

import subprocess

import pytest
import torch

import measure
from tests import calibration
from tests.toy_card import ToyProfile


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


def test_cupti_and_the_events_see_the_same_calls(toy_card, monkeypatch):
    monkeypatch.setattr(calibration, "profile", lambda **options: ToyProfile(toy_card))
    clock, lasts = measure.DeviceClock(torch.device("cpu"), launch=0.0), iter([1e-3, 2e-3, 3e-3])

    def call():
        toy_card.work(1e-6)  # the launch
        toy_card.kernel("attention", next(lasts))
        toy_card.work(2e-6)
        toy_card.kernel("reduce", 5e-6)

    clock.forget(3)
    ours, theirs = calibration.cupti(clock, call, 3)
    assert theirs == pytest.approx([1.007e-3, 2.007e-3, 3.007e-3])
    assert ours - theirs == pytest.approx([1e-6] * 3, abs=1e-9)
    assert len(clock.call_hz()) == 3


def test_a_call_that_cupti_did_not_see_has_no_time(toy_card, monkeypatch):
    monkeypatch.setattr(calibration, "profile", lambda **options: ToyProfile(toy_card))
    clock = measure.DeviceClock(torch.device("cpu"), launch=0.0)
    with pytest.raises(RuntimeError, match="CUPTI saw 0 of 2 calls"):
        calibration.cupti(clock, lambda: None, 2)
