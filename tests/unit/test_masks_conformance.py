"""Requirements on every registered pattern. A new one is tested without an edit here."""

import functools
import itertools
import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from masks import PATTERNS
from tests.unit.mask_oracles import assert_blocks_equal_torch, classify_blocks, evaluate_pairs

every_pattern = pytest.mark.parametrize("name", PATTERNS)


@functools.cache
def example_pairs(name):
    """[batch][q][k] of the pattern's example."""
    return evaluate_pairs(PATTERNS[name].example)


@every_pattern
def test_example_is_small_enough_for_a_picture(name):
    assert 32 <= PATTERNS[name].example.seq_len <= 64


@every_pattern
def test_dense_form_of_the_example(name):
    dense = PATTERNS[name].example.dense("cpu")
    assert dense.dtype == torch.bool
    assert dense[:, 0].tolist() == example_pairs(name)


@every_pattern
def test_area_of_the_example(name):
    mask, pairs = PATTERNS[name].example, example_pairs(name)
    attended = sum(sum(map(sum, element)) for element in pairs)
    if mask.batch is None:
        assert mask.area() == attended
        assert mask.area(3) == 3 * attended
    else:
        assert mask.area(mask.batch) == attended


@every_pattern
def test_fully_masked_rows_of_the_example(name):
    empty = PATTERNS[name].example.fully_masked_rows("cpu")
    expected = [[not any(row) for row in element] for element in example_pairs(name)]
    if empty is None:
        assert not any(map(any, expected))
    else:
        assert empty[:, 0, :, 0].tolist() == expected


@pytest.mark.parametrize("size", [(8, 8), (4, 16), (16, 4), (24, 10)])
@every_pattern
def test_partial_and_full_blocks_of_the_example(name, size):
    partial, full = PATTERNS[name].example.partial_and_full_blocks("cpu", size)
    found = torch.stack([partial[:, 0], full[:, 0]], -1).tolist()
    blocks = [classify_blocks(element, size) for element in example_pairs(name)]
    assert found == [[[list(block) for block in row] for row in element] for element in blocks]


@pytest.mark.parametrize("block_size", [8, (4, 16), (24, 10)])
@every_pattern
def test_block_mask_of_the_example_equals_torch(name, block_size):
    assert_blocks_equal_torch(PATTERNS[name].example, block_size)


@every_pattern
def test_dense_form_matches_mask_mod_at_sampled_pairs(name):
    mask = PATTERNS[name](seq_len=256, batch=2)
    dense, mod = mask.dense("cpu"), mask.mask_mod("cpu")
    assert dense.shape == (mask.batch or 1, 1, 256, 256)
    pairs = torch.randint(256, (300, 2), generator=torch.Generator().manual_seed(0))
    for b, (q, k) in itertools.product(range(mask.batch or 1), pairs):
        attends = mod(torch.tensor(b), torch.tensor(0), q, k)
        assert bool(attends) == bool(dense[b, 0, q, k]), (b, q, k)


@every_pattern
def test_area_and_fully_masked_rows_match_the_dense_form(name):
    mask = PATTERNS[name](seq_len=256, batch=2)
    dense = mask.dense("cpu")
    assert mask.area(2) == int(dense.sum()) * (2 // len(dense))
    empty = mask.fully_masked_rows("cpu")
    empty = torch.zeros_like(dense[..., :1]) if empty is None else empty
    assert torch.equal(empty, ~dense.any(-1, keepdim=True))


@every_pattern
def test_dense_rows_are_rows_of_dense(name):
    mask = PATTERNS[name](seq_len=256, batch=2)
    assert torch.equal(mask.dense_rows(100, 173, "cpu"), mask.dense("cpu")[:, :, 100:173])


@pytest.mark.parametrize("block_size", [128, 64, (128, 256)])
@pytest.mark.parametrize("seq_len", [256, 1024, 2048])
@every_pattern
def test_block_mask_equals_torch(name, seq_len, block_size):
    assert_blocks_equal_torch(PATTERNS[name](seq_len=seq_len, batch=2), block_size)


@every_pattern
def test_block_mask_does_not_wait_for_a_gpu(name, device):
    if device == "cpu":
        pytest.skip("nothing to wait for on a CPU")
    mask = PATTERNS[name](seq_len=4096, batch=2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        mask.block_mask(device)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_pattern
def test_block_mask_of_a_long_sequence_takes_little_memory(name, tmp_path):
    """At most 40 MiB for 131072 tokens. The block mask itself is 16 MiB."""
    mask = PATTERNS[name](seq_len=2**17, batch=1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        mask.block_mask("cpu")
    recorded.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]"]
    changes = [e["args"]["Bytes"] for e in sorted(memory, key=lambda e: e["ts"])]
    assert 16 * 2**20 < max(itertools.accumulate(changes)) <= 40 * 2**20
