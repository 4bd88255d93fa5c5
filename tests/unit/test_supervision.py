"""A test that ends or blocks its process costs its own result only."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from maskbench.journal import parse_journal
from maskbench.reading import read_run
from tests.unit.pytest_process import CELLS, PYTEST_PROGRAM, ROOT, pytest_run, strict_json

GRID = ("--benchmark-only", "--device=cpu", "--masks=causal", "--benchmark-max-time=0.01")
DYING = ("-p", "tests.unit.dying_backends")
REASONS = {
    "segfault": ("crashed", "ended its process with SIGSEGV (Segmentation fault)"),
    "abort": ("crashed", "ended its process with SIGABRT (Aborted)"),
    "exit_at_once": ("crashed", "ended its process with exit status 3"),
    "exit_quietly": ("crashed", "ended its process with exit status 0"),
    "kill": (
        "crashed",
        "ended its process with SIGKILL (Killed; the system may have been short of memory)",
    ),
    "hang": ("timed out", "ran for more than 4 s (--cell-timeout)"),
    "hang_in_c": ("timed out", "ran for more than 4 s (--cell-timeout)"),
}


LENGTHS = (256, 512)


def run_grid(
    folder: Path, backends: str, *options: str, lengths: Sequence[int] = LENGTHS
) -> tuple[dict, str]:
    """The saved run, and the output of pytest."""
    target, storage = folder / "run.json", f"--benchmark-storage=file://{folder}"
    seq_lens = f"--seq-lens={','.join(map(str, lengths))}"
    grid = (*DYING, *GRID, seq_lens, f"--backends={backends}", storage, CELLS[0])
    text = pytest_run(*grid, f"--benchmark-json={target}", *options, expect=1, is_supervised=True)
    return strict_json(target), text


def check_deaths(run: dict, backends: list[str], lengths: Sequence[int] = LENGTHS) -> None:
    """Each other cell has a time, once; each dying one has its outcome and reason."""
    timed = [bench["extra_info"]["seq_len"] for bench in run["benchmarks"]]
    assert timed == [*lengths]
    untimed = {
        (c["backend"], c["seq_len"]): (c["outcome"], c["reason"])
        for c in run["maskbench"]["untimed"]
    }
    assert untimed == {(name, n): REASONS[name] for name in backends for n in lengths}
    assert run["maskbench"]["not_run"] == []
    assert run["maskbench"]["interrupted"] is None
    assert run["maskbench"]["pieces"] == 1 + len(lengths) * len(backends)


def test_a_crash_costs_one_cell(tmp_path):
    run, text = run_grid(tmp_path, "segfault,sdpa", lengths=[256])
    check_deaths(run, ["segfault"], lengths=[256])
    assert text.count("going on in a fresh process") == 1
    assert "1 failed, 1 passed" in text
    assert not list((tmp_path / "journals").iterdir())  # the file has all of it


@pytest.mark.slow
@pytest.mark.parametrize(
    "backends", [["abort", "exit_at_once", "exit_quietly", "kill"], ["hang", "hang_in_c"]]
)
def test_every_death_costs_one_cell(backends, tmp_path):
    names = ",".join([*backends, "sdpa"])
    run, _ = run_grid(tmp_path, names, "--cell-timeout=4", lengths=[256])
    check_deaths(run, backends, lengths=[256])


@pytest.mark.slow
def test_two_gpus_share_one_run(tmp_path):
    run, text = run_grid(tmp_path, "segfault,sdpa", "-p", "tests.unit.two_workers")
    timed = [bench["extra_info"]["seq_len"] for bench in run["benchmarks"]]
    assert timed == [256, 512]
    assert [cell["outcome"] for cell in run["maskbench"]["untimed"]] == ["crashed"] * 2
    assert "timing on 2 GPUs" in text


class RunningGrid:
    """pytest on a grid of slow cells, started in the background."""

    def __init__(
        self, folder: Path, *options: str, preexec_fn: Callable[[], None] | None = None
    ) -> None:
        self.folder, self.target = folder, folder / "run.json"
        storage = f"--benchmark-storage=file://{folder}"
        grid = ("--seq-lens=256,512,1024,2048", "--backends=sdpa,dense", storage, CELLS[0])
        self.process = subprocess.Popen(
            [
                *PYTEST_PROGRAM,
                *("--benchmark-only", "--device=cpu", "--masks=causal", "--benchmark-max-time=1"),
                *(*grid, f"--benchmark-json={self.target}", *options),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=preexec_fn,
        )

    def journal(self) -> Path | None:
        return max((self.folder / "journals").glob("*.jsonl"), default=None)

    def finished_cells(self) -> int:
        journal = self.journal()
        text = journal.read_text() if journal else ""
        return len(parse_journal(text).timed) if "\n" in text else 0

    def wait_for_cells(self, number: int) -> None:
        deadline = time.monotonic() + 120
        while self.finished_cells() < number:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def wait(self, status: int) -> str:
        text, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == status, text
        return text


@pytest.fixture
def running(tmp_path):
    """A grid whose first cell has a time."""
    grid = RunningGrid(tmp_path)
    grid.wait_for_cells(1)
    yield grid
    with suppress(ProcessLookupError):
        os.killpg(grid.process.pid, signal.SIGKILL)


def saved_cells(run: dict) -> list[str]:
    return [bench["fullname"] for bench in run["benchmarks"]]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_run_with_what_it_has(number, running):
    running.process.send_signal(number)
    text = running.wait(2)
    saved = strict_json(running.target)
    assert 1 <= len(saved["benchmarks"]) < 8
    suite = saved["maskbench"]
    assert suite["interrupted"] == number.name
    assert suite["planned"] == 8
    assert len(suite["not_run"]) == 8 - len(saved["benchmarks"])
    assert f"{len(suite['not_run'])} of 8 cells were not run: {number.name}" in text
    assert running.journal()  # to be resumed


@pytest.mark.slow
def test_kill_loses_the_cell_in_hand_only(running):
    os.killpg(running.process.pid, signal.SIGKILL)
    running.process.communicate()
    finished = running.finished_cells()
    assert not running.target.exists()
    read = read_run(running.journal())  # as the reports do
    assert len(read.timed) == finished
    assert read.incomplete == (
        f"ended early (the run has not ended): {8 - finished} of 8 cells are missing"
    )
    resumed = RunningGrid(running.folder, "--resume")
    text = resumed.wait(0)
    assert f"{finished} of 8 cells are there" in text
    saved = strict_json(resumed.target)
    assert len(set(saved_cells(saved))) == len(saved_cells(saved)) == 8
    assert saved["maskbench"]["pieces"] == 2


@pytest.mark.slow
def test_the_child_ends_with_its_supervisor(running):
    (child,) = running.children()
    running.process.kill()
    running.process.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert strict_json(running.target)["maskbench"]["interrupted"] == "SIGTERM"


@pytest.mark.slow
def test_a_run_under_nohup_survives_its_terminal(tmp_path):
    def ignore_hangup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    grid = RunningGrid(tmp_path, "--benchmark-max-time=0.1", preexec_fn=ignore_hangup)
    grid.wait_for_cells(1)
    os.killpg(grid.process.pid, signal.SIGHUP)
    grid.wait(0)
    assert strict_json(grid.target)["maskbench"]["interrupted"] is None


DYING_TESTS = """
import os
import pytest

@pytest.fixture
def dies_in_setup():
    os._exit(3)

@pytest.fixture
def dies_in_teardown():
    yield
    os._exit(4)

def test_setup(dies_in_setup):
    pass

def test_teardown(dies_in_teardown):
    pass

def test_failed_and_teardown(dies_in_teardown):
    raise ValueError

def test_benchmark_and_teardown(benchmark, dies_in_teardown):
    benchmark(lambda: None)

def test_benchmark(benchmark):
    benchmark(lambda: None)

def test_call():
    os.abort()

def test_that_passes():
    pass
"""


@pytest.mark.slow
def test_a_death_in_a_fixture_or_in_a_users_test_costs_one_test(tmp_path):
    (tmp_path / "test_dying.py").write_text(DYING_TESTS)
    target = tmp_path / "run.json"
    text = pytest_run(
        *("--device=cpu", "--masks=causal", "--seq-lens=256", "--backends=sdpa", CELLS[0]),
        *(f"--benchmark-storage=file://{tmp_path}", f"--benchmark-json={target}"),
        tmp_path / "test_dying.py",
        expect=1,
        is_supervised=True,
    )
    assert text.count("going on in a fresh process") == 5
    saved = strict_json(target)
    names = [name.rpartition("::")[2].partition("[")[0] for name in saved_cells(saved)]
    assert names == ["test_forward", "test_benchmark"]
    assert "3 passed" in text


DYING_SESSION = """
import os
import pytest

@pytest.fixture(scope="session", autouse=True)
def dies_at_the_end():
    yield
    os._exit(9)

def test_first(benchmark):
    benchmark(lambda: None)

def test_last(benchmark):
    benchmark(lambda: None)
"""


@pytest.mark.slow
def test_a_process_that_dies_again_at_the_same_place_is_not_restarted_for_ever(tmp_path):
    (tmp_path / "test_dying.py").write_text(DYING_SESSION)
    text = pytest_run(
        *("--benchmark-only", "--device=cpu", "--masks=causal", "--seq-lens=256"),
        *("--backends=sdpa", CELLS[0], f"--benchmark-storage=file://{tmp_path}"),
        *(f"--benchmark-json={tmp_path / 'run.json'}", tmp_path / "test_dying.py"),
        expect=9,
        is_supervised=True,
    )
    assert text.count("going on in a fresh process") == 1
    assert "it died again at the same place" in text
    (journal,) = (tmp_path / "journals").glob("*.jsonl")
    assert f"The finished cells are in {journal}" in text
    assert len(parse_journal(journal.read_text()).timed) == 2
