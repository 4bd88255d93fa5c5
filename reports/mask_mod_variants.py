"""The times of FlexAttention on one mask whose mask_mod is written in several ways."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from maskbench.records import Phase, UnreadableRun
from reports.ranking import is_noisy
from reports.ranking_table import setup_text, time_text
from reports.report import Part, Report
from reports.runs import incomplete_notes, load, shape_of

NAME = "reports mask_mod_variants"  # of the markers in a document
DIRECTIONS = {Phase.VARIANT_FORWARD.value: "forward", Phase.VARIANT_BACKWARD.value: "backward"}
PROBLEM = ["shape", "mask", "seq_len", "direction"]
DATA = [
    *("device", "torch", "shape", "mask", "mask_mod", "seq_len", "direction"),
    *("median_s", "interval", "over_fastest"),
]


def variant_cells(paths: list[Path]) -> pd.DataFrame:
    """The timed cells of mask_mod variants.

    `direction` is that of the attention. `over_fastest` is the time over that of the fastest
    variant of the same mask.

    Raises
    ------
    UnreadableRun
        As `reports.runs.load`, or if there is no such cell.
    """
    cells = load(paths)
    found = cells[cells["is_timed"] & cells["direction"].isin(DIRECTIONS)]
    if found.empty:
        names = ", ".join(map(str, paths))
        advice = "time tests/test_spelling.py"
        raise UnreadableRun(f"{names}: no mask_mod variant was timed; {advice}")
    found = found.rename(columns={"backend": "mask_mod"})
    found = found.assign(
        direction=found["direction"].map(DIRECTIONS),
        shape=[shape_of(cell) for _, cell in found.iterrows()],
        is_noisy=is_noisy(found),
    )
    fastest = found.groupby(PROBLEM)["median_s"].transform("min")
    table: pd.DataFrame = found.assign(over_fastest=found["median_s"] / fastest)
    return table


def variant_row(cells: pd.DataFrame) -> dict[str, object]:
    """The texts of a variant; empty for a direction that was not timed."""
    first = cells.iloc[0]
    row = {"mask": first["mask"], "mask_mod": first["mask_mod"], "S": first["seq_len"]}
    by_direction = cells.set_index("direction")
    for direction in DIRECTIONS.values():
        time = ratio = ""
        if direction in by_direction.index:
            cell = by_direction.loc[direction]
            time = time_text(cell["median_s"], cell["is_noisy"])
            ratio = f"{cell['over_fastest']:.2f}"
        row |= {direction: time, f"{direction} / fastest": ratio}
    return row


def mask_mod_variants_report(paths: list[Path]) -> Report:
    """A row for each variant with its times; for programs, one for each direction.

    Raises as `variant_cells`.
    """
    cells = variant_cells(paths)
    parts: list[Part] = [f"note: {note}" for note in incomplete_notes(cells)]
    for _, of_shape in cells.groupby("shape", sort=False):
        variants = of_shape.groupby(["mask", "mask_mod", "seq_len"], sort=False)
        note = '"/ fastest" is the time over that of the mask\'s fastest mask_mod.'
        rows = pd.DataFrame(variant_row(found) for _, found in variants)
        parts += [f"{setup_text(of_shape)} {note}", rows]
    return Report(parts, {"mask_mod variants": cells[DATA]})
