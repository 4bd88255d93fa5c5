"""Requirements on every registered backend, independent of its library."""

import pytest
import torch

from maskbench.attention import Unsupported
from maskbench.backends import registry
from maskbench.masks import Padded
from tests.unit.conformance import (
    MASKS,
    PHASES,
    assert_sentence,
    for_each_backend,
    is_available,
    pytest_generate_tests,  # noqa: F401
)


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
