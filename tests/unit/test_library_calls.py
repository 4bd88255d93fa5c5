"""The modules of the CUDA libraries, run on fakes with the same interface in plain torch.

This checks on any machine how each module calls its library: the order of arguments, windows,
lengths, layouts and return values. The libraries themselves run on CUDA, in test_correctness.py.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.legacy_formulations import legacy_formulation
from maskbench.masks import GlobalLocalSlidingWindow, LocalAttention2D
from tests.unit.conformance import LOWERED, MASKS, assert_sentence
from tests.unit.fake_libraries import PACKAGES, RUN_FAKES, aten_backward
from tests.unit.plain_library import EXACT, difference


@pytest.fixture
def module(library, monkeypatch, tmp_path):
    """The library's module, executed anew with the fakes in place of its packages."""
    for name, members in PACKAGES[library]().items():
        fake = ModuleType(name)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, name, fake)
    if library == "xformers":
        (tmp_path / "_C.so").touch()
        sys.modules["xformers"].__file__ = str(tmp_path / "__init__.py")
        sys.modules["xformers"].ops = sys.modules["xformers.ops"]
        monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", aten_backward)
    monkeypatch.setattr("maskbench.varlen.ops.require_cuda_half", lambda library, q: None)
    path = Path(registry.__file__).with_name(f"{library}.py")
    spec = importlib.util.spec_from_file_location(f"{library}_alone", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bind(module, library):
    return module.BACKENDS[library]


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
        assert legacy_formulation(formulation.text) == formulation.id


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
    ("seq_len", "head_dim", "training", "native"),
    [
        (8192, 64, False, False),
        (8192, 64, True, True),
        (4096, 64, False, True),
        (8192, 128, False, True),
    ],
)
def test_global_local_is_merged_where_that_is_faster(
    seq_len, head_dim, training, native, library, module
):
    mask = GlobalLocalSlidingWindow(256, (0, 512, 1024), seq_len=seq_len)
    q = torch.zeros(1, 1, seq_len, head_dim, requires_grad=training)
    assert (module.native_mask_mod(mask, q) is not None) is native


@pytest.mark.parametrize("library", ["flex_flash"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("width", "seq_len"), [(16, 256), (20, 300), (1, 32)])
def test_mask_mod_without_shifts_is_the_same_mask(width, seq_len, training, library, module):
    variant = module.LocalAttention2DNoShift(width, 3, training, seq_len=seq_len)
    mask = LocalAttention2D(width, 3, seq_len=seq_len)
    assert torch.equal(variant.dense("cpu"), mask.dense("cpu"))
