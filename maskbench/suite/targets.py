"""Where a run is saved. Targets are checked before anything is timed, and taken over from
pytest-benchmark, which would write them in place, one after the other.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from pytest_benchmark.utils import get_machine_id

from maskbench.whole_files import complete_file

MIN_FREE_MIB = 32  # the JSON of 3,000 cells with 200 rounds each
STREAMS = ("/dev/fd/", "/dev/std", "/proc/")  # links to whatever a process has open
FILE_ADVICE = "name a file in an existing folder that you may write"
FOLDER_ADVICE = "name a folder that you may write"


@dataclass(frozen=True)
class Storage:
    """A folder of numbered runs, as pytest-benchmark keeps it.

    Parameters
    ----------
    root
        The folder of --benchmark-storage. Older runs may lie in it.
    name
        The end of the name of a new file.
    """

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """The folder of this system's runs."""
        # A module function that is not documented; seen in pytest-benchmark 5.2 and 5.3.
        return self.root / str(get_machine_id())  # type: ignore[no-untyped-call]

    def newest(self) -> tuple[int, Path | None]:
        """The highest number of a saved run, and its file; (0, None) if there is none."""
        numbered = [(0, Path())]
        for folder in (self.root, self.folder):
            if folder.is_dir():
                for path in folder.iterdir():
                    if match := re.match("([0-9]+)_", path.name):
                        numbered.append((int(match[1]), path))
        number, path = max(numbered)
        return number, path if number else None

    def save(self, content: bytes) -> Path:
        """Write the next file. No other run's file is replaced, even if both save at once.

        Raises OSError; the storage is then as it was.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with complete_file(self.folder, content) as temporary:
            number = self.newest()[0] + 1
            while True:
                path = self.folder / f"{number:04}_{self.name}.json"
                try:
                    _rename_to_new(temporary, path)
                except FileExistsError:
                    number += 1
                else:
                    return path


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Give the file its name. Raises FileExistsError if another file has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink()
            raise


@dataclass(frozen=True)
class Targets:
    """Where this run is to be saved.

    Parameters
    ----------
    json
        The file of --benchmark-json, absolute, without links.
    storage
        The storage of --benchmark-save and --benchmark-autosave, if it is a folder.
        pytest-benchmark itself writes to Elasticsearch.
    histogram
        The start of the names of --benchmark-histogram.
    """

    json: Path | None
    storage: Storage | None
    histogram: str | None


NO_TARGETS = Targets(None, None, None)


def take_over_targets(config: pytest.Config) -> Targets:
    """Check the targets; set their options to those of a run that saves nothing.

    This must be called before pytest-benchmark is configured.

    Raises
    ------
    pytest.UsageError
        If a target cannot be written, or pygal is missing.
    """
    option = config.option
    json = storage = histogram = None
    if option.benchmark_json is not None:
        json = check_file("--benchmark-json", _json_path(option.benchmark_json))
        option.benchmark_json = None
    if folder := storage_folder(option.benchmark_storage):
        if name := option.benchmark_save or option.benchmark_autosave:
            storage = Storage(folder, name)
            check_folder("--benchmark-storage", storage.folder)
            check_name("--benchmark-save", storage.folder / f"00000_{name}.json")
            option.benchmark_save = option.benchmark_autosave = None
        if option.benchmark_compare is True:
            _compare_with_newest(option, folder)
    if option.benchmark_histogram:
        histogram = _check_histogram(option.benchmark_histogram)
        option.benchmark_histogram = []
    for prefix in option.benchmark_cprofile_dump:  # written when each benchmark ends
        name = "--benchmark-cprofile-dump"
        check_folder(name, _resolve(name, Path(f"{prefix}-").parent))
    return Targets(json, storage, histogram)


def _json_path(option: object) -> Path:
    """The file's name. Up to pytest-benchmark 5.2 the option is an open file."""
    if hasattr(option, "close") and hasattr(option, "name"):
        option.close()
        return Path(option.name)
    return Path(str(option))


def storage_folder(uri: str) -> Path | None:
    """The folder of a storage; None if the storage is not a folder."""
    if "://" in uri and not uri.startswith("file://"):
        return None
    return _resolve("--benchmark-storage", uri.removeprefix("file://"))


def _resolve(option: str, given: str | Path) -> Path:
    """The path without links, absolute. Raises pytest.UsageError."""
    try:
        return Path(os.path.realpath(given))
    except ValueError as error:  # a NUL in the name
        raise _usage_error(option, given, error, FILE_ADVICE) from None


def _compare_with_newest(option: argparse.Namespace, folder: Path) -> None:
    """Name the newest run for --benchmark-compare: pytest-benchmark looks at 4 digits only.

    Raises pytest.UsageError if there is none and a comparison is required.
    """
    try:
        number, newest = Storage(folder, "").newest()
    except OSError:  # pytest-benchmark says so
        return
    if newest is None and option.benchmark_compare_fail:
        raise pytest.UsageError(
            f"--benchmark-compare-fail: {folder} has no saved run to compare with; "
            "save one with --benchmark-autosave"
        )
    if number > 9999:
        option.benchmark_compare = str(newest)


def _check_histogram(prefixes: list[str]) -> str:
    option = "--benchmark-histogram"
    if len(prefixes) > 1:
        raise pytest.UsageError(f"{option}: is given {len(prefixes)} times; give it once")
    if not find_spec("pygal"):
        advice = "run pip install pytest-benchmark[histogram]"
        raise pytest.UsageError(f"{option}: pygal is not installed; {advice}")
    name = Path(f"{prefixes[0]}.svg")
    example = _resolve(option, name.parent) / name.name
    check_folder(option, example.parent)
    check_name(option, example)
    return str(example.with_name(example.name.removesuffix(".svg")))


def check_file(option: str, given: Path) -> Path:
    """The file that is to be written or replaced, absolute and without links.

    Raises
    ------
    pytest.UsageError
        If it cannot be written. What is there is not changed.
    """
    path = _resolve(option, given)
    if str(Path.cwd() / given).startswith(STREAMS):
        raise _usage_error(option, given, "is a stream, not a file", FILE_ADVICE)
    check_name(option, path, given)
    try:
        if path.exists():
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(0, "Is a directory")
            if not stat.S_ISREG(mode):
                raise OSError(0, "is a device, a FIFO or a socket, not a file")
            if os.path.ismount(path):  # as a container may have: it cannot be replaced
                raise OSError(0, "is a mount point; mount its folder instead")
            if not os.access(path, os.W_OK):
                raise PermissionError(0, "Permission denied")
        _try_to_write(path.parent)
    except OSError as error:
        raise _usage_error(option, given, error.strerror, FILE_ADVICE) from None
    return path


def check_folder(option: str, folder: Path) -> None:
    """Make the folder. Raises pytest.UsageError if files cannot be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try_to_write(folder)
    except FileExistsError:
        raise _usage_error(option, folder, "is not a folder", FOLDER_ADVICE) from None
    except OSError as error:
        raise _usage_error(option, folder, error.strerror, FOLDER_ADVICE) from None


def check_name(option: str, path: Path, given: Path | None = None) -> None:
    """Raises pytest.UsageError if the system refuses the file's name, such as a long one."""
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problem = getattr(error, "strerror", None) or error
        raise _usage_error(option, given or path, problem, FILE_ADVICE) from None


def _try_to_write(folder: Path) -> None:
    """Raises OSError if no file can be made in the folder, or if it is nearly full."""
    with complete_file(folder, b"{}"):
        pass
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < MIN_FREE_MIB << 20:  # some file systems report no size
        free = f"{usage.free / 2**20:.1f} MiB are free"
        raise OSError(0, f"{free} in {folder}, a run may need {MIN_FREE_MIB} MiB")


def _usage_error(option: str, given: str | Path, problem: object, advice: str) -> pytest.UsageError:
    return pytest.UsageError(f"{option} {given}: {problem}; {advice}")
