"""How exact the results of each backend are: errors against float64, and the results of soaks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from maskbench.reading import read_run
from maskbench.records import Outcome, Phase, UnreadableRun
from reports.report import Heading, Part, Report
from reports.runs import cells_table, shape_of

NAME = "reports accuracy"  # of the markers
TENSORS = ("out", "dq", "dk", "dv")
PROBLEM = ["mask", "backend", "direction", "batch", "heads", "kv_heads", "head_dim", "v_head_dim"]
PROBLEM += ["dtype", "seq_len", "q_len"]
SOAK = ["soak_launches", "soak_distinct", "soak_worst_difference", "deterministic"]


def accuracy_report(paths: list[Path]) -> Report:
    """The tables of all cells of these runs.

    For programs there is a row for each tensor of each cell, and one for each soak.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, or no cell has the errors of each tensor.
    """
    cells = pd.concat([cells_table(read_run(path)) for path in paths], ignore_index=True)
    checked = with_errors(cells)
    if checked.empty:
        raise UnreadableRun(
            f"{', '.join(map(str, paths))}: no cell has the errors of each tensor (`errors`); "
            "time the cells again"
        )
    ratios = error_ratios(checked)
    parts: list[Part] = [describe_cells(checked)]
    for dtype, found in ratios.groupby("dtype", sort=False):
        parts += [Heading(f"Errors in {dtype}", 2), largest_ratios(found, ["backend"])]
        parts += ["By mask:", largest_ratios(found, ["mask", "backend"])]
    data = {"errors": ratios}
    soaks = cells[cells["direction"] == Phase.SOAK_BACKWARD.value]
    if len(soaks):
        parts += [Heading("Soak", 2), *soak_tables(soaks)]
        columns = ["device", "torch", *PROBLEM, *SOAK, "outcome", "reason"]
        data["soaks"] = soaks.reindex(columns=columns)
    return Report(parts, data)


def with_errors(cells: pd.DataFrame) -> pd.DataFrame:
    """The timed cells that have the errors of each tensor. Those of older runs do not."""
    columns = ["errors", "dense_errors"]
    has_fields = cells.reindex(columns=columns).map(lambda value: isinstance(value, dict))
    found: pd.DataFrame = cells[has_fields.all(axis=1)]
    return found


def describe_cells(cells: pd.DataFrame) -> str:
    """The devices, versions of torch, shapes and lengths of the cells."""
    setups = cells["device"] + ", torch " + cells["torch"]
    shapes = dict.fromkeys(shape_of(row) for _, row in cells.iterrows())
    lengths = ", ".join(map(str, sorted(cells["seq_len"].unique())))
    return f"{len(cells)} cells. {'; '.join(setups.unique())}. {'; '.join(shapes)}. S = {lengths}."


def error_ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each tensor of each cell: its error over that of dense attention."""
    rows: list[dict[str, Any]] = []
    for cell in cells.to_dict("records"):
        errors, dense = cell["errors"], cell["dense_errors"]
        names = {key: cell[key] for key in ("device", "torch", *PROBLEM)}
        for tensor in TENSORS:
            if tensor in errors and tensor in dense:
                values = {"error": errors[tensor], "dense_error": dense[tensor]}
                ratio = error_ratio(errors[tensor], dense[tensor])
                rows.append({**names, "tensor": tensor, **values, "ratio": ratio})
    table: pd.DataFrame = pd.DataFrame(rows)
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
    passed = soaks[soaks["outcome"] == Outcome.TIMED.value]
    failed = soaks[[Outcome(outcome).is_failure for outcome in soaks["outcome"]]]
    parts: list[Part] = []
    if len(passed):
        rows = {
            "mask": passed["mask"],
            "backend": passed["backend"],
            "dtype": passed["dtype"],
            "S": passed["seq_len"],
            "launches": passed["soak_launches"].map("{:.0f}".format),
            "distinct gradients": passed["soak_distinct"].map("{:.0f}".format),
            "same bits": passed["deterministic"].map({True: "yes", False: "no"}),
            "largest difference": passed["soak_worst_difference"].map("{:.1e}".format),
        }
        parts.append(pd.DataFrame(rows))
    if len(failed):
        columns = ["mask", "backend", "dtype", "seq_len", "reason"]
        table = failed[columns].rename(columns={"seq_len": "S"})
        parts += ["These failed:", table]
    return parts
