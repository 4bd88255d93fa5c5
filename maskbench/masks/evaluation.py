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
"""dense_rows(start, stop): bool [B, 1, stop - start, S], as `Mask.dense_rows` on one device."""


def _chunks(seq_len: int, batch: int, rows: int) -> Iterator[tuple[int, int]]:
    """The first row of each chunk and the row after it. Chunks have a multiple of `rows` rows."""
    step = rows * max(1, CHUNK_PAIRS // (batch * rows * seq_len))
    for start in range(0, seq_len, step):
        yield start, min(start + step, seq_len)


def count_pairs(dense_rows: DenseRows, seq_len: int, batch: int) -> int:
    """The number of attended pairs of one head over all batch elements of `dense_rows`."""
    return sum(int(dense_rows(*rows).sum()) for rows in _chunks(seq_len, batch, 1))


def partial_and_full_blocks(
    dense_rows: DenseRows, seq_len: int, batch: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The blocks in which some pairs attend, and those in which all do, without an overlap.

    Each is bool [B, 1, query blocks, key blocks]. An incomplete block at the end is never full, as
    in torch. `size` is the number of queries and of keys of a block.
    """
    partial, full = [], []
    for start, stop in _chunks(seq_len, batch, size[0]):
        allowed = dense_rows(start, stop)
        allowed = pad(allowed, (0, -seq_len % size[1], 0, (start - stop) % size[0]))
        rows, columns = (length // n for length, n in zip(allowed.shape[2:], size, strict=True))
        blocks = allowed.view(batch, 1, rows, size[0], columns, size[1])
        all_attend = blocks.all(5).all(3)
        partial.append(blocks.any(5).any(3) & ~all_attend)
        full.append(all_attend)
    return torch.cat(partial, 2), torch.cat(full, 2)
