"""The state of the process that a cell must leave as it found it.

A cell that changes a setting that could change the next cell's time or result fails, with the
setting's name and both values, and the setting is restored. Four things are restored without a
failure, because libraries may change them: random state, warning filters, new environment
variables, and the recursion limit, which CuTe raises when it compiles. `sys.path` is left alone: a
library may import more of itself later.

What the import of a backend changes is restored as well, except environment variables and signal
handlers: a library that sets one when it is imported may read it later.
"""

from __future__ import annotations

import gc
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskbench.suite.torch_settings import TORCH_SETTINGS, Setting

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# pytest sets it in each phase of a test.
OF_PYTEST = {"PYTEST_CURRENT_TEST"}
GONE = "a folder that was deleted"


class ProcessStateChanged(Exception):
    """A cell changed a setting of the process. The message has its name and both values."""


def current_folder() -> str:
    """The current folder, or `GONE`."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return GONE


def change_folder(path: str) -> None:
    """Go back to a folder; one that was deleted is left to the message of the cell."""
    if path != GONE:
        with suppress(FileNotFoundError):
            os.chdir(path)


def signal_setting(number: signal.Signals) -> Setting:
    """The Python handler of a signal. One that was not set by Python cannot be restored."""

    def write(handler: Any) -> None:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)

    return Setting(f"handler of {number.name}", lambda: signal.getsignal(number), write)


RECURSION_LIMIT = Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
FOLDER = Setting("current folder", current_folder, change_folder)
SIGNAL_SETTINGS = tuple(signal_setting(number) for number in SIGNALS)
PYTHON_SETTINGS = (
    Setting("garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    RECURSION_LIMIT,
    Setting(
        "locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda name: locale.setlocale(locale.LC_ALL, name),
    ),
)


def environment() -> dict[str, str]:
    """The environment variables, without those of pytest and the private ones of libraries.

    torch's compiler, for example, keeps an address in _TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR,
    which a child process inherits and then changes.
    """
    variables = os.environ.items()
    return {n: v for n, v in variables if n not in OF_PYTEST and not n.startswith("_")}


@dataclass(frozen=True)
class ProcessState:
    """The settings at one moment."""

    values: tuple[tuple[Setting, Any], ...]
    environment: dict[str, str]

    @staticmethod
    def capture() -> ProcessState:
        """Read every setting. This takes less than 1 ms."""
        settings = (*TORCH_SETTINGS, *PYTHON_SETTINGS, FOLDER, *SIGNAL_SETTINGS)
        return ProcessState(tuple((s, s.read()) for s in settings), environment())

    def changes(self, of_environment: bool = True) -> list[str]:
        """What differs now, such as "default dtype (torch.float32, now torch.float64)".

        `of_environment`: whether the environment and the current folder count.
        """
        ignored = {RECURSION_LIMIT} if of_environment else {RECURSION_LIMIT, FOLDER}
        found = [
            f"{setting.name} ({before}, now {now})"
            for setting, before in self.values
            if setting not in ignored and (now := setting.read()) != before
        ]
        if of_environment:
            now_set = environment()
            found += [
                f"environment variable {name} ({value!r}, now {now_set.get(name)!r})"
                for name, value in self.environment.items()
                if now_set.get(name) != value
            ]
        return found

    def restore(self, of_import: bool = False) -> None:
        """Set what differs to what it was, the general settings of torch before the special.

        `of_import` leaves environment variables and signal handlers as they are.
        """
        for setting, before in self.values:
            is_signal = setting in SIGNAL_SETTINGS
            if not (of_import and is_signal) and setting.read() != before:
                setting.write(before)
        if of_import:
            return
        for name in environment().keys() - self.environment.keys():
            del os.environ[name]
        for name, value in self.environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the random state of Python, NumPy and torch, and the filters of warnings."""
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch has no annotation
    of_cuda = torch.cuda.get_rng_state() if used else None
    with warnings.catch_warnings():
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
            torch.set_rng_state(of_torch)
            if of_cuda is not None:
                with suppress(RuntimeError):  # on a lost device; `device_is_lost` reports that
                    torch.cuda.set_rng_state(of_cuda)


@contextmanager
def restored_after_import() -> Iterator[None]:
    """Restore what the import of a library changes, except what it may read later."""
    before = ProcessState.capture()
    with same_random_state():
        try:
            yield
        finally:
            before.restore(of_import=True)
