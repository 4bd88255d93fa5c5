"""`pytest -m tune` in this process, with workers and kernels that are replaced."""

import pickle
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from time import monotonic, sleep
from typing import ClassVar

import pytest

from maskbench.backends import dense
from maskbench.suite import tuned
from maskbench.suite.tuning import final_comparison, searches
from maskbench.suite.tuning.screening import Screened
from maskbench.suite.worker_main import TaskFailure
from maskbench.suite.workload import cached_inputs
from maskbench.tuned_options import entry_paths, read_entry
from tests.unit.pytest_process import (
    PYTEST_PROGRAM,
    ROOT,
    pytest_inline,
    pytest_run,
    run_inline,
    strict_json,
)

FEW = ("-m", "tune", "--device", "cpu", "--masks", "causal,full", "--seq-lens", 256)
FILE = "tests/test_tune.py"
FEW = (*FEW, "--benchmark-max-time=0.01", FILE)


class InlinePool:
    """A pool whose tasks end at once, each with what `screen` returns."""

    screened: ClassVar[list[object]] = []

    def __init__(self, jobs, initialize, arguments, handle, timeout_s):
        self.waiting = deque()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def unfinished(self):
        return len(self.waiting)

    def submit(self, index, task):
        self.waiting.append((index, pickle.loads(task)))

    def results(self, wait_s):
        found = [(index, self.screen(task)) for index, task in self.waiting]
        self.waiting.clear()
        return found

    def screen(self, task):
        self.screened.append(task)
        return Screened(1.0, "", 2.0)

    @contextmanager
    def paused(self):
        yield


@pytest.fixture
def store(monkeypatch, tmp_path):
    """The folder of entries; the options are computed by the formula, without a compiler."""
    folder = tmp_path / "tuned"
    monkeypatch.setattr(tuned, "FOLDER", folder)
    monkeypatch.setattr(searches, "WorkerPool", InlinePool)
    monkeypatch.setattr(final_comparison, "bind_with", lambda options: dense.bind)
    monkeypatch.setattr(InlinePool, "screened", [])
    return folder


def entries(folder):
    return {entry.problem.mask: entry for entry in map(read_entry, entry_paths(folder))}


def test_a_search_is_kept_and_not_repeated(store, tmp_path):
    saved = tmp_path / "run.json"
    text = pytest_inline(*FEW, f"--benchmark-json={saved}")
    assert "2 skipped: FlexAttention does not support backward on CPU" in text
    kept = entries(store)
    assert set(kept) == {"causal", "full"}
    assert (kept["causal"].tried, kept["causal"].compile_s) == (6, 12.0)
    sizes = {f"BLOCK_SIZE={size}" for size in ("64x64", "64x128", "128x256", "256x256", "32x512")}
    assert {timed.options for timed in kept["causal"].screening} == sizes | {"default"}
    assert kept["causal"].dropped == []
    run = strict_json(saved)
    (causal, _) = run["benchmarks"]
    assert causal["fullname"] == (
        "tests/test_tune.py::test_tune_forward[causal-flex_tuned-s256-b1h4d64-float32]"
    )
    assert causal["extra_info"]["direction"] == "tune_forward"
    assert causal["extra_info"]["backend"] == "flex_tuned"
    assert "causal-forward-s256-b1h4d64-float32: " in text
    first = len(InlinePool.screened)
    text = pytest_inline(*FEW)
    assert text.count("what this torch found on this device; delete it to search again") == 2
    assert len(InlinePool.screened) == first, "nothing is compiled for what is kept"


def test_an_entry_of_another_torch_is_searched_again(store):
    pytest_inline(*FEW)
    path = next(p for p in entry_paths(store) if "causal" in p.name)
    path.write_text(path.read_text().replace(entries(store)["causal"].torch, "2.8.0"))
    text = pytest_inline(*FEW)
    assert "1 timed" in text
    assert entries(store)["causal"].torch != "2.8.0"


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 9}'])
def test_a_damaged_entry_is_searched_again_and_skipped_by_the_backend(store, content):
    pytest_inline(*FEW)
    path = next(p for p in entry_paths(store) if "causal" in p.name)
    path.write_bytes(content)
    cells = ("--benchmark-only", "--device", "cpu", "--masks", "causal", "--seq-lens", 256)
    cells = (*cells, "--backends", "flex_tuned,dense", "tests/test_forward.py")
    text = pytest_inline(*cells)
    assert f"{path}: is " in text
    assert "; search again: python -m pytest -m tune" in text
    pytest_inline(*FEW)
    assert entries(store)["causal"].tried == 6


def test_a_folder_that_cannot_be_written_ends_the_session_at_once(store):
    store.write_text("a file")
    status, text = run_inline(*FEW)
    assert status == 4
    assert f"-m tune {store}" in text
    assert "name a folder that you may write" in text
    assert InlinePool.screened == []


def test_a_file_that_cannot_be_replaced_ends_the_session_at_once(store):
    pytest_inline(*FEW)
    path = next(p for p in entry_paths(store) if "causal" in p.name)
    path.unlink()
    path.mkdir()
    InlinePool.screened.clear()
    status, text = run_inline(*FEW)
    assert status == 4
    assert f"-m tune {path}: is a folder, not a file; delete it" in text
    assert InlinePool.screened == []


def interrupt_at(monkeypatch, mask):
    """Let the search for this class of masks be interrupted."""
    compile_and_check = final_comparison.FinalComparison.compile_and_check

    def interrupt(self, options):
        if type(self.mask).__name__ == mask:
            raise KeyboardInterrupt
        return compile_and_check(self, options)

    monkeypatch.setattr(final_comparison.FinalComparison, "compile_and_check", interrupt)


def test_an_interrupt_keeps_what_was_found(store, monkeypatch):
    interrupt_at(monkeypatch, "Full")
    status, text = run_inline(*FEW)
    assert status == 2
    assert set(entries(store)) == {"causal"}
    assert "maskbench: 2 cells to time (2 more will be skipped)" in text
    line = "maskbench: 1 of 2 cells were not run (2 more would be skipped): KeyboardInterrupt"
    assert line in text


def test_a_search_whose_result_exists_is_not_missing_after_an_interrupt(store, monkeypatch):
    pytest_inline(*FEW)
    next(path for path in entry_paths(store) if "causal" in path.name).unlink()
    interrupt_at(monkeypatch, "Causal")
    _, text = run_inline(*FEW)
    assert "maskbench: 1 cells to time (3 more will be skipped)" in text
    line = "maskbench: 1 of 1 cells were not run (3 more would be skipped): KeyboardInterrupt"
    assert line in text


def screen_with(monkeypatch, result):
    """Let `result` say what a worker reports about options."""
    monkeypatch.setattr(InlinePool, "screen", lambda self, task: result(task.options))


def test_what_does_not_compile_is_kept_with_its_reason(store, monkeypatch):
    def result(options):
        if options.block_size == (64, 64):
            return Screened(None, "OutOfResources: out of resource: shared memory", 1.0)
        if options.block_size == (64, 128):
            return TaskFailure("its worker died (exit code -11)")
        return Screened(1.0, "", 1.0)

    screen_with(monkeypatch, result)
    pytest_inline(*FEW)
    reasons = {dropped.options: dropped.reason for dropped in entries(store)["causal"].dropped}
    assert reasons["BLOCK_SIZE=64x64"] == "OutOfResources: out of resource: shared memory"
    assert reasons["BLOCK_SIZE=64x128"] == "its worker died (exit code -11)"


def test_a_default_that_cannot_run_is_the_outcome(store, monkeypatch):
    screen_with(monkeypatch, lambda options: Screened(None, "no C++ compiler", 1.0))
    text = pytest_inline(*FEW)
    assert "2 unsupported: the default options cannot run: no C++ compiler" in text
    assert entries(store) == {}


def test_options_of_an_own_mask_and_shape_are_kept_and_named(store, tmp_path):
    masks = tmp_path / "my_masks.py"
    masks.write_text(
        "def sinks(b, h, q, k, n=4):\n    return (q >= k) & ((q - k < 64) | (k < n))\n"
    )
    shape = ("--seq-lens", 300, "--q-lens", 3, "--heads", 4, "--kv-heads", 2, "--head-dim", 32)
    own = ("--device", "cpu", "--masks", f"{masks}:sinks(n=2)", *shape, "--benchmark-max-time=0.01")
    cells = ("--benchmark-only", *own, "--backends", "flex_tuned,dense", "tests/test_forward.py")
    text = pytest_inline(*cells)
    command = (
        f"python -m pytest -m tune tests/test_tune.py --device cpu --masks '{masks}:sinks(n=2)' "
        "--seq-lens 300 --q-lens 3 --batch 1 --heads 4 --kv-heads 2 --head-dim 32 --dtype float32"
    )
    assert f"run {command}\n" in text
    pytest_inline("-m", "tune", *own, FILE)
    (entry,) = entries(store).values()
    assert entry.problem.mask == "my_masks.sinks(n=2)"
    assert (entry.problem.q_len, entry.problem.kv_heads) == (3, 2)
    other = tmp_path / "changed"
    other.mkdir()
    masks.rename(other / "my_masks.py").write_text(
        "def sinks(b, h, q, k, n=4):\n    return (q >= k) & (q - k < n)\n"
    )
    changed = [str(text).replace(str(masks), str(other / "my_masks.py")) for text in own]
    cached_inputs.cache_clear()  # in another process there are none
    text = pytest_inline("-m", "tune", *changed, FILE)
    assert "1 timed" in text
    (again,) = entries(store).values()
    assert again.problem == entry.problem
    assert again.mask_digest != entry.mask_digest


def test_a_run_that_did_not_name_the_backend_has_one_reason(store):
    cells = ("--benchmark-only", "--device", "cpu", "--masks", "causal,full", "--seq-lens", 256)
    text = pytest_inline(*cells, "tests/test_forward.py", "-k", "flex_tuned or dense")
    reason = "its options have not been searched yet; name flex_tuned in --backends to see how"
    assert f"2 skipped: {reason}" in text


@pytest.mark.slow
def test_a_search_with_real_workers_is_replayed(monkeypatch, tmp_path):
    """The whole way on a CPU: workers compile, one process checks and times, flex_tuned replays."""
    monkeypatch.setenv("TUNED_FOLDER", str(tmp_path / "tuned"))
    shape = ("--device", "cpu", "--masks", "causal", "--seq-lens", 256, "--head-dim", 16)
    shape = ("-p", "tests.unit.tuning_plugin", *shape, "--benchmark-max-time=0.01")
    pytest_run("-m", "tune", *shape, FILE, is_supervised=True)
    (entry,) = entries(tmp_path / "tuned").values()
    assert entry.tried == 2
    assert entry.compile_s > 0
    saved = tmp_path / "run.json"
    cells = ("--benchmark-only", *shape, "--backends", "flex,flex_tuned", "tests/test_forward.py")
    pytest_run(*cells, f"--benchmark-json={saved}")
    forms = {b["extra_info"]["backend"]: b["extra_info"] for b in strict_json(saved)["benchmarks"]}
    size = "64x64" if entry.found else "128x128"
    assert forms["flex_tuned"]["formulation"] == f"block_mask:{size}"
    assert forms["flex"]["formulation"] == "block_mask:128x128"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_search_keeps_what_was_found(monkeypatch, tmp_path):
    folder = tmp_path / "tuned"
    monkeypatch.setenv("TUNED_FOLDER", str(folder))
    shape = ("--device", "cpu", "--masks", "causal,full,prefix_lm", "--seq-lens", "256")
    search = subprocess.Popen(
        [*PYTEST_PROGRAM, "-p", "tests.unit.tuning_plugin", "-m", "tune", *shape, FILE],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    give_up = monotonic() + 120
    while not (kept := list(entry_paths(folder))):
        assert monotonic() < give_up
        assert search.poll() is None
        sleep(0.02)
    search.kill()
    search.wait()
    assert [entry.problem.mask for entry in map(read_entry, kept)] == ["causal"]
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]
