"""Which cells a test function has, and which workload belongs to each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

import pytest

from maskbench.records import Phase
from maskbench.suite.block_masks import BUILDERS
from maskbench.suite.mask_mod_variants import VARIANTS
from maskbench.suite.options import RunConfig
from maskbench.suite.tuned import BACKEND as TUNED
from maskbench.suite.workload import Workload

VARIANT_PARAMS = ("backend", "builder", "spelling", "cache", "tuned")  # a cell has one of these


class CellKey(NamedTuple):
    """The workload of a cell, and its backend, builder, mask_mod variant or cache state.

    The variant of a cell that searches options is `flex_tuned`.
    """

    workload: Workload
    variant: str

    def fields(self) -> dict[str, object]:
        """The fields of a saved cell that name it."""
        return {**self.workload.fields(), "backend": self.variant}


CELL_KEY = pytest.StashKey[CellKey]()


def parametrize(metafunc: pytest.Metafunc, run: RunConfig) -> None:
    """Give a benchmark its masks, lengths and variants. The ids are those of saved runs."""
    param = next((name for name in VARIANT_PARAMS if name in metafunc.fixturenames), None)
    if param is None or "workload" not in metafunc.fixturenames:
        return
    suffix = f"b{run.shape.batch}" if param == "builder" else f"{run.shape}-{run.dtype}"
    values = list(_values(param, metafunc, run))
    ids = [
        f"{mask}-{variant}-s{seq_len}-{f'q{q_len}-' if q_len else ''}{suffix}"
        for mask, seq_len, q_len, variant in values
    ]
    metafunc.parametrize(("mask", "seq_len", "q_len", param), values, ids=ids)


def _values(
    param: str, metafunc: pytest.Metafunc, run: RunConfig
) -> Iterable[tuple[str, int, int | None, str]]:
    """(mask, seq_len, q_len, variant) of each cell."""
    if param == "backend":
        # A soak takes long, and its result depends little on the length.
        is_soak = metafunc.definition.get_closest_marker("soak") is not None
        seq_lens = run.default_seq_lens if is_soak else run.seq_lens
        return product(run.masks, seq_lens, run.q_lens, run.backends)
    if param == "builder":
        return product(run.masks, run.default_seq_lens, run.q_lens, BUILDERS)
    if param == "tuned":
        return product(run.masks, run.default_seq_lens, run.q_lens, [TUNED])
    if param == "cache":
        caches: dict[str, int] = metafunc.module.CACHES
        return product(run.masks, run.default_seq_lens, run.q_lens, caches)
    # The variants are written for all queries.
    masks_and_lengths = product(
        run.masks, run.default_seq_lens, [None] if None in run.q_lens else ()
    )
    return ((*cell, name) for cell in masks_and_lengths for name in VARIANTS.get(cell[0], ()))


def is_benchmark(item: pytest.Item) -> bool:
    """Whether pytest-benchmark's fixture is among the item's fixtures."""
    return isinstance(item, pytest.Function) and "benchmark" in item.fixturenames


def uses_clock(item: pytest.Item) -> bool:
    """Whether the item is timed by the session's clock."""
    return isinstance(item, pytest.Function) and {"clock", "benchmark"} <= {*item.fixturenames}


def assign_workloads(items: list[pytest.Item], run: RunConfig) -> None:
    """Store the CellKey of every item that is a cell."""
    for item in items:
        if not isinstance(item, pytest.Function) or "workload" not in item.fixturenames:
            continue
        params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
        if params.get("mask") not in run.masks:
            continue  # the placeholder of an empty parameter list
        workload = Workload(
            mask=params["mask"],
            seq_len=params["seq_len"],
            shape=run.shape,
            dtype=run.dtype,
            device=run.device,
            phase=Phase(item.function.__name__.removeprefix("test_")),
            q_len=params["q_len"],
        )
        (variant,) = (params[name] for name in VARIANT_PARAMS if name in params)
        item.stash[CELL_KEY] = CellKey(workload, variant)


def cell_keys(items: Iterable[pytest.Item]) -> list[CellKey]:
    """The keys of the items that are cells."""
    return [item.stash[CELL_KEY] for item in items if CELL_KEY in item.stash]
