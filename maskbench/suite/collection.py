"""Which cells a test function has, and which workload belongs to each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

import pytest

from maskbench.records import Phase
from maskbench.suite.block_masks import BUILDERS
from maskbench.suite.mask_mod_variants import VARIANTS
from maskbench.suite.options import RunConfig
from maskbench.suite.workload import Workload

VARIANT_PARAMS = ("backend", "builder", "spelling", "cache")  # a cell has one of these


class CellKey(NamedTuple):
    """What a cell computes, and which backend, builder, variant or cache it does it with."""

    workload: Workload
    variant: str


CELL_KEY = pytest.StashKey[CellKey]()


def parametrize(metafunc: pytest.Metafunc, config: RunConfig) -> None:
    """Give a benchmark its masks, lengths and variants. The ids are those of saved runs."""
    (param, *_) = [name for name in VARIANT_PARAMS if name in metafunc.fixturenames] or [None]
    if param is None or "workload" not in metafunc.fixturenames:
        return
    suffix = f"b{config.shape.batch}" if param == "builder" else f"{config.shape}-{config.dtype}"
    values = list(_values(param, metafunc, config))
    ids = [f"{mask}-{variant}-s{seq_len}-{suffix}" for mask, seq_len, variant in values]
    metafunc.parametrize(("mask", "seq_len", param), values, ids=ids)


def _values(
    param: str, metafunc: pytest.Metafunc, config: RunConfig
) -> Iterable[tuple[str, int, str]]:
    """(mask, seq_len, variant) of each cell."""
    if param == "backend":
        return product(config.masks, config.seq_lens, config.backends)
    if param == "builder":
        return product(config.masks, config.default_seq_lens, BUILDERS)
    if param == "cache":
        return product(config.masks, config.default_seq_lens, metafunc.module.CACHES)
    masks_and_lengths = product(config.masks, config.default_seq_lens)
    return ((m, s, name) for m, s in masks_and_lengths for name in VARIANTS.get(m, ()))


def assign_workloads(items: list[pytest.Item], config: RunConfig) -> None:
    """Store the CellKey of every item that is a cell."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if "workload" not in item.fixturenames or params.get("mask") not in config.masks:
            continue  # not a cell, or the placeholder of an empty parameter list
        phase = Phase(item.function.__name__.removeprefix("test_"))
        workload = Workload(
            *(params["mask"], params["seq_len"], config.shape),
            *(config.dtype, config.device, phase),
        )
        (variant,) = (params[name] for name in VARIANT_PARAMS if name in params)
        item.stash[CELL_KEY] = CellKey(workload, variant)
