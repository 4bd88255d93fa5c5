"""Formulation ids for saved runs that have only the text of a formulation.

Runs saved before the field "formulation" existed have the field "form": the text for readers.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Parameters that follow from the mask (a window's bounds, a dilation) are dropped, because ids do
# not contain them.
# An id may refer to groups of its pattern.
_WINDOW = r"\((?:-?\d+|None), (?:-?\d+|None)\)"
_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"softmax\(q @ k\.T \+ bias\) @ v(?:, padding zeroed)?", "dense"),
    (r"no mask", "no_mask"),
    (r"no mask, (\w+=\w+)", r"no_mask,\1"),
    (r"is_causal=True", "is_causal"),
    (r"dense bias", "dense_bias"),
    (r"block_mask (\d+x\d+)", r"block_mask:\1"),
    (r"block_mask (\d+x\d+), (\w+=\w+)", r"block_mask:\1,\2"),
    (r"mask_mod \+ block sparsity (\d+x\d+)", r"mask_mod:\1"),
    # flash_attn, flash_attn.cute
    (r"causal=False", "full"),
    (r"causal=True", "causal"),
    (rf"window_size={_WINDOW}", "window"),
    (r"varlen, causal=False", "varlen:full"),
    (r"varlen, causal=True", "varlen:causal"),
    (rf"varlen, window_size={_WINDOW}", "varlen:window"),
    # torch's varlen_attn
    (r"varlen_attn", "varlen:full"),
    (r"varlen_attn, window_size=\(-1, 0\)", "varlen:causal"),
    (rf"varlen_attn, window_size={_WINDOW}", "varlen:window"),
    # xFormers
    (r"no bias", "full"),
    (r"LowerTriangular(?:FromBottomRight)?Mask", "causal"),
    (rf"LocalAttentionFromBottomRightMask{_WINDOW}", "window"),
    (r"BlockDiagonalMask", "varlen:full"),
    (r"BlockDiagonalCausal(?:FromBottomRight)?Mask", "varlen:causal"),
    # merged calls
    (r"2 calls: the prefix's queries full, the rest causal", "prefix_two_calls"),
    (
        r"2 packed calls: all causal, then the prefixes' queries full",
        "documents_prefix_two_calls",
    ),
    (
        r"window and far global keys merged by log-sum-exp, global queries apart",
        "global_local_merged",
    ),
    # builders of block masks, and the state of the caches of a compilation
    (r"block bounds", "block_bounds"),
    (r"create_block_mask", "create_block_mask"),
    (r"torch\.compile\(create_block_mask\)", "compiled_create_block_mask"),
    (r"(cold|warm) cache", r"\1_cache"),
)
_PREFIXES: tuple[tuple[str, str], ...] = (  # followed by the text of another formulation
    (r"\d+ residue streams as heads, ", "residue_streams:"),
    (r"valid tokens alone, ", "unpadded:"),
)


@lru_cache(maxsize=4096)  # a run has few different texts
def legacy_formulation(text: str) -> str:
    """The formulation id of a saved "form"; "text:" and the text itself if it is unknown."""
    return _known_id(text) or f"text:{text}"


def _known_id(text: str) -> str | None:
    for pattern, formulation_id in _PATTERNS:
        if match := re.fullmatch(pattern, text):
            return match.expand(formulation_id)
    for pattern, prefix in _PREFIXES:
        if match := re.match(pattern, text):
            inner = _known_id(text[match.end() :])
            return inner and prefix + inner
    return None
