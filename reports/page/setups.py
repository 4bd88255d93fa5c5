"""The runs of a page, grouped by device and torch, and the facts of each run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from maskbench.plain_text import plain_text
from maskbench.reading import SavedRun, read_run
from maskbench.records import Outcome
from reports.comparability import machine_of
from reports.page.columns import rounded
from reports.ranking_table import noise_note
from reports.runs import incomplete_note, load


@dataclass(frozen=True)
class Setup:
    """The runs of one kind of machine and one torch, whose times can be ranked together.

    `cells` are the rows of `reports.runs.load`.
    """

    runs: list[SavedRun]
    cells: pd.DataFrame

    @property
    def name(self) -> str:
        """The machine and the torch, with the power limit of a GPU."""
        first = self.runs[0]
        watts = first.machine_info.power_limit_w
        return f"{first.device}{f' ({watts:g} W)' if watts else ''}, torch {first.torch}"

    def as_json(self) -> dict[str, Any]:
        """Its name, its runs, and notes on them."""
        notes = [note for run in self.runs for note in incomplete_note(run.path, run.incomplete)]
        cards = {run.machine_info.gpu_uuid for run in self.runs}
        if len(cards) > 1:
            notes.append(f"the cells were timed on {len(cards)} GPUs of this model")
        if noise := noise_note(self.cells):
            notes.append(noise)
        return {
            "name": self.name,
            "device": self.runs[0].device,
            "torch": self.runs[0].torch,
            "notes": [plain_text(note) for note in notes],
            "runs": [run_facts(run) for run in self.runs],
        }


def setups_of(paths: list[Path]) -> list[Setup]:
    """The runs in the files, grouped by machine and torch, in the order of the files.

    Machines whose times are not comparable (`machine_differences`) are different setups. Several
    files of one setup are the parts of one run.

    Raises
    ------
    UnreadableRun
        If a file is not a saved run, or nothing was timed in all files of a setup.
    """
    groups: list[list[SavedRun]] = []
    for path in dict.fromkeys(paths):
        run = read_run(path)
        same = (group for group in groups if is_same_setup(group[0], run))
        if group := next(same, None):
            group.append(run)
        else:
            groups.append([run])
    return [Setup(runs, load([run.path for run in runs])) for runs in groups]


def is_same_setup(one: SavedRun, other: SavedRun) -> bool:
    return one.torch == other.torch and machine_of(one) == machine_of(other)


def run_facts(run: SavedRun) -> dict[str, Any]:
    """The machine and the software of a run, and where its time went."""
    machine, software, suite = run.machine_info, run.commit_info, run.suite
    outcomes = [cell["outcome"] for cell in run.cells]
    clocks = pd.Series([cell["clock_mhz"] for cell in run.timed], dtype=float).dropna()
    intervals = pd.Series([cell["interval"] for cell in run.timed], dtype=float)
    memory = machine.gpu_memory_bytes
    facts: dict[str, Any] = {
        "file": plain_text(run.path.name),
        "saved": run.saved[:16].replace("T", " ") + " UTC",
        "device": run.device,
        "GPU UUID": machine.gpu_uuid,
        "GPU memory": f"{memory / 2**30:.1f} GiB" if memory else None,
        "power limit": f"{machine.power_limit_w:g} W" if machine.power_limit_w else None,
        "driver": machine.driver,
        "CPU": machine.cpu and machine.cpu.brand_raw,
        "torch": software.torch,
        "CUDA": software.cuda,
        "cuDNN": None if software.cudnn is None else str(software.cudnn),
        "Triton": software.triton,
        "xFormers": software.xformers,
        "FlashAttention-2": software.flash_attn,
        "FlashAttention-4": software.flash_attn_4,
        "cells": ", ".join(
            f"{outcomes.count(outcome)} {outcome}" for outcome in Outcome if outcome in outcomes
        ),
        "SM clock during the calls": clock_text(clocks),
        "95 % interval of the median": interval_text(intervals),
        "launch overhead, subtracted": suite.launch_us and f"{suite.launch_us:.2f} us",
        "processes": None if suite.pieces == 1 else str(suite.pieces),
        "made slower on purpose": suite.slower and plain_text(suite.slower),
    }
    seconds = {plain_text(stage): rounded(value) for stage, value in (suite.seconds or {}).items()}
    shown = {name: fact for name, fact in facts.items() if fact is not None and fact != ""}
    return {"facts": shown, "seconds": seconds}


def clock_text(clocks: pd.Series) -> str | None:
    """The range of the SM clock over the cells; None if it is unknown."""
    if clocks.empty:
        return None
    return f"{clocks.min():.0f} to {clocks.max():.0f} MHz, median {clocks.median():.0f} MHz"


def interval_text(intervals: pd.Series) -> str | None:
    """How wide the intervals are in half and in 95 % of the cells."""
    if intervals.empty:
        return None
    half, most = intervals.quantile([0.5, 0.95])
    return f"at most ±{half:.2%} in half of the cells, ±{most:.2%} in 95 % of them"
