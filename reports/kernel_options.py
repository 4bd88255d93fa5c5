"""The options that `pytest -m tune` found, as a table, as rules, and as code to paste."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from maskbench.records import UnreadableRun
from maskbench.tuned_options import (
    DEFAULT_OPTIONS,
    FOLDER,
    FlexOptions,
    Found,
    Problem,
    TunedEntry,
    UnusableEntry,
    entry_paths,
    read_entry,
)
from masks import PATTERNS
from reports.generated import replace_generated
from reports.markdown import markdown_table, markdown_text
from reports.terminal import complain, say

NAME = "reports kernel_options"  # of the markers in the document
TILES = (("BLOCK_M", "BLOCK_N"), ("BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2"))
MAX_RULES = 3  # of a direction
MOST = 0.5  # a rule holds for at least this share of the problems


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


def without_flash(entry: TunedEntry) -> Found | None:
    """The fastest options that need no FlashAttention-4; None if the default is as fast."""
    return next((found for found in entry.found if not found.options.uses_flash), None)


def options_text(options: FlexOptions) -> str:
    """The options for a table whose rows have one direction: without the prefixes."""
    return str(options).replace("fwd_", "").replace("bwd_", "")


# --- the page ---


def options_table(entries: Sequence[TunedEntry]) -> pd.DataFrame:
    """A row for each entry, and one more if FlashAttention-4's kernel is the fastest."""
    rows = []
    for entry in entries:
        problem, autotune = entry.problem, entry.max_autotune_gain
        start = {"mask": problem.mask, "direction": problem.direction}
        for found in entry.found:
            against = "" if autotune is None else f"{found.gain / autotune:.2f}"
            rows.append(
                start
                | {
                    "options": options_text(found.options),
                    "gain": f"{found.gain:.2f} ± {found.gain * found.interval:.2f}",
                    "gain over max-autotune": against,
                }
            )
        if not entry.found:
            against = "" if autotune is None else f"{1 / autotune:.2f}"
            rows.append(
                start
                | {
                    "options": "the default is best",
                    "gain": "1",
                    "gain over max-autotune": against,
                }
            )
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def features(options: FlexOptions) -> list[str]:
    """What a rule can be about: the block sizes together, and each other option."""
    named = {name[4:] if name[:4] in ("fwd_", "bwd_") else name: v for name, v in options.kernel}
    found = []
    for tile in TILES:
        if all(name in named for name in tile):
            found.append(", ".join(f"{name}={named.pop(name)}" for name in tile))
    found += [f"{name}={value}" for name, value in named.items()]
    if options.block_size != DEFAULT_OPTIONS.block_size:
        found.append("BLOCK_SIZE={}x{}".format(*options.block_size))
    return found


def rules(entries: Iterable[TunedEntry]) -> list[str]:
    """Sentences about the options that most problems of a direction share.

    The numbers are of problems.
    """
    lines = []
    for direction in ("forward", "backward"):
        own = [entry for entry in entries if entry.problem.direction == direction]
        if not own:
            continue
        flash = sum(bool(e.found) and e.found[0].options.uses_flash for e in own)
        if flash:
            lines.append(
                f"{direction.capitalize()}: BACKEND=FLASH is the fastest for {flash} of {len(own)}."
            )
        best = [found for entry in own if (found := without_flash(entry))]
        counts = Counter(feature for found in best for feature in features(found.options))
        common = [(f, n) for f, n in counts.most_common(MAX_RULES) if n >= MOST * len(own)]
        shared = ", ".join(f"{feature} ({count})" for feature, count in common)
        gain = f"options of FlexAttention's own kernels gain for {len(best)} of {len(own)}"
        common_ones = f"most share {shared}" if shared else "no option is common to most"
        lines.append(f"{direction.capitalize()}: {gain}; {common_ones}.")
    return lines


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


def kernel_options(page: Path) -> int:
    """Write the table of FlexAttention's fastest options to docs/kernel-options.md."""
    text = kernel_options_report(load_entries())
    say(f"{text}\nas a page: {replace_generated(page, NAME, text)}")
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
    if not found:
        return "\n".join([*lines, "# The default options are the fastest."])
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
