"""Published throughputs of attention libraries beside ours, as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from maskbench.reading import read_run
from maskbench.records import Outcome, Phase, UnreadableRun
from reports.markdown import markdown_table, markdown_text
from reports.runs import cells_table, shape_of

NAME = "reports published"  # of the markers in the document

FLASH_ATTENTION_3 = "https://arxiv.org/abs/2407.08608"
CUDNN = "https://github.com/NVIDIA/cudnn-frontend/tree/main/benchmark/sdpa_benchmark_training"
MAGI_ATTENTION = "https://sandai-org.github.io/MagiAttention/docs/main/blog/cp_benchmark.html"


class PublishedResult(NamedTuple):
    """The throughput that a library's authors or others published, in TFLOP/s.

    It counts the attended pairs only, as ours do. `masks` are the names of our masks of that case.
    None means that the throughput was not published.
    """

    case: str
    masks: tuple[str, ...]
    head_dim: int
    seq_len: int
    library: str  # and the card
    forward: int | None
    backward: int | None
    source: str


FA3, FFA = "FlashAttention-3, H100", "Flex-Flash-Attention, H100"
WINDOW = ("causal_sliding_window(left=1023)",)
DOCUMENTS = ("multi_document_causal", "multi_document_causal(documents=lognormal)")
PUBLISHED = (
    PublishedResult("full", ("full",), 64, 16384, FA3, 497, 474, FLASH_ATTENTION_3),
    PublishedResult("causal", ("causal",), 64, 16384, FA3, 473, None, FLASH_ATTENTION_3),
    PublishedResult("full", ("full",), 128, 16384, "cuDNN, H200", 702, 612, CUDNN),
    PublishedResult("causal", ("causal",), 128, 16384, FA3, 672, 562, FLASH_ATTENTION_3),
    PublishedResult("causal", ("causal",), 128, 4096, FA3, 667, 444, MAGI_ATTENTION),
    PublishedResult("causal window of 1024", WINDOW, 128, 16384, FA3, 524, 327, MAGI_ATTENTION),
    PublishedResult(
        "causal documents; here of other lengths",
        DOCUMENTS,
        128,
        16384,
        FA3,
        544,
        375,
        MAGI_ATTENTION,
    ),
    PublishedResult(
        "block-causal documents; here one document",
        ("block_causal",),
        128,
        16384,
        FFA,
        549,
        344,
        MAGI_ATTENTION,
    ),
)


def fastest_and_flex(cells: pd.DataFrame, phase: Phase) -> tuple[str, str]:
    """The throughput of the fastest backend with its name, and that of `flex`, in TFLOP/s."""
    timed = cells[cells["direction"] == phase.value]
    if timed.empty:
        return "not timed", "not timed"
    best = timed.loc[timed["tflops"].idxmax()]
    flex = timed[timed["backend"] == "flex"]["tflops"]
    return f"{best['tflops']:.0f} ({best['backend']})", f"{flex.max():.0f}" if len(flex) else ""


def result_rows(result: PublishedResult, timed: pd.DataFrame) -> list[dict[str, str]]:
    """A row for each mask and shape here that has the case of a published result."""
    is_case = timed["mask"].isin(result.masks) & (timed["q_len"] == timed["seq_len"])
    is_case &= (timed["head_dim"] == result.head_dim) & (timed["seq_len"] == result.seq_len)
    rows = []
    for (mask, shape), cells in timed[is_case].groupby(["mask", "shape"], sort=True):
        (forward, flex_forward), (backward, flex_backward) = (
            fastest_and_flex(cells, phase) for phase in (Phase.FORWARD, Phase.BACKWARD)
        )
        published = f"{result.forward or '-'} / {result.backward or '-'}"
        row = {"case": f"{result.case}, D{result.head_dim}, S = {result.seq_len}"}
        row |= {"published": f"{published} ({result.library})"}
        row |= {"mask here": mask, "shape here": shape}
        row |= {"fastest here": f"{forward} / {backward}"}
        rows.append(row | {"flex here": f"{flex_forward} / {flex_backward}"})
    return rows


def published_report(paths: Iterable[Path]) -> str:
    """The table as Markdown.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, the devices differ, or no cell is of a published case.
    """
    runs = [read_run(path) for path in paths]
    devices = sorted({run.device for run in runs})
    if len(devices) > 1:
        raise UnreadableRun(f"the runs are of different devices: {', '.join(devices)}")
    cells = pd.concat([cells_table(run) for run in runs if run.cells], ignore_index=True)
    timed = cells[cells["outcome"] == Outcome.TIMED.value]
    timed = timed.assign(shape=[shape_of(cell) for _, cell in timed.iterrows()])
    rows = [row for result in PUBLISHED for row in result_rows(result, timed)]
    if not rows:
        raise UnreadableRun("no cell of these runs is of a published case")
    device = markdown_text(devices[0])
    sources = {"FlashAttention-3": FLASH_ATTENTION_3, "cuDNN": CUDNN}
    sources["windows, documents and blocks"] = MAGI_ATTENTION
    links = ", ".join(f"[{name}]({url})" for name, url in sources.items())
    return (
        f"TFLOP/s, forward / backward. Sources: {links}. Here: {device}, the fastest of all runs "
        f"of a shape.\n\n{markdown_table(pd.DataFrame(rows))}"
    )
