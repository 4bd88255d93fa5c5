"""Copies of the test data with cells of `flex_tuned`."""

from __future__ import annotations

import copy
from collections.abc import Callable

from reports.tuned_gains import compare_tuned, load_by_setup
from tests.unit.real_run import all_cells, few_cells, saved_as

OWN = "block_mask:128x128,fwd_BLOCK_M=64"
FLASH = "block_mask:128x128,BACKEND=FLASH"
DEFAULT = "block_mask:128x128"
FORM = "block_mask 128x128"


def with_tuned(
    gains: dict[str, float] | float = 1.25,
    formulation: str = OWN,
    form: str = FORM,
    change: Callable[[dict], None] | None = None,
) -> Callable[[dict], None]:
    """A change of the test data: a cell of `flex_tuned` beside each of `flex`, of 4 ms.

    `gains` are by mask, or that of causal, the only mask. The half-width of the interval is 0.3 %
    for `flex` and 0.4 % for `flex_tuned`. Other backends keep their times. `change` edits the
    result.
    """

    def edit(run: dict) -> None:
        by_mask = gains if isinstance(gains, dict) else {"causal": gains}
        few_cells(run, masks=tuple(by_mask))
        run["maskbench"]["format"] = 2
        for cell in all_cells(run):
            cell.setdefault("formulation", "other")
        for flex in [b for b in run["benchmarks"] if b["extra_info"]["backend"] == "flex"]:
            extra = flex["extra_info"]
            flex["stats"]["median"] = 4e-3
            extra |= {"interval": 0.003, "formulation": DEFAULT}
            tuned = copy.deepcopy(flex)
            tuned["fullname"] = flex["fullname"].replace("-flex-", "-flex_tuned-")
            tuned["stats"]["median"] = 4e-3 / by_mask[extra["mask"]]
            tuned["extra_info"] |= {"backend": "flex_tuned", "interval": 0.004}
            tuned["extra_info"] |= {"formulation": formulation, "form": form}
            run["benchmarks"].append(tuned)
        if change:
            change(run)

    return edit


def only_gain(tmp_path, *arguments, **named):
    """The row of `compare_tuned` of a run with one problem."""
    [cells] = load_by_setup([saved_as(tmp_path / "run.json", with_tuned(*arguments, **named))])
    [(_, row)] = compare_tuned(cells).iterrows()
    return row


def forward_cell(run, backend, mask="causal"):
    """The forward cell of a backend and mask."""
    wanted = {"backend": backend, "mask": mask, "direction": "forward"}
    (bench,) = (b for b in run["benchmarks"] if wanted.items() <= b["extra_info"].items())
    return bench


def with_batch_of_two(run):
    """Change the batch size of all cells to 2."""
    for cell in all_cells(run):
        cell["batch"] = 2
    for cell in [*run["benchmarks"], *run["maskbench"]["untimed"]]:
        cell["fullname"] = cell["fullname"].replace("-b1h", "-b2h")
