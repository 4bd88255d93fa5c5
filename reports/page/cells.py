"""The cells of runs as columns: their workloads, their times, and all other saved fields."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from maskbench.records import Outcome
from reports.page.columns import Column, numbers, texts
from reports.ranking import Measure, attention_times, is_noisy, peak_shares
from reports.runs import host_late, sizes_of

TEXTS = {
    "name": "fullname",
    "mask": "mask",
    "backend": "backend",
    "direction": "direction",
    "dtype": "dtype",
    "outcome": "outcome",
    "reason": "reason",
    "form": "form",
    "errorOf": "error_of",
    "checked": "checked",
    "graphReason": "graph_reason",
}
NUMBERS = {
    "s": "seq_len",
    "q": "q_len",
    "batch": "batch",
    "heads": "heads",
    "kvHeads": "kv_heads",
    "headDim": "head_dim",
    "vHeadDim": "v_head_dim",
    "rounds": "rounds",
    "cycles": "cycles",
    "cyclesInterval": "cycles_interval",
    "clock": "clock_mhz",
    "host": "host_us",
    "flops": "flops",
    "bytes": "bytes",
    "memory": "peak_memory_bytes",
    "error": "error",
    "bound": "error_bound",
    "density": "density",
    "blockDensity": "block_density",
    "firstCall": "first_call_s",
}
# The keys of each measure: its time, its interval, and whether it is a time of the host.
MEASURES = {Measure.DEVICE: "device", Measure.GRAPH: "graph", Measure.CALLED: "called"}
ERRORS = ["errors", "error_bounds"]
SOAK = ["soak_launches", "soak_distinct", "soak_worst_difference", "deterministic"]
FLAGS = ["host_bound", "throttle", "two_modes", "two_modes_by_clock"]
SIZES = ["batch", "heads", "kv_heads", "head_dim", "v_head_dim", "dtype", "seq_len", "q_len"]


def cell_columns(cells: pd.DataFrame) -> dict[str, Column]:
    """The columns of the rows of `reports.runs.load`.

    Times are in seconds, and intervals are half-widths relative to them. A field that a run or a
    cell lacks is null, or "" if it is a text. The column `setup` is not among them.
    """
    timed = cells[cells["outcome"] == Outcome.TIMED.value]
    columns: dict[str, Column] = {}
    for key, name in TEXTS.items():
        columns[key] = texts(as_texts(cells, name))
    columns["shape"] = texts(shapes(cells))
    columns["errors"] = texts(error_text(row) for row in rows_of(cells, ERRORS))
    columns["soak"] = texts(soak_text(row) for row in rows_of(cells, SOAK))
    columns["flags"] = texts(flags_of(timed).reindex(cells.index).fillna(""))
    for key, name in NUMBERS.items():
        columns[key] = numbers(cells[name] if name in cells else [None] * len(cells))
    for measure, key in MEASURES.items():
        times = attention_times(timed, measure).reindex(cells.index)
        columns[key] = numbers(times["seconds"])
        columns[f"{key}Interval"] = numbers(times["interval"])
        columns[f"{key}IsHostTime"] = numbers(times["is_host_time"].eq(True).astype(int))
    peaks = peak_shares(timed).reindex(cells.index)
    columns["share"] = numbers(peaks["peak_share"])
    columns["limit"] = texts(peaks["peak_limit"].fillna(""))
    columns["noisy"] = numbers(is_noisy(timed).reindex(cells.index).eq(True).astype(int))
    return columns


def as_texts(cells: pd.DataFrame, name: str) -> list[str]:
    """A field as texts: "" where it is missing."""
    if name not in cells:
        return [""] * len(cells)
    return [value if isinstance(value, str) else "" for value in cells[name]]


def rows_of(cells: pd.DataFrame, names: list[str]) -> list[dict[Hashable, Any]]:
    """The fields with these names of each cell, without those that it lacks."""
    rows = cells[cells.columns.intersection(names)].to_dict("records")
    return [
        {name: value for name, value in row.items() if isinstance(value, dict) or pd.notna(value)}
        for row in rows
    ]


def error_text(row: dict[Hashable, Any]) -> str:
    """The error of each tensor and its bound, such as "out 0.00042 of 0.0058"."""
    bounds = row.get("error_bounds", {})
    return ", ".join(
        f"{tensor} {error:.2g}" + (f" of {bounds[tensor]:.2g}" if tensor in bounds else "")
        for tensor, error in row.get("errors", {}).items()
    )


def soak_text(row: dict[Hashable, Any]) -> str:
    """How much the launches of a soak differed; "" for other cells."""
    if "soak_launches" not in row:
        return ""
    if row.get("deterministic"):
        return f"the same bits in {row['soak_launches']:.0f} launches"
    distinct, worst = row.get("soak_distinct", 0), row.get("soak_worst_difference", 0)
    return (
        f"{distinct:.0f} different gradients in {row['soak_launches']:.0f} launches;"
        f" largest difference {worst:.2g}"
    )


def shapes(cells: pd.DataFrame) -> list[str]:
    """The shape of each cell without its length and data type, such as B8 H16 D64."""
    known: dict[tuple[object, ...], str] = {}
    for values, row in zip(
        cells[SIZES].itertuples(index=False), cells[SIZES].to_dict("records"), strict=True
    ):
        if values not in known:
            known[values] = sizes_of(pd.Series(row))
    return [known[values] for values in cells[SIZES].itertuples(index=False)]


def flags_of(timed: pd.DataFrame) -> pd.Series:
    """What limits the meaning of each time, in the words of docs/method.md, joined by commas."""
    rows = timed.assign(is_late=host_late(timed))
    rows = rows[rows.columns.intersection(["is_late", *FLAGS])]  # a dict is faster than a Series
    found = [", ".join(row_flags(row)) for row in rows.to_dict("records")]
    flags: pd.Series = pd.Series(found, timed.index, dtype=object)
    return flags


def row_flags(row: dict[Hashable, Any]) -> list[str]:
    """The flags of one timed cell."""
    found = ["host-bound"] if row["host_bound"] else []
    if row["throttle"]:
        found.append(f"throttled ({', '.join(row['throttle'])})")
    if row["is_late"]:
        found.append("host late")
    if row.get("two_modes") is True:
        found.append("two clocks" if row.get("two_modes_by_clock") is True else "two modes")
    return found
