"""The options that `pytest -m tune` found, as a table, as rules, and as code to paste."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
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
from reports.kernel_option_rules import MASK_SWITCHES, found_or_default, options_text, rules
from reports.report import Heading, Part, Report
from reports.terminal import complain

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
        except OSError as error:
            complain(f"left out: {path}: cannot be read: {error.strerror}")
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
    if not problem.q_len:
        return f"S = {problem.seq_len}"
    return f"S = {problem.seq_len}, {problem.q_len} {'query' if problem.q_len == 1 else 'queries'}"


# --- the table ---


def options_table(entries: Sequence[TunedEntry]) -> pd.DataFrame:
    """A row for each entry, and one more if FlashAttention-4's kernel is the fastest."""
    rows = []
    for entry in entries:
        problem, autotune = entry.problem, entry.max_autotune_gain
        for found in found_or_default(entry):
            gain = found.gain if found else 1.0
            against = "" if autotune is None else f"{gain / autotune:.2f}"
            if entry.max_autotune_speedup(found):
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


# --- the report ---


def kernel_options_report(entries: Sequence[TunedEntry]) -> Report:
    """The tables of all GPUs and shapes, and the rules of each."""
    groups: dict[tuple[str, str, str, str], list[TunedEntry]] = {}
    for entry in entries:
        key = entry.gpu, entry.torch, shape_text(entry.problem), lengths_text(entry.problem)
        groups.setdefault(key, []).append(entry)
    parts: list[Part] = []
    for (gpu, torch, shape, lengths), own in groups.items():
        searches = sum(entry.search_s for entry in own)
        tried = sum(entry.tried for entry in own)
        parts.append(Heading(f"{gpu.replace('_', ' ')}: {shape}, {lengths}", 3))
        parts.append(
            f"torch {torch}. {len(own)} problems, {tried} options tried in {searches:.0f} s."
        )
        parts += [rules(own), options_table(own)]
    return Report(parts, {"kernel_options": options_data(entries)})


def options_data(entries: Sequence[TunedEntry]) -> pd.DataFrame:
    """The rows of `options_table` for programs. The default has no `gain`.

    `seconds` is the median time of the options. `gain` and `max_autotune_gain` are the default's
    time divided by theirs, and by that of torch's own search.
    """
    rows = [
        {
            "gpu": entry.gpu,
            "torch": entry.torch,
            **msgspec.structs.asdict(entry.problem),
            "options": str(found.options if found else DEFAULT_OPTIONS),
            "gain": found.gain if found else None,
            "interval": found.interval if found else None,
            "seconds": found.seconds if found else entry.default_s,
            "max_autotune_gain": entry.max_autotune_gain,
            "max_autotune_interval": entry.max_autotune_interval,
            "max_autotune_is_faster": entry.max_autotune_speedup(found) is not None,
            "tried": entry.tried,
            "search_s": entry.search_s,
            "saved": entry.saved,
        }
        for entry in entries
        for found in found_or_default(entry)
    ]
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


# --- the snippet ---


def saved_name(mask: str) -> str:
    """The name of a mask in saved runs, from that or from the text of --masks.

    The mask my_masks.py:sinks(n=2) of a user's file is saved as my_masks.sinks(n=2).
    """
    target, parenthesis, parameters = mask.partition("(")
    path, colon, name = target.strip().rpartition(":")
    target = f"{Path(path).stem}.{name}" if colon else name
    return target + parenthesis + re.sub("[ '\"]", "", parameters)


def snippet(entry: TunedEntry) -> str:
    """Code that calls FlexAttention with the options of an entry."""
    problem, found = entry.problem, entry.found
    lines = [
        f"# {problem.mask} {problem.direction}, {shape_text(problem)}, {lengths_text(problem)}",
        f"# {entry.gpu}, torch {entry.torch}, {entry.saved[:10]}",
    ]
    if speedup := min(entry.max_autotune_speedup(each) or 0.0 for each in found_or_default(entry)):
        lines.append(
            f"# torch.compile's mode {AUTOTUNE_MODE!r} is {speedup:.2f} times as fast as these"
        )
    if not found:
        return "\n".join(
            [*lines, "# None of the options that were tried is faster than the default."]
        )
    calls = [_call(problem, each) for each in found]
    return "\n".join([*lines, *_setup(), *_last_queries(problem), *calls])


def _setup() -> list[str]:
    return [
        "import torch",
        "from torch.nn.attention.flex_attention import create_block_mask, flex_attention",
        "",
        "compiled_flex_attention = torch.compile(flex_attention, dynamic=False)",
    ]


def _last_queries(problem: Problem) -> list[str]:
    """The mask_mod of fewer queries than keys: query i is row S - q_len + i of the mask."""
    if problem.q_len is None or problem.mask == "full":
        return []
    first = problem.seq_len - problem.q_len
    return [
        "",
        "",
        "def last_queries(b, h, q_idx, kv_idx):",
        f"    # q has the last queries only: its query 0 is query {first} of the mask.",
        f"    return mask_mod(b, h, q_idx + {first}, kv_idx)",
        "",
    ]


def _comments_on_switches(problem: Problem, options: FlexOptions) -> list[str]:
    """A comment on each switch whose mask is read from a file, which is not read here."""
    name, _, parameters = problem.mask.partition("(")
    if name in PATTERNS and "documents=" not in parameters:
        return []
    return [
        f"    # Leave out {switch} if the mask has changed since the search: it depends on it."
        for switch in options.kernel_options
        if switch.endswith(MASK_SWITCHES)
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
        mask_mod = "mask_mod" if problem.q_len is None else "last_queries"
        block_mask = [
            "# If the mask differs by batch element or head, set B or H to their number.",
            "block_mask = create_block_mask(",
            f"    {mask_mod}, {sizes}, device={problem.device!r}, BLOCK_SIZE={chosen.block_size}",
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
            *_comments_on_switches(problem, chosen),
            f"    kernel_options={chosen.kernel_options!r},",
            ")",
        ]
    )
