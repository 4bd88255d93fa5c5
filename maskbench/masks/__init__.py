"""Attention masks as frozen dataclasses. `base.Mask` says how to write one.

The catalogue of named masks is `masks.py` in the root of the repository.
"""

from maskbench.masks.base import DISTANCE, EXTENT, NON_NEGATIVE, POSITIVE, Mask
from maskbench.masks.composed import Documents, LastQueries, Padded
from maskbench.masks.plain import (
    Causal,
    DilatedSlidingWindow,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    PrefixLM,
    SlidingWindow,
)

__all__ = [
    "DISTANCE",
    "EXTENT",
    "NON_NEGATIVE",
    "POSITIVE",
    "Causal",
    "DilatedSlidingWindow",
    "Documents",
    "Full",
    "GlobalLocalSlidingWindow",
    "LastQueries",
    "LocalAttention2D",
    "Mask",
    "Padded",
    "PrefixLM",
    "SlidingWindow",
]
