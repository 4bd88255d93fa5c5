"""How exact the results of each backend are: errors against float64, and the results of soaks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from maskbench.records import Outcome, Phase, UnreadableRun
from reports.report import Heading, Label, Part, Report
from reports.runs import incomplete_notes, read_cells, shape_of, sizes_of

NAME = "reports accuracy"  # of the markers
TENSORS = ("out", "dq", "dk", "dv")
PROBLEM = ["mask", "backend", "direction", "batch", "heads", "kv_heads", "head_dim", "v_head_dim"]
PROBLEM += ["dtype", "seq_len", "q_len"]
ERRORS = "the errors of each tensor (`errors`)"
SOAK = ["soak_launches", "soak_distinct", "soak_worst_difference", "deterministic"]


def accuracy_report(paths: list[Path]) -> Report:
    """The tables of all cells of these runs, which are of one device and torch.

    For programs there is a row for each tensor of each cell, and one for each soak. Of several runs
    of a cell, the largest error counts.

    Raises
    ------
    UnreadableRun
        As `reports.runs.read_cells`, or if no cell has the errors of each tensor and no soak was
        run.
    """
    cells = read_cells(paths)
    checked = with_errors(cells)
    soaks = once(cells[cells["direction"] == Phase.SOAK_BACKWARD.value])
    of_soaks = soak_tables(soaks)
    if checked.empty and not of_soaks:
        names = ", ".join(map(str, paths))
        raise UnreadableRun(f"{names}: no cell has {ERRORS}; time the cells again")
    parts: list[Part] = [describe_cells(soaks if checked.empty else checked)]
    parts += [f"note: {note}" for note in incomplete_notes(cells)]
    data = {}
    if checked.empty:
        parts.append(f"No cell has {ERRORS}.")
    else:
        ratios = data["errors"] = error_ratios(checked)
        for dtype, found in ratios.groupby("dtype", sort=False):
            parts += [Heading(f"Errors in {dtype}", 2), largest_ratios(found, ["backend"])]
            parts += [Label("By mask:"), largest_ratios(found, ["mask", "backend"])]
    if of_soaks:
        parts += [Heading("Soak", 2), *of_soaks]
        columns = ["device", "torch", *PROBLEM, *SOAK, "outcome", "reason"]
        data["soaks"] = soaks.reindex(columns=columns)
    return Report(parts, data)


def once(soaks: pd.DataFrame) -> pd.DataFrame:
    """Each soak once, although several runs have it: one that failed, else the newest."""
    is_failure = [Outcome(outcome).is_failure for outcome in soaks["outcome"]]
    is_timed = soaks["outcome"] == Outcome.TIMED.value
    ordered = soaks.assign(is_failure=is_failure, is_timed=is_timed)
    ordered = ordered.sort_values(["is_failure", "is_timed", "saved"], kind="stable")
    kept = ordered.drop_duplicates("fullname", keep="last").index.sort_values()
    result: pd.DataFrame = soaks.loc[kept]
    return result


def with_errors(cells: pd.DataFrame) -> pd.DataFrame:
    """The timed cells that have the errors of each tensor. Those of older runs do not."""
    columns = ["errors", "dense_errors"]
    has_fields = cells.reindex(columns=columns).map(lambda value: isinstance(value, dict))
    found: pd.DataFrame = cells[has_fields.all(axis=1)]
    return found


def describe_cells(cells: pd.DataFrame) -> str:
    """The number, device, torch, shapes and lengths of the cells."""
    setup = f"{cells['device'].iloc[0]}, torch {cells['torch'].iloc[0]}"
    number = cells["fullname"].nunique()
    shapes = dict.fromkeys(shape_of(row) for _, row in cells.iterrows())
    lengths = ", ".join(map(str, sorted(cells["seq_len"].unique())))
    return f"{number} cells. {setup}. {'; '.join(shapes)}. S = {lengths}."


def error_ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each tensor of each cell: its error over that of dense attention.

    Of several runs of a cell, the one with the largest ratio counts.
    """
    rows: list[dict[str, Any]] = []
    for cell in cells.to_dict("records"):
        errors, dense = cell["errors"], cell["dense_errors"]
        names = {key: cell[key] for key in ("fullname", "device", "torch", *PROBLEM)}
        for tensor in TENSORS:
            if tensor in errors and tensor in dense:
                values = {"error": errors[tensor], "dense_error": dense[tensor]}
                ratio = error_ratio(errors[tensor], dense[tensor])
                rows.append({**names, "tensor": tensor, **values, "ratio": ratio})
    largest = pd.DataFrame(rows).sort_values("ratio", kind="stable")
    largest = largest.drop_duplicates(["fullname", "tensor"], keep="last").sort_index()
    table: pd.DataFrame = largest.drop(columns="fullname")
    return table


def error_ratio(error: float, dense: float) -> float:
    """`error` over that of dense attention; 0 if both are exact."""
    if dense > 0:
        return error / dense
    return math.inf if error > 0 else 0.0


def largest_ratios(ratios: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The largest ratio of each tensor for each combination of `keys`."""
    table = ratios.pivot_table(
        index=keys, columns="tensor", values="ratio", aggfunc="max", sort=False
    )
    present = [tensor for tensor in TENSORS if tensor in table]
    shown: pd.DataFrame = table[present].map(lambda r: "" if math.isnan(r) else f"{r:.2f}")
    result: pd.DataFrame = shown.reset_index()
    return result


def soak_tables(soaks: pd.DataFrame) -> list[Part]:
    """The results of the soaks, then those that failed."""
    soaks = soaks.assign(shape=[sizes_of(row) for _, row in soaks.iterrows()])
    passed = soaks[soaks["outcome"] == Outcome.TIMED.value]
    failed = soaks[[Outcome(outcome).is_failure for outcome in soaks["outcome"]]]
    parts: list[Part] = []
    if len(passed):
        rows = {
            "mask": passed["mask"],
            "backend": passed["backend"],
            "shape": passed["shape"],
            "dtype": passed["dtype"],
            "S": passed["seq_len"],
            "launches": passed["soak_launches"].map("{:.0f}".format),
            "distinct gradients": passed["soak_distinct"].map("{:.0f}".format),
            "same bits": passed["deterministic"].map({True: "yes", False: "no"}),
            "largest difference": passed["soak_worst_difference"].map("{:.1e}".format),
        }
        parts.append(pd.DataFrame(rows))
    if len(failed):
        columns = ["mask", "backend", "shape", "dtype", "seq_len", "reason"]
        table = failed[columns].rename(columns={"seq_len": "S"})
        parts += [Label("These failed:"), table]
    return parts
