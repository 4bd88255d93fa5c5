"""Attention masks as frozen dataclasses. `base.Mask` says how to write one.

The catalogue of named masks is `masks.py` in the root of the repository.
"""

from maskbench.masks.base import Intersection, Mask, Union
from maskbench.masks.blockwise import BlockCausal, BlockDiffusion, BlockSparse
from maskbench.masks.composed import LastQueries, Padded
from maskbench.masks.documents import Documents
from maskbench.masks.functions import FromMaskMod
from maskbench.masks.language import ImageInCausal, SharedPrefix, SinkSlidingWindow
from maskbench.masks.parameters import DISTANCE, EXTENT, NON_NEGATIVE, POSITIVE
from maskbench.masks.plain import (
    Causal,
    DilatedSlidingWindow,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    PrefixLM,
    SlidingWindow,
)
from maskbench.masks.spatial import Neighborhood
from maskbench.masks.tree import PrefixTree

__all__ = [
    "DISTANCE",
    "EXTENT",
    "NON_NEGATIVE",
    "POSITIVE",
    "BlockCausal",
    "BlockDiffusion",
    "BlockSparse",
    "Causal",
    "DilatedSlidingWindow",
    "Documents",
    "FromMaskMod",
    "Full",
    "GlobalLocalSlidingWindow",
    "ImageInCausal",
    "Intersection",
    "LastQueries",
    "LocalAttention2D",
    "Mask",
    "Neighborhood",
    "Padded",
    "PrefixLM",
    "PrefixTree",
    "SharedPrefix",
    "SinkSlidingWindow",
    "SlidingWindow",
    "Union",
]
