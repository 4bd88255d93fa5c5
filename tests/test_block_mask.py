"""Building a BlockMask: ours from block bounds, torch's by search, torch's search compiled."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

import measure
from masks import PATTERNS
from tests.cells import Problem, size_of

DIRECTION = "block_mask"
FORMS = {
    "ours": "block bounds",
    "torch_eager": "create_block_mask",
    "torch_compiled": "torch.compile(create_block_mask)",
}
PARTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")


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


def test_block_mask(mask, seq_len, builder, shape, device, clock, benchmark, pytestconfig):
    try:
        pattern = PATTERNS[mask](seq_len=seq_len, batch=shape.batch)
    except ValueError as error:
        pytest.skip(f"skipped: {error}")
    build = builder_of(builder, pattern, device)
    built, ours = build(), pattern.block_mask(device)
    wrong = sum(int((getattr(built, p) != getattr(ours, p)).sum()) for p in PARTS)
    assert wrong == 0, f"{wrong} entries of the two block masks differ"
    del built, ours
    benchmark.extra_info |= {
        **Problem(mask, seq_len, shape, "none", device, DIRECTION).fields(),
        **size_of(mask, seq_len, shape.batch),
        **{"backend": builder, "form": FORMS[builder], "flops": 0, "tflops": 0.0},
        **{"error": wrong, "error_bound": 0, "error_of": "blocks", "checked": "all blocks"},
    }
    benchmark.extra_info |= measure.measure(benchmark, build, clock, pytestconfig)
