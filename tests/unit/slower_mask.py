"""A pytest plugin (-p tests.unit.slower_mask): a slower mask_mod for the global+local mask.

It looks the global tokens up in a bool table. The mask, its name and its form stay the same, so the
gate has a real regression to find.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskbench.masks import GlobalLocalSlidingWindow
from maskbench.masks.base import DeviceLike, MaskMod
from maskbench.suite.mask_mod_variants import by_lookup


def pytest_configure() -> None:
    def mask_mod(self: GlobalLocalSlidingWindow, device: DeviceLike) -> MaskMod:
        return by_lookup(torch.bool, self, device)

    GlobalLocalSlidingWindow.mask_mod = mask_mod  # type: ignore[method-assign]  # the purpose


@pytest.hookimpl(trylast=True)
def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    output_json["maskbench"]["slower"] = "global tokens looked up in a bool table"
