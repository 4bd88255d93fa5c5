"""Numbered files in the storage, and histograms."""

import os

import pytest
from pytest_benchmark.utils import get_machine_id

from maskbench.suite import targets
from maskbench.suite.targets import Storage, take_over_targets
from tests.unit.pytest_process import run_inline
from tests.unit.saving_plugin import options

# --- numbered files ---


def test_runs_are_numbered_as_by_pytest_benchmark(tmp_path):
    storage = Storage(tmp_path / "runs", "name")
    paths = [storage.save(b"{}") for _ in range(2)]
    folder = tmp_path / "runs" / get_machine_id()
    assert paths == [folder / "0001_name.json", folder / "0002_name.json"]
    assert sorted(folder.iterdir()) == paths


@pytest.mark.parametrize(
    ("older", "number"),
    [
        (["0009_a.json", "0003_b.json"], "0010"),
        (["9999_a.json"], "10000"),
        (["9999_a.json", "10000_b.json"], "10001"),
        (["123456_a.json", "9999_a.json"], "123457"),
        (["../0041_in_the_root.json"], "0042"),
        (["0007_packed.json.gz", "readme.json", "_9.json"], "0008"),
    ],
)
def test_a_number_of_any_length_is_followed_by_the_next(older, number, tmp_path):
    storage = Storage(tmp_path, "name")
    storage.folder.mkdir()
    for name in older:
        (storage.folder / name).touch()
    assert storage.save(b"{}").name == f"{number}_name.json"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_run_that_saves_at_the_same_time_is_not_replaced(has_links, tmp_path, monkeypatch):
    storage = Storage(tmp_path, "name")
    first = storage.save(b"the other's")
    monkeypatch.setattr(Storage, "newest", lambda self: (0, None))  # both saw none
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError()))
    second = storage.save(b"own")
    assert (first.read_text(), second.read_text()) == ("the other's", "own")
    assert (first.name, second.name) == ("0001_name.json", "0002_name.json")
    assert len(list(storage.folder.iterdir())) == 2


def test_many_processes_that_save_at_once_lose_nothing(tmp_path):
    # A single process that forks: an import of torch takes seconds.
    storage, pids = Storage(tmp_path, "name"), []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                storage.save(str(number).encode())
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    saved = sorted(path.read_text() for path in storage.folder.iterdir())
    assert saved == [str(number) for number in range(8)]


@pytest.mark.parametrize(("older", "newest"), [(["9999", "10000"], "10000"), (["0009"], None)])
def test_a_comparison_finds_the_newest_number_of_any_length(older, newest, tmp_path):
    storage = Storage(tmp_path, "")
    storage.folder.mkdir()
    for number in older:
        (storage.folder / f"{number}_run.json").touch()
    config = options(benchmark_storage=f"file://{tmp_path}", benchmark_compare=True)
    take_over_targets(config)
    # pytest-benchmark itself finds the newest of four digits
    expected = str(storage.folder / f"{newest}_run.json") if newest else True
    assert config.option.benchmark_compare == expected


def test_a_required_comparison_without_a_saved_run_is_refused(tmp_path):
    config = options(
        benchmark_storage=f"file://{tmp_path}",
        benchmark_compare=True,
        benchmark_compare_fail=["median:5%"],
    )
    with pytest.raises(pytest.UsageError, match="has no saved run to compare with; save one"):
        take_over_targets(config)


# --- histograms ---


@pytest.fixture
def with_pygal(monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: True)


@pytest.mark.parametrize(
    ("prefix", "problem"),
    [
        ("file/plot", "is not a folder"),
        ("file/deeper/plot", "Not a directory"),
        ("/proc/plots/plot", "No such file or directory"),
        ("n" * 255, "File name too long"),
        ("nul\0", "embedded null"),
        ("nul\0/plot", "embedded null"),
    ],
)
@pytest.mark.usefixtures("with_pygal")
def test_a_histogram_that_cannot_be_written_is_a_usage_error(prefix, problem, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(pytest.UsageError, match=f"^--benchmark-histogram .*: {problem}.*; name"):
        take_over_targets(options(benchmark_histogram=[str(tmp_path / prefix)]))


@pytest.mark.usefixtures("with_pygal")
def test_histograms_are_taken_over(tmp_path):
    config = options(benchmark_histogram=[str(tmp_path / "new" / "plot")])
    assert take_over_targets(config).histogram == str(tmp_path / "new" / "plot")
    assert config.option.benchmark_histogram == []
    with pytest.raises(pytest.UsageError, match="is given 2 times"):
        take_over_targets(options(benchmark_histogram=["a", "b"]))


def test_a_histogram_without_pygal_is_a_usage_error(monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    status, text = run_inline("--benchmark-histogram", "--collect-only")
    problem = "--benchmark-histogram: pygal is not installed"
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {problem}; run pip install pytest-benchmark[histogram]" in text
    assert "Traceback" not in text
