"""Cache folders: of the user's own, safe, writable and with room, or refused in one line."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from maskbench.suite import cache_folders
from maskbench.suite.cache_folders import CACHE_VARIABLES, INDUCTOR, SUBFOLDERS
from tests.unit.pytest_process import pytest_inline

FEW = ("--masks", "causal", "--seq-lens", 256, "--device", "cpu", "tests/test_forward.py")
OTHER_USER = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture(autouse=True)
def folders(monkeypatch, tmp_path):
    """Cache folders of this test's own."""
    for name in CACHE_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return tmp_path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_missing_folders_are_made_for_the_user_alone(folders, monkeypatch):
    monkeypatch.setenv(INDUCTOR, str(folders / "a" / "b"))
    assert cache_folders.unusable_folder() is None
    made = [folders / "a", folders / "a" / "b", folders / "a" / "b" / "maskbench"]
    assert [mode(folder) for folder in made] == [0o700] * 3
    assert mode(folders / "triton_cache_dir") == 0o700


@pytest.mark.parametrize("value", [None, ""])
def test_the_defaults_are_in_the_users_cache_home(folders, monkeypatch, value):
    for name in CACHE_VARIABLES:
        monkeypatch.setenv(name, "") if value == "" else monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders / "xdg"))
    assert cache_folders.unusable_folder() is None
    assert os.environ[INDUCTOR] == str(folders / "xdg" / "maskbench")
    for name, subfolder in SUBFOLDERS.items():
        assert os.environ[name] == str(folders / "xdg" / "maskbench" / subfolder)
    assert mode(folders / "xdg" / "maskbench") == 0o700


@pytest.mark.parametrize("xdg", [None, "", "relative"])
def test_without_a_cache_home_the_default_is_in_the_home(folders, monkeypatch, xdg):
    monkeypatch.setenv("HOME", str(folders))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert cache_folders.default_folder() == folders / ".cache" / "maskbench"


@pytest.mark.parametrize(
    "home",
    [
        "",
        "/",
        "read-only",
        pytest.param("of another user", marks=as_root),
    ],
)
def test_without_a_home_the_default_is_the_users_own_in_the_temporary_folder(
    folders, monkeypatch, home
):
    if home == "of another user":
        home = str(folders / "home")
        Path(home).mkdir()
        os.chown(home, OTHER_USER, OTHER_USER)
    if home == "read-only":
        home = str(folders)
        monkeypatch.setattr(os, "access", lambda path, mode: path != folders)
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    expected = Path(tempfile.gettempdir(), f"maskbench-{os.getuid()}")
    assert cache_folders.default_folder() == expected


def test_a_relative_folder_does_not_move_with_the_current_one(folders, monkeypatch):
    monkeypatch.chdir(folders)
    monkeypatch.setenv(INDUCTOR, "relative")
    assert cache_folders.unusable_folder() is None
    assert os.environ[INDUCTOR] == str(folders / "relative")


def of_another_user(folder):
    folder.mkdir()
    os.chown(folder, OTHER_USER, OTHER_USER)
    return f"belongs to user {OTHER_USER}"


def with_a_file_of_another_user(folder):
    folder.mkdir()
    (folder / "xa.so").touch()
    os.chown(folder / "xa.so", OTHER_USER, OTHER_USER)
    return f"has xa.so of user {OTHER_USER} in it"


def below_a_link_of_another_user(folder):
    (folder.parent / "target" / "inside").mkdir(parents=True)
    folder.symlink_to("target")
    os.chown(folder, OTHER_USER, OTHER_USER, follow_symlinks=False)
    os.environ[INDUCTOR] = str(folder / "inside")
    return f"is below a link of user {OTHER_USER}"


def writable_by_group(folder):
    folder.mkdir()
    folder.chmod(0o770)
    return "can be written by other users"


def writable_by_others(folder):
    folder.mkdir()
    folder.chmod(0o1777)  # a sticky bit does not keep others from adding files
    return "can be written by other users"


def below_a_folder_that_others_can_write(folder):
    folder.mkdir()
    folder.chmod(0o777)
    os.environ[INDUCTOR] = str(folder / "inside")
    return "which every user can write"


def link(folder):
    (folder.parent / "target").mkdir(mode=0o700)
    folder.symlink_to("target")
    return "is a symbolic link"


def dangling_link(folder):
    folder.symlink_to("missing")
    return "is a symbolic link"


def file(folder):
    folder.touch()
    return "Not a directory"


def below_a_file(folder):
    folder.touch()
    os.environ[INDUCTOR] = str(folder / "inside")
    return "Not a directory"


def read_only(folder):
    os.environ[INDUCTOR] = "/proc/none"
    return "cannot be written"


def fifo(folder):
    os.mkfifo(folder)
    return "Not a directory"


FOREIGN = (of_another_user, with_a_file_of_another_user, below_a_link_of_another_user)
OWN = (
    *(writable_by_group, writable_by_others, below_a_folder_that_others_can_write, link),
    *(dangling_link, file, below_a_file, read_only, fifo),
)
FAULTS = [*OWN, *(pytest.param(fault, marks=as_root) for fault in FOREIGN)]


@pytest.mark.parametrize("make", FAULTS)
def test_an_unsafe_or_unusable_folder_is_a_usage_error_of_one_line(folders, make):
    text = make(folders / INDUCTOR.lower())
    output = pytest_inline(*FEW, "--backends", "flex", expect=4)
    (line,) = [line for line in output.splitlines() if line.startswith("ERROR")]
    assert INDUCTOR in line
    assert text in line
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output


@pytest.mark.parametrize("name", [*SUBFOLDERS, f"the stamps in {INDUCTOR}"])
@pytest.mark.parametrize("make", [link, file, writable_by_group])
def test_each_folder_is_checked(folders, name, make):
    stamps = folders / INDUCTOR.lower() / "maskbench"
    stamps.parent.mkdir(exist_ok=True, mode=0o700)
    path = folders / name.lower() if name in SUBFOLDERS else stamps
    text = make(path)
    problem = cache_folders.unusable_folder()
    assert problem.startswith(f"{name}: {path} ")
    assert text in problem


def test_roots_folder_is_refused_to_another_user(folders, monkeypatch):
    owner = os.getuid()
    folders.joinpath(INDUCTOR.lower()).mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    problem = cache_folders.unusable_folder()
    assert f"belongs to user {owner}, not to you ({owner + 1})" in problem


def test_a_run_that_compiles_nothing_needs_no_cache(folders):
    file(folders / INDUCTOR.lower())
    pytest_inline(*FEW, "--backends", "sdpa", "--benchmark-disable")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
@pytest.mark.parametrize("name", [*CACHE_VARIABLES, "TMPDIR"])
def test_a_full_disk_is_named_with_what_to_do(folders, monkeypatch, error, name):
    assert cache_folders.unusable_folder() is None
    folder = tempfile.gettempdir() if name == "TMPDIR" else os.environ[name]
    temporary_file = tempfile.TemporaryFile

    def no_room(dir, **options):
        if dir == folder:
            raise OSError(error, os.strerror(error))
        return temporary_file(dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    problem = cache_folders.unusable_folder()
    assert problem.startswith(f"{name}: {folder} cannot be written: {os.strerror(error)}; free")
    assert problem.endswith(f"set {name} to a folder on another disk")


def test_too_little_room_is_named_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(cache_folders, "MIN_FREE_BYTES", 2**80)
    text = pytest_inline(*FEW, "--backends", "flex", expect=4)
    assert "MiB free, compiling needs" in text
