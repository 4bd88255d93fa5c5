"""Areas and block maps of any mask, by evaluating it in chunks of query rows.

No tensor has S x S elements. The time grows with S x S: a mask that knows its key ranges is much
faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK_PAIRS = 2**26  # (query, key) pairs that are evaluated at a time

DenseRows = Callable[[int, int], Tensor]
"""dense_rows(start, stop): bool [1 or B, 1 or H, stop - start, S], as `Mask.dense_rows` on one
device."""
DenseShape = tuple[int, int, int, int]
"""1 or B, 1 or H, Q, S."""


def chunks(shape: DenseShape, rows: int = 1) -> Iterator[tuple[int, int]]:
    """The first row of each chunk and the row after it. Chunks have a multiple of `rows` rows."""
    batch, heads, queries, keys = shape
    step = rows * max(1, CHUNK_PAIRS // (batch * heads * rows * keys))
    for start in range(0, queries, step):
        yield start, min(start + step, queries)


def count_pairs(dense_rows: DenseRows, shape: DenseShape) -> int:
    """The number of attended pairs of all batch elements and heads of `dense_rows`."""
    return sum(int(dense_rows(*rows).sum()) for rows in chunks(shape))


def count_keys(dense_rows: DenseRows, shape: DenseShape, kv_heads: int) -> int:
    """The number of keys, of all batch elements and `kv_heads`, that at least one query sees."""
    seen = torch.stack([dense_rows(*rows).any(2) for rows in chunks(shape)]).any(0)
    return count_shared_keys(seen, kv_heads)


def count_shared_keys(seen: Tensor, kv_heads: int) -> int:
    """The number of keys in `seen`, bool [B, H, S], if consecutive heads share `kv_heads`."""
    batch, heads, keys = seen.shape
    return int(seen.view(batch, kv_heads, heads // kv_heads, keys).any(2).sum())


def rows_without_keys(dense_rows: DenseRows, shape: DenseShape) -> Tensor:
    """bool [1 or B, 1 or H, Q, 1], True for a query without keys."""
    return torch.cat([~dense_rows(*rows).any(-1, keepdim=True) for rows in chunks(shape)], 2)


def partial_and_full_blocks(
    dense_rows: DenseRows, shape: DenseShape, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The blocks in which some pairs attend, and those in which all do, without an overlap.

    Each is bool [1 or B, 1 or H, query blocks, key blocks]. An incomplete block at the end is
    never full, as in torch. `size` is the number of queries and of keys of a block.
    """
    partial, full = [], []
    for start, stop in chunks(shape, size[0]):
        allowed = dense_rows(start, stop)
        allowed = pad(allowed, (0, -shape[3] % size[1], 0, (start - stop) % size[0]))
        rows, columns = (length // n for length, n in zip(allowed.shape[2:], size, strict=True))
        blocks = allowed.view(*shape[:2], rows, size[0], columns, size[1])
        all_attend = blocks.all(5).all(3)
        partial.append(blocks.any(5).any(3) & ~all_attend)
        full.append(all_attend)
    return torch.cat(partial, 2), torch.cat(full, 2)
