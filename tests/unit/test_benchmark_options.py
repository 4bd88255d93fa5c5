"""pytest-benchmark's own options on the suite, and the progress that a log shows."""

import re
import shutil
from types import SimpleNamespace

import pytest

from tests.unit.pytest_process import CELLS, ROOT, pytest_inline


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory):
    """A run that saves in the default folder; then one compared with the newer of two."""
    folder = tmp_path_factory.mktemp("saved")
    grid = ("--device=cpu", "--masks=causal,full", "--seq-lens=256", "--backends=sdpa")
    save = ("--benchmark-autosave", "--benchmark-max-time=0.01", *grid, ROOT / CELLS[0])
    first = pytest_inline(*save, "-q", folder=folder)
    (path,) = (folder / ".benchmarks").rglob("*.json")
    shutil.copy(path, path.with_name("0002_copy.json"))
    second = pytest_inline(*save, "--benchmark-compare", "-v", folder=folder)
    return SimpleNamespace(first=first, second=second, folder=folder, path=path)


def test_autosave_and_compare(saved_twice):
    for text in (saved_twice.first, saved_twice.second):
        assert "Saved benchmark data in" in text
    saved = sorted(saved_twice.folder.rglob("*.json"))
    assert [path.name[:5] for path in saved] == ["0001_", "0002_", "0003_"]
    assert "Comparing against benchmarks from" in saved_twice.second
    assert "(NOW)" in saved_twice.second
    assert "(0002_" in saved_twice.second


def test_saved_runs_lie_in_a_folder_of_their_device(saved_twice):
    folder = saved_twice.path.relative_to(saved_twice.folder).parts[1]
    assert folder.startswith("cpu_")


def test_a_log_has_a_line_for_each_mask(saved_twice):
    text = re.sub(r"about \d+ s left", "about N s left", saved_twice.first)
    lines = [line for line in text.splitlines() if line.startswith("maskbench: ")]
    lines = [line for line in lines if "are noisy" not in line]  # on a busy machine
    assert lines == [
        "maskbench: 2 cells to time; about 1 s",
        "maskbench: causal forward: 1 of 2 cells, 1 timed, about N s left",
        "maskbench: full forward: 2 of 2 cells, 2 timed",
    ]


def test_verbose_results_have_the_progress(saved_twice):
    results = [line for line in saved_twice.second.splitlines() if " PASSED" in line]
    assert re.search(r"PASSED \(1 of 2, 1 timed, about \d+ s left\)", results[0])
    assert "PASSED (2 of 2, 2 timed)" in results[1]


def test_benchmark_disable_runs_each_cell_once():
    grid = ("--device=cpu", "--masks=causal", "--seq-lens=256", "--backends=sdpa")
    text = pytest_inline("--benchmark-disable", *grid, CELLS[0])
    assert "1 passed" in text
    assert "Min" not in text
    assert "cells to time" not in text


def test_benchmark_only_chooses_the_benchmarks(tmp_path):
    grid = ("--device=cpu", "--masks=causal", "--seq-lens=256", "--backends=sdpa")
    plain = tmp_path / "test_plain.py"
    plain.write_text("def test_that_times_nothing():\n    pass\n")
    text = pytest_inline("--benchmark-only", "--collect-only", *grid, CELLS[0], plain)
    assert "test_that_times_nothing" not in text
    assert "1/2 tests collected (1 deselected)" in text


def test_benchmark_only_does_not_import_the_unit_tests():
    grid = ("--device=cpu", "--masks=causal", "--seq-lens=256", "--backends=sdpa")
    text = pytest_inline("--benchmark-only", "--collect-only", "-q", *grid, "tests")
    assert "tests/test_forward.py" in text
    collected = re.search(r"/(\d+) tests collected", text)
    assert int(collected[1]) < 100
