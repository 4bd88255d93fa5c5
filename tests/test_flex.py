"""FlexAttention cannot fall back to eager unseen, and says what it lacks."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import backends
from masks import Full, LocalAttention2D


def bound_flex(n):
    q, k, v = (torch.randn(1, 1, n, 16) for _ in range(3))
    return backends.load("flex")(Full(seq_len=n), q, k, v)


def test_flex_attention_that_is_not_compiled_raises():
    call = bound_flex(32)
    with (
        torch.compiler.set_stance("force_eager"),
        pytest.raises(RuntimeError, match="fell back to eager"),
    ):
        call.forward(*call.inputs)


def test_flex_attention_past_the_recompile_limit_raises():
    """Seen without this: 22 ms became 186 ms, without a word."""
    with torch._dynamo.config.patch(recompile_limit=1):
        call = bound_flex(32)
        call.forward(*call.inputs)
        longer = (torch.randn(1, 1, 64, 16) for _ in range(3))
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            call.forward(*longer)


def test_without_a_compiler_flex_attention_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(backends.Unsupported, match="needs a C\\+\\+ compiler"):
        bound_flex(32)


@pytest.mark.parametrize(("width", "seq_len"), [(16, 256), (20, 300), (1, 32)])
def test_flash_spelling_of_the_2d_mask_is_the_same_mask(width, seq_len, monkeypatch):
    for name in ("flash_attn", "flash_attn.cute"):  # it is not to be run here
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    path = Path(backends.__file__).with_name("flex_flash.py")
    spec = importlib.util.spec_from_file_location("flex_flash_alone", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    mask = LocalAttention2D(width, 3, seq_len=seq_len)
    spelled = module.Unshifted(width, 3, seq_len=seq_len)
    assert torch.equal(spelled.dense("cpu"), mask.dense("cpu"))
