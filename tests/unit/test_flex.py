"""FlexAttention cannot fall back to eager silently, and names a missing compiler."""

import pytest
import torch

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.masks import Full


def bound_flex(n):
    q, k, v = (torch.randn(1, 1, n, 16) for _ in range(3))
    return registry.load("flex")(Full(seq_len=n), q, k, v)


def test_flex_attention_that_is_not_compiled_raises():
    call = bound_flex(32)
    with (
        torch.compiler.set_stance("force_eager"),
        pytest.raises(RuntimeError, match="fell back to eager"),
    ):
        call.forward(*call.inputs)


def test_flex_attention_past_the_recompile_limit_raises():
    """Without this check, torch falls back to eager silently: a call of 22 ms took 186 ms."""
    with torch._dynamo.config.patch(recompile_limit=1):
        call = bound_flex(32)
        call.forward(*call.inputs)
        longer = (torch.randn(1, 1, 64, 16) for _ in range(3))
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            call.forward(*longer)


def test_a_missing_compiler_is_the_reason(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Unsupported, match="needs a C\\+\\+ compiler"):
        bound_flex(32)
