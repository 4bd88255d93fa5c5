"""Each mask against its definition in words, and its blocks against torch's search."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask
from torch.profiler import ProfilerActivity, profile

from maskbench.masks import (
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from masks import PATTERNS

NAMES = [
    "full",
    "causal",
    "causal_sliding_window",
    "bidirectional_sliding_window",
    "bidirectional_dilated_sliding_window",
    "global_local_sliding_window",
    "prefix_lm",
    "multi_document_bidirectional",
    "multi_document_causal",
    "multi_document_prefix_lm",
    "standalone_self_attention",
    "causal_padding",
]


def in_words(name, n):
    """The table's definition, as a function (q, k) -> bool in plain Python."""
    document, start = [], []
    for number, eighths in enumerate((1, 1, 2, 2, 2)):
        start += [len(start)] * (eighths * n // 8)
        document += [number] * (eighths * n // 8)
    width = 1
    while width * width < n:
        width *= 2
    globals_ = {token for token in (0, 512, 1024) if token < n}
    return {
        "full": lambda q, k: True,
        "causal": lambda q, k: q >= k,
        "causal_sliding_window": lambda q, k: 0 <= q - k <= 256,
        "bidirectional_sliding_window": lambda q, k: abs(q - k) <= 256,
        "bidirectional_dilated_sliding_window": lambda q, k: abs(q - k) <= 512 and (q - k) % 2 == 0,
        "global_local_sliding_window": lambda q, k: (
            abs(q - k) <= 256 or q in globals_ or k in globals_
        ),
        "prefix_lm": lambda q, k: q >= k or k < n / 2,
        "multi_document_bidirectional": lambda q, k: document[q] == document[k],
        "multi_document_causal": lambda q, k: document[q] == document[k] and q >= k,
        "multi_document_prefix_lm": lambda q, k: (
            document[q] == document[k] and (q >= k or k - start[k] < n // 16)
        ),
        "standalone_self_attention": lambda q, k: (
            abs(q // width - k // width) <= 8 and abs(q % width - k % width) <= 8
        ),
    }[name]


def looped(allowed, n):
    return torch.tensor([[bool(allowed(q, k)) for k in range(n)] for q in range(n)])


def test_patterns_are_the_twelve():
    assert list(PATTERNS) == NAMES


@pytest.mark.parametrize("seq_len", [256, 1024])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_pattern_is_what_the_table_says(name, seq_len):
    mask = PATTERNS[name](seq_len=seq_len, batch=3)
    expected = looped(in_words(name, seq_len), seq_len)
    assert torch.equal(mask.dense("cpu"), expected[None, None])
    assert mask.area(3) == 3 * int(expected.sum())


def test_third_global_token_attends_everywhere():
    dense = PATTERNS["global_local_sliding_window"](seq_len=2048, batch=1).dense("cpu")[0, 0]
    for token in (0, 512, 1024):
        assert dense[token].all()
        assert dense[:, token].all()
    assert not dense[1536].all()


@pytest.mark.parametrize("seq_len", [256, 512])
def test_causal_padding_is_what_the_table_says(seq_len):
    batch = 5
    mask = PATTERNS["causal_padding"](seq_len=seq_len, batch=batch)
    lengths = (~mask.padding).sum(1).tolist()
    assert all(seq_len // 2 <= n <= seq_len for n in lengths)
    assert len(set(lengths)) > 1, "each batch element has its own length"
    expected = torch.stack(
        [
            looped(lambda q, k, n=n: q >= k and q < n and k < n, seq_len)  # padding at the end
            for n in lengths
        ]
    )
    assert torch.equal(mask.dense("cpu"), expected[:, None])
    assert mask.area(batch) == int(expected.sum())
    assert mask == PATTERNS["causal_padding"](seq_len=seq_len, batch=batch), "a fixed seed"


@pytest.mark.parametrize(("seq_len", "width"), [(256, 16), (512, 32), (4096, 64), (8192, 128)])
def test_image_is_as_wide_as_the_square_root_or_just_wider(seq_len, width):
    mask = PATTERNS["standalone_self_attention"](seq_len=seq_len, batch=1)
    assert mask.width == width
    assert width >= math.sqrt(seq_len) > width / 2


@pytest.mark.parametrize("seq_len", [0, 128, 255, 300, 384])
def test_pattern_takes_powers_of_two_from_256(seq_len):
    with pytest.raises(ValueError, match=f"seq_len is {seq_len}.*powers of two from 256"):
        PATTERNS["causal"](seq_len=seq_len, batch=1)


def assert_same_blocks(mask, block_size):
    ours = mask.block_mask("cpu", block_size)
    n = mask.seq_len
    found = create_block_mask(
        mask.mask_mod("cpu"), mask.batch, None, n, n, device="cpu", BLOCK_SIZE=block_size
    )
    assert ours.shape == found.shape
    assert ours.BLOCK_SIZE == found.BLOCK_SIZE
    for part in (
        *("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"),
        *("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices"),
    ):
        ours_part, found_part = getattr(ours, part), getattr(found, part)
        assert ours_part.dtype == found_part.dtype, part
        assert torch.equal(ours_part, found_part), part
        assert ours_part.is_contiguous(), f"{part}: CuTe's kernels ask for it"


@pytest.mark.parametrize("block_size", [128, 64, (128, 256)])
@pytest.mark.parametrize("seq_len", [256, 1024, 2048])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_torchs_own(name, seq_len, block_size):
    assert_same_blocks(PATTERNS[name](seq_len=seq_len, batch=2), block_size)


def with_padding(inner, rows):
    return st.lists(
        st.lists(st.booleans(), min_size=inner.seq_len, max_size=inner.seq_len),
        min_size=rows,
        max_size=rows,
    ).map(lambda lists: Padded(inner, torch.tensor(lists)))


@st.composite
def plain_masks(draw, n):
    reach = st.integers(0, n + 2)
    tokens = st.lists(st.integers(0, n - 1), max_size=4)
    return draw(
        st.one_of(
            st.just(Full(seq_len=n)),
            st.just(Causal(seq_len=n)),
            st.builds(SlidingWindow, reach, reach, seq_len=st.just(n)),
            st.builds(PrefixLM, reach, seq_len=st.just(n)),
            st.builds(DilatedSlidingWindow, reach, st.integers(1, 9), seq_len=st.just(n)),
            st.builds(GlobalLocalSlidingWindow, reach, tokens.map(tuple), seq_len=st.just(n)),
            st.builds(LocalAttention2D, st.integers(1, 12), st.integers(0, 5), seq_len=st.just(n)),
        )
    )


@st.composite
def masks(draw):
    mask = draw(plain_masks(draw(st.integers(1, 70))))
    n = mask.seq_len
    if mask.key_range(torch.zeros(1)) is not None and draw(st.booleans()):
        cuts = sorted({0, n, *draw(st.lists(st.integers(0, n), max_size=8))})
        mask = Documents(tuple(b - a for a, b in itertools.pairwise(cuts)), mask)
        if draw(st.booleans()):  # documents of documents are one more mask
            mask = Documents((n,), mask)
    if draw(st.booleans()):
        mask = draw(with_padding(mask, draw(st.integers(1, 3))))
    return mask


def by_hand(mask, q, k, b=0):
    """A mask's words again, one pair at a time, for any parameters."""
    match mask:
        case Full():
            return True
        case Causal():
            return q >= k
        case SlidingWindow(left, right):
            return -right <= q - k <= left
        case DilatedSlidingWindow(window, dilation):
            return abs(q - k) <= window and (q - k) % dilation == 0
        case GlobalLocalSlidingWindow(window, tokens):
            return abs(q - k) <= window or q in tokens or k in tokens
        case PrefixLM(prefix):
            return q >= k or k < prefix
        case LocalAttention2D(width, radius):
            rows, columns = q // width - k // width, q % width - k % width
            return abs(rows) <= radius and abs(columns) <= radius
        case Documents(lengths, inner):
            start = 0
            for length in lengths:
                if start <= q < start + length:
                    inside = start <= k < start + length
                    return inside and by_hand(inner, q - start, k - start)
                start += length
        case Padded(inner, padding):
            return not padding[b, q] and not padding[b, k] and by_hand(inner, q, k)
    raise AssertionError(f"no words for {mask}")


@settings(deadline=None, max_examples=150)
@given(masks())
def test_any_parameters_dense_area_and_empty_rows(mask):
    n, batch = mask.seq_len, mask.batch or 1
    expected = torch.stack(
        [looped(lambda q, k, b=b: by_hand(mask, q, k, b), n) for b in range(batch)]
    )
    dense = mask.dense("cpu")
    assert dense.shape == (batch, 1, n, n)
    assert torch.equal(dense[:, 0], expected)
    assert mask.area(batch) == int(expected.sum())
    empty = mask.fully_masked_rows("cpu")
    empty = torch.zeros(batch, 1, n, 1, dtype=torch.bool) if empty is None else empty
    assert torch.equal(empty, ~dense.any(-1, keepdim=True))


@settings(deadline=None, max_examples=150)
@given(masks(), st.sampled_from([1, 4, 16, 128, (8, 16), (16, 4)]))
def test_any_parameters_blocks_are_torchs_own(mask, block_size):
    assert_same_blocks(mask, block_size)


def test_a_radius_beyond_the_image_is_everything():
    wide = LocalAttention2D(width=16, radius=2**40, seq_len=1024)
    for found, expected in zip(
        wide.partial_and_full_blocks("cpu", (128, 128)),
        Full(seq_len=1024).partial_and_full_blocks("cpu", (128, 128)),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_rows_of_dense(name):
    mask = PATTERNS[name](seq_len=256, batch=2)
    assert torch.equal(mask.dense_rows(100, 173, "cpu"), mask.dense("cpu")[:, :, 100:173])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Causal(seq_len=0), "seq_len is 0, must be a whole number, 1 or more"),
        (lambda: SlidingWindow(-1, 0, seq_len=8), "left is -1, must be a whole number, 0 or more"),
        (lambda: SlidingWindow(0, -2, seq_len=8), "right is -2, must be a whole number, 0 or more"),
        (
            lambda: DilatedSlidingWindow(4, 0, seq_len=8),
            "dilation is 0, must be a whole number, 1 or more",
        ),
        (lambda: GlobalLocalSlidingWindow(-1, (), seq_len=8), "window is -1"),
        (lambda: GlobalLocalSlidingWindow(1, (8,), seq_len=8), "token 8 is not among the 8"),
        (lambda: PrefixLM(-1, seq_len=8), "prefix is -1"),
        (lambda: LocalAttention2D(0, 1, seq_len=8), "width is 0"),
        (lambda: LocalAttention2D(2, -1, seq_len=8), "radius is -1"),
        (lambda: Documents((4, 3), Causal(seq_len=8)), "lengths add up to 7, not to seq_len 8"),
        (lambda: SlidingWindow(2.5, 0, seq_len=8), "left is 2.5, must be a whole number"),
        (lambda: SlidingWindow(None, 0, seq_len=8), "left is None, must be a whole number"),
        (lambda: Documents((8, 0), Causal(seq_len=8)), "each must be a whole number, 1 or more"),
        (lambda: Documents((4.0, 4.0), Causal(seq_len=8)), "each must be a whole number"),
        (lambda: Padded(Causal(seq_len=8), torch.zeros(0, 8) > 0), r"padding is \[0, 8\]"),
        (
            lambda: Documents((8,), DilatedSlidingWindow(2, 2, seq_len=8)),
            "inner DilatedSlidingWindow has keys that are not one run",
        ),
        (lambda: Padded(Causal(seq_len=8), torch.zeros(2, 8)), "padding is torch.float32"),
        (
            lambda: Padded(Causal(seq_len=8), torch.zeros(2, 9, dtype=torch.bool)),
            r"padding is \[2, 9\], must be \[batch, 8\]",
        ),
        (
            lambda: Padded(PATTERNS["causal_padding"](seq_len=256), torch.zeros(1, 256) > 0),
            "inner is padded",
        ),
        (lambda: PATTERNS["causal_padding"](seq_len=256, batch=2).area(3), "batch is 3"),
    ],
)
def test_wrong_parameters_say_which_and_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_masks_are_values_that_match():
    match PATTERNS["multi_document_causal"](seq_len=256, batch=1):
        case Documents(lengths, inner=Causal()):
            assert lengths == (32, 32, 64, 64, 64)
        case other:
            pytest.fail(f"{other} did not match")
    match PATTERNS["causal_sliding_window"](seq_len=256, batch=1):
        case SlidingWindow(left, right):
            assert (left, right) == (256, 0)
    assert SlidingWindow(4, 0, seq_len=8) == SlidingWindow(4, 0, seq_len=8)
    assert SlidingWindow(4, 0, seq_len=8) != SlidingWindow(4, 1, seq_len=8)
    padding = torch.zeros(1, 8, dtype=torch.bool)
    assert Padded(Causal(seq_len=8), padding) == Padded(Causal(seq_len=8), padding.clone())
    assert Padded(Causal(seq_len=8), padding) != Padded(Causal(seq_len=8), ~padding)


@pytest.mark.parametrize("name", PATTERNS)
def test_block_mask_does_not_wait_for_a_gpu(name, device):
    if device == "cpu":
        pytest.skip("nothing to wait for on a CPU")
    mask = PATTERNS[name](seq_len=4096, batch=2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        mask.block_mask(device)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", PATTERNS)
def test_block_mask_of_a_long_sequence_is_made_in_little_memory(name, tmp_path):
    """131072 tokens in 40 MiB at most; what it keeps is 16 of them."""
    mask = PATTERNS[name](seq_len=2**17, batch=1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        mask.block_mask("cpu")
    seen.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    taken = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    assert 16 * 2**20 < max(itertools.accumulate(b for _, b in taken)) <= 40 * 2**20
