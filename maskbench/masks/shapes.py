"""The check that tensors are of a mask: `require_shapes`."""

from __future__ import annotations

from torch import Tensor

from maskbench.masks.base import Mask


def require_shapes(mask: Mask, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError if the tensors are not of the mask.

    A mask of another length or batch would run in many libraries, with a wrong result.

    Parameters
    ----------
    q
        [B, heads, Q, head_dim].
    k
        [B, kv_heads, S, head_dim]. `kv_heads` divides `heads`.
    v
        [B, kv_heads, S, v_head_dim].
    """
    shapes = {name: list(t.shape) for name, t in zip("qkv", (q, k, v), strict=True)}
    given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if any(len(shape) != 4 for shape in shapes.values()):
        raise ValueError(f"{given}: each must be [batch, heads, seq_len, head_dim]")
    if any(shapes[name][2] != mask.seq_len for name in "kv"):
        raise ValueError(f"{given}: the mask is for a seq_len of {mask.seq_len}")
    if shapes["q"][2] != mask.q_len:
        raise ValueError(f"{given}: the mask is for {mask.q_len} queries")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(f"{given}: must have the same batch")
    if mask.batch not in (None, shapes["q"][0]):
        raise ValueError(f"{given}: the mask is for a batch of {mask.batch}")
    if mask.heads not in (None, shapes["q"][1]):
        raise ValueError(f"{given}: the mask is for {mask.heads} heads")
    if shapes["k"][1] != shapes["v"][1] or shapes["q"][1] % shapes["k"][1]:
        raise ValueError(f"{given}: the heads of k and v must be equal and divide those of q")
    if shapes["q"][3] != shapes["k"][3]:
        raise ValueError(f"{given}: q and k must have the same head_dim")
