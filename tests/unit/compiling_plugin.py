"""A pytest plugin (-p tests.unit.compiling_plugin): a mask, and backends that compile.

`recording`, `failing` and `dying` compute the mask correctly in the timing process. In a worker
process, the backends compile, fail, exit or hang.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path

from torch import Tensor

from maskbench.attention import Bind, BoundAttention, Unsupported
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


def raising(error: BaseException) -> Callable[[], None]:
    def leave() -> None:
        raise error

    return leave


def fork_then_exit() -> None:
    """A forked child keeps the worker's pipe open, as a compiler's helper may."""
    if os.fork() == 0:
        time.sleep(5)
    os._exit(0)


WAYS_TO_LEAVE: dict[str, Callable[[], None]] = {
    "system_exit": raising(SystemExit(3)),
    "keyboard_interrupt": raising(KeyboardInterrupt()),
    "generator_exit": raising(GeneratorExit()),
    "exit_0": lambda: os._exit(0),
    "exit_3": lambda: os._exit(3),
    "abort": os.abort,
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "close_all_files": lambda: os.closerange(3, 256),
    "fork_then_exit": fork_then_exit,
}


def leaving(way: str) -> Bind:
    """A backend that leaves its worker in one of the ways above."""

    def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
        if in_worker():
            WAYS_TO_LEAVE[way]()
        return dense.bind(mask, q, k, v)

    return bind


def compiler_started(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    """Waits for a compiler, whose process id and its own it writes beside the kernels."""
    compiler = subprocess.Popen(["sleep", "61"])
    file = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "processes")
    with file.open("a") as processes:
        processes.write(f"{os.getpid()} {compiler.pid}\n")
    compiler.wait()
    raise AssertionError("nobody stopped the compiler")


def hanging(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
    time.sleep(60)
    raise AssertionError("nobody stopped this worker")


BACKENDS = {f.__name__: f for f in (recording, failing, dying, unsupporting, hanging)}
BACKENDS |= {way: leaving(way) for way in WAYS_TO_LEAVE} | {"compiler_started": compiler_started}
SPECS = [registry.BackendSpec(name, __name__, compiles=True) for name in BACKENDS]


def pytest_load_initial_conftests() -> None:
    """Before conftest.py reads the names; importing this module alone changes nothing."""
    PATTERNS["plugin_mask"] = MaskFamily(
        lambda seq_len, batch, heads: PluginMask(seq_len=seq_len), PluginMask(seq_len=32)
    )
    for spec in SPECS:
        registry.register(spec)
