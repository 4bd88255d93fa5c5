"""Shared by the tests of all backends: small masks, inputs, and parametrization.

A newly registered backend or mask is tested without an edit here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product

import pytest
import torch

from maskbench.attention import BoundAttention, Unsupported
from maskbench.backends import registry
from maskbench.masks import (
    BlockCausal,
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    ImageInCausal,
    LocalAttention2D,
    Mask,
    Padded,
    PrefixLM,
    SharedPrefix,
    SinkSlidingWindow,
    SlidingWindow,
)
from maskbench.suite.attention_call import check_attention
from maskbench.suite.workload import CheckedInputs, Inputs, Shape, make_inputs_with_reference
from masks import PATTERNS

N = 300  # not a multiple of the block size, 128
DOCUMENTS = (7, 130, 100, 63)
_SMALL = {
    "full": Full(seq_len=N),
    "causal": Causal(seq_len=N),
    "causal_sliding_window": SlidingWindow(100, 0, seq_len=N),
    "bidirectional_sliding_window": SlidingWindow(60, 70, seq_len=N),
    "bidirectional_dilated_sliding_window": DilatedSlidingWindow(150, 2, seq_len=N),
    "global_local_sliding_window": GlobalLocalSlidingWindow(40, (0, 130, 299), seq_len=N),
    "prefix_lm": PrefixLM(140, seq_len=N),
    "multi_document_bidirectional": Documents(DOCUMENTS, Full(seq_len=N)),
    "multi_document_causal": Documents(DOCUMENTS, Causal(seq_len=N)),
    "multi_document_prefix_lm": Documents(DOCUMENTS, PrefixLM(20, seq_len=N)),
    "standalone_self_attention": LocalAttention2D(20, 5, seq_len=N),
    "causal_padding": Padded(Causal(seq_len=N), torch.arange(N) >= torch.tensor([[300], [171]])),
    "sink_sliding_window": SinkSlidingWindow(60, 5, seq_len=N),
    "document_sliding_window": Documents(DOCUMENTS, SlidingWindow(40, 0, seq_len=N)),
    "image_in_causal": ImageInCausal(((20, 70), (90, 1), (150, 130)), seq_len=N),
    "shared_prefix": SharedPrefix(90, (130, 1, 79)),
    "block_causal": BlockCausal(70, seq_len=N),
}
MASKS: dict[str, Mask] = {
    name: _SMALL[name] if name in _SMALL else pattern(seq_len=256, batch=2, heads=4)
    for name, pattern in PATTERNS.items()
}
# The patterns that `varlen.lowering.lower` must support, with the ids of their formulations.
LOWERED = {
    "full": "full",
    "causal": "causal",
    "causal_sliding_window": "window",
    "bidirectional_sliding_window": "window",
    "bidirectional_dilated_sliding_window": "residue_streams:window",
    "global_local_sliding_window": "global_local_merged",
    "prefix_lm": "prefix_two_calls",
    "multi_document_bidirectional": "varlen:full",
    "multi_document_causal": "varlen:causal",
    "multi_document_prefix_lm": "documents_prefix_two_calls",
    "causal_padding": "unpadded:varlen:causal",
    "sink_sliding_window": "sink_window_merged",
    "document_sliding_window": "varlen:window",
    "image_in_causal": "causal_images_merged",
    "chunked_causal": "varlen:causal",
    "shared_prefix": "shared_prefix_merged",
    "block_causal": "block_queries",
}
DTYPES = ("float32", "float16", "bfloat16")
PHASES = {"forward": False, "backward": True}  # whether gradients are required

# (heads, kv_heads). So few make FlashAttention-2 split the keys, as short lengths and decoding do.
HEADS = (2, 2)
GROUPED_HEADS = (4, 2)


# --- the parameters of a test ---


def is_available(backend: str) -> bool:
    """Whether the backend's library can be imported."""
    try:
        registry.load(backend)
    except registry.BackendUnavailable:
        return False
    return True


def for_each_backend(
    axes: dict[str, Iterable[str]],
    *,
    fast: Collection[str] = (),
    slow: Collection[str] = (),
    compiled: Collection[str] | None = None,
    devices: Collection[str] = ("cpu", "cuda"),
    backends: Collection[str] | None = None,
):
    """Parametrize a test over `axes` and the backends that run on the session's device.

    The module must import `pytest_generate_tests` from here.

    Parameters
    ----------
    axes
        The values of each argument. A case is named by its values, joined by "-".
    fast
        The cases that backends that compile run on a CPU by default. Their other cases are marked
        slow, because the C++ compiler takes 3 s for each.
    slow
        The cases that are marked slow on a CPU for every backend.
    compiled
        The cases that backends that compile run on a CPU at all; None means all. Leave out only
        those that another case proves.
    devices
        The types of device that the test runs on; on others it is not collected.
    backends
        Only these backends; None means all.
    """

    def decorate(test):
        test.backend_cases = (axes, fast, slow, compiled, devices, backends)
        return test

    return decorate


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not hasattr(metafunc.function, "backend_cases"):
        return
    axes, fast, slow, compiled, devices, backends = metafunc.function.backend_cases
    default = "cuda" if torch.cuda.is_available() else "cpu"
    device = metafunc.config.option.device or default
    params = []
    for *values, spec in product(*axes.values(), registry.BACKENDS.values()):
        runs = device in devices and device in spec.devices and is_available(spec.name)
        if not runs or (backends is not None and spec.name not in backends):
            continue
        case = "-".join(values)
        if device == "cpu" and spec.compiles and compiled is not None and case not in compiled:
            continue
        is_slow = case in slow or (spec.compiles and case not in fast)
        marks = [pytest.mark.slow] if is_slow and device == "cpu" else []
        name = f"{case}-{spec.name}" if case else spec.name
        params.append(pytest.param(*values, spec.name, marks=marks, id=name))
    metafunc.parametrize((*axes, "backend"), params)


# --- the body of a test ---


@lru_cache(maxsize=2)  # the backends of one case run one after the other
def checked_inputs(
    mask: Mask,
    device: str,
    dtype: str = "float32",
    heads: tuple[int, int] | None = None,
    backward: bool = False,
    head_dim: int = 64,
    v_head_dim: int | None = None,
) -> CheckedInputs:
    """Inputs for a mask with their reference. `heads` are (heads, kv_heads).

    A mask that differs by head has heads of its own, in groups of the same size.
    """
    q_heads, kv_heads = heads or HEADS
    if mask.heads is not None:
        q_heads, kv_heads = mask.heads, mask.heads * kv_heads // q_heads
    shape = Shape(mask.batch or 2, q_heads, kv_heads, head_dim, v_head_dim)
    return make_inputs_with_reference(mask, shape, dtype, device, backward)


def bind_or_skip(backend: str, mask: Mask, inputs: Inputs) -> BoundAttention:
    """The backend's call; skips the test with the backend's reason."""
    try:
        bind = registry.load(backend)
    except registry.BackendUnavailable as reason:
        pytest.skip(str(reason))
    with skipped_if_unsupported():
        return bind(mask, inputs.q, inputs.k, inputs.v)


def assert_agrees(backend: str, mask: Mask, checked: CheckedInputs) -> None:
    """Check the backend against the reference."""
    call = bind_or_skip(backend, mask, checked.inputs)
    with skipped_if_unsupported():
        comparison, _ = check_attention(call, checked)
    assert comparison.within_tolerance, comparison


@contextmanager
def skipped_if_unsupported() -> Iterator[None]:
    """Skip the test with the backend's reason: a mask_mod may turn out not to compile."""
    try:
        yield
    except Unsupported as reason:
        assert_sentence(reason)
        pytest.skip(str(reason))


def assert_sentence(reason: Exception) -> None:
    """Check that the reason why a backend cannot run is a sentence for the user."""
    text = str(reason)
    assert text == text.strip()
    assert len(text.split()) >= 3, text
    assert "Traceback" not in text
