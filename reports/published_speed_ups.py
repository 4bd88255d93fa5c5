"""Published speed-ups of FlexAttention over SDPA beside those of runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from reports.markdown import markdown_text
from reports.report import Paragraph
from reports.runs import DIRECTIONS

SOURCE = "https://github.com/shreyansh26/Attention-Mask-Patterns"
SHAPE = "B8 H16 D64 float16"
SCRIPTS = "its scripts, torch 2.11"
SCRIPTS_SETUP = "NVIDIA H100 80GB HBM3, torch 2.11.0+cu130, 2026-11-22"
KERNELS = ("sdpa", "sdpa_efficient")  # compared with `flex`
DENSE = "dense_bias"  # the formulation of a mask that SDPA gets as a tensor


class Times(NamedTuple):
    """Times in ms as the project measures them: forward, and forward with backward."""

    flex: tuple[float, float]
    sdpa: tuple[float, float]  # with a dense mask

    def speed_up(self, direction: str) -> float:
        """SDPA's time over FlexAttention's."""
        place = DIRECTIONS.index(direction)
        return self.sdpa[place] / self.flex[place]


class PublishedTimes(NamedTuple):
    """The times of a mask, with the shape `SHAPE`.

    `published` are the times in the plots of the project's README. `scripts` are those that its
    scripts print with `SCRIPTS_SETUP`; None means that the script was not run. The scripts do not
    start on torch 2.6 and newer, so one import was changed.
    """

    mask: str
    seq_len: int
    published: Times
    scripts: Times | None


PUBLISHED = (
    PublishedTimes(
        "causal",
        4096,
        Times(flex=(0.86, 3.97), sdpa=(6.25, 21.05)),
        Times(flex=(0.817, 3.585), sdpa=(2.077, 7.563)),
    ),
    PublishedTimes(
        "causal_sliding_window",
        4096,
        Times(flex=(0.29, 1.38), sdpa=(6.2, 21.05)),
        Times(flex=(0.366, 1.295), sdpa=(2.089, 7.561)),
    ),
    PublishedTimes(
        "bidirectional_sliding_window",
        4096,
        Times(flex=(0.38, 1.75), sdpa=(6.24, 21.19)),
        Times(flex=(0.345, 1.579), sdpa=(2.084, 7.573)),
    ),
    PublishedTimes(
        "bidirectional_dilated_sliding_window",
        4096,
        Times(flex=(0.64, 3.11), sdpa=(6.24, 21.2)),
        Times(flex=(0.621, 2.681), sdpa=(2.127, 7.56)),
    ),
    PublishedTimes(
        "global_local_sliding_window",
        4096,
        Times(flex=(1.9, 5.09), sdpa=(6.21, 21.18)),
        Times(flex=(0.996, 3.68), sdpa=(2.075, 7.523)),
    ),
    PublishedTimes(
        "prefix_lm",
        4096,
        Times(flex=(1.08, 4.74), sdpa=(6.24, 21.18)),
        Times(flex=(0.965, 4.18), sdpa=(2.141, 7.498)),
    ),
    PublishedTimes(
        "multi_document_bidirectional",
        32768,
        Times(flex=(27.59, 102.97), sdpa=(390.1, 1330.74)),
        Times(flex=(19.62, 83.27), sdpa=(145.9, 481.1)),
    ),
    PublishedTimes(
        "multi_document_causal",
        32768,
        Times(flex=(17.56, 56.37), sdpa=(386.72, 1329.82)),
        Times(flex=(10.96, 44.87), sdpa=(145.4, 480.4)),
    ),
    PublishedTimes(
        "multi_document_prefix_lm",
        32768,
        Times(flex=(18.22, 60.94), sdpa=(387.12, 1330.5)),
        Times(flex=(20.65, 58.61), sdpa=(145.7, 480.5)),
    ),
    PublishedTimes(
        "standalone_self_attention",
        16384,
        Times(flex=(7.1, 26.09), sdpa=(96.96, 333.76)),
        None,
    ),
)


def direction_row(case: PublishedTimes, cells: pd.DataFrame, direction: str) -> dict[str, Any]:
    """The speed-ups of a mask in one direction; None for one that was not timed."""
    row: dict[str, Any] = {"mask": case.mask, "seq_len": case.seq_len, "direction": direction}
    row["published"] = case.published.speed_up(direction)
    row["scripts"] = case.scripts.speed_up(direction) if case.scripts else None
    of_direction = cells[cells["direction"] == direction]
    # Another test, such as that of the timer, may have timed a cell, too.
    of_backends = of_direction.groupby("backend").last()
    times, forms = of_backends["median_s"], of_backends["formulation"]
    for kernel in KERNELS:
        is_timed = {kernel, "flex"} <= set(of_backends.index)
        row[kernel] = times[kernel] / times["flex"] if is_timed else None
        row[f"{kernel}_formulation"] = forms[kernel] if is_timed else None
    return row


def speed_up_rows(timed: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each direction of each published mask with a speed-up here."""
    rows = []
    for case in PUBLISHED:
        is_case = (timed["mask"] == case.mask) & (timed["seq_len"] == case.seq_len)
        cells = timed[is_case & (timed["shape"] == SHAPE)]
        both = [direction_row(case, cells, direction) for direction in DIRECTIONS]
        if any(row[kernel] is not None for row in both for kernel in KERNELS):
            rows += both
    return rows


def pair_text(both: tuple[dict[str, Any], ...], name: str) -> str:
    """Such as "9.2 / 7.2"; with the formulation if SDPA gets no dense mask."""
    if all(row[name] is None for row in both):
        return "not run" if name == "scripts" else "not timed"
    text = " / ".join("-" if row[name] is None else f"{row[name]:.1f}" for row in both)
    named = (row.get(f"{name}_formulation") for row in both)
    forms = {form for form in named if isinstance(form, str) and form != DENSE}
    return f"{text} ({', '.join(sorted(forms))})" if forms else text


def shown_speed_ups(forward: dict[str, Any], backward: dict[str, Any]) -> dict[str, str]:
    """The two directions of a mask as one row of texts."""
    both = forward, backward
    row = {"mask": forward["mask"], "S": str(forward["seq_len"])}
    row |= {"published": pair_text(both, "published"), SCRIPTS: pair_text(both, "scripts")}
    return row | {f"here, {kernel}": pair_text(both, kernel) for kernel in KERNELS}


def speed_up_head(setup: str) -> Paragraph:
    """What is compared, the source, and the `setup` of the cells here."""
    text = (
        f"SDPA's time over FlexAttention's (flex), forward / backward, {SHAPE}. SDPA gets a dense "
        f"mask, except where another form is in brackets. Published: {{}}. Its scripts: "
        f"{SCRIPTS_SETUP}. Here: {{}}."
    )
    name = "Attention Mask Patterns"
    return Paragraph(
        text.format(f"{name} ({SOURCE})", setup),
        text.format(f"[{name}]({SOURCE})", markdown_text(setup)),
    )
