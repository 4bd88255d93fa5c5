"""Compiling ahead: worker processes fill the on-disk caches, then one process times.

torch.compile, Triton and CuTe keep what they compiled on disk. So each cell that compiles
is run once by one of --jobs workers before the first is timed. What a worker cannot
compile, the timing process compiles, and the run says so.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import TimeoutError as Late
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

if TYPE_CHECKING:
    from tests.cells import Problem

# FlashAttention-4 keeps what it compiles only where it is asked to.
os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
# Folders that the libraries keep what they compiled in, where the user has chosen one.
FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR")

# Backends and builders of block masks that compile at their first call, and keep it on disk.
COMPILES = {"flex", "flex_flash", "flash_attn_4", "torch_compiled"}

STUCK = 300  # s that one cell may take to compile

SPENT: Counter[str] = Counter()  # s of this process, by what they went to


def compiles(problem: Problem, name: str) -> bool:
    """Whether a cell compiles at its first call, and can."""
    import backends

    if name in backends.MODULES:
        try:
            backends.load(name)
        except backends.Missing:
            return False
    return name in COMPILES or problem.direction.startswith("spelling")


@contextmanager
def spent(what: str) -> Iterator[None]:
    """Counts what the block takes as time that went to `what`, however it ends."""
    began = time.perf_counter()
    try:
        yield
    finally:
        SPENT[what] += time.perf_counter() - began


def unwritable() -> str | None:
    """Which cache folder cannot be written, and why; None where all can."""
    for name in FOLDERS:
        folder = os.environ.get(name)
        try:
            if folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            return f"{name}: {folder} cannot be written: {error.strerror}; name another folder"
    return None


def first_run(problem: Problem, backend: str) -> str | None:
    """Run a cell once, unchecked and untimed: a worker's task. Returns what it raised.

    As text, as not every exception can be sent to another process.
    """
    import torch

    from tests.cells import bind_of, inputs, run
    from tests.test_block_mask import BUILDERS, builder_of

    try:
        mask = problem.build()
        if backend in BUILDERS:
            builder_of(backend, mask, problem.device)()
            return None
        shape, device = problem.shape, problem.device
        *qkv, dout = inputs(mask, shape, problem.dtype, device, problem.backward)
        run(bind_of(problem, backend)(mask, *qkv), dout)
        if device == "cuda":
            torch.cuda.empty_cache()  # the workers share the card
    except Exception as error:  # the timing process will meet it again, and save it
        return f"{type(error).__name__}: {error}"
    return None


def know(modules: dict[str, str]) -> None:
    """What a worker starts with: the backends of the process that it works for."""
    # The workers are as many as the CPUs; inductor would start as many of its own in each.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    warnings.simplefilter("ignore")  # the timing process will show them

    import backends

    backends.MODULES.update(modules)


def compile_ahead(cells: list[tuple[Problem, str]], jobs: int) -> list[str]:
    """Run each cell once in `jobs` workers, with a progress bar on stderr.

    Returns a line for each cell whose worker died or got stuck: it is left to the timing
    process. What the cell itself raises it will raise there again, and be saved with it.
    """
    import backends

    left, bar = [], tqdm(total=len(cells), desc="compiling ahead", unit="cell", mininterval=1)
    workers = ProcessPool(
        min(jobs, len(cells)),
        initializer=know,
        initargs=(dict(backends.MODULES),),
        context=get_context("spawn"),
    )
    try:
        with bar, workers as pool:
            tasks = {pool.schedule(first_run, args=cell, timeout=STUCK): cell for cell in cells}
            for task in as_completed(tasks):
                if why := failure(task):
                    problem, backend = tasks[task]
                    name = f"{problem.mask} {backend} {problem.direction} S={problem.seq_len}"
                    left.append(f"{name}: {why}")
                bar.update()
    except BrokenProcessPool as error:  # none could start; each cell still can be compiled
        left.append(f"all that was not compiled yet: {error}")
    except BaseException:
        workers.stop()  # else an interrupt would wait for the whole list
        raise
    return left


def failure(task) -> str | None:
    """Why a worker left its cell to the timing process; None where it did not."""
    error = task.exception()
    if isinstance(error, ProcessExpired):
        return f"its worker died (exit code {error.exitcode})"
    if isinstance(error, Late):
        return f"its worker took more than {STUCK} s"
    if error is not None:
        raise error
    said = task.result()
    return said.splitlines()[0] if said and "out of memory" in said else None
