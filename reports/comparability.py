"""Which cells of which runs may be compared.

A run (one process) is the unit of evidence: the rounds of one process agree with each other
better than two processes do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from tqdm import tqdm

from maskbench.reading import NotARun, SavedRun, read_run
from maskbench.records import Outcome, UnreadableRun
from reports.runs import cells_table, incomplete_note, most_frequent_reason
from reports.thresholds import NORMAL_95
from reports.verdict import CELL_COLUMNS

ACCEPTANCES = "acceptances.json"  # in the folder of a history; no run

# Times of machines that differ in one of these are not comparable.
MACHINE_KEYS = (
    *("device", "gpu", "gpu_count", "compute_capability", "gpu_memory_bytes", "power_limit_w"),
    "torch_threads",
)
# Times of cells that differ in one of these are not comparable. `area` stands for the mask's
# parameters, and `formulation` identifies how the backend computed the mask.
CELL_KEYS = (
    *("timer", "batch", "heads", "kv_heads", "seq_len", "q_len", "head_dim"),
    *("v_head_dim", "dtype"),
    *("area", "formulation"),
)
# These can change times and are named beside a change. Times stay comparable: they are judged too.
SOFTWARE_KEYS = ("torch", "triton", "cuda", "cudnn", "driver")


# The fields of a cell that is compared. A dict of them is read a hundred times faster than a row of
# a table, and a history has a hundred thousand.
ROW_COLUMNS = (
    *CELL_KEYS,
    *CELL_COLUMNS,
    *("form", "median_s", "min_s", "interval", "two_modes", "clock_mhz"),
)
CellRow = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One saved file. `cells` has a row per cell, timed or not, indexed by fullname."""

    path: Path
    saved: str  # ISO date and time in UTC
    torch: str
    device: str
    machine: dict[str, object]  # MACHINE_KEYS, and "cpu" on a CPU
    software: dict[str, object]  # SOFTWARE_KEYS
    gpu_uuid: str | None
    incomplete: str | None  # why the run ended early and what it lacks; None if it is whole
    cells: pd.DataFrame

    @cached_property
    def timed(self) -> pd.DataFrame:
        """The timed rows of `cells`."""
        timed: pd.DataFrame = self.cells[self.cells["outcome"] == Outcome.TIMED.value]
        return timed

    @cached_property
    def rows(self) -> dict[str, CellRow]:
        """The fields of each timed cell, by name."""
        columns = self.timed.columns.intersection(ROW_COLUMNS)
        return {str(name): row for name, row in self.timed[columns].to_dict("index").items()}


def load_run(path: Path) -> Run:
    """Read one saved file.

    Raises
    ------
    UnreadableRun
        If the file cannot be used, or nothing was timed in that run.
    """
    return as_run(read_run(path))


def as_run(saved: SavedRun) -> Run:
    """A saved file as a run that can be compared. Raises UnreadableRun if nothing was timed."""
    if not saved.timed:
        reason = most_frequent_reason(saved.cells)
        raise UnreadableRun(f"{saved.path}: nothing was timed in that run{reason}")
    info, software = saved.machine_info, saved.commit_info
    versions = {name: getattr(software, name) for name in SOFTWARE_KEYS if name != "driver"}
    cells = cells_table(saved).drop(columns="data", errors="ignore")  # a history would fill memory
    return Run(
        path=saved.path,
        saved=saved.saved,
        torch=saved.torch,
        machine=machine_of(saved),
        device=saved.device,
        software={**versions, "driver": info.driver},
        gpu_uuid=info.gpu_uuid,
        incomplete=saved.incomplete,
        cells=cells.drop_duplicates("fullname", keep="last").set_index("fullname"),
    )


def machine_of(saved: SavedRun) -> dict[str, object]:
    """What must be equal for the times of two runs to be comparable, by name."""
    info = saved.machine_info
    machine: dict[str, object] = {name: getattr(info, name) for name in MACHINE_KEYS}
    if info.device == "cpu":
        machine["cpu"] = info.cpu and info.cpu.brand_raw
    return machine


def saved_files(folder: Path) -> list[Path]:
    """All *.json and *.json.gz below a folder but acceptances.json.

    Raises UnreadableRun if a folder cannot be read.
    """

    def refuse(error: OSError) -> NoReturn:
        raise UnreadableRun(f"{error.filename}: {error.strerror}") from error

    if not folder.is_dir():
        raise UnreadableRun(f"{folder}/: is no folder; name a folder with saved runs")
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if name.endswith((".json", ".json.gz")) and name != ACCEPTANCES
    )


def load_runs(paths: list[Path]) -> Iterator[Run]:
    """Read the files, without those that compare, history or gate wrote."""
    for path in tqdm(paths, desc="reading", unit="run", disable=None):
        try:
            yield load_run(path)
        except NotARun:
            continue


def load_history(folder: Path, leave_out: list[Run]) -> tuple[list[Run], list[str]]:
    """All saved runs below a folder, oldest first, without duplicates.

    Parameters
    ----------
    folder
        Searched with its subfolders for *.json and *.json.gz.
    leave_out
        Runs that do not count as history.

    Returns
    -------
    The runs, and a note for each that ended early and each duplicate that was left out.

    Raises
    ------
    UnreadableRun
        If a file cannot be read, or there is none.
    """
    found = sorted(load_runs(saved_files(folder)), key=lambda run: run.saved)
    if not found:
        raise UnreadableRun(f"{folder}/: holds no saved run")
    runs, notes, seen = [], [], {fingerprint(run): run.path for run in leave_out}
    for run in found:
        first = seen.setdefault(fingerprint(run), run.path)
        if first is run.path:
            runs.append(run)
            notes += incomplete_note(run.path, run.incomplete)
        elif first.resolve() != run.path.resolve():
            notes.append(f"{run.path}: is the same run as {first}, counted once")
    return runs, notes


def fingerprint(run: Run) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The names and medians of the timed cells: equal only for two files of the same run.

    The date cannot tell: pytest-benchmark gives the --benchmark-json file and the autosaved file
    of one run different dates.
    """
    medians = run.timed["median_s"].sort_index()
    return tuple(map(str, medians.index)), tuple(medians)


def machine_differences(base: Run, new: Run) -> list[str]:
    """What makes all times of two runs incomparable."""
    names = base.machine.keys() | new.machine.keys()
    return [
        f"{name}: {base.machine.get(name)} and {new.machine.get(name)}"
        for name in sorted(names)
        if base.machine.get(name) != new.machine.get(name)
    ]


def software_differences(base: Run, new: Run) -> list[str]:
    """The versions that differ between two runs, as texts."""
    return [
        f"{name} was {base.software[name]}, is {new.software[name]}"
        for name in SOFTWARE_KEYS
        if base.software[name] != new.software[name]
    ]


def cell_difference(base: CellRow, new: CellRow) -> str | None:
    """Why two cells of one name are not comparable; None if they are."""
    for name in CELL_KEYS:
        one, other = base.get(name), new.get(name)
        if one != other and not (_missing(one) and _missing(other)):
            if name == "formulation" and base.get("form") != new.get("form"):
                one, other = base.get("form"), new.get("form")  # readable text instead of ids
            return f"{name} was {one}, is {other}"
    return None


def _missing(value: Any) -> bool:
    return bool(pd.isna(value))


def standard_error(row: CellRow) -> float:
    """The standard error of log(median) within a run, from its confidence interval."""
    return float(row["interval"]) / NORMAL_95


def log_median(row: CellRow) -> float:
    """The natural logarithm of the median in seconds."""
    return float(np.log(row["median_s"]))
