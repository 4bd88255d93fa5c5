"""A pytest plugin (-p tests.unit.two_workers): two processes time at once, as on two GPUs."""

from __future__ import annotations

import pytest

from maskbench import plugin


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    plugin.visible_gpus = lambda requested, device: ["0", "1"]
