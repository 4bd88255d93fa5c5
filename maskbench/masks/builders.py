"""The catalogue's masks whose layout depends on the sequence length: documents, trees, images.

Each takes the number of tokens, any whole number. Sizes that are fractions of it are rounded down.
"""

from __future__ import annotations

import random
from itertools import pairwise
from math import isqrt
from typing import Any

import torch

from maskbench.masks.base import Mask
from maskbench.masks.blockwise import BlockSparse
from maskbench.masks.composed import Padded
from maskbench.masks.documents import Documents
from maskbench.masks.language import ImageInCausal, SharedPrefix
from maskbench.masks.parameters import to_int
from maskbench.masks.plain import Causal
from maskbench.masks.spatial import Neighborhood
from maskbench.masks.tree import PrefixTree
from maskbench.masks.tuples import whole_numbers

DOCUMENT_EIGHTHS = (1, 1, 2, 2, 2)
# spans in depth-first order: a prompt, and three continuations, two of which branch again
TREE_PARENTS = (-1, 0, 1, 1, 0, 4, 4, 4, 0)
TREE_SIXTEENTHS = (4, 2, 1, 1, 2, 1, 1, 1, 3)


def require_int(name: str, value: object, minimum: int) -> int:
    """Return `value` as int. Raises ValueError if it is no whole number from `minimum`."""
    number = to_int(value)
    if number is None or number < minimum:
        raise ValueError(f"{name} is {value}, must be a whole number, {minimum} or more")
    return number


def _split(seq_len: int, parts: tuple[int, ...]) -> tuple[int, ...]:
    """Split the tokens in proportion to `parts`. Raises ValueError if a part may have no token."""
    total = sum(parts)
    if seq_len < total:
        raise ValueError(f"seq_len is {seq_len}, must be at least {total} for this mask")
    bounds = [sum(parts[:i]) * seq_len // total for i in range(len(parts) + 1)]
    return tuple(end - start for start, end in pairwise(bounds))


def packed(inner: Mask, documents: Any = None) -> Documents:
    """`inner` within documents of these lengths; by default of S/8, S/8, S/4, S/4 and S/4 tokens.

    Raises
    ------
    ValueError
        If the lengths do not add up to S; if S is below 8, without lengths.
    """
    lengths = _split(inner.seq_len, DOCUMENT_EIGHTHS) if documents is None else documents
    return Documents(lengths, inner)


def quarter(seq_len: int) -> int:
    """A chunk of S/4 tokens, rounded up, so that there are at most four."""
    return -(-seq_len // 4)


def chunked_causal(seq_len: int, chunk: int | None = None) -> Documents:
    """Causal within chunks, by default of S/4 tokens. The last chunk may be shorter."""
    size = quarter(seq_len) if chunk is None else require_int("chunk", chunk, 1)
    lengths = tuple(min(size, seq_len - start) for start in range(0, seq_len, size))
    return Documents(lengths, Causal(seq_len=seq_len))


def image_in_causal(seq_len: int, length: int) -> ImageInCausal:
    """Text and images of `length` tokens alternate. Text comes first; the end may be shorter."""
    size = require_int("length", length, 1)
    starts = range(size, seq_len, 2 * size)
    images = tuple((start, min(size, seq_len - start)) for start in starts)
    return ImageInCausal(images, seq_len=seq_len)


def shared_prefix(seq_len: int, prefix: int | None = None, responses: int = 6) -> SharedPrefix:
    """A prefix, by default of S/4 tokens, and responses of equal length.

    Raises
    ------
    ValueError
        If a response would have no token.
    """
    count = require_int("responses", responses, 1)
    length = seq_len // 4 if prefix is None else require_int("prefix", prefix, 0)
    smallest = 4 * (count - 1) // 3 + 1 if prefix is None else length + count
    if seq_len < smallest:
        raise ValueError(
            f"seq_len is {seq_len}, must be at least {smallest} for a prefix and {count} responses"
        )
    return SharedPrefix(length, _split(seq_len - length, (1,) * count))


def prefix_tree(seq_len: int) -> PrefixTree:
    """A tree of 9 spans. Raises ValueError if there are fewer than 16 tokens."""
    return PrefixTree(TREE_PARENTS, _split(seq_len, TREE_SIXTEENTHS))


def image_width(pixels: int) -> int:
    """The power of two at or just above the square root of the number of pixels."""
    return 1 << (((pixels - 1).bit_length() + 1) // 2)


def neighborhood(
    seq_len: int, axes: int, radius: int, shape: tuple[int, ...] | None = None
) -> Neighborhood:
    """A window in a box of S pixels, by default one that is close to a square or a cube.

    On an axis that is too short for the radius, the radius is the largest that fits.

    Raises
    ------
    ValueError
        If the shape has another number of axes or pixels.
    """
    sides = _box(seq_len, axes) if shape is None else whole_numbers("shape", shape, 1)
    largest = require_int("radius", radius, 0)
    mask = Neighborhood(sides, tuple(min(largest, (n - 1) // 2) for n in sides))
    if mask.seq_len != seq_len or len(sides) != axes:
        raise ValueError(f"shape is {shape}, must have {axes} axes and {seq_len} pixels")
    return mask


def _box(pixels: int, axes: int) -> tuple[int, ...]:
    """The sides of a box. Each is the largest divisor up to the side of a square or cube."""
    if axes == 1:
        return (pixels,)
    side = next(n for n in range(isqrt(pixels), 0, -1) if pixels % n == 0 and n**axes <= pixels)
    return (side, *_box(pixels // side, axes - 1))


def causal_padding(seq_len: int, batch: int) -> Padded:
    """Causal with padding at the end; valid lengths are drawn from [S/2, S] with a fixed seed."""
    generator = random.Random(0)
    lengths = torch.tensor([generator.randint(-(-seq_len // 2), seq_len) for _ in range(batch)])
    return Padded(Causal(seq_len=seq_len), torch.arange(seq_len) >= lengths[:, None])


def block_sparse(
    seq_len: int, batch: int, heads: int, block: int, top_k: int | None = None
) -> BlockSparse:
    """The key blocks with the highest of scores that are drawn with a fixed seed.

    Each query block sees its own block, and `top_k` blocks in all, as far as there are so many. By
    default these are an eighth of the blocks, and at least 2.
    """
    blocks = -(-seq_len // require_int("block", block, 1))
    count = max(2, round(blocks / 8)) if top_k is None else require_int("top_k", top_k, 1)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.zeros(batch * heads, blocks, blocks, dtype=torch.bool)
    for of_head in chosen:  # of one head at a time, as the scores are many
        scores = torch.rand(blocks, blocks, generator=generator).fill_diagonal_(2)
        of_head.scatter_(1, scores.topk(min(count, blocks), 1).indices, True)
    return BlockSparse(chosen.view(batch, heads, blocks, blocks), block, seq_len=seq_len)
