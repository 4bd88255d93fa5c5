"""The catalogue: the attention masks that the suite measures, by name.

A mask says which keys each query may attend to. To add one, add a line to `PATTERNS`. If no class
fits, write one first: `maskbench/masks/base.py` says which methods it must define.

    mask = PATTERNS["causal"](seq_len=4096, batch=8)
    mask.mask_mod("cuda")    # FlexAttention's (b, h, q_idx, kv_idx) -> bool
    mask.dense("cuda")       # bool [1 or B, 1 or H, S, S], True = may attend
    mask.block_mask("cuda")  # FlexAttention's BlockMask
    mask.area(8)             # number of attended pairs over 8 batch elements
    PATTERNS["causal_sliding_window"].parameters      # {"left": 256}
    PATTERNS["causal_sliding_window"](seq_len=4096, left=1023)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maskbench.masks import (
    BlockCausal,
    BlockDiffusion,
    Causal,
    DilatedSlidingWindow,
    Full,
    GlobalLocalSlidingWindow,
    LocalAttention2D,
    Mask,
    PrefixLM,
    SinkSlidingWindow,
    SlidingWindow,
    builders,
)

__all__ = ["PATTERNS", "Mask", "MaskFamily"]


@dataclass(frozen=True)
class MaskFamily:
    """A mask for every sequence length, and a small example of it for plots and tests.

    Parameters
    ----------
    build
        Called as build(seq_len, batch, heads, **parameters). Returns the mask. Only masks that
        differ by batch element, such as padding, need `batch`; `heads` is the same for heads.
        Arguments after the first three are the mask's parameters, and have defaults.
    example
        A mask of the same kind with 32 to 64 tokens.
    description
        One line: when query q sees key k.
    source
        The URL of the paper or code that defines the mask.
    """

    build: Callable[..., Mask]
    example: Mask
    description: str = ""
    source: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """The name and the default of each parameter of the mask."""
        parameters = list(inspect.signature(self.build).parameters.values())[3:]
        return {parameter.name: parameter.default for parameter in parameters}

    @property
    def name(self) -> str:
        """The name in PATTERNS."""
        return next((name for name, family in PATTERNS.items() if family is self), "the mask")

    def __call__(self, *, seq_len: int, batch: int = 1, heads: int = 1, **parameters: Any) -> Mask:
        """Return the mask for `seq_len` tokens, `batch` elements and `heads` query heads.

        Raises
        ------
        ValueError
            If `seq_len`, `batch` or `heads` is not a whole number from 1, if the mask has no such
            parameter, if a parameter is out of range, or if `seq_len` is too short for the mask.
        """
        given = {"seq_len": seq_len, "batch": batch, "heads": heads}
        sizes = [builders.require_int(name, value, 1) for name, value in given.items()]
        known = self.parameters
        for parameter in parameters:
            if parameter not in known:
                raise ValueError(
                    f"{self.name} has no parameter {parameter}. It has: "
                    f"{', '.join(known) or 'no parameters'}"
                )
        return self.build(*sizes, **parameters)


def _global_tokens(n: int) -> tuple[int, ...]:
    """Tokens 0, 512 and 1024, as far as the sequence has them."""
    return tuple(t for t in (0, 512, 1024) if t < n)


LONGFORMER = "https://arxiv.org/abs/2004.05150"
PACKING = "https://arxiv.org/abs/2107.02027"
NATTEN = "https://github.com/SHI-Labs/NATTEN"
TRANSFORMERS = "https://github.com/huggingface/transformers/blob/main/src/transformers/models"

# Window sizes count the tokens on one side: query q itself is always included. n is the number of
# tokens, b the batch size and h the number of heads. Each entry is built from (n, b, h) and the
# parameters, and has an example, a description and a source.
PATTERNS: dict[str, MaskFamily] = {
    "full": MaskFamily(
        lambda n, b, h: Full(seq_len=n),
        Full(seq_len=32),
        "always",
        "https://arxiv.org/abs/1706.03762",
    ),
    "causal": MaskFamily(
        lambda n, b, h: Causal(seq_len=n),
        Causal(seq_len=32),
        "q >= k",
        "https://arxiv.org/abs/1706.03762",
    ),
    "causal_sliding_window": MaskFamily(
        lambda n, b, h, left=256: SlidingWindow(left, 0, seq_len=n),
        SlidingWindow(4, 0, seq_len=32),
        "0 <= q - k <= left",
        "https://arxiv.org/abs/2310.06825",
    ),
    "bidirectional_sliding_window": MaskFamily(
        lambda n, b, h, left=256, right=256: SlidingWindow(left, right, seq_len=n),
        SlidingWindow(4, 4, seq_len=32),
        "-right <= q - k <= left",
        LONGFORMER,
    ),
    "bidirectional_dilated_sliding_window": MaskFamily(
        lambda n, b, h, window=512, dilation=2: DilatedSlidingWindow(window, dilation, seq_len=n),
        DilatedSlidingWindow(8, 2, seq_len=32),
        "abs(q - k) <= window, and q - k is a multiple of dilation",
        LONGFORMER,
    ),
    "global_local_sliding_window": MaskFamily(
        lambda n, b, h, window=256, tokens=None: GlobalLocalSlidingWindow(
            window, _global_tokens(n) if tokens is None else tokens, seq_len=n
        ),
        GlobalLocalSlidingWindow(4, (0, 8, 16), seq_len=32),
        "abs(q - k) <= window, or q or k is one of tokens (0, 512, 1024)",
        LONGFORMER,
    ),
    "prefix_lm": MaskFamily(
        lambda n, b, h, prefix=None: PrefixLM(n // 2 if prefix is None else prefix, seq_len=n),
        PrefixLM(16, seq_len=32),
        "q >= k or k < prefix (S/2)",
        "https://arxiv.org/abs/1910.10683",
    ),
    "multi_document_bidirectional": MaskFamily(
        lambda n, b, h, documents=None: builders.packed(Full(seq_len=n), documents),
        builders.packed(Full(seq_len=32)),
        "same document; documents of S/8, S/8, S/4, S/4, S/4",
        PACKING,
    ),
    "multi_document_causal": MaskFamily(
        lambda n, b, h, documents=None: builders.packed(Causal(seq_len=n), documents),
        builders.packed(Causal(seq_len=32)),
        "same document and q >= k; documents of S/8, S/8, S/4, S/4, S/4",
        PACKING,
    ),
    "multi_document_prefix_lm": MaskFamily(
        lambda n, b, h, documents=None, prefix=None: builders.packed(
            PrefixLM(n // 16 if prefix is None else prefix, seq_len=n), documents
        ),
        builders.packed(PrefixLM(2, seq_len=32)),
        "same document and (q >= k, or k is among its document's first prefix (S/16) tokens)",
        PACKING,
    ),
    "standalone_self_attention": MaskFamily(
        lambda n, b, h, radius=8, width=None: LocalAttention2D(
            builders.image_width(n) if width is None else width, radius, seq_len=n
        ),
        LocalAttention2D(8, 2, seq_len=64),
        "pixels row by row: rows and columns are each at most radius apart",
        "https://arxiv.org/abs/1906.05909",
    ),
    "causal_padding": MaskFamily(
        lambda n, b, h: builders.causal_padding(n, b),
        builders.causal_padding(32, 1),
        "q >= k and neither is padding; S/2 to S tokens are valid, padding is at the end",
        f"{TRANSFORMERS}/llama/modeling_llama.py",
    ),
    "sink_sliding_window": MaskFamily(
        lambda n, b, h, left=1023, sinks=4: SinkSlidingWindow(left, sinks, seq_len=n),
        SinkSlidingWindow(6, 2, seq_len=32),
        "q >= k and (q - k <= left or k < sinks)",
        "https://arxiv.org/abs/2309.17453",
    ),
    "document_sliding_window": MaskFamily(
        lambda n, b, h, left=1023, documents=None: builders.packed(
            SlidingWindow(left, 0, seq_len=n), documents
        ),
        builders.packed(SlidingWindow(4, 0, seq_len=32)),
        "same document and 0 <= q - k <= left; documents of S/8, S/8, S/4, S/4, S/4",
        PACKING,
    ),
    "image_in_causal": MaskFamily(
        lambda n, b, h, length=256: builders.image_in_causal(n, length),
        builders.image_in_causal(32, 6),
        "q >= k, or same image; text and images of length tokens alternate, text first",
        f"{TRANSFORMERS}/gemma3/modeling_gemma3.py",
    ),
    "chunked_causal": MaskFamily(
        lambda n, b, h, chunk=None: builders.chunked_causal(n, chunk),
        builders.chunked_causal(32),
        "q >= k and q // chunk == k // chunk (S/4)",
        f"{TRANSFORMERS}/llama4/modeling_llama4.py",
    ),
    "shared_prefix": MaskFamily(
        lambda n, b, h, prefix=None, responses=6: builders.shared_prefix(n, prefix, responses),
        builders.shared_prefix(32),
        "k < prefix (S/4), or same response and q >= k; responses of equal length",
        "https://arxiv.org/abs/2402.05099",
    ),
    "prefix_tree": MaskFamily(
        lambda n, b, h: builders.prefix_tree(n),
        builders.prefix_tree(32),
        "k is q or an ancestor of q in a tree of 9 spans of S/16 to S/4 tokens",
        "https://arxiv.org/abs/2305.09781",
    ),
    "block_diffusion": MaskFamily(
        lambda n, b, h, block=32: BlockDiffusion(block, seq_len=n),
        BlockDiffusion(4, seq_len=32),
        "same half and same block, or k is clean and in a block before q's; S/2 noised, S/2 clean",
        "https://arxiv.org/abs/2503.09573",
    ),
    "block_causal": MaskFamily(
        lambda n, b, h, block=None: BlockCausal(
            min(2048, builders.quarter(n)) if block is None else block, seq_len=n
        ),
        BlockCausal(8, seq_len=32),
        "q // block >= k // block (2048; S/4 for S < 8192)",
        "https://arxiv.org/abs/2412.07772",
    ),
    "neighborhood_2d": MaskFamily(
        lambda n, b, h, radius=8, shape=None: builders.neighborhood(n, 2, radius, shape),
        builders.neighborhood(64, 2, 2, (8, 8)),
        "an image: in a window of radius around q, which is shifted inward at the border",
        NATTEN,
    ),
    "neighborhood_3d": MaskFamily(
        lambda n, b, h, radius=4, shape=None: builders.neighborhood(n, 3, radius, shape),
        builders.neighborhood(64, 3, 1, (4, 4, 4)),
        "a video: in a window of radius around q, which is shifted inward at the border",
        NATTEN,
    ),
    "block_sparse": MaskFamily(
        lambda n, b, h, block=128, top_k=None: builders.block_sparse(n, b, h, block, top_k),
        builders.block_sparse(32, 1, 2, 4, 3),
        "blocks[b, h, q // block, k // block]: random, top_k (S/8) for a query, and the diagonal",
        "https://arxiv.org/abs/2502.11089",
    ),
}
