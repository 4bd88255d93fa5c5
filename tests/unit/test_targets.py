"""The targets of a run: checked before anything is timed, taken over from pytest-benchmark."""

import argparse
import os
import shutil
import socket
from types import SimpleNamespace

import pytest
from pytest_benchmark.utils import get_machine_id

from maskbench.suite import targets
from maskbench.suite.targets import Storage, check_file, take_over_targets
from tests.unit.saving_plugin import GRID, KEEPS_OLDER_FILES, run_inline


def options(**given):
    """A configuration with pytest-benchmark's defaults, and `given`."""
    defaults = {
        **{"benchmark_json": None, "benchmark_save": None, "benchmark_autosave": None},
        **{"benchmark_storage": "file://./.benchmarks", "benchmark_histogram": []},
        **{"benchmark_compare": [], "benchmark_cprofile_dump": []},
    }
    return SimpleNamespace(option=argparse.Namespace(**defaults | given))


def make_places(folder):
    """One of each thing that is in the way of a file."""
    (folder / "file").write_text("{}")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "missing" / "run.json")
    (folder / "to_full").symlink_to("/dev/full")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # a socket's name may have 107 characters
        server.bind("socket")
        os.chdir(here)


NOT_A_FILE = "is a device, a FIFO or a socket, not a file"
BAD_FILES = [
    ("missing/run.json", "No such file or directory"),
    ("missing/deeper/run.json", "No such file or directory"),
    ("folder", "Is a directory"),
    ("file/run.json", "Not a directory"),
    ("fifo", NOT_A_FILE),
    ("socket", NOT_A_FILE),
    ("/dev/full", NOT_A_FILE),
    ("/dev/null", NOT_A_FILE),
    ("to_full", NOT_A_FILE),
    ("/dev/stdout", "is a stream, not a file"),
    ("/dev/fd/1", "is a stream, not a file"),
    ("/proc/self/fd/2", "is a stream, not a file"),
    ("/sys/run.json", ""),  # the reason depends on the system
    ("loop", "Too many levels of symbolic links"),
    ("dangling", "No such file or directory"),
    ("n" * 256, "File name too long"),
    ("nul\0.json", ""),  # the words differ between versions of Python
    ("", "Is a directory"),
]


@pytest.mark.parametrize(("place", "problem"), BAD_FILES)
def test_a_file_that_cannot_be_written_is_a_usage_error(place, problem, tmp_path):
    make_places(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(pytest.UsageError, match=r"^--benchmark-json ") as error:
        take_over_targets(options(benchmark_json=tmp_path / place))
    advice = "name a file in an existing folder that you may write"
    assert str(error.value).endswith(f"{problem}; {advice}" if problem else f"; {advice}")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "{}"


@KEEPS_OLDER_FILES  # the older version has a message of its own
@pytest.mark.parametrize(("place", "problem"), [BAD_FILES[0], BAD_FILES[2], BAD_FILES[6]])
def test_pytest_refuses_such_a_file_before_anything_is_timed(place, problem, tmp_path):
    make_places(tmp_path)
    status, text = run_inline(
        f"--benchmark-json={tmp_path / place}", *GRID, "tests/test_forward.py"
    )
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: --benchmark-json {tmp_path / place}: {problem}; name a file" in text
    assert "cells to time" not in text
    assert "Traceback" not in text


def test_permissions_are_checked(tmp_path, monkeypatch):
    """Tests may run as root, who may write everywhere."""
    old = tmp_path / "old.json"
    old.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(pytest.UsageError, match=r"old\.json: Permission denied; name"):
        check_file("--benchmark-json", old)


def test_a_file_that_is_mounted_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run.json").touch()
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(pytest.UsageError, match="is a mount point; mount its folder instead"):
        check_file("--benchmark-json", tmp_path / "run.json")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(pytest.UsageError, match="Permission denied"):
        check_file("--benchmark-json", tmp_path / "locked" / "run.json")


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(2**30, 2**30 - 2**20, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(pytest.UsageError, match=r"1\.0 MiB are free in .*, a run may need 32 MiB"):
        check_file("--benchmark-json", tmp_path / "run.json")
    with pytest.raises(pytest.UsageError, match=r"--benchmark-storage .*MiB are free"):
        take_over_targets(options(benchmark_save="x", benchmark_storage=str(tmp_path)))


@pytest.mark.parametrize("place", ["new.json", "file", "link", "new_link", "n" * 255])
def test_a_file_that_can_be_written_is_neither_made_nor_changed(place, tmp_path):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "new_link").symlink_to("new.json")
    before = sorted(tmp_path.iterdir())
    config = options(benchmark_json=tmp_path / place)
    path = take_over_targets(config).json
    names = {"link": "file", "new_link": "new.json"}
    assert path == (tmp_path / names.get(place, place)).resolve()
    assert config.option.benchmark_json is None
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "{}"


def test_an_open_file_is_closed_and_named(tmp_path):
    """Up to pytest-benchmark 5.2 the option is an open file."""
    file = (tmp_path / "run.json").open("wb")
    assert take_over_targets(options(benchmark_json=file)).json == tmp_path / "run.json"
    assert file.closed


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        ("file", "Not a directory"),
        ("file/deeper", "Not a directory"),
        ("/proc/storage", "No such file or directory"),
        ("/dev/full", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("n" * 256, "File name too long"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize("option", ["benchmark_save", "benchmark_autosave"])
def test_a_storage_that_cannot_be_written_is_a_usage_error(
    storage, problem, prefix, option, tmp_path
):
    make_places(tmp_path)
    given = {option: "name", "benchmark_storage": f"{prefix}{tmp_path / storage}"}
    with pytest.raises(pytest.UsageError, match=f"--benchmark-storage .*: {problem}; name a fol"):
        take_over_targets(options(**given))


def test_a_name_of_a_run_that_is_too_long_is_a_usage_error(tmp_path):
    given = {"benchmark_save": "n" * 250, "benchmark_storage": str(tmp_path)}
    with pytest.raises(pytest.UsageError, match=r"--benchmark-save .*: File name too long"):
        take_over_targets(options(**given))


def test_a_storage_that_is_not_saved_to_is_not_checked(tmp_path):
    (tmp_path / "file").touch()
    found = take_over_targets(options(benchmark_storage=str(tmp_path / "file")))
    assert found == targets.Targets(None, None, None)


def test_a_storage_with_a_nul_in_its_name_is_a_usage_error(tmp_path):
    with pytest.raises(pytest.UsageError, match="embedded null"):
        take_over_targets(options(benchmark_storage=f"{tmp_path}/\0"))


def test_another_storage_is_left_to_pytest_benchmark():
    config = options(
        benchmark_storage="elasticsearch+http://localhost:9200", benchmark_autosave="today"
    )
    assert take_over_targets(config).storage is None
    assert config.option.benchmark_autosave == "today"


def test_a_file_in_place_of_the_folder_of_this_system_is_a_usage_error(tmp_path):
    (tmp_path / get_machine_id()).touch()
    with pytest.raises(pytest.UsageError, match=r"--benchmark-storage .*: is not a folder; name"):
        take_over_targets(options(benchmark_autosave="x", benchmark_storage=str(tmp_path)))


def test_profiles_that_cannot_be_written_are_a_usage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(pytest.UsageError, match=r"^--benchmark-cprofile-dump .*is not a folder"):
        take_over_targets(options(benchmark_cprofile_dump=[str(tmp_path / "file" / "x")]))
    take_over_targets(options(benchmark_cprofile_dump=[str(tmp_path / "new" / "x")]))


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
