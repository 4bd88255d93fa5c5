"""The attention shapes and masks of public models."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """The self-attention of one model, as its public configuration gives it.

    Only the mask is described. Other changes of the scores are not part of a mask: the attention
    sinks of gpt-oss are one learned logit per head, and Gemma 2 caps its logits.

    Parameters
    ----------
    heads, kv_heads
        Query heads, and key/value heads, which divide them.
    head_dim
        Dimension of a query or key of one head.
    v_head_dim
        Dimension of a value of one head. None if it is `head_dim`.
    dtype
        Name of the torch dtype that attention is computed in.
    masks
        The masks of the model as `--masks` takes them. Each layer uses one of them. Blocks, chunks
        and windows have the model's sizes, in tokens. They change nothing in a sequence that is not
        longer than they are.
    source
        URL of the public configuration.
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int | None
    dtype: str
    masks: tuple[str, ...]
    source: str


_TRANSFORMERS = "https://github.com/huggingface/transformers/blob/main/src/transformers"
_LLAMA = (
    "https://github.com/meta-llama/llama-models/blob/"
    "084b88e939e954d2851ee28f96398ca54aa8f8f9/models/sku_list.py"
)

# `left` does not count the query itself, so a window of W keys that includes the query is
# left = W - 1. The sliding_window of transformers is such a W: `kv_idx > q_idx - sliding_window`
# (masking_utils.py, sliding_window_overlay).
MODELS: dict[str, ModelShape] = {
    "llama-3.1-8b": ModelShape(32, 8, 128, None, "bfloat16", ("causal",), _LLAMA),
    "llama-3.1-70b": ModelShape(64, 8, 128, None, "bfloat16", ("causal",), _LLAMA),
    # Three of four layers are chunked. The others have no position embedding and see all tokens.
    "llama-4-scout": ModelShape(
        heads=40,
        kv_heads=8,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal", "chunked_causal(chunk=8192)"),
        source=f"{_TRANSFORMERS}/models/llama4/configuration_llama4.py",
    ),
    # W = 128. gpt-oss's own code masks the same keys: those up to q - W (gpt_oss/torch/model.py).
    "gpt-oss-20b": ModelShape(
        heads=64,
        kv_heads=8,
        head_dim=64,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal", "causal_sliding_window(left=127)"),
        source="https://huggingface.co/openai/gpt-oss-20b/blob/main/config.json",
    ),
    "gpt-oss-120b": ModelShape(
        heads=64,
        kv_heads=8,
        head_dim=64,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal", "causal_sliding_window(left=127)"),
        source=f"{_TRANSFORMERS}/models/gpt_oss/configuration_gpt_oss.py",
    ),
    # W = 4096. Google's code keeps the keys from q - W + 1 on (gemma_pytorch, gemma/model.py).
    "gemma-2-9b": ModelShape(
        heads=16,
        kv_heads=8,
        head_dim=256,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal", "causal_sliding_window(left=4095)"),
        source="https://github.com/google/gemma_pytorch/blob/main/gemma/config.py",
    ),
    # W = 1024. An image has 256 tokens, which see each other.
    "gemma-3-27b": ModelShape(
        heads=32,
        kv_heads=16,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal", "causal_sliding_window(left=1023)", "image_in_causal"),
        source=f"{_TRANSFORMERS}/models/gemma3/convert_gemma3_weights.py",
    ),
    # W = 4096 in all layers of v0.1 (https://github.com/huggingface/transformers/pull/26464, where
    # an author of the model sets window_size_left to W - 1). Later versions have no window.
    "mistral-7b": ModelShape(
        heads=32,
        kv_heads=8,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal_sliding_window(left=4095)",),
        source="https://huggingface.co/mistralai/Mistral-7B-v0.1/blob/main/config.json",
    ),
    # Its sliding_window is null.
    "mixtral-8x7b": ModelShape(
        heads=32,
        kv_heads=8,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal",),
        source="https://huggingface.co/mistralai/Mixtral-8x7B-Instruct-v0.1/blob/"
        "eba92302a2861cdc0098cc54bc9f17cb2c47eb61/config.json",
    ),
    # All layers of the 4k version. Its sliding_window of 2047 is the argument of flash_attn, whose
    # bounds are inclusive, so a query sees 2048 keys (https://github.com/vllm-project/vllm/pull/4380).
    "phi-3-mini": ModelShape(
        heads=32,
        kv_heads=32,
        head_dim=96,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal_sliding_window(left=2047)",),
        source="https://huggingface.co/microsoft/Phi-3-mini-4k-instruct/blob/main/config.json",
    ),
    "qwen3-8b": ModelShape(
        heads=32,
        kv_heads=8,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal",),
        source="https://huggingface.co/Qwen/Qwen3-8B/blob/main/config.json",
    ),
    "qwen3-30b-a3b": ModelShape(
        heads=32,
        kv_heads=4,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("causal",),
        source="https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/config.json",
    ),
    # Multi-head latent attention in the form that prefill and training compute: keys and values are
    # expanded for each of the 128 heads. A key has 128 dimensions and 64 with rotary embedding.
    "deepseek-v3": ModelShape(
        heads=128,
        kv_heads=128,
        head_dim=192,
        v_head_dim=128,
        dtype="bfloat16",
        masks=("causal",),
        source=f"{_TRANSFORMERS}/models/deepseek_v3/configuration_deepseek_v3.py",
    ),
    # A masked diffusion language model: every token sees every token.
    "llada-8b": ModelShape(
        heads=32,
        kv_heads=32,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("full",),
        source="https://huggingface.co/GSAI-ML/LLaDA-8B-Instruct/blob/main/config.json",
    ),
    # A block diffusion language model with blocks of 4. Its variants b8 to b64 have larger ones.
    "sdar-4b": ModelShape(
        heads=32,
        kv_heads=8,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("block_diffusion(block=4)",),
        source="https://huggingface.co/JetLM/SDAR-4B-Chat/blob/main/config.json",
    ),
    "wan-2.1-14b": ModelShape(
        heads=40,
        kv_heads=40,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("full",),
        source="https://github.com/Wan-Video/Wan2.1/blob/main/wan/configs/wan_t2v_14B.py",
    ),
    "hunyuan-video": ModelShape(
        heads=24,
        kv_heads=24,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("full",),
        source="https://github.com/Tencent-Hunyuan/HunyuanVideo/blob/main/hyvideo/modules/models.py",
    ),
    # Autoregressive video, from Wan 2.1 1.3B. A block is 3 latent frames of 60 x 104 with patches
    # of 2 x 2, so 3 * 1560 tokens. A video of 21 latent frames has 32760 tokens.
    "self-forcing-1.3b": ModelShape(
        heads=12,
        kv_heads=12,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("block_causal(block=4680)",),
        source="https://github.com/guandeh17/Self-Forcing/blob/main/configs/self_forcing_dmd.yaml",
    ),
    # Autoregressive video. A chunk is 6 latent frames of 90 x 160 (720 x 1280 pixels) with patches
    # of 2 x 2, so 6 * 3600 tokens.
    "magi-1-24b": ModelShape(
        heads=48,
        kv_heads=8,
        head_dim=128,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("block_causal(block=21600)",),
        source="https://github.com/SandAI-org/MAGI-1/blob/main/example/24B/24B_config.json",
    ),
    "dinov3-vit-l": ModelShape(
        heads=16,
        kv_heads=16,
        head_dim=64,
        v_head_dim=None,
        dtype="bfloat16",
        masks=("full",),
        source="https://github.com/facebookresearch/dinov3/blob/main/dinov3/hub/backbones.py",
    ),
}


def find_model(name: str) -> ModelShape:
    """The shape of the model of this name.

    Raises
    ------
    ValueError
        If there is no such model. The message lists all names, the most similar first.
    """
    if name in MODELS:
        return MODELS[name]
    nearest = difflib.get_close_matches(name.lower(), MODELS, n=len(MODELS))
    names = dict.fromkeys([*nearest, *MODELS])
    raise ValueError(f"unknown model {name!r}; known are {', '.join(names)}")
