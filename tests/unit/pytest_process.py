"""Helpers that run pytest on the suite and read what it saved."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from maskbench.backends import registry
from maskbench.suite.stages import STAGE_SECONDS

ROOT = Path(__file__).parents[2]
CELLS = ("tests/test_forward.py", "tests/test_backward.py")
# Without the cache of pytest, and without the plugin of hypothesis, whose import takes 0.8 s.
PLAIN = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
# As a program of its own, pytest runs under the supervisor. From a script it does not, which saves
# the time to start a second process.
PYTEST_PROGRAM = (sys.executable, "-m", "pytest", *PLAIN)
PYTEST_SCRIPT = (sys.executable, "-c", "import pytest, sys; sys.exit(pytest.main())", *PLAIN)


def pytest_run(
    *arguments: object, expect: int = 0, cwd: Path = ROOT, is_supervised: bool = False
) -> str:
    """Run pytest in a process of its own; returns stdout and stderr."""
    done = subprocess.run(
        [*(PYTEST_PROGRAM if is_supervised else PYTEST_SCRIPT), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    text = done.stdout + done.stderr
    assert done.returncode == expect, text
    return text


def run_inline(
    *arguments: object, plugins: Sequence[object] = (), folder: Path = ROOT
) -> tuple[int, str]:
    """Run pytest in this process and in `folder`; returns its exit status, and stdout and stderr.

    This avoids importing torch again, which takes seconds. Use it for runs that compile nothing.
    Modules of `plugins` may register backends: they are registered for this run only.
    """
    output, before, seconds = StringIO(), Path.cwd(), dict(STAGE_SECONDS)
    threads, backends = torch.get_num_threads(), dict(registry.BACKENDS)
    os.chdir(folder)
    torch.set_num_threads(1)  # faster than two where the CPU is shared
    try:
        with (
            redirect_stdout(output),
            redirect_stderr(output),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("COLUMNS", "200")
            patch.setattr("cpuinfo.get_cpu_info", lambda: {})  # takes 0.3 s
            # unraisableexception collects all garbage twice at the end, which takes 0.3 s
            plain = (*PLAIN, "-p", "no:faulthandler", "-p", "no:unraisableexception")
            plain = (*plain, "--capture=no", f"--rootdir={ROOT}", f"-c{ROOT / 'pytest.ini'}")
            status = pytest.main([*plain, *map(str, arguments)], plugins=list(plugins))
    finally:
        torch.set_num_threads(threads)
        os.chdir(before)
        registry.BACKENDS.clear()
        registry.BACKENDS.update(backends)
        STAGE_SECONDS.clear()  # the outer run reports its own
        STAGE_SECONDS.update(seconds)
    return status, output.getvalue()


def pytest_inline(
    *arguments: object, expect: int = 0, plugins: Sequence[object] = (), folder: Path = ROOT
) -> str:
    """As `run_inline`, for a run with a known exit status; returns stdout and stderr."""
    status, text = run_inline(*arguments, plugins=plugins, folder=folder)
    assert status == expect, text
    return text


def pytest_on_terminal(*arguments: object, columns: int = 200) -> str:
    """Run pytest with a pseudoterminal as stdout and stderr; returns what it wrote there."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*PYTEST_SCRIPT, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(columns), "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        stdout=end,
        stderr=end,
    )
    os.close(end)
    written = b""
    with suppress(OSError):  # Linux reports the end of a pseudoterminal as an error
        while part := os.read(terminal, 65536):
            written += part
    os.close(terminal)
    text = written.decode()
    assert process.wait(timeout=60) == 0, text
    return text


def strict_json(path: Path) -> Any:
    """The file's JSON; fails on NaN and Infinity, which are not JSON."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} in {path}: finite numbers only")

    return json.loads(Path(path).read_text(), parse_constant=refuse)
