"""The limits of the device: what is counted, and that they are measured once."""

import pytest
import torch

from maskbench.timing import roofline as module
from maskbench.timing.clock import HostClock
from maskbench.timing.roofline import measured_roofline
from maskbench.timing.runner import PILOT_ROUNDS, InvalidTime


class SecondsClock(HostClock):
    """A clock whose rounds take the given seconds, one after the other."""

    def __init__(self, *seconds):
        self.seconds, self.rounds = seconds, 0

    def round(self, call):
        call()
        self.rounds += 1
        seconds = self.seconds[self.rounds % len(self.seconds)]
        return seconds, seconds


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "_MEASURED", {})
    monkeypatch.setattr(module, "GEMM_SIZE", {"cpu": 10})
    monkeypatch.setattr(module, "COPY_BYTES", {"cpu": 1000})
    monkeypatch.setattr(module, "MAX_SECONDS", {"cpu": 60.0})


def test_the_fastest_round_counts():
    found = measured_roofline(SecondsClock(1e-6, 4e-6), "cpu", "float32")
    assert found.gemm_tflops == pytest.approx(2 * 10**3 / 1e-6 / 1e12)
    assert found.copy_gb_per_s == pytest.approx(2 * 1000 / 1e-6 / 1e9)


def test_each_data_type_is_measured_once():
    clock = SecondsClock(1e-6)
    for _ in range(3):
        for dtype in ("float32", "bfloat16"):
            measured_roofline(clock, "cpu", dtype)
    assert clock.rounds == 2 * 2 * PILOT_ROUNDS


def test_the_matrices_have_the_data_type(monkeypatch):
    seen = set()
    monkeypatch.setattr(torch, "mm", lambda a, b, out: seen.update((a.dtype, b.dtype, out.dtype)))
    measured_roofline(SecondsClock(1e-6), "cpu", "bfloat16")
    assert seen == {torch.bfloat16}


def test_an_impossible_time_is_an_error_and_not_kept():
    with pytest.raises(InvalidTime):
        measured_roofline(SecondsClock(0.0), "cpu", "float32")
    assert measured_roofline(SecondsClock(1e-6), "cpu", "float32").gemm_tflops > 0
