"""The searches of all problems of a run: workers screen the candidates of several at a time."""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from maskbench.backends import registry
from maskbench.masks import Mask
from maskbench.suite.precompile import init_worker
from maskbench.suite.requested_masks import REQUESTED, MaskRequest
from maskbench.suite.tuning.gpu_lock import GPULock
from maskbench.suite.tuning.screening import Screened, ScreeningTask, receive_screening
from maskbench.suite.tuning.search import search
from maskbench.suite.tuning.target import target_of
from maskbench.suite.worker_main import TaskFailure
from maskbench.suite.workers import POLL_S, WorkerPool
from maskbench.suite.workload import Workload
from maskbench.tuned_options import DEFAULT_OPTIONS, Dropped, FlexOptions

TASK_TIMEOUT_S = 300
# torch's own search compiles up to 20 kernels one after the other. So it starts before the other
# tasks of as many earlier problems.
AUTOTUNE_PROBLEMS_AHEAD = 6
LOCK_POLL_S = 0.01


@dataclass
class Search:
    """The search of one problem and its results so far.

    Parameters
    ----------
    ranking
        The options that may be the fastest, fastest first; None until the search has ended.
    times
        The screening time of each option that could run, in seconds.
    dropped
        The options that could not run, with the reason.
    autotune_problem
        Why torch's own search has no call; None if it has one, "" if it is not finished.
    worker_s
        The time of all workers together.
    """

    workload: Workload
    mask: Mask
    has_autotune: bool
    ranking: list[FlexOptions] | None = None
    times: dict[FlexOptions, float] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    autotune_problem: str | None = ""
    worker_s: float = 0.0

    def __post_init__(self) -> None:
        self.generator = search(target_of(self.workload, self.mask))
        self.requested = next(self.generator)
        self.pending: set[FlexOptions | None] = set(self.requested)
        if self.has_autotune:
            self.pending.add(None)
        else:
            self.autotune_problem = "torch has no search for a CPU"

    @property
    def first_tasks(self) -> list[FlexOptions | None]:
        """What is to be compiled first."""
        return [*([None] if self.has_autotune else []), *self.requested]

    @property
    def is_finished(self) -> bool:
        return self.ranking is not None and not self.pending

    def receive(
        self, options: FlexOptions | None, result: Screened | TaskFailure
    ) -> list[FlexOptions]:
        """Store a result; return what is to be compiled next."""
        self.pending.discard(options)
        seconds = result.seconds if isinstance(result, Screened) else None
        self.worker_s += result.worker_s if isinstance(result, Screened) else 0.0
        if options is None:
            self.autotune_problem = None if seconds is not None else result.reason
        elif seconds is None:
            self.dropped.append(Dropped(str(options), result.reason))
        else:
            self.times[options] = seconds
        if self.ranking is not None or not self.pending.isdisjoint(self.requested):
            return []
        try:
            found = {o: self.times[o] for o in self.requested if o in self.times}
            self.requested = self.generator.send(found)
        except StopIteration as end:
            self.ranking = end.value
            return []
        self.pending |= set(self.requested)
        return self.requested


class Searches:
    """The searches of a run, in the order of its cells; a context manager.

    Parameters
    ----------
    workloads
        What is to be tuned. Those without a mask of their length are left out.
    jobs
        The number of worker processes.
    ahead
        How many of the next problems are compiled while one is timed.
    request
        The masks of the run.
    """

    def __init__(
        self, workloads: list[Workload], jobs: int, ahead: int, request: MaskRequest
    ) -> None:
        self.workloads, self.jobs, self.ahead = workloads, jobs, ahead
        self.started: dict[Workload, Search] = {}
        self.tasks: list[tuple[Workload, FlexOptions | None]] = []  # by the pool's index
        # The earliest first: (place of the problem, not torch's own search, number, pickled task).
        self.queue: list[tuple[int, bool, int, bytes]] = []
        arguments = registry.BACKENDS, request
        self.pool = WorkerPool(jobs, init_worker, arguments, receive_screening, TASK_TIMEOUT_S)
        self.folder = TemporaryDirectory(prefix="maskbench-tune-", ignore_cleanup_errors=True)
        self.gpu_lock = GPULock(Path(self.folder.name, "gpu"))

    def __enter__(self) -> Searches:
        self.pool.__enter__()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # Nobody needs what is still compiled: the workers are killed.
        self.pool.__exit__(error or (KeyboardInterrupt if self.pool.unfinished else None))
        self.gpu_lock.close()
        self.folder.cleanup()

    def begin(self, workload: Workload) -> None:
        """Let the workers begin with a workload, unless they have.

        Raises
        ------
        ValueError
            If the mask does not exist at this length.
        PoolBroken
            If no worker can start.
        """
        self._start(workload)
        self.advance(0)

    def finish(self, workload: Workload) -> Search:
        """Wait for the search of a workload; start those of the next ones. Raises as `begin`."""
        place = self.workloads.index(workload)
        found = self._start(workload)
        for later in self.workloads[place + 1 : place + 1 + self.ahead]:
            self.advance(0)
            try:
                self._start(later)
            except Exception:  # of the user's mask: its own cell raises it again
                continue
        while not found.is_finished:
            self.advance()
        return found

    def advance(self, wait_s: float = POLL_S) -> None:
        """Give tasks to the workers and receive results; wait up to `wait_s` for one."""
        while self.queue and self.pool.unfinished < 2 * self.jobs:
            *_, index, task = heapq.heappop(self.queue)
            self.pool.submit(index, task)
        for index, result in self.pool.results(wait_s):
            workload, options = self.tasks[index]
            found = self.started[workload]
            self._add(workload, found.receive(options, result))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Within this context no worker measures. The workers get tasks until it begins.

        Not within `paused`: a worker that is stopped may hold the lock of the GPU.
        """
        # A thread waits, so that a worker that hangs with the lock is killed at its time limit.
        waiting = Thread(target=self.gpu_lock.lock.wait_alone, daemon=True)
        waiting.start()
        while waiting.is_alive():
            self.advance(0)
            waiting.join(LOCK_POLL_S)
        with self.gpu_lock.exclusive():
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No worker uses the CPU, or begins to use the GPU, within this context."""
        with self.pool.paused():
            yield

    def _start(self, workload: Workload) -> Search:
        if workload not in self.started:
            found = Search(workload, workload.build_mask(), workload.device == "cuda")
            self.started[workload] = found
            self._add(workload, found.first_tasks)
        return self.started[workload]

    def _add(
        self, workload: Workload, options: list[FlexOptions] | list[FlexOptions | None]
    ) -> None:
        is_users = workload.mask in REQUESTED and REQUESTED[workload.mask].file
        mask = None if is_users else self.started[workload].mask
        lock = self.gpu_lock.lock.path if workload.device == "cuda" else None
        for option in options:
            index = len(self.tasks)
            self.tasks.append((workload, option))
            task = pickle.dumps(ScreeningTask(workload, mask, option, lock))
            place = self.workloads.index(workload) - (
                AUTOTUNE_PROBLEMS_AHEAD if option is None else 0
            )
            heapq.heappush(self.queue, (place, option is not None, index, task))


def why_default_failed(found: Search) -> str | None:
    """Why the default options could not run in a worker; None if they could."""
    if DEFAULT_OPTIONS in found.times:
        return None
    name = str(DEFAULT_OPTIONS)
    return next((dropped.reason for dropped in found.dropped if dropped.options == name), "")
