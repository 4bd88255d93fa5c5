"""The targets of a run: checked before anything is timed, taken over from pytest-benchmark."""

import os
import shutil
import socket

import pytest
from pytest_benchmark.utils import get_machine_id

from maskbench.suite import targets
from maskbench.suite.targets import check_file, take_over_targets
from tests.unit.pytest_process import run_inline
from tests.unit.saving_plugin import GRID, KEEPS_OLDER_FILES, options


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
