"""The definition of each mask in words, as plain Python for one (query, key) pair at a time.

No code is shared with the masks: these functions are what the masks are tested against.
"""

from itertools import accumulate

import torch

from maskbench.masks import (
    BlockCausal,
    BlockDiffusion,
    BlockSparse,
    Causal,
    DilatedSlidingWindow,
    Documents,
    Full,
    GlobalLocalSlidingWindow,
    ImageInCausal,
    LocalAttention2D,
    Neighborhood,
    Padded,
    PrefixLM,
    PrefixTree,
    SharedPrefix,
    SinkSlidingWindow,
    SlidingWindow,
)


def pairs_of(mask):
    """bool [1 or B, 1 or H, S, S], in a loop over all pairs."""
    tokens = range(mask.seq_len)
    return torch.tensor(
        [
            [
                [[bool(attends(mask, q, k, b, h)) for k in tokens] for q in tokens]
                for h in range(mask.heads or 1)
            ]
            for b in range(mask.batch or 1)
        ]
    )


def attends(mask, q, k, b=0, h=0):
    """Whether query q may attend to key k: the definition of each class in plain Python."""
    match mask:
        case Full():
            return True
        case Causal():
            return q >= k
        case SlidingWindow(left, right):
            return -right <= q - k <= left
        case DilatedSlidingWindow(window, dilation):
            return abs(q - k) <= window and (q - k) % dilation == 0
        case GlobalLocalSlidingWindow(window, tokens):
            return abs(q - k) <= window or q in tokens or k in tokens
        case PrefixLM(prefix):
            return q >= k or k < prefix
        case LocalAttention2D(width, radius):
            rows, columns = q // width - k // width, q % width - k % width
            return abs(rows) <= radius and abs(columns) <= radius
        case Documents(lengths, inner):
            start = 0
            for length in lengths[b] if isinstance(lengths[0], tuple) else lengths:
                if start <= q < start + length:
                    inside = start <= k < start + length
                    return inside and attends(inner, q - start, k - start, b, h)
                start += length
        case Padded(inner, padding):
            is_padding = padding.numpy()[b]
            return not is_padding[q] and not is_padding[k] and attends(inner, q, k, b, h)
        case SinkSlidingWindow(left, sinks):
            return q >= k and (q - k <= left or k < sinks)
        case ImageInCausal(images):
            return q >= k or any(
                first <= q < first + length and first <= k < first + length
                for first, length in images
            )
        case SharedPrefix(prefix, responses):
            response = [None] * prefix
            for number, length in enumerate(responses):
                response += [number] * length
            return k < prefix or (q >= k and response[q] == response[k])
        case PrefixTree(parents, lengths):
            return k in ancestors(parents, lengths, q)
        case BlockCausal(block):
            return q // block >= k // block
        case BlockDiffusion(block):
            return sees_in_block_diffusion(block, mask.seq_len // 2, q, k)
        case Neighborhood(shape, radius):
            return is_neighbor(shape, radius, q, k)
        case BlockSparse(blocks, block):
            return blocks.numpy()[b, h, q // block, k // block]
    raise AssertionError(f"no definition of {mask}")


def ancestors(parents, lengths, token):
    """The token and those above it, found by walking from each token to the one before it."""
    ends = list(accumulate(lengths))
    span = next(i for i, end in enumerate(ends) if token < end)
    found = []
    while span >= 0:
        found += range(ends[span] - lengths[span], min(token + 1, ends[span]))
        span = parents[span]
    return found


def sees_in_block_diffusion(block, half, q, k):
    q_noised, k_noised = q < half, k < half
    q_block, k_block = q % half // block, k % half // block
    if q_noised and k_noised:
        return q_block == k_block
    if q_noised:
        return q_block > k_block
    return not k_noised and q_block >= k_block


def is_neighbor(shape, radius, q, k):
    for n, r in zip(reversed(shape), reversed(radius), strict=True):
        (q, q_position), (k, k_position) = divmod(q, n), divmod(k, n)
        center = min(max(q_position, r), n - 1 - r)
        if abs(k_position - center) > r:
            return False
    return True
