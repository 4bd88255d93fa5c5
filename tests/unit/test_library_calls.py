"""The modules of the CUDA libraries, run on fakes with the same interface in plain torch.

This checks on any machine how each module calls its library: the order of arguments, windows,
lengths, layouts and return values. The libraries themselves run on CUDA, in test_correctness.py.
"""

from functools import partial

import pytest
import torch

from maskbench.attention import Unsupported
from maskbench.legacy_formulations import legacy_formulation
from maskbench.masks import (
    BlockCausal,
    BlockDiffusion,
    Causal,
    DilatedSlidingWindow,
    Documents,
    FromMaskMod,
    GlobalLocalSlidingWindow,
    LastQueries,
    LocalAttention2D,
    Neighborhood,
    PrefixLM,
    PrefixTree,
    SharedPrefix,
    SlidingWindow,
)
from tests.unit.conformance import LOWERED, MASKS, assert_sentence
from tests.unit.fake_libraries import RUN_FAKES
from tests.unit.plain_library import EXACT, difference, formula, formula_difference

LOWERED_MASKS = [name for name in MASKS if name != "standalone_self_attention"]


def assert_exact_or_reason(bind, mask, **options):
    """Check the result. Only masks that are not in `conformance.LOWERED` may be unsupported."""
    try:
        formulation, error = difference(bind, mask, **options)
    except Unsupported as reason:
        assert_sentence(reason)
        if mask in [MASKS[name] for name in LOWERED]:
            raise
    else:
        assert error < EXACT, formulation
        # runs that have only the text are older than the forms whose text is unknown
        assert legacy_formulation(formulation.text) in (formulation.id, f"text:{formulation.text}")


@pytest.mark.parametrize("library", RUN_FAKES)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", LOWERED_MASKS)
def test_library_is_called_by_its_interface(name, kv_heads, library, bind):
    if library == "xformers" and kv_heads != 4:
        with pytest.raises(Unsupported, match="grouped queries in the forward only"):
            difference(bind, MASKS[name], kv_heads=kv_heads)
        return
    assert_exact_or_reason(bind, MASKS[name], kv_heads=kv_heads)


@pytest.mark.parametrize("library", ["xformers"])
@pytest.mark.parametrize("name", LOWERED_MASKS)
def test_xformers_forward_of_grouped_queries(name, library, bind):
    assert_exact_or_reason(bind, MASKS[name], backward=False)


@pytest.mark.parametrize("library", ["flash_attn_4"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    "mask",
    [
        LocalAttention2D(16, 3, seq_len=300),
        LocalAttention2D(20, 5, seq_len=300),
        GlobalLocalSlidingWindow(40, (0, 128, 256), seq_len=300),
        MASKS["multi_document_prefix_lm"],
        MASKS["prefix_lm"],
    ],
    ids=["bits", "division", "evenly_global", "documents", "prefix"],
)
def test_native_mask_mods_compute_the_masks(mask, backward, library, bind):
    formulation, error = difference(bind, mask, backward=backward)
    merged = mask == MASKS["prefix_lm"] and not backward
    assert formulation.id == ("prefix_two_calls" if merged else "mask_mod:128x128")
    text = "2 calls" if merged else "mask_mod + block sparsity 128x128"
    assert formulation.text.startswith(text)
    assert legacy_formulation(formulation.text) == formulation.id
    assert error < EXACT, formulation


@pytest.mark.parametrize("library", ["flash_attn_4"])
@pytest.mark.parametrize(
    "build",
    [
        partial(GlobalLocalSlidingWindow, 256, (0, 512, 1024)),
        partial(BlockCausal, 2048),
        lambda seq_len: SharedPrefix(seq_len // 2, (seq_len // 2,)),
    ],
    ids=["global_local", "block_causal", "shared_prefix"],
)
@pytest.mark.parametrize(
    ("seq_len", "head_dim", "training", "native"),
    [
        (8192, 64, False, False),
        (8192, 64, True, True),
        (4096, 64, False, True),
        (8192, 128, False, True),
    ],
)
def test_calls_are_composed_where_that_is_faster(
    build, seq_len, head_dim, training, native, library, module
):
    mask = build(seq_len=seq_len)
    q = torch.zeros(1, 1, seq_len, head_dim, requires_grad=training)
    assert (module.native_mask_mod(mask, q) is not None) is native


@pytest.mark.parametrize("library", ["flex_flash"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("width", "seq_len"), [(16, 256), (20, 300), (1, 32)])
def test_mask_mod_without_shifts_is_the_same_mask(width, seq_len, training, library, module):
    variant = module.LocalAttention2DNoShift(width, 3, training, seq_len=seq_len)
    mask = LocalAttention2D(width, 3, seq_len=seq_len)
    assert torch.equal(variant.dense("cpu"), mask.dense("cpu"))


@pytest.mark.parametrize("library", ["flex_flash"])
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "x\nUNSUPPORTED CUTEDSL OPERATION: 'maximum'\ny",
            "cannot compile 'maximum' in the mask_mod",
        ),
        ("Expected TensorSSA, but got <class 'Vector'>", "CuTe has no vector shift"),
        ("error: Unsupported DSL type: vector<1xi32>", "CuTe has no vector shift"),
        ("CUDA out of memory", None),
    ],
)
def test_a_mask_mod_that_cute_cannot_compile_has_a_reason(message, reason, library, module):
    found = module.uncompilable_operation(RuntimeError(message))
    assert found is None if reason is None else reason in found


# --- general forms ---

N = 150  # not a multiple of a block, of 32 or of 8
BITS = torch.rand(2, 4, N, N, generator=torch.Generator().manual_seed(0)) < 0.3
BITS[..., 31] = BITS[..., 63] = True  # the sign bit of a word
GENERAL = {
    "function": FromMaskMod(lambda b, h, q, k: (q >= k) & (q // 7 != k // 9 + 3), seq_len=N),
    "both": PrefixLM(40, seq_len=N) & SlidingWindow(50, 60, seq_len=N),
    "last_2d": LastQueries(LocalAttention2D(20, 3, seq_len=N), 47),
    "last_documents": LastQueries(Documents((70, 80), PrefixLM(20, seq_len=N)), 101),
    "by_element_and_head": FromMaskMod(lambda b, h, q, k: BITS[b, h, q, k], 2, 4, seq_len=N),
    "by_element": FromMaskMod(lambda b, h, q, k: BITS[b, 0, q, k], 2, seq_len=N),
    "by_head": FromMaskMod(lambda b, h, q, k: BITS[0, h, q, k], None, 4, seq_len=N),
    "last_by_head": LastQueries(
        FromMaskMod(lambda b, h, q, k: BITS[0, h, q, k], None, 4, seq_len=N), 33
    ),
    "diffusion": BlockDiffusion(16, seq_len=N),
    "neighborhood": Neighborhood((10, 15), (3, 2)),
    "last_neighborhood": LastQueries(Neighborhood((10, 15), (3, 2)), 40),
    "tree": PrefixTree((-1, 0, 0, -1), (70, 40, 30, 10)),
    "dilated": DilatedSlidingWindow(60, 7, seq_len=N),  # 7 does not divide N
}
NATIVE_IDS = dict.fromkeys(("function", "both", "last_2d", "dilated"), "mask_mod:128x128")
NATIVE_IDS |= dict.fromkeys(("diffusion", "neighborhood", "last_neighborhood"), "mask_mod:128x128")
NATIVE_IDS["last_documents"] = "key_range:128x128"


@pytest.mark.parametrize("library", ["flash_attn_4", "xformers", "cudnn"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("v_dim", [16, 8])
@pytest.mark.parametrize("name", GENERAL)
def test_general_forms_compute_any_mask(name, v_dim, kv_heads, library, bind):
    shape = {"kv_heads": kv_heads, "v_dim": v_dim}
    # xFormers has no gradients of grouped queries, flash-attn-4 only if v has q's head dimension
    backward = kv_heads == 4 or library == "cudnn" or (library == "flash_attn_4" and v_dim == 16)
    formulation, error = formula_difference(bind, GENERAL[name], backward=backward, **shape)
    assert error < EXACT
    native = NATIVE_IDS.get(name, "bit_table:128x128")
    assert formulation.id == (native if library == "flash_attn_4" else "dense_bias")


@pytest.mark.parametrize("library", ["flash_attn_4"])
def test_own_mask_mods_are_compiled_once_for_equal_masks(library, module):
    def cute_hash(mask):
        native = module.general_mask_mod(mask, torch.device("cpu"))
        return native.mask_mod.__cute_hash__

    def last(inner):
        return LastQueries(inner, 10)

    assert cute_hash(last(Causal(seq_len=N))) == cute_hash(last(Causal(seq_len=N)))
    assert cute_hash(last(Causal(seq_len=N))) != cute_hash(last(Causal(seq_len=N + 1)))


@pytest.mark.parametrize("library", ["flash_attn_4"])
def test_a_large_table_of_bits_is_refused(library, bind):
    mask = FromMaskMod(lambda b, h, q, k: BITS[b, h, q, k], seq_len=2**18)
    q = torch.empty(1).expand(1, 1, 2**18, 16)
    with pytest.raises(Unsupported, match=r"a table of bits of 8.0 GiB; the limit is 1 GiB"):
        bind(mask, q, q, q)


@pytest.mark.parametrize("library", RUN_FAKES)
@pytest.mark.parametrize("v_dim", [8, 24, 21])
def test_head_dimensions_of_v(v_dim, library, bind):
    mask = Documents((70, 80), Causal(seq_len=N))
    if library in ("flash_attn", "torch_varlen"):
        with pytest.raises(Unsupported, match=f"takes no v with a head dimension of {v_dim}"):
            formula_difference(bind, mask, v_dim=v_dim)
    elif library == "flash_attn_4" and v_dim == 21:
        with pytest.raises(Unsupported, match=r"FlashAttention-4: \(.*\)=\(16, 21\) is not"):
            formula_difference(bind, mask, v_dim=v_dim)
    elif library == "cudnn" and v_dim == 21:
        with pytest.raises(Unsupported, match=r"^cuDNN 9.19.0 refuses: hidden_dim should be multi"):
            formula_difference(bind, mask, v_dim=v_dim)
    else:
        formulation, error = formula_difference(bind, mask, kv_heads=4, v_dim=v_dim)
        assert formulation.id == "varlen:causal"
        assert error < EXACT


@pytest.mark.parametrize("library", ["flash_attn_4"])
def test_gradients_of_grouped_queries_need_one_head_dimension(library, bind):
    mask = Causal(seq_len=N)
    with pytest.raises(Unsupported, match="backward of grouped queries takes no v with"):
        formula_difference(bind, mask, kv_heads=2, v_dim=8)
    assert formula_difference(bind, mask, kv_heads=2, v_dim=8, backward=False)[1] < EXACT


@pytest.mark.parametrize("library", ["flash_attn_4"])
@pytest.mark.parametrize(("head_dim", "size"), [(128, "128x128"), (192, "128x96"), (256, "128x64")])
def test_blocks_fit_the_tiles_of_a_head_dimension(head_dim, size, library, bind):
    q = torch.randn(1, 2, N, head_dim, dtype=torch.float64)
    call = bind(GENERAL["both"], q, q, q)
    assert call.formulation.id == f"mask_mod:{size}"
    difference = call.unpack(call.forward(*call.inputs)) - formula(GENERAL["both"], q, q, q)
    assert difference.abs().max() < EXACT


@pytest.mark.parametrize("library", ["xformers"])
@pytest.mark.parametrize("mask", [SlidingWindow(9, 0, seq_len=N), PrefixLM(40, seq_len=N)])
def test_xformers_runs_in_cutlass_where_v_differs(mask, library, bind):
    formulation, error = formula_difference(bind, mask, kv_heads=4, v_dim=8)
    assert formulation.id == "dense_bias"
    assert error < EXACT


@pytest.mark.parametrize("library", ["xformers"])
@pytest.mark.parametrize("queries", [N, 110, 1])
@pytest.mark.parametrize(("right", "form"), [(0, "varlen:window"), (3, "dense_bias")])
def test_windows_over_packed_sequences_in_xformers(right, form, queries, library, bind):
    if queries == 1:  # a window of any kind over the last document alone
        form = "last_document:window"
    mask = LastQueries(Documents((70, 80), SlidingWindow(9, right, seq_len=N)), queries)
    formulation, error = formula_difference(bind, mask, kv_heads=4)
    assert formulation.id == form
    assert error < EXACT
