"""Which cells changed from one release of torch to the next.

Runs are grouped by their version of torch. Cells are compared in SM cycles, which repeat better
than seconds. A run (one process) is the unit of evidence, as in `reports.comparability`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from packaging.version import InvalidVersion, Version

from maskbench.reading import SavedRun, read_run
from maskbench.records import UnreadableRun
from reports.report import Heading, Part, Report
from reports.runs import cells_table, incomplete_note, shape_of
from reports.thresholds import EFFECT

NAME = "reports releases"  # of the markers in the document
MIN_CHANGE = EFFECT  # of the cycles, from one release to the next
NOISE_FACTOR = 2.0  # a change is larger than this many times the noise of the two releases
ALIKE = 0.01  # changes that differ by at most this are told in one line
MIN_RUNS = 2  # of a release: fewer have no noise
MAX_NAMES = 3  # masks that a line names, if there is a shorter way to say which they are
KIND = ("backend", "direction", "form", "shape")  # of a cell; a line of a table has one kind
# Cells that differ in one of these are not compared.
SAME = ("timer", "area", "formulation")


def version_of(run: SavedRun) -> Version:
    try:
        return Version(run.torch)
    except InvalidVersion as error:
        raise UnreadableRun(f"{run.path}: {run.torch!r} is no version of torch") from error


def read_releases(paths: Iterable[Path]) -> dict[str, list[SavedRun]]:
    """The runs of each release, the oldest release first.

    A release is named by its version without the build, such as +cu130. If two releases differ only
    in that, it is part of their names.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, there are fewer than two releases or MIN_RUNS runs of each, or the
        GPUs are not of one model.
    """
    runs = [read_run(path) for path in paths]
    for run in runs:
        if run.machine_info.gpu is None:
            raise UnreadableRun(f"{run.path}: is of a CPU, which has no SM cycles to compare")
    models = sorted({run.device for run in runs})
    if len(models) > 1:
        raise UnreadableRun(f"the runs are not of one model of GPU: {', '.join(models)}")
    groups: dict[Version, list[SavedRun]] = {}
    for run in sorted(runs, key=lambda run: (version_of(run), run.saved)):
        groups.setdefault(version_of(run), []).append(run)
    if len(groups) < 2:
        raise UnreadableRun("give runs of at least two releases of torch")
    for version, found in groups.items():
        if len(found) < MIN_RUNS:
            raise UnreadableRun(f"torch {version} has {len(found)} run; give {MIN_RUNS} or more")
    is_named = len({version.public for version in groups}) == len(groups)
    return {v.public if is_named else str(v): found for v, found in groups.items()}


def shapes_of(cells: pd.DataFrame) -> list[str]:
    return [f"{shape_of(row)}, S = {row['seq_len']}" for _, row in cells.iterrows()]


def comparable_cells(releases: dict[str, list[SavedRun]]) -> tuple[pd.DataFrame, int]:
    """A row per cell that has cycles in every release, and the number of the other timed cells.

    Returns
    -------
    `mean` and `noise` of each release (columns of two levels: quantity, release), indexed by the
    cell. `noise` is half the range over the processes, divided by the mean of the first release.
    """
    tables = [
        cells_table(run).assign(release=name) for name, runs in releases.items() for run in runs
    ]
    cells = pd.concat(tables, ignore_index=True)
    cells = cells.reindex(columns=[*cells.columns.union(["cycles", *SAME, "form"])])
    cells["cycles"] = pd.to_numeric(cells["cycles"])
    cells = cells[cells["cycles"] > 0]
    by_cell = cells.groupby("fullname", sort=False)
    is_everywhere = by_cell["release"].nunique() == len(releases)
    is_same = (by_cell[list(SAME)].nunique(dropna=False) == 1).all(axis=1)
    kept = is_everywhere & is_same
    if not kept.any():
        raise UnreadableRun("no cell can be compared: none has SM cycles in every release")
    cells = cells[cells["fullname"].map(kept)]
    cycles = cells.groupby(["fullname", "release"], sort=False)["cycles"]
    order = list(releases)
    mean, spread = cycles.mean().unstack()[order], (cycles.max() - cycles.min()).unstack()[order]
    noise = spread.div(2 * mean[order[0]], axis=0)
    facts = cells.drop_duplicates("fullname").set_index("fullname")
    facts["shape"] = shapes_of(facts)
    table = pd.concat({"mean": mean, "noise": noise}, axis=1)
    for column in ("mask", *KIND):
        table["cell", column] = facts[column].reindex(table.index).fillna("")
    return table, int((~kept).sum())


def find_steps(cells: pd.DataFrame, releases: list[str]) -> pd.DataFrame:
    """A row per cell and release at which its cycles changed, the largest change first.

    A change is at least MIN_CHANGE, and larger than NOISE_FACTOR times the sum of the two releases'
    noise.
    """
    found = []
    for before, after in pairwise(releases):
        step = cells["mean", after] / cells["mean", before] - 1
        noise = cells["noise", before] + cells["noise", after]
        changed = step[(step.abs() >= MIN_CHANGE) & (step.abs() > NOISE_FACTOR * noise)]
        found.append(pd.DataFrame({"step": changed, "release": after}))
    steps = pd.concat(found).rename_axis("fullname").reset_index()
    facts = cells["cell"].reindex(steps["fullname"]).reset_index(drop=True)
    steps = pd.concat([steps, facts], axis=1)
    order = steps["step"].abs().sort_values(ascending=False, kind="stable").index
    ordered: pd.DataFrame = steps.loc[order]
    return ordered


def alike(steps: pd.DataFrame) -> list[pd.DataFrame]:
    """The steps in groups of masks that changed alike, the largest change first.

    One group has one release, one KIND of cell, and changes that differ by at most ALIKE.
    """
    groups = []
    for _, found in steps.groupby(["release", *KIND], sort=False):
        rest = found  # ordered by the size of the change
        while len(rest):
            is_near = (rest["step"] - rest["step"].iloc[0]).abs() <= ALIKE
            groups.append(rest[is_near])
            rest = rest[~is_near]
    return sorted(groups, key=lambda group: -abs(float(group["step"].iloc[0])))


def span(values: Iterable[float], form: str) -> str:
    """One number, or the smallest and largest of several if they differ as printed."""
    ordered = sorted(values)
    first, last = form.format(ordered[0]), form.format(ordered[-1])
    return first if first == last else f"{first} to {last}"


def mask_names(group: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Which masks a group has, by their names or by the names of those that it lacks."""
    names = list(group["mask"])
    first = group.iloc[0]
    family = cells["cell"]
    for column in KIND:
        family = family[family[column] == first[column]]
    lacking = [name for name in family["mask"] if name not in names]
    if len(names) <= MAX_NAMES:
        return ", ".join(names)
    if not lacking:
        return f"all {len(names)} masks of this form"
    if len(lacking) <= MAX_NAMES:
        return f"{len(names)} masks of this form, all but {', '.join(lacking)}"
    return ", ".join(names)


def steps_table(steps: pd.DataFrame, cells: pd.DataFrame, releases: list[str]) -> pd.DataFrame:
    """The rows of steps for readers: one per group of masks that changed alike."""
    first, *later = releases
    rows = []
    for group in alike(steps):
        rows_of = cells.loc[group["fullname"]]
        row = {
            "release": group["release"].iloc[0],
            "change": span(100 * group["step"], "{:+.1f}") + " %",
            "mask": mask_names(group, cells),
            **{column: group[column].iloc[0] for column in KIND},
            f"million cycles in {first}": span(rows_of["mean", first] / 1e6, "{:.3f}"),
        }
        for release in later:
            change = 100 * (rows_of["mean", release] / rows_of["mean", first] - 1)
            noise = 100 * float(rows_of["noise", release].max())
            row[release] = f"{span(change, '{:+.1f}')} ± {noise:.1f} %"
        rows.append(row)
    table: pd.DataFrame = pd.DataFrame(rows)
    if cells["cell", "shape"].nunique() == 1:
        del table["shape"]
    return table


def counts_table(steps: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each backend and direction changed, and how many did not."""
    rows = []
    changed = set(steps["fullname"])
    slower = set(steps["fullname"][steps["step"] > 0])
    faster = set(steps["fullname"][steps["step"] < 0])
    for (backend, direction), found in cells["cell"].groupby(["backend", "direction"], sort=False):
        names = set(found.index)
        row = {"backend": backend, "direction": direction, "cells": len(names)}
        row |= {"unchanged": len(names - changed), "slower": len(names & slower)}
        rows.append(row | {"faster": len(names & faster)})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def cudnn_version(number: int | str | None) -> str:
    """cuDNN's version from the number that torch gives: 92400 to "9.24.0"."""
    if not isinstance(number, int):
        return number or "none"
    major, rest = divmod(number, 10000) if number >= 90000 else divmod(number, 1000)
    return "{}.{}.{}".format(major, *divmod(rest, 100))


def versions_table(releases: dict[str, list[SavedRun]]) -> pd.DataFrame:
    """The versions of the software of each release."""
    rows = []
    for name, runs in releases.items():
        software = [run.commit_info for run in runs]
        columns = {
            "torch": [run.torch for run in runs],
            "CUDA": [s.cuda or "none" for s in software],
            "cuDNN": [cudnn_version(s.cudnn) for s in software],
            "Triton": [s.triton or "none" for s in software],
        }
        row = {title: ", ".join(dict.fromkeys(found)) for title, found in columns.items()}
        rows.append({"release": name, **row, "processes": len(runs)})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def machine_text(releases: dict[str, list[SavedRun]]) -> str:
    """The card, the driver, the shape and the dates of all runs."""
    runs = [run for found in releases.values() for run in found]
    gpus = {run.machine_info.gpu_uuid for run in runs}
    drivers = sorted({run.machine_info.driver or "unknown" for run in runs})
    days = sorted({run.saved[:10] for run in runs})
    shapes = sorted(set(shapes_of(pd.concat(cells_table(run) for run in runs))))
    card = "one card" if len(gpus) == 1 else f"{len(gpus)} cards"
    return (
        f"{runs[0].device} ({card}), driver {', '.join(drivers)}. {'; '.join(shapes)}. "
        f"{len(runs)} runs, saved {' to '.join(dict.fromkeys([days[0], days[-1]]))}."
    )


def release_data(steps: pd.DataFrame, cells: pd.DataFrame, releases: list[str]) -> pd.DataFrame:
    """A row for each cell and release.

    `cycles` is the mean over the processes. `noise` is as in `comparable_cells`, `change` the
    change against the release before, both relative. `is_step` is whether it counts as a change.
    """
    tables = []
    for before, release in zip([None, *releases], releases, strict=False):
        cycles = cells["mean", release]
        names = set(steps["fullname"][steps["release"] == release])
        table = cells["cell"].assign(release=release, cycles=cycles, noise=cells["noise", release])
        table["change"] = cycles / cells["mean", before] - 1 if before else math.nan
        tables.append(table.assign(is_step=cells.index.isin(names)))
    result: pd.DataFrame = pd.concat(tables).rename_axis("fullname").reset_index()
    return result


def releases_report(paths: Iterable[Path]) -> Report:
    """The tables. Raises UnreadableRun as `read_releases`, or if no cell can be compared."""
    releases = read_releases(paths)
    names = list(releases)
    cells, left_out = comparable_cells(releases)
    steps = find_steps(cells, names)
    noise = 100 * cells["noise"].to_numpy()
    unchanged = len(cells) - steps["fullname"].nunique()
    parts: list[Part] = [machine_text(releases), versions_table(releases)]
    for run in (run for found in releases.values() for run in found):
        parts += [f"note: {note}" for note in incomplete_note(run.path, run.incomplete)]
    parts.append(
        f"{len(cells)} cells were timed in every release. {unchanged} of them did not change. A "
        f"cell changed if its cycles differ by at least {100 * MIN_CHANGE:.1f} % between two "
        f"successive releases, and by more than {NOISE_FACTOR:g} times the noise of both. The "
        "noise (±) is half the range over the processes of a release: "
        f"{np.median(noise):.2f} % at the median, {noise.max():.1f} % at most."
    )
    if left_out:
        parts.append(f"{left_out} more cells are not in every release or not comparable.")
    parts.append(counts_table(steps, cells))
    parts.append(
        "The tables have a line for each change: the release that brought it, and the change "
        "against the release before. The last columns are the changes against "
        f"{names[0]}. Masks that changed alike, within {100 * ALIKE:g} percentage "
        "point, share a line."
    )
    slower, faster = steps[steps["step"] > 0], steps[steps["step"] < 0]
    for title, found in {"Slower": slower, "Faster": faster}.items():
        parts.append(Heading(title, 3))
        parts.append(steps_table(found, cells, names) if len(found) else "No cell.")
    return Report(parts, {"releases": release_data(steps, cells, names)})
