"""Compiling ahead: worker processes fill the on-disk caches, then one process times.

torch.compile, Triton and CuTe keep what they compiled on disk. So each cell that compiles
is run once by one of --jobs workers before the first is timed. What a worker cannot
compile, the timing process compiles, and the run says so. A stamp beside what was compiled
lets a later run leave a cell out: to start workers takes longer than to load its kernels.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import TimeoutError as Late
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

if TYPE_CHECKING:
    from tests.cells import Problem

# FlashAttention-4 keeps what it compiles only where it is asked to.
os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
# Where torch keeps what it compiled, unless the user has chosen a folder: named here, as the stamps
# have to be beside it, and go with it.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"maskbench_inductor_{os.getuid()}"))
)
# Folders that the libraries keep what they compiled in.
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


def load_in_this_process() -> None:
    """Keep inductor from a pool of compiling processes of its own in the process that times.

    So it compiles as the workers did. After cells compiled ahead on an H100, first calls took 2.5
    to 6 s each while the pool was up; without it 0.3 to 1.1 s.
    """
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    # Private, for where a library has imported inductor already, which reads the variable once
    # (seen on 2.11 and 2.13).
    if config := sys.modules.get("torch._inductor.config"):
        config.compile_threads = 1


@cache
def surroundings() -> str:
    """What kernels depend on beside their cell: versions, the card, and this suite's own code.

    And where torch is: its include folders are in the commands that inductor's C++ is kept under.
    """
    import torch

    there = torch.cuda.is_available()
    card = torch.cuda.get_device_name() if there else platform.processor()
    versions = sorted({(d.name, d.version) for d in distributions() if d.name in COMPILERS})
    top, code = Path(__file__).parents[1], sha256()
    for part in ("masks.py", "patterns/*.py", "backends/*.py", "tests/spellings.py"):
        for file in sorted(top.glob(part)):
            code.update(file.read_bytes())
    return f"{card} {versions} {torch.__file__} {code.hexdigest()}"


COMPILERS = {"torch", "triton", "flash-attn-4", "nvidia-cutlass-dsl"}


def stamp_of(problem: Problem, backend: str) -> Path:
    """The file that is there where the cell has been compiled into the cache folders."""
    folders = [os.environ.get(name) for name in FOLDERS]
    key = f"{problem} {backend} {folders} {surroundings()}"
    name = sha256(key.encode()).hexdigest()
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "maskbench", name)


def compile_ahead(cells: list[tuple[Problem, str]], jobs: int) -> list[str]:
    """Run each cell once in `jobs` workers, with a progress bar on stderr.

    Cells that an earlier run has compiled are left out. Returns a line for each cell whose
    worker died or got stuck: it is left to the timing process. What the cell itself raises
    it will raise there again, and be saved with it.
    """
    load_in_this_process()
    cold = [cell for cell in cells if not stamp_of(*cell).exists()]
    done, how = len(cells) - len(cold), {"unit": "cell", "mininterval": 1}
    with tqdm(total=len(cells), initial=done, desc="compiling ahead", **how) as bar:
        return compile_in_workers(cold, jobs, bar) if cold else []


def compile_in_workers(cells: list[tuple[Problem, str]], jobs: int, bar: tqdm) -> list[str]:
    import backends

    left: list[str] = []
    workers = ProcessPool(
        min(jobs, len(cells)),
        initializer=know,
        initargs=(dict(backends.MODULES),),
        context=get_context("spawn"),
    )
    try:
        with workers as pool:
            tasks = {pool.schedule(first_run, args=cell, timeout=STUCK): cell for cell in cells}
            for task in as_completed(tasks):
                problem, backend = tasks[task]
                name = f"{problem.mask} {backend} {problem.direction} S={problem.seq_len}"
                bar.set_postfix_str(name, refresh=False)  # the last one: what the run waited for
                if why := failure(task):
                    left.append(f"{name}: {why}")
                else:
                    stamp_of(problem, backend).parent.mkdir(parents=True, exist_ok=True)
                    stamp_of(problem, backend).touch()
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
