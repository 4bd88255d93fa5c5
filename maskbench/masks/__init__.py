"""Attention masks as frozen dataclasses. The catalogue of named masks is `masks.py`."""

from maskbench.masks.base import Mask
from maskbench.masks.composed import Documents, Padded
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
    "Causal",
    "DilatedSlidingWindow",
    "Documents",
    "Full",
    "GlobalLocalSlidingWindow",
    "LocalAttention2D",
    "Mask",
    "Padded",
    "PrefixLM",
    "SlidingWindow",
]
