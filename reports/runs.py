"""Saved pytest-benchmark JSON as a table, one row a cell; every report reads this table."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from masks import PATTERNS

FORMAT = 1  # of what conftest.py saves under "maskbench"
STORAGE = Path(".benchmarks")
DIRECTIONS = ("forward", "backward")
PROBLEM = {
    *("mask", "backend", "direction", "seq_len", "outcome", "reason", "fullname"),
    *("batch", "heads", "kv_heads", "head_dim", "dtype"),
}
TIMED = {"median_s", "rounds", "host_bound", "late_rounds", "throttle"}


class UnreadableRun(Exception):
    """A saved run that cannot be used; the message says which, why and what to do."""


def newest(storage: Path = STORAGE) -> Path:
    """The run that was saved last below the storage folder."""
    saved = sorted(storage.rglob("[0-9][0-9][0-9][0-9]_*.json"), key=lambda p: p.stat().st_mtime)
    if not saved:
        raise UnreadableRun(
            f"{storage}/: no saved run; make one with `pytest --benchmark-only "
            "--benchmark-autosave`, or name a file"
        )
    return saved[-1]


def read(path: Path) -> dict:
    """One saved file as pytest-benchmark wrote it, checked to be a run of this suite.

    A name that ends in .gz is unpacked.
    """
    try:
        packed = path.read_bytes()
        text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UnreadableRun(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not text.strip():
        raise UnreadableRun(f"{path}: is empty; was the run that saved it cut off?")
    try:
        run = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableRun(
            f"{path}: is not JSON or is truncated (line {error.lineno}: {error.msg})"
        ) from error
    if not isinstance(run, dict) or not isinstance(run.get("benchmarks"), list):
        raise UnreadableRun(f"{path}: is JSON, but not saved by pytest-benchmark")
    if "maskbench" not in run:
        raise UnreadableRun(f"{path}: is saved by pytest-benchmark, but not from this suite")
    if not isinstance(run["maskbench"], dict):
        raise UnreadableRun(f"{path}: is not as this suite saves runs")
    if run["maskbench"].get("format") != FORMAT:
        known = f"this version reads format {FORMAT}"
        raise UnreadableRun(f"{path}: has format {run['maskbench'].get('format')}; {known}")
    return run


def rows_of(run: dict, path: Path) -> list[dict]:
    machine, commit = run["machine_info"], run["commit_info"]
    about = {
        "device": machine.get("gpu") or f"CPU, {machine.get('torch_threads')} threads",
        "torch": commit["torch"],
        "saved": run["datetime"],
        "file": str(path),
    }
    timed = [
        {
            **about,
            **bench["extra_info"],
            "fullname": bench["fullname"],
            "outcome": "timed",
            "reason": "",
            **{f"{key}_s": bench["stats"][key] for key in ("median", "min", "iqr")},
            "rounds": bench["stats"]["rounds"],
        }
        for bench in run["benchmarks"]
    ]
    return timed + [{**about, **cell} for cell in run["maskbench"]["untimed"]]


def checked(row: dict) -> dict:
    """The row, if it has all that the reports read."""
    timed = row["outcome"] == "timed"
    lacking = {*PROBLEM, *(TIMED if timed else ())} - row.keys()
    if lacking:
        raise UnreadableRun(f"{row['file']}: has cells without {', '.join(sorted(lacking))}")
    if timed and not 0 < row["median_s"] < math.inf:
        raise UnreadableRun(f"{row['file']}: {row['fullname']} has no time above 0")
    return row


def load(paths: list[Path]) -> pd.DataFrame:
    """One row a cell of all files together, which are taken as parts of one run.

    Of a cell in several files, a timed one before an untimed one, and the last saved counts.
    Raises UnreadableRun, also where the files are of different devices or torch versions.
    """
    rows = []
    for path in paths:
        try:
            rows += [checked(row) for row in rows_of(read(path), path)]
        except (KeyError, TypeError, AttributeError) as error:
            raise UnreadableRun(f"{path}: is not as this suite saves runs ({error!r})") from error
    if not any(row["outcome"] == "timed" for row in rows):
        raise UnreadableRun(
            f"{', '.join(map(str, paths))}: has no benchmarks: nothing was timed in that run"
        )
    table = pd.DataFrame(rows)
    for what in ("device", "torch"):
        if table[what].nunique() > 1:
            found = ", ".join(sorted(table[what].unique()))
            raise UnreadableRun(f"the files are not parts of one run: {what} is {found}")
    table["is_timed"] = table["outcome"] == "timed"
    table = table.sort_values(["is_timed", "saved"], kind="stable")
    table = table.drop_duplicates("fullname", keep="last")
    place = {mask: i for i, mask in enumerate(PATTERNS)}  # masks that are gone come last
    order = table["mask"].map(place).fillna(len(place))
    table = table.assign(order=order).sort_values(["order", "seq_len"], kind="stable")
    return table.drop(columns="order").reset_index(drop=True)


def host_late(timed: pd.DataFrame | pd.Series) -> pd.Series | bool:
    """Of cells, or of one, whether the device waited for the host in over a tenth of the rounds."""
    return timed["late_rounds"] > timed["rounds"] / 10


def shape_of(row: pd.Series) -> str:
    """The shape in the words of a title: B8 H16 D64 float16."""
    grouped = f" (kv {row['kv_heads']})" if row["kv_heads"] != row["heads"] else ""
    return f"B{row['batch']} H{row['heads']}{grouped} D{row['head_dim']} {row['dtype']}"


def markdown(table: pd.DataFrame) -> str:
    """A table of texts and numbers."""
    cells = [
        [str(v).replace("|", "\\|").replace("\n", " ") for v in row] for row in table.to_numpy()
    ]
    lines = [list(table.columns), ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(part, digits: int = 0) -> str:
    return f"{100 * float(np.mean(part)):.{digits}f} %"
