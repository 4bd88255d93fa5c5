"""The tiles that are tried: sizes, warps and stages of FlexAttention's Triton kernels.

They include all that torch's own search tries (mode "max-autotune" of torch 2.13, in
torch/_inductor/template_heuristics/triton.py), and torch's defaults for GPUs from Ampere to
Blackwell. Tiles that were much slower than the fastest for each mask of a search on an H100 with a
head dimension of 64 are left out: forward tiles of 32 keys, backward tiles of 128 queries and 128
keys, and backward tiles whose sizes for dq are not those for dk and dv, mirrored.
"""

from __future__ import annotations

from typing import NamedTuple


class ForwardTile(NamedTuple):
    """BLOCK_M queries and BLOCK_N keys of a tile, and how it is computed."""

    m: int
    n: int
    warps: int
    stages: int


class BackwardTile(NamedTuple):
    """Tiles of dk and dv (m1 queries, n1 keys), and of dq (m2 queries, n2 keys).

    n1 is a multiple of m1, and m2 of n2.
    """

    m1: int
    n1: int
    m2: int
    n2: int
    warps: int
    stages: int


class DecodeTile(NamedTuple):
    """BLOCK_N keys of a tile. torch derives BLOCK_M, and from it other values."""

    n: int
    warps: int
    stages: int


def _mirrored(m: int, n: int, warps: int, stages: int) -> BackwardTile:
    """Tiles of one size for dk and dv, and for dq."""
    return BackwardTile(m, n, n, m, warps, stages)


FORWARD_OF_TORCH = (
    ForwardTile(128, 64, 4, 3),
    ForwardTile(128, 128, 4, 3),
    ForwardTile(128, 128, 8, 2),
    ForwardTile(128, 128, 8, 1),
    ForwardTile(64, 128, 4, 3),
    ForwardTile(64, 64, 4, 3),
)
BACKWARD_OF_TORCH = tuple(
    _mirrored(m, n, 4, stages) for m, n in ((32, 32), (32, 64), (64, 64)) for stages in (1, 3, 4, 5)
)

# For head dimensions up to 128 in half precision.
FORWARD = (
    *FORWARD_OF_TORCH,
    ForwardTile(128, 128, 4, 2),
    ForwardTile(128, 64, 4, 2),
    *(ForwardTile(128, 64, 8, stages) for stages in (2, 3)),
    ForwardTile(64, 128, 4, 2),
    *(ForwardTile(64, 64, 4, stages) for stages in (2, 4)),
)
BACKWARD = (
    *BACKWARD_OF_TORCH,
    *(_mirrored(64, 128, 8, stages) for stages in (2, 3)),
    *(_mirrored(32, 128, 4, stages) for stages in (2, 3, 4)),
    _mirrored(32, 64, 4, 2),
    _mirrored(64, 64, 4, 2),
)
# In addition for head dimensions above 64, where a tile needs more registers.
BACKWARD_OF_WIDE_HEADS = (
    *(_mirrored(32, 128, 8, stages) for stages in (2, 3)),
    *(_mirrored(64, 64, 8, stages) for stages in (2, 3)),
)

# For head dimensions above 128, and for float32.
SMALL_FORWARD = (
    *FORWARD_OF_TORCH,
    *(ForwardTile(128, 64, 8, stages) for stages in (1, 2)),
    *(ForwardTile(128, 32, warps, stages) for warps in (4, 8) for stages in (2, 3)),
    *(ForwardTile(64, 64, 4, stages) for stages in (1, 2)),
    *(ForwardTile(64, 32, 4, stages) for stages in (2, 3)),
    *(ForwardTile(32, 64, 4, stages) for stages in (2, 3)),
    *(ForwardTile(32, 32, 4, stages) for stages in (2, 3)),
)
SMALL_BACKWARD = (
    *BACKWARD_OF_TORCH,
    *(_mirrored(32, 128, warps, 1) for warps in (4, 8)),
    *(_mirrored(64, 64, 8, stages) for stages in (1, 2)),
    *(_mirrored(m, n, 4, 2) for m, n in ((32, 32), (32, 64), (64, 64))),
    *(_mirrored(16, 32, 4, stages) for stages in (1, 2)),
)

# For fewer than 128 queries.
DECODE = tuple(
    DecodeTile(n, warps, stages)
    for n in (32, 64, 128)
    for warps, stages in ((2, 1), (2, 3), (4, 1), (4, 3), (8, 3))
)
FEW_QUERIES = tuple(ForwardTile(m, n, 4, 3) for m in (16, 64) for n in (32, 64, 128))


def backward_tiles(head_dim: int, needs_small_tiles: bool) -> tuple[BackwardTile, ...]:
    """The tiles for a head dimension; `needs_small_tiles` if shared memory is scarce."""
    if needs_small_tiles:
        return SMALL_BACKWARD
    return (*BACKWARD, *BACKWARD_OF_WIDE_HEADS) if head_dim > 64 else BACKWARD
