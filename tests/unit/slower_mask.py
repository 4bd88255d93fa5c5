"""A pytest plugin (-p tests.unit.slower_mask): the global+local mask slower by its spelling alone.

Its global tokens are looked up in a bool table. What is computed, and under which name and form,
stays as it is, so that the gate has a real regression to find.
"""

import pytest
import torch

from maskbench.masks import GlobalLocalSlidingWindow
from maskbench.suite.mask_mod_variants import by_lookup


def pytest_configure():
    def mask_mod(self, device):
        return by_lookup(torch.bool, self, device)

    GlobalLocalSlidingWindow.mask_mod = mask_mod


@pytest.hookimpl(trylast=True)
def pytest_benchmark_update_json(output_json):
    output_json["maskbench"]["slower"] = "global tokens looked up in a bool table"
