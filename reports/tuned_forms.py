"""What a cell of `flex_tuned` replays, read from its saved form."""

from __future__ import annotations

import re

from maskbench.tuned_options import DEFAULT_OPTIONS

TUNED = "flex_tuned"
DEFAULT_FORMULATIONS = ("no_mask", "block_mask:{}x{}".format(*DEFAULT_OPTIONS.block_size))
FOUND_ELSEWHERE = re.compile(r"the found ones do not work here.*|found (?:with|on) .+")


def options_kind(formulation: str | None) -> str:
    """Which options a cell of `flex_tuned` was timed with.

    "FLASH" is FlashAttention-4's kernel. "own" stands for options of FlexAttention's own kernels.
    "default" stands for FlexAttention's default options.
    """
    block_mask, *options = str(formulation).split(",")
    if "BACKEND=FLASH" in options:
        return "FLASH"
    is_default = not options and block_mask in DEFAULT_FORMULATIONS
    return "default" if is_default else "own"


def found_elsewhere(form: str) -> str:
    """What the form says if the options are not of this torch and GPU, or cannot be used here.

    Such as "found with torch 2.10.0".
    """
    note = FOUND_ELSEWHERE.search(form.partition("; ")[2])
    return note[0] if note else ""
