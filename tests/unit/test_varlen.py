"""Masks as windows, packed sequences and merged calls, checked with a library in plain torch.

The real libraries compute the same forms in test_correctness.py, on CUDA.
"""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from maskbench.attention import Formulation, Unsupported
from maskbench.masks import (
    BlockCausal,
    BlockDiffusion,
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    ImageInCausal,
    LastQueries,
    LocalAttention2D,
    Padded,
    PrefixLM,
    SharedPrefix,
    SinkSlidingWindow,
    SlidingWindow,
)
from maskbench.varlen.lowering import lower
from maskbench.varlen.ops import CAUSAL, FULL, AttentionOp, FlashLibrary
from masks import PATTERNS
from tests.unit.conformance import LOWERED, assert_sentence
from tests.unit.plain_library import EXACT, PLAIN, difference, formula_difference


def assert_exact(mask, kv_heads=2):
    heads = mask.heads or 4
    formulation, error = difference(partial(lower, PLAIN), mask, heads, min(kv_heads, heads))
    assert error < EXACT, formulation
    return formulation


@pytest.mark.parametrize("name", PATTERNS)
def test_each_pattern_is_exact_or_has_its_reason(name):
    for mask in (PATTERNS[name](seq_len=1024, batch=2, heads=4), PATTERNS[name].example):
        try:
            assert_exact(mask, kv_heads=1)
        except Unsupported as reason:
            assert_sentence(reason)
            if name in LOWERED:
                raise


def test_a_mask_without_a_form_has_its_reason():
    probe = torch.zeros(1, 1, 12, 16)
    for mask, reason in {
        LocalAttention2D(4, 1, seq_len=12): "no form of LocalAttention2D in windows and packed",
        DilatedSlidingWindow(6, 5, seq_len=12): "12 is no multiple of 5",
        GlobalLocalSlidingWindow(6, (6,), seq_len=12): "every global token lies in every query",
        Padded(SlidingWindow(2, 0, seq_len=12), torch.arange(12)[None] == 4): "at the ends alone",
        BlockDiffusion(2, seq_len=12): "no form of BlockDiffusion in windows and packed",
        BlockCausal(2, seq_len=40): "20 blocks of queries take as many calls: at most 16",
        SinkSlidingWindow(9, 200, seq_len=400): "200 sinks take as many sequences: at most 128",
    }.items():
        with pytest.raises(Unsupported, match=reason):
            lower(PLAIN, mask, probe, probe, probe)


N = 60
DOCUMENTS = Documents((7, 20, 3, 30), Causal(seq_len=N))
BY_ELEMENT = Documents(((7, 53), (20, 10, 30)), SlidingWindow(9, 4, seq_len=N))
LAST_QUERIES = {
    "all": (SinkSlidingWindow(9, 4, seq_len=N), N, "sink_window_merged"),
    "full": (Full(seq_len=N), 7, "full"),
    "causal": (Causal(seq_len=N), 7, "causal"),
    "causal_token": (Causal(seq_len=N), 1, "full"),
    "window": (SlidingWindow(9, 4, seq_len=N), 31, "window"),
    "window_token": (SlidingWindow(9, 4, seq_len=N), 1, "window"),
    "prefix": (PrefixLM(20, seq_len=N), 40, "causal"),
    "prefix_in_part": (PrefixLM(20, seq_len=N), 42, "prefix_two_calls"),
    "documents": (DOCUMENTS, 34, "varlen:causal"),
    "documents_at_a_start": (DOCUMENTS, 30, "last_document:causal"),
    "last_document": (DOCUMENTS, 29, "last_document:causal"),
    "documents_token": (DOCUMENTS, 1, "last_document:causal"),
    "two_documents": (Documents((30, 29, 1), Causal(seq_len=N)), 3, "varlen:causal"),
    "documents_by_element": (BY_ELEMENT, 31, "varlen:window"),
    "dilated": (DilatedSlidingWindow(12, 3, seq_len=N), 9, "residue_streams:window"),
    "sinks": (SinkSlidingWindow(9, 4, seq_len=N), 31, "sink_window_merged"),
    "sinks_with_first_queries": (SinkSlidingWindow(9, 4, seq_len=N), 49, "sink_window_merged"),
    "sinks_token": (SinkSlidingWindow(9, 4, seq_len=N), 1, "sink_window_merged"),
    "blocks": (BlockCausal(7, seq_len=N), 30, "block_queries"),
    "last_block": (BlockCausal(7, seq_len=N), 4, "full"),
    "after_images": (ImageInCausal(((3, 20),), seq_len=N), 30, "causal"),
}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("v_dim", [16, 8])
@pytest.mark.parametrize("name", LAST_QUERIES)
def test_last_queries_are_exact(name, v_dim, kv_heads):
    mask, queries, form = LAST_QUERIES[name]
    formulation, error = formula_difference(
        partial(lower, PLAIN), LastQueries(mask, queries), kv_heads=kv_heads, v_dim=v_dim
    )
    assert error < EXACT
    assert formulation.id == form


@pytest.mark.parametrize(
    ("mask", "queries", "reason"),
    [
        (GlobalLocalSlidingWindow(6, (0,), seq_len=N), 9, "the last queries of GlobalLocalSliding"),
        (Padded(Causal(seq_len=N), torch.arange(N)[None] == 4), 9, "the last queries of Padded"),
        (Documents((20, 40), PrefixLM(9, seq_len=N)), 50, "the last queries of Documents"),
        (DilatedSlidingWindow(12, 3, seq_len=N), 10, "10 is no multiple of 3"),
        (BY_ELEMENT, 1, "one query in some documents and none"),
        (Documents((30, 29, 1), Causal(seq_len=N)), 2, "one query in some documents and none"),
    ],
)
def test_last_queries_without_a_form_have_their_reason(mask, queries, reason):
    probe = torch.zeros(mask.batch or 1, 1, N, 16)
    with pytest.raises(Unsupported, match=reason):
        lower(PLAIN, LastQueries(mask, queries), probe[:, :, -queries:], probe, probe)


@st.composite
def masks(draw):
    number = st.integers(0, N)
    cuts = sorted({0, N, *draw(st.lists(st.integers(1, N - 1), max_size=4))})
    lengths = tuple(b - a for a, b in pairwise(cuts))
    spans = tuple(zip(cuts, lengths, strict=False))
    plain = [Full(seq_len=N), Causal(seq_len=N), PrefixLM(draw(number), seq_len=N)]
    inner = draw(st.sampled_from([*plain, SlidingWindow(draw(number), draw(number), seq_len=N)]))
    holes = torch.rand(2, N, generator=torch.Generator().manual_seed(draw(number))) < 0.4
    ends = torch.tensor([[draw(number), draw(number)] for _ in range(2)]).sort().values
    at = torch.arange(N)
    one_run = (at < ends[:, :1]) | (at >= ends[:, 1:])
    padding = draw(st.sampled_from([holes, one_run]))
    return draw(
        st.sampled_from(
            [
                inner,
                Documents(lengths, inner),
                Padded(inner, padding),
                DilatedSlidingWindow(draw(number), draw(st.sampled_from([1, 2, 3, 5])), seq_len=N),
                SinkSlidingWindow(draw(number), draw(number), seq_len=N),
                BlockCausal(draw(st.integers(4, N)), seq_len=N),
                ImageInCausal(draw(st.sampled_from([spans[::2], spans[1::2], spans])), seq_len=N),
                SharedPrefix(lengths[0], lengths[1:]),
                GlobalLocalSlidingWindow(
                    draw(number),
                    tuple(draw(st.lists(st.integers(0, N - 1), max_size=4))),
                    seq_len=N,
                ),
            ]
        )
    )


@settings(max_examples=100, deadline=None)
@given(masks(), st.integers(1, N))
def test_forms_are_exact_for_any_parameters(mask, queries):
    try:
        for some in (mask, LastQueries(mask, queries)):
            _, error = formula_difference(partial(lower, PLAIN), some)
            assert error < EXACT, some
    except Unsupported:
        reject()


def test_backward_without_the_merged_lse_is_wrong():
    """A negative control: with each call's own log-sum-exp, backward is not the gradient."""
    mask = PATTERNS["global_local_sliding_window"](seq_len=1024)
    right = PLAIN.packed

    def own_lse(q_lengths, k_lengths, window):
        op = right(q_lengths, k_lengths, window)

        def backward(dout, q, k, v, out, lse):
            return op.backward(dout, q, k, v, *op.forward(q, k, v))

        return AttentionOp(op.formulation, op.attend, op.forward, backward)

    _, error = difference(partial(lower, FlashLibrary(PLAIN.batched, own_lse)), mask, 1, 1)
    assert error > 0.01


MERGED = {
    "sinks": (SinkSlidingWindow(40, 4, seq_len=300), "sink_window_merged"),
    "sinks_not_in_a_row": (SinkSlidingWindow(0, 2, seq_len=7), "sink_window_merged"),
    "blocks": (BlockCausal(70, seq_len=300), "block_queries"),
    "images": (
        ImageInCausal(((0, 3), (20, 1), (40, 90), (299, 1)), seq_len=300),
        "causal_images_merged",
    ),
    "adjacent_images": (ImageInCausal(((3, 5), (8, 9)), seq_len=17), "causal_images_merged"),
    "responses": (SharedPrefix(70, (1, 130, 29)), "shared_prefix_merged"),
    "short_prefix": (SharedPrefix(1, (5, 4)), "shared_prefix_merged"),
}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("v_dim", [16, 8])
@pytest.mark.parametrize("name", MERGED)
def test_merged_forms_are_exact(name, v_dim, kv_heads):
    mask, form = MERGED[name]
    formulation, error = formula_difference(
        partial(lower, PLAIN), mask, kv_heads=kv_heads, v_dim=v_dim
    )
    assert error < EXACT
    assert formulation.id == form


def test_formulations():
    formulations = {name: assert_exact(PATTERNS[name].example) for name in LOWERED}
    assert {name: formulation.id for name, formulation in formulations.items()} == LOWERED
    texts = {name: formulation.text for name, formulation in formulations.items()}
    dilated = texts["bidirectional_dilated_sliding_window"]
    assert dilated == "2 residue streams as heads, window (4, 4)"
    assert texts["prefix_lm"] == "2 calls: the prefix's queries full, the rest causal"
    assert texts["multi_document_causal"] == f"packed, window {CAUSAL}"
    assert "merged by log-sum-exp" in texts["global_local_sliding_window"]
    assert texts["causal_padding"] == f"valid tokens alone, packed, window {CAUSAL}"
    probe = torch.zeros(1, 1, 8, 16)
    full = lower(PLAIN, Full(seq_len=8), probe, probe, probe)
    assert full.formulation == Formulation("full", f"window {FULL}")
