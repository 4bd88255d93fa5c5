"""Requirements on every registered backend, independent of its library."""

import pytest
import torch

from maskbench.attention import Unsupported
from maskbench.backends import dense, registry
from maskbench.masks import (
    Causal,
    LastQueries,
    Padded,
    PrefixLM,
    SlidingWindow,
)
from tests.unit.conformance import (
    MASKS,
    PHASES,
    assert_sentence,
    for_each_backend,
    is_available,
    pytest_generate_tests,  # noqa: F401
)
from tests.unit.plain_library import EXACT, formula_difference


def random_qkv(mask, device, dtype, backward=False):
    """q, k, v [B, 4, S, 64]."""
    shape = (mask.batch or 2, 4, mask.seq_len, 64)
    return [
        torch.randn(shape, device=device, dtype=dtype).requires_grad_(backward) for _ in range(3)
    ]


@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_backend_loads_or_gives_its_reason(backend):
    spec = registry.BACKENDS[backend]
    assert spec.name == backend
    assert spec.devices
    if is_available(backend):
        assert callable(registry.load(backend))
        return
    with pytest.raises(registry.BackendUnavailable, match="Error: ") as caught:
        registry.load(backend)
    assert_sentence(caught.value)


@pytest.mark.parametrize("fact", ["color", "marker", "plot_order"])
def test_backends_of_the_suite_can_be_told_apart_in_pictures(fact):
    facts = [getattr(spec, fact) for spec in registry.BACKENDS.values()]
    assert len(set(facts)) == len(facts)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_refusals_are_sentences(backend, phase, device):
    try:
        bind = registry.load(backend)
    except registry.BackendUnavailable as reason:
        pytest.skip(str(reason))
    runs_here, refused = device in registry.BACKENDS[backend].devices, []
    for name, mask in MASKS.items():
        for dtype in (torch.float32, torch.float16):
            try:
                bind(mask, *random_qkv(mask, device, dtype, PHASES[phase]))
            except Unsupported as reason:
                assert_sentence(reason)
                refused.append((name, dtype))
    if not runs_here:
        assert len(refused) == 2 * len(MASKS), "the backend runs on a device that it does not name"


@for_each_backend({"name": MASKS}, fast=MASKS)  # nothing is compiled
def test_unpack_inverts_pack(name, backend, device):
    mask = MASKS[name]
    tensor, *rest = random_qkv(mask, device, torch.float16 if device == "cuda" else torch.float32)
    try:
        call = registry.load(backend)(mask, tensor, *rest)
    except Unsupported as reason:
        pytest.skip(str(reason))
    restored = call.unpack(call.pack(tensor))
    if isinstance(mask, Padded):  # layouts may leave padding out
        valid = ~mask.padding.to(device)[:, None, :, None]
        tensor, restored = tensor * valid, restored * valid
    assert torch.equal(restored, tensor)


CPU_BACKENDS_WITH_BIAS = ("dense", "sdpa", "sdpa_math")
LAST_QUERIES = {
    "no_mask": LastQueries(Causal(seq_len=37), 1),
    "no_mask_prefix": LastQueries(PrefixLM(20, seq_len=37), 1),
    "dense_bias": LastQueries(Causal(seq_len=37), 2),
    "dense_bias_window": LastQueries(SlidingWindow(5, 0, seq_len=37), 1),
    "is_causal": LastQueries(Causal(seq_len=37), 37),
}


@pytest.mark.parametrize("backend", CPU_BACKENDS_WITH_BIAS)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("v_dim", [16, 8])
@pytest.mark.parametrize("name", LAST_QUERIES)
def test_last_queries_agree_with_the_formula(name, v_dim, kv_heads, backend):
    mask = LAST_QUERIES[name]
    formulation, error = formula_difference(
        registry.load(backend), mask, kv_heads=kv_heads, v_dim=v_dim
    )
    assert error < EXACT
    assert backend == "dense" or name.startswith(formulation.id)


def test_flash_of_sdpa_refuses_the_last_queries_of_a_causal_mask():
    """torch aligns is_causal at the top left."""
    with pytest.raises(Unsupported, match="takes no mask but is_causal"):
        formula_difference(registry.load("sdpa_flash"), LAST_QUERIES["dense_bias"])


def test_flash_of_sdpa_refuses_another_head_dimension_of_v_on_a_cpu():
    with pytest.raises(Unsupported, match="takes no v with a head dimension of 8 for q and k with"):
        formula_difference(registry.load("sdpa_flash"), Causal(seq_len=37), v_dim=8)


@pytest.mark.parametrize("backend", CPU_BACKENDS_WITH_BIAS)
def test_a_bias_beyond_the_limit_is_refused_before_it_is_allocated(backend, monkeypatch):
    mask = SlidingWindow(5, 0, seq_len=2**20)
    q = torch.empty(1, 1, 1, 8).expand(1, 1, 2**20, 8)
    monkeypatch.setattr(SlidingWindow, "dense", lambda *_: pytest.fail("the bias was allocated"))
    with pytest.raises(Unsupported, match=r"^a dense bias of 4096.0 GiB; the limit is 4.0 GiB$"):
        registry.load(backend)(mask, q, q, q)


def test_heads_count_for_the_size_of_a_bias(monkeypatch):
    mask, q = SlidingWindow(5, 0, seq_len=64), torch.zeros(1, 4, 64, 8)
    monkeypatch.setattr(dense, "CPU_LIMIT", 64 * 64 * 4)
    assert dense.additive_bias(mask, q).shape == (1, 1, 64, 64)
    monkeypatch.setattr(SlidingWindow, "heads", 4)
    with pytest.raises(Unsupported, match="a dense bias of"):
        dense.additive_bias(mask, q)
