"""xFormers' interface in plain torch, for test_library_calls.py."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from maskbench.varlen.ops import CAUSAL, FULL
from tests.unit.plain_library import PLAIN, Attention


@dataclass
class Bias:
    """The base of the fakes of xFormers' attention biases."""

    window: tuple
    lengths: tuple | None = None

    @classmethod
    def from_seqlens(cls, q_lengths, k_lengths, device):
        return cls(FULL, (q_lengths, k_lengths))

    def make_causal(self):
        assert self.lengths[0] == self.lengths[1]
        return BlockDiagonalCausalMask(CAUSAL, self.lengths)

    def make_causal_from_bottomright(self):
        return BlockDiagonalCausalFromBottomRightMask(CAUSAL, self.lengths)

    def make_local_attention(self, size):
        assert self.lengths[0] == self.lengths[1]
        return BlockDiagonalCausalLocalAttentionMask((size - 1, 0), self.lengths)

    def make_local_attention_from_bottomright(self, size):
        local = BlockDiagonalCausalLocalAttentionFromBottomRightMask
        return local((size - 1, 0), self.lengths)


class BlockDiagonalMask(Bias):
    pass


class BlockDiagonalCausalMask(Bias):
    pass


class BlockDiagonalCausalFromBottomRightMask(Bias):
    pass


class BlockDiagonalCausalLocalAttentionMask(Bias):
    pass


class BlockDiagonalCausalLocalAttentionFromBottomRightMask(Bias):
    pass


class LowerTriangularMask(Bias):
    def __init__(self):
        super().__init__(CAUSAL)


class LowerTriangularFromBottomRightMask(LowerTriangularMask):
    pass


class LocalAttentionFromBottomRightMask(Bias):
    def __init__(self, left, right):
        super().__init__((left, right))


class DenseBias:
    """The op of a dense bias [B, heads, Q, S], or [B, kv_heads, group, Q, S]."""

    lengths = None

    def __init__(self, bias):
        assert bias.stride(-2) % 8 == 0, "rows are aligned"
        self.bias = bias.flatten(1, -3)

    def attention(self, q, k, v):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        assert self.bias.shape == (*q.shape[:3], k.shape[2])
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, self.bias).transpose(1, 2)


def xformers():
    """xFormers 0.0.35: packed sequences are a batch of one, groups a dimension, keys expanded."""

    def kernel(q, k, bias):
        if bias is None or bias.lengths is None:
            return PLAIN.batched(q.shape[1], k.shape[1], bias.window if bias else FULL)
        assert len(q) == 1
        return PLAIN.packed(*bias.lengths, bias.window)

    def plain(q, k, v, bias):
        """The operands without the group dimension, and without the batch if packed."""
        pack, group = bias is not None and bias.lengths is not None, q.dim() == 5
        if group:
            q, k, v = q.flatten(2, 3), k[:, :, :, 0], v[:, :, :, 0]
        return [t[0] if pack else t for t in (q, k, v)]

    def attention(q, k, v, attn_bias):
        if isinstance(attn_bias, torch.Tensor):
            dense = DenseBias(attn_bias)
            return dense.attention(*plain(q, k, v, None)).reshape(*q.shape[:-1], v.shape[-1])
        operands = plain(q, k, v, attn_bias)
        out = Attention.apply(*operands, kernel(q, k, attn_bias))[0]
        return out.reshape(*q.shape[:-1], v.shape[-1])

    def forward(q, k, v, attn_bias):
        out, lse = Attention.apply(*plain(q, k, v, attn_bias), kernel(q, k, attn_bias))
        lse = lse if lse.dim() == 3 else lse[None]
        return out.reshape(q.shape), lse.unflatten(1, q.shape[2:4]) if q.dim() == 5 else lse

    def backward(dout, out, lse, q, k, v, attn_bias):
        assert q.dim() == 4, "grouped queries have no backward"
        run = kernel(q, k, attn_bias)
        if attn_bias is None or attn_bias.lengths is None:
            return run.backward(dout, q, k, v, out, lse)
        return tuple(g[None] for g in run.backward(*(t[0] for t in (dout, q, k, v, out, lse))))

    biases = (
        BlockDiagonalMask,
        LowerTriangularMask,
        LowerTriangularFromBottomRightMask,
        LocalAttentionFromBottomRightMask,
    )
    return {
        "xformers": {},
        "xformers.ops": {"memory_efficient_attention": attention},
        "xformers.ops.fmha": {
            "memory_efficient_attention_backward": backward,
            "memory_efficient_attention_forward_requires_grad": forward,
        },
        "xformers.ops.fmha.attn_bias": {bias.__name__: bias for bias in biases},
    }
