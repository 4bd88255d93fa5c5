"""The options that `pytest -m tune` found, as a table, as rules, and as code to paste."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from maskbench.records import UnreadableRun
from maskbench.tuned_options import (
    FOLDER,
    Found,
    Problem,
    TunedEntry,
    UnusableEntry,
    entry_paths,
    read_entry,
)
from masks import PATTERNS
from reports.generated import replace_generated
from reports.kernel_option_rules import kept_or_default, options_text, rules
from reports.markdown import markdown_table, markdown_text
from reports.terminal import complain, say

AUTOTUNE_MODE = "max-autotune-no-cudagraphs"
NAME = "reports kernel_options"  # of the markers in the document


def load_entries(folder: Path = FOLDER) -> list[TunedEntry]:
    """All entries in order of GPU, shape, mask and direction. Unusable files are named on stderr.

    Raises UnreadableRun if there is none.
    """
    found = []
    for path in entry_paths(folder):
        try:
            found.append(read_entry(path))
        except UnusableEntry as error:
            complain(f"left out: {error}")
    if not found:
        raise UnreadableRun(f"{folder}/: has no options; search them with pytest -m tune")
    place = {name: i for i, name in enumerate(PATTERNS)}

    def order(entry: TunedEntry) -> tuple[object, ...]:
        problem = entry.problem
        mask = place.get(problem.mask.partition("(")[0], len(place))
        lengths = problem.seq_len, problem.q_len or problem.seq_len
        direction = problem.direction != "forward"
        return entry.gpu, shape_text(problem), lengths, mask, problem.mask, direction

    return sorted(found, key=order)


def shape_text(problem: Problem) -> str:
    """The shape without the lengths, such as B8 H16 D64 float16."""
    grouped = f" (kv {problem.kv_heads})" if problem.kv_heads != problem.heads else ""
    of_v = f" (v {problem.v_head_dim})" if problem.v_head_dim else ""
    shape = f"B{problem.batch} H{problem.heads}{grouped} D{problem.head_dim}{of_v}"
    return f"{shape} {problem.dtype}"


def lengths_text(problem: Problem) -> str:
    """The lengths, such as S = 4096."""
    queries = f", {problem.q_len} queries" if problem.q_len else ""
    return f"S = {problem.seq_len}{queries}"


# --- the table ---


def options_table(entries: Sequence[TunedEntry]) -> pd.DataFrame:
    """A row for each entry, and one more if FlashAttention-4's kernel is the fastest."""
    rows = []
    for entry in entries:
        problem, autotune = entry.problem, entry.max_autotune_gain
        for found in kept_or_default(entry):
            gain = found.gain if found else 1.0
            against = "" if autotune is None else f"{gain / autotune:.2f}"
            if entry.lead_of_max_autotune(found):
                against += " (max-autotune is faster)"
            rows.append(
                {
                    "mask": problem.mask,
                    "direction": problem.direction,
                    "options": options_text(found.options) if found else "the default is best",
                    "gain": f"{gain:.2f} ± {gain * found.interval:.2f}" if found else "1",
                    "gain over max-autotune": against,
                }
            )
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


# --- the document ---


def kernel_options_report(entries: Sequence[TunedEntry]) -> str:
    """The tables of all GPUs and shapes, and the rules of each, as Markdown."""
    groups: dict[tuple[str, str, str, str], list[TunedEntry]] = {}
    for entry in entries:
        key = entry.gpu, entry.torch, shape_text(entry.problem), lengths_text(entry.problem)
        groups.setdefault(key, []).append(entry)
    parts = []
    for (gpu, torch, shape, lengths), own in groups.items():
        searches = sum(entry.search_s for entry in own)
        tried = sum(entry.tried for entry in own)
        title = f"{gpu.replace('_', ' ')}: {shape}, {lengths}"
        parts.append(f"### {markdown_text(title)}")
        text = f"torch {torch}. {len(own)} problems, {tried} options tried in {searches:.0f} s."
        parts.append(markdown_text(text))
        parts.append("\n".join(f"- {markdown_text(line)}" for line in rules(own)))
        parts.append(markdown_table(options_table(own)))
    return "\n\n".join(parts)


def kernel_options(document: Path) -> int:
    """Write the tables of FlexAttention's fastest options into a document, between its markers."""
    text = kernel_options_report(load_entries())
    say(f"{text}\nbetween the markers of {replace_generated(document, NAME, text)}")
    return 0


# --- the snippet ---


def options(mask: str) -> int:
    """Print the fastest options of FlexAttention for a mask, as code to paste."""
    entries = load_entries()
    own = [entry for entry in entries if entry.problem.mask == mask]
    if not own:
        known = ", ".join(dict.fromkeys(entry.problem.mask for entry in entries))
        raise UnreadableRun(f"{mask}: has no options; masks with options are {known}")
    say("\n\n".join(snippet(entry) for entry in own))
    return 0


def snippet(entry: TunedEntry) -> str:
    """Code that calls FlexAttention with the options of an entry."""
    problem, found = entry.problem, entry.found
    lines = [
        f"# {problem.mask} {problem.direction}, {shape_text(problem)}, {lengths_text(problem)}",
        f"# {entry.gpu}, torch {entry.torch}, {entry.saved[:10]}",
    ]
    if lead := min(entry.lead_of_max_autotune(each) or 0.0 for each in kept_or_default(entry)):
        lines.append(
            f"# torch.compile's mode {AUTOTUNE_MODE!r} is {lead:.2f} times as fast as these"
        )
    if not found:
        return "\n".join(
            [*lines, "# None of the options that were tried is faster than the default."]
        )
    calls = [_call(problem, each) for each in found]
    return "\n".join([*lines, *_setup(), *calls])


def _setup() -> list[str]:
    return [
        "import torch",
        "from torch.nn.attention.flex_attention import create_block_mask, flex_attention",
        "",
        "compiled_flex_attention = torch.compile(flex_attention, dynamic=False)",
    ]


def _call(problem: Problem, found: Found) -> str:
    """The block mask and the call. B and H are None for a mask that does not depend on them."""
    chosen = found.options
    gain = f"# {found.gain:.2f} times as fast as the default options ({found.seconds * 1e3:.4g} ms)"
    grouped = ", enable_gqa=True" if problem.kv_heads != problem.heads else ""
    if problem.mask == "full":
        block_mask, argument = [], ""
    else:
        sizes = (
            f"B=None, H=None, Q_LEN={problem.q_len or problem.seq_len}, KV_LEN={problem.seq_len}"
        )
        block_mask = [
            "block_mask = create_block_mask(  # B and H, if the mask_mod uses b and h",
            f"    mask_mod, {sizes}, device={problem.device!r}, BLOCK_SIZE={chosen.block_size}",
            ")",
        ]
        argument = ", block_mask=block_mask"
    return "\n".join(
        [
            "",
            gain,
            *block_mask,
            "out = compiled_flex_attention(",
            f"    q, k, v{argument}{grouped},",
            f"    kernel_options={chosen.kernel_options!r},",
            ")",
        ]
    )
