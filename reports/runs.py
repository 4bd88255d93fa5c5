"""Saved runs as a table with one row per cell, which every report reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskbench.reading import SavedRun, read_run, saved_at
from maskbench.records import Outcome, Phase, UnreadableRun
from masks import PATTERNS
from reports.terminal import complain

__all__ = [
    *("DIRECTIONS", "STORAGE", "UnreadableRun", "cell_label", "cells_table", "host_late"),
    *("incomplete_note", "incomplete_notes", "load", "most_frequent_reason", "newest"),
    *("read_cells", "shape_of", "sizes_of"),
]

STORAGE = Path(".benchmarks")
AUTOSAVED = re.compile(r"([0-9]{4,18})_")  # pytest-benchmark's number, of four digits or more
DIRECTIONS = (Phase.FORWARD.value, Phase.BACKWARD.value)
MAX_REASON = 300  # characters in a message
LATE_SHARE = 0.1  # of a cell's rounds; above it, the host may have been timed


def newest(storage: Path = STORAGE) -> Path:
    """The run below the storage folder whose date is the latest; of one date, the last number.

    A file that cannot be read is named on stderr and left out.
    """
    saved = []
    for path in sorted(storage.rglob("*.json")):
        if number := AUTOSAVED.match(path.name):
            try:
                saved.append((saved_at(path), int(number[1]), path))
            except UnreadableRun as error:
                complain(f"left out: {error}")
    if not saved:
        raise UnreadableRun(
            f"{storage}/: no saved run; make one with `pytest --benchmark-only "
            "--benchmark-autosave`, or name a file"
        )
    return max(saved)[-1]


def cells_table(run: SavedRun) -> pd.DataFrame:
    """One row per cell of a run: its fields in `maskbench.schema`, and the run they are from.

    `incomplete` says why that run ended early and what it lacks; it is empty if the run is whole.
    `shared_device` is whether another run used the device at the same time.
    """
    origin = {"device": run.device, "torch": run.torch, "saved": run.saved, "file": str(run.path)}
    origin["incomplete"] = run.incomplete or ""
    rows = [
        {
            **origin,
            "shared_device": run.suite.shared_device,
            **cell,
            "direction": cell["direction"].value,
            "outcome": cell["outcome"].value,
        }
        for cell in run.cells
    ]
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def incomplete_note(file: Path | str, incomplete: str | None) -> list[str]:
    """A note on a run that ended early, or none. `incomplete` is that of `SavedRun`."""
    return [f"{file}: {incomplete}"] if incomplete else []


def incomplete_notes(cells: pd.DataFrame) -> list[str]:
    """A note for each run of these rows of `cells_table` that ended early."""
    runs = cells[["file", "incomplete"]].drop_duplicates().to_numpy()
    return [note for file, incomplete in runs for note in incomplete_note(file, incomplete)]


def read_cells(paths: Iterable[Path]) -> pd.DataFrame:
    """One row of `cells_table` per cell of each file, in their order. A file is read once.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, no file has a cell, or the files are of different devices or
        torch versions.
    """
    runs = [read_run(path) for path in dict.fromkeys(paths)]
    if not any(run.cells for run in runs):
        raise UnreadableRun(_nothing_timed(run.path for run in runs))
    table = pd.concat([cells_table(run) for run in runs if run.cells], ignore_index=True)
    for name in ("device", "torch"):
        if table[name].nunique() > 1:
            found = ", ".join(sorted(table[name].unique()))
            raise UnreadableRun(f"the files are not parts of one run: {name} is {found}")
    return table


def load(paths: list[Path]) -> pd.DataFrame:
    """One row per cell of all files, which are taken as parts of one run, in their order.

    If a cell is in several files, a timed one is preferred, then the one that was saved last.

    Raises
    ------
    UnreadableRun
        As `read_cells`, or if nothing was timed.
    """
    table = read_cells(paths)
    table["is_timed"] = table["outcome"] == Outcome.TIMED.value
    if not table["is_timed"].any():
        reason = most_frequent_reason(table.to_dict("records"))
        raise UnreadableRun(f"{_nothing_timed(paths)}{reason}")
    table = table.sort_values(["is_timed", "saved"], kind="stable")
    table = table.drop_duplicates("fullname", keep="last").sort_index()
    place = {mask: i for i, mask in enumerate(PATTERNS)}  # masks that no longer exist come last
    order = table["mask"].map(place).fillna(len(place))
    table = table.assign(order=order).sort_values(["order", "seq_len"], kind="stable")
    result: pd.DataFrame = with_proven_peaks(table.drop(columns="order").reset_index(drop=True))
    return result


def _nothing_timed(paths: Iterable[Path]) -> str:
    return f"{', '.join(map(str, paths))}: has no benchmarks: nothing was timed in that run"


def with_proven_peaks(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells, where a peak of computing is at least what a cell of its process reached.

    `gemm_tflops` is measured once in a process, in less than 0.1 s. Beside other programs on two
    CPU cores it was a ninth of what it is without them, and the cells reached 7 times the peak.
    """
    if "gemm_tflops" not in cells:
        return cells
    reached = cells.groupby(["file", "gemm_tflops"])["tflops"].transform("max")
    proven: pd.DataFrame = cells.assign(gemm_tflops=np.fmax(cells["gemm_tflops"], reached))
    return proven


def most_frequent_reason(cells: Iterable[Mapping[Any, Any]]) -> str:
    """Why most of the untimed cells have no time, as the end of a message; empty without any."""
    untimed = (cell for cell in cells if cell["outcome"] != Outcome.TIMED)
    reasons = Counter(f"{cell['outcome']}: {cell['reason'].rstrip('.')}" for cell in untimed)
    if not reasons:
        return ""
    (reason, number), *_ = reasons.most_common(1)
    shown = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}..."
    return f"; {number} of {reasons.total()} cells are {shown}"


def host_late(timed: pd.DataFrame | pd.Series) -> pd.Series | bool:
    """Whether the device waited for the host in more than LATE_SHARE of a cell's rounds."""
    return timed["late_rounds"] > timed["rounds"] * LATE_SHARE


def shape_of(row: pd.Series) -> str:
    """The shape in the words of a title, such as B8 H16 D64 float16."""
    sizes, last = _sizes(row)
    return f"{sizes} {row['dtype']}{last}"


def sizes_of(row: pd.Series) -> str:
    """The shape without the data type, such as B8 H16 D64."""
    return "".join(_sizes(row))


def _sizes(row: pd.Series) -> tuple[str, str]:
    """The sizes of a problem, and the number of its queries if they are the last ones."""
    grouped = f" (kv {row['kv_heads']})" if row["kv_heads"] != row["heads"] else ""
    of_v = f" (v {row['v_head_dim']})" if row["v_head_dim"] != row["head_dim"] else ""
    last = f" q={row['q_len']}" if row["q_len"] != row["seq_len"] else ""
    return f"B{row['batch']} H{row['heads']}{grouped} D{row['head_dim']}{of_v}", last


def cell_label(fullname: str) -> str:
    """The parameters of a cell's node id, without its file and test."""
    return fullname.rpartition("[")[2].rstrip("]")
