"""A pytest plugin (-p tests.unit.dying_backends): backends that end or block their process."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import parent_process

from torch import Tensor

from maskbench.attention import Bind, BoundAttention
from maskbench.backends import dense, registry
from maskbench.masks import Mask


def segfault() -> None:
    ctypes.string_at(0)


def exit_at_once() -> None:
    os._exit(3)


def exit_quietly() -> None:
    os._exit(0)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(3600)


def hang_in_c() -> None:
    """Holds the interpreter lock, so that no Python code and no handler of a signal runs."""
    ctypes.PyDLL(None).sleep(3600)


def access_illegally() -> None:
    """On CUDA: no later kernel of this process can run."""
    from tests.unit.illegal_access import write_far

    write_far()


def interrupt() -> None:
    raise KeyboardInterrupt


def dying(act: Callable[[], None]) -> Bind:
    """A backend that is right but for what it does to its process."""

    def bind(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> BoundAttention:
        if parent_process() is None:
            act()
        return dense.bind(mask, q, k, v)

    return bind


ACTS = (
    *(segfault, os.abort, exit_at_once, exit_quietly, kill, hang, hang_in_c),
    *(access_illegally, interrupt),
)
BACKENDS = {act.__name__: dying(act) for act in ACTS}


def pytest_load_initial_conftests() -> None:
    """Register before the command-line options list the names."""
    for name in BACKENDS:
        registry.register(registry.BackendSpec(name, __name__))
