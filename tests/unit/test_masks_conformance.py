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
    """[batch][head][q][k] of the pattern's example."""
    return evaluate_pairs(PATTERNS[name].example)


def at_size(name, seq_len):
    """The pattern for 2 batch elements and 2 heads."""
    return PATTERNS[name](seq_len=seq_len, batch=2, heads=2)


@every_pattern
def test_the_pattern_is_described(name):
    family = PATTERNS[name]
    assert family.name == name
    assert 3 < len(family.description) <= 100
    assert "\n" not in family.description
    assert family.source.startswith("https://")


@every_pattern
def test_the_parameters_can_be_given(name):
    family = PATTERNS[name]
    assert family(seq_len=256, **family.parameters) == family(seq_len=256)
    with pytest.raises(ValueError, match=f"{name} has no parameter sise. It has: "):
        family(seq_len=256, sise=3)


@pytest.mark.parametrize("seq_len", [16, 100, 300, 1000])
@every_pattern
def test_any_even_length_from_16(name, seq_len):
    mask = at_size(name, seq_len)
    dense = mask.dense("cpu")
    assert dense.shape == (mask.batch or 1, mask.heads or 1, seq_len, seq_len)
    assert mask.area(2) == int(dense.sum()) * (2 // len(dense))
    assert_blocks_equal_torch(mask, 128)


@every_pattern
def test_example_is_small_enough_for_a_picture(name):
    assert 32 <= PATTERNS[name].example.seq_len <= 64


@every_pattern
def test_dense_form_of_the_example(name):
    dense = PATTERNS[name].example.dense("cpu")
    assert dense.dtype == torch.bool
    assert dense.tolist() == example_pairs(name)


@every_pattern
def test_the_example_is_of_the_same_class(name):
    assert type(PATTERNS[name].example) is type(PATTERNS[name](seq_len=256))


@every_pattern
def test_area_of_the_example(name):
    mask, attended = PATTERNS[name].example, int(torch.tensor(example_pairs(name)).sum())
    if mask.batch is None:
        assert mask.area() == attended
        assert mask.area(3) == 3 * attended
    else:
        assert mask.area(mask.batch) == attended


@every_pattern
def test_fully_masked_rows_of_the_example(name):
    empty = PATTERNS[name].example.fully_masked_rows("cpu")
    expected = ~torch.tensor(example_pairs(name)).any(-1, keepdim=True)
    if empty is None:
        assert not expected.any()
    else:
        assert torch.equal(empty, expected)


@pytest.mark.parametrize("size", [(8, 8), (4, 16), (16, 4), (24, 10)])
@every_pattern
def test_partial_and_full_blocks_of_the_example(name, size):
    partial, full = PATTERNS[name].example.partial_and_full_blocks("cpu", size)
    expected = [[classify_blocks(head, size) for head in heads] for heads in example_pairs(name)]
    assert torch.equal(torch.stack([partial, full], -1), torch.tensor(expected))


@pytest.mark.parametrize("block_size", [8, (4, 16), (24, 10)])
@every_pattern
def test_block_mask_of_the_example_equals_torch(name, block_size):
    assert_blocks_equal_torch(PATTERNS[name].example, block_size)


@every_pattern
def test_dense_form_matches_mask_mod_at_sampled_pairs(name):
    mask = at_size(name, 256)
    dense, mod = mask.dense("cpu"), mask.mask_mod("cpu")
    pairs = torch.randint(256, (300, 2), generator=torch.Generator().manual_seed(0))
    for b, h, (q, k) in itertools.product(*map(range, dense.shape[:2]), pairs):
        attends = mod(torch.tensor(b), torch.tensor(h), q, k)
        assert bool(attends) == bool(dense[b, h, q, k]), (b, h, q, k)


@every_pattern
def test_area_and_fully_masked_rows_match_the_dense_form(name):
    mask = at_size(name, 256)
    dense = mask.dense("cpu")
    assert mask.area(2) == int(dense.sum()) * (2 // len(dense))
    empty = mask.fully_masked_rows("cpu")
    empty = torch.zeros_like(dense[..., :1]) if empty is None else empty
    assert torch.equal(empty, ~dense.any(-1, keepdim=True))


@every_pattern
def test_dense_rows_are_rows_of_dense(name):
    mask = at_size(name, 256)
    assert torch.equal(mask.dense_rows(100, 173, "cpu"), mask.dense("cpu")[:, :, 100:173])


@pytest.mark.parametrize("block_size", [128, 64, (128, 256)])
@pytest.mark.parametrize("seq_len", [256, 1024, 2048])
@every_pattern
def test_block_mask_equals_torch(name, seq_len, block_size):
    assert_blocks_equal_torch(at_size(name, seq_len), block_size)


@every_pattern
def test_block_mask_does_not_wait_for_a_gpu(name, device):
    if device == "cpu":
        pytest.skip("nothing to wait for on a CPU")
    mask = at_size(name, 4096)
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
