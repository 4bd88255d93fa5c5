"""Targets of the suite's own accuracy and speed, and what saved runs reached."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from maskbench.reading import SavedRun, read_run
from maskbench.records import Outcome, UnreadableRun
from reports.comparability import Run, as_run
from reports.report import Heading, Paragraph, Part, Report
from reports.runs import cells_table, incomplete_notes
from reports.timing_accuracy import fidelity, repeatability, rounds

NAME = "reports validation"  # of the markers in a document
LONG = 65536  # tokens
PROCESSES = 5  # runs whose medians are compared
STAGES = ("warm up", "compile ahead", "compile", "check", "time", "other", "total")


def timed_cells(run: SavedRun) -> pd.DataFrame:
    """One row per timed cell, with `data`, its rounds in seconds, and `run`, its file."""
    cells = cells_table(run)
    timed: pd.DataFrame = cells[cells["outcome"] == Outcome.TIMED.value].assign(run=str(run.path))
    if "data" not in timed:
        timed["data"] = None
    return timed


def stage_times(runs: list[SavedRun]) -> Report | None:
    """How long each stage of each run took."""
    rows, data = [], []
    for run in runs:
        seconds, timed = run.suite.seconds or {}, len(run.timed)
        if not timed or not seconds.get("total"):
            continue
        row = {"run": run.path.stem, "timed": timed, "jobs": run.suite.jobs}
        row |= {f"{stage}, s": f"{seconds.get(stage, 0):.0f}" for stage in STAGES}
        rows.append(row | {"cells a minute": f"{60 * timed / seconds['total']:.0f}"})
        numbers = {f"{stage.replace(' ', '_')}_s": seconds.get(stage, 0.0) for stage in STAGES}
        data.append({"run": str(run.path), "timed": timed, "jobs": run.suite.jobs, **numbers})
    target = (
        "Target for the default grid on 16 cores: 600 s with a cold cache; with a warm one 300 s,"
        " and 60 cells a minute."
    )
    return Report([target, pd.DataFrame(rows)], {"stages": pd.DataFrame(data)}) if rows else None


def long_sequences(cells: pd.DataFrame) -> Report | None:
    """Times at lengths for which no S x S tensor fits into memory."""
    found = cells[cells["seq_len"] >= LONG]
    if found.empty:
        return None
    memory = found["peak_memory_bytes"].astype(float).div(2**20).map("{:.1f}".format)
    table = pd.DataFrame(
        {
            "mask": found["mask"],
            "S": found["seq_len"],
            "phase": found["direction"],
            "backend": found["backend"],
            "ms": found["median_s"].mul(1e3).map("{:.3f}".format),
            "MiB": memory,
            "checked": found["checked"],
        }
    ).sort_values(["phase", "backend", "S"], kind="stable")
    ours = found[(found["direction"] == "block_mask") & (found["backend"] == "ours")]
    text = "Target: all masks forward and backward; `block_mask` at 131072 below 2 ms and 40 MiB."
    if len(ours):
        slowest, largest = ours["median_s"].max() * 1e3, ours["peak_memory_bytes"].max() / 2**20
        text += f" `block_mask`: at most {slowest:.2f} ms and {largest:.1f} MiB."
    columns = ["mask", "seq_len", "direction", "backend", "median_s", "peak_memory_bytes"]
    data = {"long sequences": found[[*columns, "checked"]].loc[table.index]}
    return Report([Paragraph(text.replace("`", ""), text), table], data)


def groups_of_same_cells(runs: list[Run]) -> list[list[Run]]:
    """Runs that timed the same cells with the same timer; each group oldest first."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.saved):
        key = frozenset(run.timed.index), *sorted(set(run.timed["timer"]))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def repeats_on_one_gpu(runs: list[Run]) -> list[Path]:
    """The first PROCESSES of the runs that are of the GPU with the most runs."""
    gpus = [run.gpu_uuid for run in runs]
    most = max(gpus, key=gpus.count)
    return [run.path for run in runs if run.gpu_uuid == most][:PROCESSES]


def validation_report(paths: list[Path]) -> Report:
    """All tables.

    Runs with `slower` in their "maskbench" block are of code that was made slower on purpose.
    They are left out: they only show what the gate finds.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, or nothing was timed in any.
    """
    files = [run for run in map(read_run, paths) if run.timed]
    usual = [run for run in files if run.suite.slower is None]
    if not usual:
        raise UnreadableRun(f"{', '.join(map(str, paths))}: nothing was timed in them")
    tables = {run.path: timed_cells(run) for run in usual}
    cells = pd.concat(tables.values(), ignore_index=True)
    groups = groups_of_same_cells([as_run(run) for run in usual])
    repeated = max(groups, key=lambda runs: (min(len(runs), PROCESSES), runs[-1].saved))
    widest = max(groups, key=lambda runs: len(runs[0].timed))
    sections = {
        "Fidelity: device time against CUPTI": fidelity(cells),
        "Repeatability: fresh processes": repeatability(
            [tables[path] for path in repeats_on_one_gpu(repeated)]
        ),
        "Rounds": rounds(cells[cells["run"].isin([str(run.path) for run in widest])]),
        "Where the time of a run goes": stage_times(usual),
        "Long sequences": long_sequences(cells),
    }
    devices = sorted(set(cells["device"] + ", torch " + cells["torch"]))
    missing = [title for title, section in sections.items() if section is None]
    head = f"{'; '.join(devices)}."
    if missing:
        head += f" Not in these runs: {'; '.join(missing)}."
    parts: list[Part] = [head, *(f"note: {note}" for note in incomplete_notes(cells))]
    data: dict[str, pd.DataFrame] = {}
    for title, section in sections.items():
        if section is not None:
            parts += [Heading(title, 2), *section.parts]
            data |= section.data
    return Report(parts, data)
