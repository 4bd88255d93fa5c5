"""Masks of a function, combined masks, the last queries of a mask, and documents of any mask."""

import pickle

import pytest
import torch

from maskbench.backends import registry
from maskbench.masks import (
    Causal,
    DilatedSlidingWindow,
    Documents,
    FromMaskMod,
    Full,
    GlobalLocalSlidingWindow,
    LastQueries,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from tests.unit.conformance import assert_agrees, checked_inputs
from tests.unit.mask_oracles import assert_blocks_equal_torch

S = 150
TABLE = torch.arange(S) // 40
ELEMENTS = ((10, 100, 40), (150,))
PADDING = torch.arange(S) >= torch.tensor([[S], [90]])


def window(b, h, q, k):
    return (q >= k) & (q - k <= 20)


def by_element(b, h, q, k):
    return (q - k) % (b + 2) == 0


def by_head(b, h, q, k):
    return (q >= k) & (q - k <= 10 * h)


def by_both(b, h, q, k):
    return (q + b >= k) & (k >= h)


def documents(b, h, q, k):
    return TABLE[q] == TABLE[k]


FUNCTIONS = {f.__name__: f for f in (window, by_element, by_head, by_both, documents)}
MASKS = {
    **{
        name: FromMaskMod.of(function, seq_len=S, batch=2, heads=4)
        for name, function in FUNCTIONS.items()
    },
    "intersection": SlidingWindow(30, 5, seq_len=S) & PrefixLM(20, seq_len=S),
    "union": SlidingWindow(10, 0, seq_len=S) | DilatedSlidingWindow(80, 8, seq_len=S),
    "by head and padded": FromMaskMod.of(by_head, seq_len=S, heads=4)
    & Padded(Causal(seq_len=S), PADDING),
    "padding of a function": Padded(FromMaskMod.of(by_head, seq_len=S, heads=4), PADDING),
    "documents by element": Documents(ELEMENTS, Causal(seq_len=S)),
    "whole documents by element": Documents(ELEMENTS, Full(seq_len=S)),
    "windows in documents by element": Documents(ELEMENTS, SlidingWindow(16, 4, seq_len=S)),
    "dilated in documents": Documents((10, 100, 40), DilatedSlidingWindow(20, 2, seq_len=S)),
    "heads in documents": Documents(ELEMENTS, FromMaskMod.of(by_head, seq_len=S, heads=4)),
    "last of causal": LastQueries(Causal(seq_len=S), 7),
    "last of all": LastQueries(Causal(seq_len=S), S),
    "last token": LastQueries(SlidingWindow(40, 0, seq_len=S), 1),
    "last of global": LastQueries(GlobalLocalSlidingWindow(8, (0, 64), seq_len=S), 33),
    "last of padded": LastQueries(Padded(Causal(seq_len=S), PADDING), 70),
    "last of heads": LastQueries(FromMaskMod.of(by_head, seq_len=S, heads=4), 17),
}


@pytest.mark.parametrize("name", MASKS)
def test_area_keys_and_empty_rows_are_those_of_the_dense_form(name, monkeypatch):
    monkeypatch.setattr("maskbench.masks.evaluation.CHUNK_PAIRS", 4000)
    mask = MASKS[name]
    dense = mask.dense("cpu")
    assert dense.shape == mask.dense_shape
    repeats = 2 // len(dense)
    assert mask.area(2) == repeats * int(dense.sum())
    assert mask.attended_keys(2) == repeats * int(dense.any(2).sum())
    empty = mask.fully_masked_rows("cpu")
    expected = ~dense.any(-1, keepdim=True)
    assert torch.equal(expected, torch.zeros_like(expected) if empty is None else empty | False)


@pytest.mark.parametrize("name", MASKS)
def test_a_key_that_several_query_heads_share_is_counted_once(name):
    mask = MASKS[name]
    seen = mask.dense("cpu").any(2)
    if mask.heads:
        seen = seen[:, 0::2] | seen[:, 1::2]  # heads 0 and 1 share the first key/value head
    assert mask.attended_keys(2, kv_heads=2) == 2 // len(seen) * int(seen.sum())


@pytest.mark.parametrize("block_size", [16, (32, 8), 128])
@pytest.mark.parametrize("name", MASKS)
def test_blocks_are_torchs(name, block_size):
    assert_blocks_equal_torch(MASKS[name], block_size)


@pytest.mark.parametrize("name", ["by_both", "intersection", "last of heads"])
def test_the_dense_form_is_that_of_single_pairs(name, monkeypatch):
    mask = MASKS[name]
    rows = slice(0, 9)
    dense = mask.dense_rows(rows.start, rows.stop, "cpu")
    mod = mask.mask_mod("cpu")
    for place in torch.cartesian_prod(*map(torch.arange, dense.shape)):
        assert bool(dense[tuple(place)]) == bool(mod(*place))


def test_combined_masks_are_the_set_operations():
    first, second = SlidingWindow(30, 5, seq_len=S), PrefixLM(20, seq_len=S)
    dense = [mask.dense("cpu") for mask in (first, second)]
    assert torch.equal((first & second).dense("cpu"), dense[0] & dense[1])
    assert torch.equal((first | second).dense("cpu"), dense[0] | dense[1])


def test_the_last_queries_are_the_last_rows():
    inner = PrefixLM(140, seq_len=S)
    assert torch.equal(LastQueries(inner, 30).dense("cpu"), inner.dense("cpu")[:, :, -30:])


def test_documents_of_each_element_are_apart():
    dense = MASKS["documents by element"].dense("cpu")
    for b, lengths in enumerate(ELEMENTS):
        assert torch.equal(dense[b], Documents(lengths, Causal(seq_len=S)).dense("cpu")[0])
    assert MASKS["documents by element"].packed_lengths(2) == (10, 100, 40, 150)
    assert MASKS["dilated in documents"].packed_lengths(2) == (10, 100, 40) * 2
    with pytest.raises(ValueError, match="batch is 3"):
        MASKS["documents by element"].area(3)


def test_equal_documents_of_all_elements_do_not_differ():
    mask = Documents([[50, 100], (50, 100)], Causal(seq_len=S))
    assert mask == Documents((50, 100), Causal(seq_len=S))
    assert mask.batch is None


def test_what_a_function_depends_on_is_found():
    found = {name: (MASKS[name].batch, MASKS[name].heads) for name in FUNCTIONS}
    assert found == {
        "window": (None, None),
        "by_element": (2, None),
        "by_head": (None, 4),
        "by_both": (2, 4),
        "documents": (None, None),
    }
    assert FromMaskMod.of(by_both, seq_len=S).dense_shape == (1, 1, S, S)


def test_a_function_equals_the_class_of_the_same_meaning():
    mask, same = MASKS["window"], SlidingWindow(20, 0, seq_len=S)
    assert torch.equal(mask.dense("cpu"), same.dense("cpu"))
    assert mask.area(3) == same.area(3)


@pytest.mark.parametrize("name", ["window", "by_head", "intersection", "last of causal"])
def test_masks_can_be_sent_to_another_process(name):
    mask = MASKS[name]
    assert pickle.loads(pickle.dumps(mask)) == mask


@pytest.mark.parametrize("backend", ["dense", "sdpa"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", [n for n in MASKS if "last" not in n])
def test_backends_compute_them(name, backend, backward):
    mask = MASKS[name]
    assert_agrees(backend, mask, checked_inputs(mask, "cpu", heads=(4, 2), backward=backward))


# Each other mask is computed by code that one of these has, or test_last_queries_agree.
COMPILED = (
    *("by_both", "documents", "union", "by head and padded", "padding of a function"),
    *("windows in documents by element", "dilated in documents", "heads in documents"),
    *("last of global", "last of padded", "last of heads"),
)


@pytest.mark.slow  # the C++ compiler takes seconds for each
@pytest.mark.parametrize("name", COMPILED)
def test_flex_computes_them(name):
    assert "flex" in registry.BACKENDS
    mask = MASKS[name]
    assert_agrees("flex", mask, checked_inputs(mask, "cpu", heads=(4, 2)))


def branches(b, h, q, k):
    if q >= k:
        return q >= k
    return q < k


def branches_on_one_value(b, h, q, k):
    return q >= k if q.sum() >= 0 else q < k


def of_the_largest_key(b, h, q, k):
    return q >= k.max()


def of_a_number(b, h, q, k):
    return q >= int(k.sum().item())


REFUSED = {
    "no function": (3, "must be a function"),
    "three arguments": (lambda b, q, k: q >= k, "must take four arguments"),
    "raises": (lambda b, h, q, k: q.no_such_method(), "raises AttributeError when called"),
    "returns numbers": (lambda b, h, q, k: q - k, "returns torch.int32, must return a bool"),
    "returns no tensor": (lambda b, h, q, k: True, "returns bool, must return a bool"),
    "branches": (branches, "raises RuntimeError when called: Boolean value"),
    "cannot be traced": (branches_on_one_value, "cannot be traced by torch.compile"),
    "reduces": (of_the_largest_key, "gives a pair alone another result than among others"),
    "reads a number": (of_a_number, "cannot be called for one pair, as FlexAttention does"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_function_that_is_no_mask_mod_is_refused(case):
    function, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as refused:
        FromMaskMod.of(function, seq_len=8)
    assert "\n" not in str(refused.value)


def test_a_tensor_on_another_device_is_named():
    with pytest.raises(ValueError, match="captures the tensor TABLE on cpu; the run is on meta"):
        FromMaskMod.of(documents, seq_len=S, device="meta")


@pytest.mark.parametrize("seq_len", [0, -1, 2.5, True, None])
def test_a_length_that_is_none_is_refused(seq_len):
    with pytest.raises(ValueError, match="seq_len is"):
        FromMaskMod.of(window, seq_len=seq_len)
