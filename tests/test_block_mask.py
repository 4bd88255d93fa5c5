"""Building a BlockMask: ours from block bounds, torch's by search, torch's search compiled."""

from dataclasses import replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask

from backends.flex import compiler_found
from tests.ahead import spent
from tests.cells import size_of, time_call

BUILDERS = {  # and how each is told the mask
    "ours": "block bounds",
    "torch_eager": "create_block_mask",
    "torch_compiled": "torch.compile(create_block_mask)",
}
BLOCK = 128


@lru_cache(maxsize=1)  # the builders of one problem follow each other
def searched(mask, device):
    """(partial, full) blocks, found by looking at every pair, a row of blocks at a time."""
    found = []
    columns = -(-mask.seq_len // BLOCK)
    for start in range(0, mask.seq_len, BLOCK):
        rows = mask.rows(start, min(start + BLOCK, mask.seq_len), device)
        wide = F.pad(rows, (0, columns * BLOCK - mask.seq_len, 0, BLOCK - rows.shape[2]))
        found.append(wide.unflatten(-1, (columns, BLOCK)).sum((-3, -1)))
    pairs = torch.stack(found, 2)
    return (pairs > 0) & (pairs < BLOCK * BLOCK), pairs == BLOCK * BLOCK


def blocks_of(block_mask):
    """(partial, full) blocks that a BlockMask lists."""
    for count, order in (
        (block_mask.kv_num_blocks, block_mask.kv_indices),
        (block_mask.full_kv_num_blocks, block_mask.full_kv_indices),
    ):
        listed = torch.arange(order.shape[-1], device=order.device) < count[..., None]
        yield torch.zeros_like(listed).scatter_(-1, order.long(), listed)


def builder_of(name, mask, device):
    """A call without arguments that gives the BlockMask."""
    if name == "ours":
        return lambda: replace(mask).block_mask(device)  # a new one: a mask keeps what it found
    mod, n = mask.mask_mod(device), mask.seq_len
    create = create_block_mask
    if name == "torch_compiled":
        torch.compiler.reset()
        create = torch.compile(create_block_mask, fullgraph=True, dynamic=False)
    return lambda: create(mod, mask.batch, None, n, n, device=device)


def test_block_mask(builder, problem, outcome, clock, benchmark, pytestconfig):
    try:
        mask = problem.build()
    except ValueError as error:
        outcome.leave("skipped", str(error))
    if builder == "torch_compiled" and problem.device == "cpu" and not compiler_found():
        outcome.leave("unsupported", "torch.compile on a CPU needs a C++ compiler")

    def check_and_time():
        with spent("compile"):
            build = builder_of(builder, mask, problem.device)
            built = build()
        with spent("check"):
            pairs = zip(blocks_of(built), searched(mask, problem.device), strict=True)
            wrong = sum(int((found != expected).sum()) for found, expected in pairs)
        assert wrong == 0, f"{wrong} blocks are not what the mask says"
        benchmark.extra_info |= {
            **problem.fields(),
            **size_of(problem.mask, problem.seq_len, problem.shape.batch),
            **{"backend": builder, "form": BUILDERS[builder], "flops": 0, "tflops": 0.0},
            **{"error": wrong, "error_bound": 0, "error_of": "blocks", "checked": "all blocks"},
        }
        benchmark.extra_info |= time_call(benchmark, build, clock, pytestconfig)

    outcome.of(check_and_time)
