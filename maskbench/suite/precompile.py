"""Compiling ahead: worker processes fill the on-disk caches before one process times.

torch.compile, Triton and CuTe cache what they compile on disk. So every cell that compiles is
run once by one of --jobs workers before the first cell is timed. What a worker cannot compile,
the timing process compiles, and the run says so. A stamp in the cache folder lets a later run
skip a cell: starting workers takes longer than loading its kernels.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import torch
from tqdm import tqdm

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.masks import Mask
from maskbench.records import Phase
from maskbench.suite.attention_call import bind_and_run
from maskbench.suite.block_masks import BUILDERS
from maskbench.suite.cache_repair import first_call
from maskbench.suite.cell import get_bind
from maskbench.suite.error_text import describe_error
from maskbench.suite.kernel_cache import stamp_path, write_stamp
from maskbench.suite.requested_masks import REQUESTED, MaskRequest, request_masks
from maskbench.suite.user_masks import UnusableMask
from maskbench.suite.worker_main import TaskFailure
from maskbench.suite.workers import PoolBroken, WorkerPool
from maskbench.suite.workload import Workload, make_inputs

WORKER_TIMEOUT_S = 300  # for one cell


@dataclass(frozen=True)
class CompileTask:
    """A cell to compile.

    The mask is sent by value, because a mask that a plugin added to PATTERNS has no name in a
    worker. Its class must be importable by name. A mask of the user's files is built in the
    worker: its function may not be importable, and may capture tensors.
    """

    workload: Workload
    mask: Mask | None  # None is built in the worker
    variant: str  # a backend, a builder of block masks or a mask_mod variant

    def __str__(self) -> str:
        phase = f"{self.workload.phase} {self.workload.lengths}"
        return f"{self.workload.mask} {self.variant} {phase}"


def compile_task(workload: Workload, variant: str) -> CompileTask | None:
    """The task for a cell; None if there is nothing to compile ahead, or it cannot run here."""
    if workload.phase in (Phase.COMPILE_FORWARD, Phase.COMPILE_BACKWARD):
        return None  # the cell times compilation itself
    if workload.phase.is_search:
        return None  # the search has workers of its own
    try:
        mask = workload.build_mask()
        if workload.phase is Phase.BLOCK_MASK:
            compiles = BUILDERS[variant].compiles
        elif workload.phase.is_mask_mod_variant:
            compiles = True
        else:
            get_bind(workload, variant)
            compiles = registry.BACKENDS[variant].compiles
    except Exception:  # of the user's mask or of a library
        return None  # the cell is skipped or fails with this reason
    is_users = workload.mask in REQUESTED and REQUESTED[workload.mask].file
    return CompileTask(workload, None if is_users else mask, variant) if compiles else None


@dataclass(frozen=True)
class CompileResult:
    """What a worker reports.

    Parameters
    ----------
    finished
        Whether a later run need not send the cell to a worker again.
    detail
        "compiled", "unsupported: ..." or the exception as text: not every exception can be pickled.
    """

    finished: bool
    detail: str


def compile_cell(task: CompileTask) -> CompileResult:
    """Run a cell once in a worker, unchecked and untimed."""
    workload = task.workload
    try:
        mask = task.mask or workload.build_mask()
        if workload.phase is Phase.BLOCK_MASK:
            BUILDERS[task.variant].prepare(mask, workload.device)()
            return CompileResult(True, "compiled")
        needs_gradients = workload.phase.needs_gradients
        inputs = make_inputs(mask, workload.shape, workload.dtype, workload.device, needs_gradients)
        bind = get_bind(workload, task.variant)
        first_call(lambda: bind_and_run(bind, mask, inputs))
        if workload.device == "cuda":
            torch.cuda.empty_cache()  # the workers share the GPU
    except Unsupported as reason:
        return CompileResult(True, f"unsupported: {reason}")
    except Exception as error:  # the timing process meets it again and saves it
        return CompileResult(False, f"{type(error).__name__}: {error}")
    return CompileResult(True, "compiled")


def receive_task(pickled: bytes) -> CompileResult | TaskFailure:
    """`compile_cell` on a pickled task; `TaskFailure` if its worker cannot unpickle it."""
    try:
        task: CompileTask = pickle.loads(pickled)
    except Exception as error:  # importing the mask's module may raise any
        return TaskFailure(f"its worker cannot load it ({error})", worker_alive=True)
    return compile_cell(task)


def use_one_compile_thread() -> None:
    """Keep inductor from starting a pool of compiler processes in this process.

    A worker must not: there is one worker per CPU already. The timing process must not: on an
    H100 first calls of precompiled cells took 2.5 to 6 s each with the pool, 0.3 to 1.1 s without.
    """
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    # Private, for when a library has imported inductor, which reads the variable once (seen on
    # torch 2.11 and 2.13).
    if config := sys.modules.get("torch._inductor.config"):
        setattr(config, "compile_threads", 1)  # noqa: B010 (torch declares no such attribute)


def init_worker(backends: dict[str, registry.BackendSpec], request: MaskRequest) -> None:
    """Prepare a worker. `backends` includes those that a plugin registered in the parent."""
    use_one_compile_thread()
    warnings.simplefilter("ignore")  # the timing process shows them
    for spec in backends.values():
        registry.register(spec)
    with suppress(UnusableMask):  # of a plugin's mask, which is sent by value
        request_masks(request)


def is_compiled(task: CompileTask) -> bool:
    """Whether an earlier run has compiled the task into the current cache folders."""
    try:
        return stamp_path(task.workload, task.mask, task.variant).exists()
    except Exception:  # of the mask's class or its module; the cell meets it again
        return False


def precompile(tasks: list[CompileTask], jobs: int, request: MaskRequest) -> list[str]:
    """Compile each task that has no stamp in `jobs` workers, with a progress bar on stderr.

    Returns a line for each cell that no worker could finish, because it could not be sent, its
    worker died or timed out, or memory ran out; the timing process compiles it. Another exception
    of the cell itself is not reported: the cell raises it again when it is timed.
    """
    use_one_compile_thread()
    cold = [task for task in tasks if not is_compiled(task)]
    with tqdm(
        total=len(tasks),
        initial=len(tasks) - len(cold),
        desc="compiling ahead",
        unit="cell",
        mininterval=1,
    ) as bar:
        return _compile_in_workers(cold, jobs, request, bar) if cold else []


def _compile_in_workers(
    tasks: list[CompileTask], jobs: int, request: MaskRequest, bar: tqdm[NoReturn]
) -> list[str]:
    failures, pickled = [], []
    for task in tasks:
        try:
            pickled.append((task, pickle.dumps(task)))
        except Exception as error:  # a mask's class may raise any
            failures.append(f"{task}: it cannot be sent to a worker ({error})")
            bar.update()
    arguments = registry.BACKENDS, request
    try:
        with WorkerPool(jobs, init_worker, arguments, receive_task, WORKER_TIMEOUT_S) as pool:
            for index, result in pool.run([data for _, data in pickled]):
                task = pickled[index][0]
                bar.set_postfix_str(str(task), refresh=False)  # the last one the run waited for
                if failure := _record(task, result):
                    failures.append(f"{task}: {failure}")
                bar.update()
    except PoolBroken as error:
        failures.append(f"all that was not compiled yet: {error}")
    return failures


def _record(task: CompileTask, result: CompileResult | TaskFailure) -> str | None:
    """Write the stamp of a finished task; else return why the timing process compiles it."""
    if isinstance(result, TaskFailure):
        return result.reason
    if result.finished:
        try:
            stamp = stamp_path(task.workload, task.mask, task.variant)
        except Exception as error:  # of the mask's class or its module
            return f"it has no stamp ({describe_error(error)})"
        return write_stamp(stamp, result.detail)
    out_of_memory = "out of memory" in result.detail
    return result.detail.splitlines()[0] if out_of_memory else None
