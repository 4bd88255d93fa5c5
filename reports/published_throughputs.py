"""Published throughputs of attention libraries beside those of runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from maskbench.records import Phase
from reports.markdown import markdown_text
from reports.report import Paragraph

FLASH_ATTENTION_3 = "https://arxiv.org/abs/2407.08608"
CUDNN = "https://github.com/NVIDIA/cudnn-frontend/tree/main/benchmark/sdpa_benchmark_training"
MAGI_ATTENTION = "https://sandai-org.github.io/MagiAttention/docs/main/blog/cp_benchmark.html"


class PublishedThroughput(NamedTuple):
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
    PublishedThroughput("full", ("full",), 64, 16384, FA3, 497, 474, FLASH_ATTENTION_3),
    PublishedThroughput("causal", ("causal",), 64, 16384, FA3, 473, None, FLASH_ATTENTION_3),
    PublishedThroughput("full", ("full",), 128, 16384, "cuDNN, H200", 702, 612, CUDNN),
    PublishedThroughput("causal", ("causal",), 128, 16384, FA3, 672, 562, FLASH_ATTENTION_3),
    PublishedThroughput("causal", ("causal",), 128, 4096, FA3, 667, 444, MAGI_ATTENTION),
    PublishedThroughput("causal window of 1024", WINDOW, 128, 16384, FA3, 524, 327, MAGI_ATTENTION),
    PublishedThroughput(
        "causal documents; here of other lengths",
        DOCUMENTS,
        128,
        16384,
        FA3,
        544,
        375,
        MAGI_ATTENTION,
    ),
    PublishedThroughput(
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


def fastest_and_flex(cells: pd.DataFrame) -> dict[str, Any]:
    """The fastest backend, its throughput and that of `flex` in TFLOP/s; None if not timed."""
    if cells.empty:
        return {"fastest": None, "tflops": None, "flex_tflops": None}
    best = cells.sort_values("tflops", ascending=False, kind="stable").iloc[0]
    flex = cells[cells["backend"] == "flex"]["tflops"]
    flex_tflops = flex.max() if len(flex) else None
    return {"fastest": best["backend"], "tflops": best["tflops"], "flex_tflops": flex_tflops}


def result_rows(result: PublishedThroughput, timed: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each mask, shape and direction here that has the case of a published result."""
    is_case = timed["mask"].isin(result.masks)
    is_case &= (timed["head_dim"] == result.head_dim) & (timed["seq_len"] == result.seq_len)
    case = {name: getattr(result, name) for name in ("case", "head_dim", "seq_len", "library")}
    published = {Phase.FORWARD: result.forward, Phase.BACKWARD: result.backward}
    return [
        {
            **case,
            "direction": phase.value,
            "published_tflops": tflops,
            "mask": mask,
            "shape": shape,
            **fastest_and_flex(cells[cells["direction"] == phase.value]),
            "source": result.source,
        }
        for (mask, shape), cells in timed[is_case].groupby(["mask", "shape"], sort=True)
        for phase, tflops in published.items()
    ]


def shown_throughputs(forward: dict[str, Any], backward: dict[str, Any]) -> dict[str, str]:
    """The two rows of a case, mask and shape as one row of texts."""
    both = forward, backward
    fastest = [
        "not timed" if row["fastest"] is None else f"{row['tflops']:.0f} ({row['fastest']})"
        for row in both
    ]
    flex = [
        "not timed"
        if row["fastest"] is None
        else ""
        if row["flex_tflops"] is None
        else f"{row['flex_tflops']:.0f}"
        for row in both
    ]
    published = " / ".join(str(row["published_tflops"] or "-") for row in both)
    return {
        "case": f"{forward['case']}, D{forward['head_dim']}, S = {forward['seq_len']}",
        "published": f"{published} ({forward['library']})",
        "mask here": forward["mask"],
        "shape here": forward["shape"],
        "fastest here": " / ".join(fastest),
        "flex here": " / ".join(flex),
    }


def throughput_rows(timed: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each direction of each published case, mask and shape here."""
    return [row for result in PUBLISHED for row in result_rows(result, timed)]


def throughput_head(setup: str) -> Paragraph:
    """The unit, the sources, and the `setup` of the cells here."""
    sources = {"FlashAttention-3": FLASH_ATTENTION_3, "cuDNN": CUDNN}
    sources["windows, documents and blocks"] = MAGI_ATTENTION
    links = ", ".join(f"[{name}]({url})" for name, url in sources.items())
    addresses = ", ".join(f"{name} ({url})" for name, url in sources.items())
    text = "TFLOP/s, forward / backward. Sources: {}. Here: {}."
    return Paragraph(text.format(addresses, setup), text.format(links, markdown_text(setup)))
