"""Building a BlockMask: ours from block bounds, torch's by search, torch's compiled."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

import measure
from masks import PATTERNS

DIRECTION = "block_mask"


def builder_of(name, mask, device):
    """A call without arguments that gives the BlockMask."""
    if name == "ours":
        return lambda: mask.block_mask(device)
    mod, n = mask.mask_mod(device), mask.seq_len
    create = create_block_mask
    if name == "torch_compiled":
        torch.compiler.reset()
        create = torch.compile(create_block_mask, fullgraph=True, dynamic=False)
    return lambda: create(mod, mask.batch, None, n, n, device=device)


def test_block_mask(mask, seq_len, builder, batch, device, clock, benchmark, pytestconfig):
    try:
        pattern = PATTERNS[mask](seq_len=seq_len, batch=batch)
    except ValueError as error:
        pytest.skip(f"skipped: {error}")
    build = builder_of(builder, pattern, device)
    built, ours = build(), pattern.block_mask(device)
    for part in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
        assert torch.equal(getattr(built, part), getattr(ours, part)), part
    del built, ours
    benchmark.extra_info |= {
        **{"mask": mask, "backend": builder, "direction": DIRECTION},
        **{"seq_len": seq_len, "batch": batch},
    }
    benchmark.extra_info |= measure.measure(benchmark, build, clock, pytestconfig)
