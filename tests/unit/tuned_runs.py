"""Copies of the test data with cells of `flex_tuned`."""

from __future__ import annotations

import copy
from collections.abc import Callable

from tests.unit.real_run import all_cells, few_cells

OWN = "block_mask:128x128,fwd_BLOCK_M=64"
FLASH = "block_mask:128x128,BACKEND=FLASH"
DEFAULT = "block_mask:128x128"
ALL_MASKS = ("causal", "global_local_sliding_window", "causal_padding")
FORM = "block_mask 128x128"


def with_tuned(
    gains: dict[str, float] | float = 1.25,
    formulation: str = OWN,
    form: str = FORM,
    change: Callable[[dict], None] | None = None,
) -> Callable[[dict], None]:
    """A change of the test data: a cell of `flex_tuned` beside each of `flex`, of 4 ms.

    `gains` are by mask, or one for all. The half-width of each interval is 0.3 %. Other backends
    keep their times.
    """

    def edit(run: dict) -> None:
        few_cells(run, masks=tuple(gains) if isinstance(gains, dict) else ("causal",))
        run["maskbench"]["format"] = 2
        for cell in all_cells(run):
            cell.setdefault("formulation", "other")
        for flex in [b for b in run["benchmarks"] if b["extra_info"]["backend"] == "flex"]:
            extra = flex["extra_info"]
            flex["stats"]["median"] = 4e-3
            extra |= {"interval": 0.003, "formulation": DEFAULT}
            tuned = copy.deepcopy(flex)
            tuned["fullname"] = flex["fullname"].replace("-flex-", "-flex_tuned-")
            gain = gains[extra["mask"]] if isinstance(gains, dict) else gains
            tuned["stats"]["median"] = 4e-3 / gain
            tuned["extra_info"] |= {
                **{"backend": "flex_tuned", "formulation": formulation, "form": form},
                "interval": 0.004,
            }
            run["benchmarks"].append(tuned)
        if change:
            change(run)

    return edit
