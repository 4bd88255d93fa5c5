"""How much work a workload is: attended pairs, floating-point operations and bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from maskbench.records import Phase
from maskbench.suite.workload import Workload


@dataclass(frozen=True)
class MaskWork:
    """How sparse a mask is.

    Parameters
    ----------
    area
        The exact number of attended pairs over the batch, of one head; of all query heads if the
        mask differs by head.
    keys
        The number of keys over the batch that at least one query sees, of one key/value head; of
        all key/value heads if the mask differs by head.
    density
        The share of all pairs that attend.
    block_density
        The share of blocks of 128 x 128 that have an attended pair.
    by_head
        Whether the mask differs by head.
    """

    area: int
    keys: int
    density: float
    block_density: float
    by_head: bool

    def fields(self) -> dict[str, float]:
        """The fields of a saved cell."""
        return {
            "area": self.area,
            "density": self.density,
            "block_density": self.block_density,
        }


def mask_work(workload: Workload) -> MaskWork:
    """How sparse the workload's mask is. It is counted once for all backends and directions."""
    return _mask_work(replace(workload, phase=Phase.FORWARD))


@lru_cache(maxsize=64)
def _mask_work(workload: Workload) -> MaskWork:
    mask, batch = workload.build_mask(), workload.shape.batch
    area, heads = mask.area(batch), mask.heads or 1
    partial, full = mask.partial_and_full_blocks(mask.evaluation_device, (128, 128))
    return MaskWork(
        area=area,
        keys=mask.attended_keys(batch, workload.shape.kv_heads),
        density=area / (batch * heads * mask.q_len * mask.seq_len),
        block_density=(partial | full).float().mean().item(),
        by_head=mask.heads is not None,
    )


def flops(workload: Workload) -> int:
    """Multiplications and additions of the attended pairs.

    The forward has two matrix products: q @ k.T and p @ v. The backward has five: three over
    head_dim (q @ k.T again, dq and dk) and two over v's head_dim (dp and dv).
    """
    work, shape = mask_work(workload), workload.shape
    pairs = work.area * (1 if work.by_head else shape.heads)
    products = (3, 2) if workload.phase.needs_gradients else (1, 1)
    return 2 * pairs * (products[0] * shape.head_dim + products[1] * shape.out_dim)


def bytes_moved(workload: Workload) -> int:
    """The fewest bytes that a call can read and write.

    The forward reads q and the attended keys and values, and writes the output. The backward reads
    these and dout, and writes dq, and dk and dv of the attended keys.
    """
    work, shape = mask_work(workload), workload.shape
    queries = shape.batch * shape.heads * (workload.q_len or workload.seq_len)
    keys = work.keys * (1 if work.by_head else shape.kv_heads)
    numbers = (queries + keys) * (shape.head_dim + shape.out_dim)
    passes = 2 if workload.phase.needs_gradients else 1
    return passes * numbers * int(getattr(torch, workload.dtype).itemsize)
