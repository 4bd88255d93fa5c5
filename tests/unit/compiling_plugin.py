"""A pytest plugin (-p tests.unit.compiling_plugin): a mask, and backends that compile.

`recording`, `failing` and `dying` compute the mask correctly in the timing process. In a worker
process, the backends compile, fail, exit or hang.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path

from torch import Tensor

from maskbench.attention import BoundAttention, Unsupported
from maskbench.backends import dense, registry
from maskbench.masks import Causal, Mask
from masks import PATTERNS, MaskFamily


@dataclass(frozen=True)
class PluginMask(Causal):
    """A mask whose class only this plugin knows."""


@dataclass(frozen=True)
class UnpicklableMask(Causal):
    """A mask that cannot be sent to another process."""

    function: Callable[[], None] = lambda: None


class UnpicklableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def in_worker() -> bool:
    return parent_process() is not None


def recording(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """Records each compilation in a file beside the kernels."""
    record = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "recorded")
    with record.open("a") as file:
        file.write(f"{type(mask).__name__} in {'worker' if in_worker() else 'timing process'}\n")
    return dense.bind(mask, q, k, v)


def failing(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    if in_worker():
        raise UnpicklableError("compilation failed", "here")
    return dense.bind(mask, q, k, v)


def dying(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    if in_worker():
        os._exit(7)
    return dense.bind(mask, q, k, v)


def unsupporting(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    raise Unsupported("takes no mask")


def hanging(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    time.sleep(60)
    raise AssertionError("nobody stopped this worker")


BACKENDS = {f.__name__: f for f in (recording, failing, dying, unsupporting, hanging)}
SPECS = [registry.BackendSpec(name, __name__, compiles=True) for name in BACKENDS]


def pytest_load_initial_conftests() -> None:
    """Before conftest.py reads the names; importing this module alone changes nothing."""
    PATTERNS["plugin_mask"] = MaskFamily(
        lambda seq_len, batch: PluginMask(seq_len=seq_len), PluginMask(seq_len=32)
    )
    for spec in SPECS:
        registry.register(spec)
