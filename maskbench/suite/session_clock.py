"""The clock of a pytest session."""

from __future__ import annotations

import pytest
import torch

from maskbench.suite.options import RUN_CONFIG
from maskbench.suite.stages import stage_timer
from maskbench.timing.calibration import launch_overhead
from maskbench.timing.clock import Clock, UnavailableClock, make_clock

_CLOCK = pytest.StashKey[Clock]()


def start_clock(config: pytest.Config) -> str | None:
    """Make the clock of a run that times; on a GPU measure the launch overhead first.

    If no clock can be made, such as with a Triton that cannot compile, each cell that is timed
    fails with the reason.

    Returns why the launch overhead could not be measured: "" if it was, None on a CPU.
    """
    device, overhead_s, problem = config.stash[RUN_CONFIG].device, None, None
    if device == "cuda":
        with stage_timer("warm up"):
            overhead_s, problem = launch_overhead()
    try:
        config.stash[_CLOCK] = make_clock(torch.device(device), overhead_s)
    except Exception as error:  # of torch, Triton, its compiler or NVML
        config.stash[_CLOCK] = UnavailableClock(f"{type(error).__name__}: {error}")
    return problem


def get_clock(config: pytest.Config) -> Clock:
    """The session's clock. A session that does not time gets an uncalibrated one."""
    if _CLOCK not in config.stash:
        config.stash[_CLOCK] = make_clock(torch.device(config.stash[RUN_CONFIG].device))
    return config.stash[_CLOCK]
