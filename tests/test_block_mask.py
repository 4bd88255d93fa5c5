"""Building a BlockMask: ours from block bounds, torch's by search, torch's search compiled."""

import torch
from torch.nn.attention.flex_attention import create_block_mask

import measure
from tests.cells import size_of

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


def test_block_mask(builder, problem, outcome, clock, benchmark, pytestconfig):
    try:
        mask = problem.build()
    except ValueError as error:
        outcome.leave("skipped", str(error))

    def check_and_time():
        build = builder_of(builder, mask, problem.device)
        built, ours = build(), mask.block_mask(problem.device)
        wrong = sum(int((getattr(built, p) != getattr(ours, p)).sum()) for p in PARTS)
        assert wrong == 0, f"{wrong} entries of the two block masks differ"
        del built, ours
        benchmark.extra_info |= {
            **problem.fields(),
            **size_of(problem.mask, problem.seq_len, problem.shape.batch),
            **{"backend": builder, "form": FORMS[builder], "flops": 0, "tflops": 0.0},
            **{"error": wrong, "error_bound": 0, "error_of": "blocks", "checked": "all blocks"},
        }
        benchmark.extra_info |= measure.measure(benchmark, build, clock, pytestconfig)

    outcome.of(check_and_time)
