"""A pool that gets tasks while it works, and is paused while something is timed."""

from time import monotonic, sleep

import pytest

from maskbench.suite.worker_main import TaskFailure
from maskbench.suite.workers import PoolBroken, WorkerPool
from tests.unit import pool_handlers


def pool(handle, jobs=1, initialize=pool_handlers.initialize, timeout_s=60.0):
    return WorkerPool(jobs, initialize, (), handle, timeout_s)


def wait_for(workers, count):
    """The results of the next `count` tasks by their index."""
    found, give_up = {}, monotonic() + 30
    while len(found) < count:
        assert monotonic() < give_up
        found |= dict(workers.results())
    return found


def test_tasks_can_be_added_after_others_have_ended():
    with pool(pool_handlers.echo, jobs=2) as workers:
        workers.submit(7, b"first")
        assert wait_for(workers, 1) == {7: b"first"}
        assert workers.unfinished == 0
        assert len(workers.workers) == 1, "one task needs one worker"
        for index in (1, 2, 3):
            workers.submit(index, str(index).encode())
        assert workers.unfinished == 3
        assert wait_for(workers, 3) == {1: b"1", 2: b"2", 3: b"3"}
        assert len(workers.workers) == 2
        assert dict(workers.run([b"a", b"b"])) == {0: b"a", 1: b"b"}


def test_paused_workers_do_nothing_and_their_time_stops(tmp_path):
    file = tmp_path / "file"
    with pool(pool_handlers.write_for_a_second, timeout_s=5) as workers:
        workers.submit(0, str(file).encode())
        give_up = monotonic() + 30
        while not file.exists() or not file.stat().st_size:
            assert monotonic() < give_up
            workers.results()
        (worker,), deadline = workers.workers, workers.workers[0].deadline
        with workers.paused():
            sleep(0.05)  # what was just being written
            before = file.stat().st_size
            sleep(2.0)
            assert file.stat().st_size == before
        assert before < 200
        assert worker.deadline == pytest.approx(deadline + 2.05, abs=0.3)
        assert wait_for(workers, 1) == {0: b"done"}
        assert file.stat().st_size == 200


def test_an_error_while_paused_lets_workers_go_on(tmp_path):
    with pool(pool_handlers.echo) as workers:
        workers.submit(0, b"a")
        wait_for(workers, 1)
        with pytest.raises(ZeroDivisionError), workers.paused():
            raise ZeroDivisionError
        workers.submit(1, b"b")
        assert wait_for(workers, 1) == {1: b"b"}


def test_a_pool_whose_workers_cannot_start_says_why():
    with (
        pool(pool_handlers.echo, 2, pool_handlers.fail_to_initialize) as workers,
        pytest.raises(PoolBroken, match="no worker can start: ImportError: no such library"),
    ):
        list(workers.run([b"a", b"b", b"c"]))
    assert TaskFailure("reason") == TaskFailure("reason", worker_alive=False)
