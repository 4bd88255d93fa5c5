"""Saved runs as evidence: which cells of which runs may be compared, and how sure each time is.

The unit of evidence is a run: rounds of one process agree with each other better than two
processes do.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from reports.runs import UnreadableRun, checked, read, rows_of

# A difference in one of these means that two times are not of the same thing.
HARD_OF_MACHINE = (
    *("device", "gpu", "gpu_count", "compute_capability", "gpu_memory_bytes", "power_limit_w"),
    "torch_threads",
)
HARD_OF_CELL = (
    *("timer", "batch", "heads", "kv_heads", "seq_len", "head_dim", "dtype"),
    *("area", "form"),  # the mask's parameters, by what they attend to; how it was computed
)
# A difference in one of these, on a GPU, starts a new segment of a history. torch and triton are in
# neither: they are the subject.
SOFT = ("driver", "cuda", "cudnn")
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Run:
    """One saved file. `cells` has a row for each cell, timed or not, by its fullname."""

    path: Path
    saved: str  # ISO date and time
    torch: str
    hard: dict[str, object]
    soft: dict[str, object]
    card: str | None  # which one of its kind
    cells: pd.DataFrame

    @cached_property
    def timed(self) -> pd.DataFrame:
        return self.cells[self.cells["outcome"] == "timed"]


def clock_of(row: dict) -> float:
    """SM clock in MHz: during the calls, in older runs just before; NaN where it was not seen."""
    for name in ("call_clock_mhz", "spin_clock_mhz"):
        if row.get(name):
            return float(row[name])
    read = [mhz for mhz in row.get("sm_clock_mhz") or () if mhz]
    return sum(read) / len(read) if read else math.nan


def load_run(path: Path) -> Run:
    """Raises UnreadableRun, also where nothing was timed."""
    try:
        return run_of(read(path), path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableRun(f"{path}: is not as this suite saves runs ({error!r})") from error


def run_of(saved: dict, path: Path) -> Run:
    timers = {b["fullname"]: b["options"]["timer"] for b in saved["benchmarks"]}
    rows = [checked(row) for row in rows_of(saved, path)]
    if not any(row["outcome"] == "timed" for row in rows):
        raise UnreadableRun(f"{path}: nothing was timed in that run")
    for row in rows:
        row |= {"timer": timers.get(row["fullname"]), "clock_mhz": clock_of(row)}
        row["two_modes"] = bool(row.get("two_modes"))
        row["interval"] = float(row.get("interval") or 0.0)
    machine = saved["machine_info"]
    hard = {name: machine.get(name) for name in HARD_OF_MACHINE}
    if machine.get("device") == "cpu":
        hard["cpu"] = machine.get("cpu", {}).get("brand_raw")
    about = {**saved["commit_info"], **machine}
    cells = pd.DataFrame(rows).drop_duplicates("fullname", keep="last").set_index("fullname")
    soft = {name: about.get(name) if machine.get("gpu") else None for name in SOFT}
    date = datetime.fromisoformat(saved["datetime"]).isoformat()
    torch, card = str(saved["commit_info"]["torch"]), machine.get("gpu_uuid")
    return Run(path, date, torch, hard, soft, card, cells)


def is_verdict(path: Path) -> bool:
    """Whether a JSON is one that the gate wrote."""
    try:
        return "verdict" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # a packed run, or a file that read() will refuse
        return False


def load_history(folder: Path, leave_out: list[Run]) -> tuple[list[Run], list[str]]:
    """Every saved run below a folder, oldest first, each once; and what was left out, and why.

    Raises UnreadableRun where a file cannot be read, or there is none.
    """
    if not folder.is_dir():
        raise UnreadableRun(f"{folder}/: is no folder; name the one that runs are saved below")
    saved = (path for kind in ("*.json", "*.json.gz") for path in folder.rglob(kind))
    files = [path for path in sorted(saved) if not is_verdict(path)]
    if not files:
        raise UnreadableRun(f"{folder}/: holds no saved run")
    runs, notes, seen = [], [], {identity(run): run.path for run in leave_out}
    shown = tqdm(files, desc="reading", unit="run", disable=None)
    for run in sorted((load_run(path) for path in shown), key=lambda run: run.saved):
        first = seen.setdefault(identity(run), run.path)
        if first is run.path:
            runs.append(run)
        elif first.resolve() != run.path.resolve():
            notes.append(f"{run.path}: is the same run as {first}, counted once")
    return runs, notes


def identity(run: Run) -> tuple:
    """Alike for two files only if they hold the same run.

    Not by when they were saved: pytest-benchmark dates --benchmark-json and an autosave of
    one run apart.
    """
    medians = run.timed["median_s"].sort_index()
    return len(medians), tuple(medians.index), tuple(medians)


def differences(base: Run, new: Run) -> list[str]:
    """What makes two runs not comparable at all."""
    names = base.hard.keys() | new.hard.keys()
    return [
        f"{name}: {base.hard.get(name)} and {new.hard.get(name)}"
        for name in sorted(names)
        if base.hard.get(name) != new.hard.get(name)
    ]


def soft_differences(base: Run, new: Run) -> list[str]:
    return [f"{n}: {base.soft[n]} and {new.soft[n]}" for n in SOFT if base.soft[n] != new.soft[n]]


def cell_difference(base: pd.Series, new: pd.Series) -> str | None:
    """Why two times of one name are not of the same thing; None where they are."""
    for name in HARD_OF_CELL:
        one, other = base.get(name), new.get(name)
        if one != other and not (pd.isna(one) and pd.isna(other)):
            return f"{name} was {one}, is {other}"
    return None


def standard_error(row: pd.Series) -> float:
    """Of log(median), from the interval that the rounds reached."""
    return row["interval"] / NORMAL_95
