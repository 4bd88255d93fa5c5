"""Masks of language models: attention sinks, images in text, and prompts with many responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from maskbench.masks.base import DeviceLike, Mask, MaskMod, TokenRange
from maskbench.masks.blocks import to_device_async
from maskbench.masks.parameters import DISTANCE, NON_NEGATIVE
from maskbench.masks.tuples import whole_numbers


@dataclass(frozen=True)
class SinkSlidingWindow(Mask):
    """A causal window, and the first keys: q >= k and (q - k <= left or k < sinks).

    StreamingLLM, https://arxiv.org/abs/2309.17453, figure 1.
    """

    left: int = field(metadata=DISTANCE)
    sinks: int = field(metadata=DISTANCE)

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        left, sinks = self.left, self.sinks
        return lambda b, h, q, k: (k <= q) & ((k >= q - left) | (k < sinks))

    @property
    def attends_to_itself(self) -> bool:
        return True

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        causal = q[1] >= k[0]
        any_attend = causal & ((q[0] - k[1] <= self.left) | (k[0] < self.sinks))
        beyond_sinks = k[0].clamp(min=self.sinks)
        all_near = (q[1] - beyond_sinks <= self.left) | (beyond_sinks > k[1])
        return any_attend, all_near & (q[0] >= k[1])

    def area(self, batch: int = 1) -> int:
        n, left = self.seq_len, min(self.left, self.seq_len - 1)
        window = (left + 1) * n - left * (left + 1) // 2
        beyond = n - 1 - left  # queries that see key 0 as a sink only; one less for key 1, etc.
        sinks = min(self.sinks, beyond)
        return batch * (window + sinks * beyond - sinks * (sinks - 1) // 2)


@dataclass(frozen=True)
class ImageInCausal(Mask):
    """Causal, and bidirectional within an image: q >= k, or q and k are in the same image.

    Gemma 3, https://github.com/huggingface/transformers/blob/main/src/transformers/models/gemma3.

    Parameters
    ----------
    images
        The first token and the number of tokens of each image. Images must not overlap. They are
        stored in order.
    """

    images: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        images = []
        for image in self.images:
            numbers = whole_numbers("the first token and the length of an image", image, 0)
            if len(numbers) != 2 or numbers[1] < 1 or sum(numbers) > self.seq_len:
                raise ValueError(
                    f"image {image} must be (first token, length) with a length of 1 or more, "
                    f"within the {self.seq_len} tokens"
                )
            images.append((numbers[0], numbers[1]))
        images.sort()
        for (first, length), (following, _) in pairwise(images):
            if first + length > following:
                raise ValueError(f"the images at token {first} and at token {following} overlap")
        object.__setattr__(self, "images", tuple(images))

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        if not self.images:
            return lambda b, h, q, k: q >= k
        _, last = self.key_range(torch.arange(self.seq_len, dtype=torch.int32, device=device))
        return lambda b, h, q, k: k <= last[q]

    def key_range(self, q: Tensor) -> TokenRange:
        starts = torch.tensor([first for first, _ in self.images], dtype=q.dtype)
        ends = torch.tensor([-1, *(sum(image) - 1 for image in self.images)], dtype=q.dtype)
        # of the image that contains the query or, if none does, of the one before it
        image = torch.bucketize(q, to_device_async(starts, q.device), right=True)
        return q * 0, torch.maximum(q, to_device_async(ends, q.device)[image])


@dataclass(frozen=True)
class SharedPrefix(Mask):
    """A prompt with several responses: k < prefix, or q >= k and both are in the same response.

    The tokens of the prefix see the whole prefix, and no response. `seq_len` is the number of
    tokens of the prefix and of all responses. Hydragen, https://arxiv.org/abs/2402.05099.

    Parameters
    ----------
    prefix
        Tokens of the prefix.
    responses
        Tokens of each response, in order.
    """

    prefix: int = field(metadata=NON_NEGATIVE)
    responses: tuple[int, ...]
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        responses = whole_numbers("responses", self.responses, 1)
        object.__setattr__(self, "responses", responses)
        object.__setattr__(self, "seq_len", sum(responses))
        super().__post_init__()
        object.__setattr__(self, "seq_len", self.prefix + sum(responses))
        if self.seq_len < 1:
            raise ValueError("prefix is 0 and there are no responses: the mask has no tokens")

    def _response_starts(self, tokens: Tensor) -> Tensor:
        """Return the first token of the response of each of `tokens`, none of the prefix."""
        starts = torch.tensor(
            [*accumulate(self.responses, initial=self.prefix)], dtype=tokens.dtype
        )
        starts = to_device_async(starts, tokens.device)
        return starts[torch.bucketize(tokens, starts, right=True) - 1]

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        prefix = self.prefix
        tokens = torch.arange(self.seq_len, dtype=torch.int32, device=device)
        start = self._response_starts(tokens.clamp(min=prefix))
        return lambda b, h, q, k: (k < prefix) | ((k <= q) & (k >= start[q]))

    @property
    def attends_to_itself(self) -> bool:
        return True

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        # queries and keys from here on are those of the responses
        q_first, k_first = q[0].clamp(min=self.prefix), k[0].clamp(min=self.prefix)
        has_queries, has_keys = q[1] >= self.prefix, k[1] >= self.prefix
        start = self._response_starts(q_first)
        start_of_last = self._response_starts(q[1].clamp(min=self.prefix))
        any_attend = has_queries & has_keys & (start <= k[1]) & (q[1] >= k_first)
        all_attend = (q[0] >= k[1]) & (start_of_last <= k_first)
        return any_attend | (k[0] < self.prefix), all_attend | ~has_keys

    def area(self, batch: int = 1) -> int:
        responses = sum(length * (length + 1) // 2 for length in self.responses)
        return batch * (self.prefix * self.seq_len + responses)
