"""The journal of a session: which one it goes on with, and what is written to it."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from maskbench.backends.registry import BACKENDS
from maskbench.journal import (
    JOURNAL_FORMAT,
    JOURNAL_SUFFIX,
    Journal,
    JournalFile,
    UnreadableJournal,
    differences,
    drop_cut_off_line,
    is_locked,
    parse_journal,
    prune,
)
from maskbench.suite.kernel_cache import REPOSITORY, backend_source, environment_fingerprint
from maskbench.suite.options import NEWEST_JOURNAL, RUN_CONFIG
from maskbench.suite.requested_masks import REQUESTED
from maskbench.suite.software import software_versions
from maskbench.suite.stages import time_breakdown
from maskbench.suite.targets import storage_folder
from maskbench.whole_files import plain
from masks import PATTERNS

KEPT_JOURNALS = 20
DEFAULT_FOLDER = ".benchmarks"


def journal_folder(config: pytest.Config) -> Path:
    """The folder of the journals: in pytest-benchmark's storage, if that is a folder."""
    folder = storage_folder(config.option.benchmark_storage) or Path(DEFAULT_FOLDER)
    return folder.absolute() / "journals"  # a test may change the current folder


def grid(config: pytest.Config, planned: list[str]) -> dict[str, Any]:
    """What must be equal for a run to go on: the cells, the options, the machine, the code."""
    option, run = config.option, config.stash[RUN_CONFIG]
    digest = sha256("\n".join(sorted(planned)).encode()).hexdigest()[:12]
    return {
        "cells": f"{len(planned)} (digest {digest})",
        "device": run.device,
        "dtype": run.dtype,
        "shape": str(run.shape),
        "threads": torch.get_num_threads() if run.device == "cpu" else None,
        "cuda_graphs": option.cuda_graphs,
        "gc": f"disabled {option.benchmark_disable_gc}, warmup {option.benchmark_warmup}",
        "rounds": f"max-time {option.benchmark_max_time} min-rounds {option.benchmark_min_rounds}",
        "machine": platform.node(),
        "gpu": torch.cuda.get_device_name() if run.device == "cuda" else None,
        **software_versions(),
        "code": code_digest(),
    }


def code_digest() -> str:
    """A digest of the suite's code: cells of two versions of it must not be mixed."""
    digest = sha256(environment_fingerprint().encode())
    patterns = ("masks.py", "maskbench/**/*.py", "tests/*.py")
    files = {file for pattern in patterns for file in REPOSITORY.glob(pattern)}
    # Plugins have theirs elsewhere. A mask need not be built by a plain function.
    modules = [
        sys.modules.get(getattr(family.build, "__module__", "")) for family in PATTERNS.values()
    ]
    named = [*map(backend_source, BACKENDS), *(getattr(m, "__file__", None) for m in modules)]
    named += [str(file) for requested in REQUESTED.values() for file in requested.files]
    files |= {Path(name) for name in named if name}
    for file in sorted(filter(Path.is_file, files)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def read(path: Path) -> Journal:
    """Read a journal. Raises pytest.UsageError, which names the file."""
    try:
        return parse_journal(path.read_bytes())
    except (OSError, UnreadableJournal) as error:
        reason = getattr(error, "strerror", None) or error
        raise pytest.UsageError(f"--resume {path}: {reason}") from None


def named_journal(path: Path, wanted: dict[str, Any]) -> Path:
    """The journal that the user named. Raises pytest.UsageError if it is of another run."""
    journal = read(path)
    if is_locked(path):
        raise pytest.UsageError(f"--resume {path}: the run that writes it has not ended")
    if found := differences(journal.run["grid"], wanted):
        raise pytest.UsageError(
            f"--resume {path}: this journal belongs to another run ({'; '.join(found)})"
        )
    return path


def newest_unfinished(folder: Path, wanted: dict[str, Any]) -> tuple[Path | None, str]:
    """The newest unfinished journal of the same grid; else None and why there is none."""
    reason = f"no unfinished run in {folder}"
    for path in sorted(folder.glob(f"*{JOURNAL_SUFFIX}"), reverse=True):
        try:
            journal = parse_journal(path.read_bytes())
        except (OSError, UnreadableJournal):
            continue  # such as one that was killed before its first line
        if journal.is_finished or is_locked(path):
            continue
        found = differences(journal.run["grid"], wanted)
        if not found:
            return path, ""
        if reason.startswith("no unfinished"):
            reason = f"{path} differs from this run ({'; '.join(found)})"
    return None, reason


class RunJournal:
    """The journal of this session.

    Parameters
    ----------
    path
        The file; it exists if the session goes on with it.
    is_shared
        Whether children on other GPUs append to it, too.
    """

    def __init__(self, path: Path, wanted: dict[str, Any], is_shared: bool) -> None:
        self.path, self.grid, self.is_shared = path, wanted, is_shared
        self.earlier: Journal | None = read(path) if path.exists() else None
        self.problem: str | None = None  # why it can no longer be written
        self._file: JournalFile | None = None

    @classmethod
    def choose(
        cls,
        config: pytest.Config,
        wanted: dict[str, Any],
        assigned: str | None,
        is_shared: bool,
    ) -> tuple[RunJournal, str]:
        """The journal of a session, and a line about it for the user ("" if there is none).

        Raises
        ------
        pytest.UsageError
            If --resume names a journal that is not of this run.
        """
        folder, resume = journal_folder(config), config.option.resume
        note = ""
        if assigned:
            path = Path(assigned)
        elif resume == NEWEST_JOURNAL:
            found, reason = newest_unfinished(folder, wanted)
            note = f"nothing to resume: {reason}" if found is None else ""
            path = found or new_path(folder)
        else:
            path = named_journal(Path(resume), wanted) if resume else new_path(folder)
        journal = cls(path, wanted, is_shared)
        if journal.earlier:
            count = len(journal.earlier.timed) + len(journal.earlier.untimed)
            planned = len(journal.earlier.run["planned"])
            note = f"resuming {path}: {count} of {planned} cells are there"
            if journal.earlier.damage:
                note += f"; {journal.earlier.damage}"
        return journal, note

    def begin(self, worker: int | None, shared_device: bool, header: dict[str, object]) -> None:
        """Open the file, and write its first line, with `header`, if it is new.

        `worker` is the number of the process among those that time at once; None if it times
        nothing.

        Raises
        ------
        pytest.UsageError
            If the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.earlier and not self.is_shared:
                drop_cut_off_line(self.path)
            self._file = JournalFile(self.path, is_shared=self.is_shared)
            prune(self.path.parent, KEPT_JOURNALS)  # this one is locked now, and stays
            if self.earlier is None:
                first = {name: plain(value) for name, value in header.items()}
                self._file.append("run", journal=JOURNAL_FORMAT, grid=self.grid, **first)
            if worker is not None:
                piece = {"pid": os.getpid(), "worker": worker, "shared_device": shared_device}
                self._file.append("piece", **piece)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise pytest.UsageError(f"{self.path}: another run goes on with it") from None
            raise pytest.UsageError(
                f"{self.path}: the journal of the run cannot be written: {error.strerror}; "
                "name another folder with --benchmark-storage"
            ) from None

    def append(self, kind: str, **values: object) -> None:
        """Append a line. The first failure is kept in `problem`: the cell itself is not lost."""
        if self._file is None or self.problem:
            return
        try:
            line = {name: plain(value) for name, value in values.items()}
            self._file.append(kind, **line, pid=os.getpid(), seconds=time_breakdown())
        except OSError as error:
            self.problem = f"{self.path}: {error.strerror}: later cells are not in the journal"

    def close(self, delete: bool) -> None:
        """Close the file, and delete it if the run is saved elsewhere."""
        if self._file:
            self._file.close()
            self._file = None
        if delete:
            self.path.unlink(missing_ok=True)


def new_path(folder: Path) -> Path:
    """A path whose name begins with the time, so that names sort by it."""
    return folder / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}_{os.getpid()}{JOURNAL_SUFFIX}"
