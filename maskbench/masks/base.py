"""What every mask is and gives: `Mask`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

Device = torch.device | str
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TokenRange = tuple[Tensor, Tensor]  # first and last token of a run of tokens


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Mask(ABC):
    """What all masks share. S is `seq_len`, B `batch`. ValueError for a wrong parameter."""

    _: KW_ONLY
    seq_len: int

    def __post_init__(self):
        for name in (f.name for f in fields(self) if f.type in ("int", int)):
            least = 1 if name in ("seq_len", "width", "dilation") else 0
            value = getattr(self, name)
            fits = isinstance(value, int) and value >= least
            require(fits, f"{name} is {value}, must be a whole number, {least} or more")

    @abstractmethod
    def mask_mod(self, device: Device) -> MaskMod:
        """FlexAttention's (b, h, q_idx, kv_idx) -> bool, in its fastest spelling."""

    def key_range(self, q: Tensor) -> TokenRange | None:
        """First and last key of each query, where its keys are one run that holds the
        query and never moves back as q grows; bounds may jut out of the sequence. None
        for other masks, which say `reach` and `area` themselves."""
        return None

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        """Whether (some, every) pair of a query in span q and a key in span k attends."""
        (low, high), (later_low, later_high) = self.key_range(q[0]), self.key_range(q[1])
        return (low <= k[1]) & (later_high >= k[0]), (later_low <= k[0]) & (high >= k[1])

    def area(self, batch: int = 1) -> int:
        """Attended (query, key) pairs of one head over `batch` elements, exact."""
        first, last = self.key_range(torch.arange(self.seq_len))
        return batch * int((last.clamp(max=self.seq_len - 1) - first.clamp(min=0) + 1).sum())

    @property
    def batch(self) -> int | None:
        """The batch size that the mask is made for; None if all elements are alike."""
        return None

    def fully_masked_rows(self, device: Device) -> Tensor | None:
        """bool [B, 1, S, 1], True for a query that sees no key; None if each sees one."""
        return None

    def rows(self, start: int, stop: int, device: Device) -> Tensor:
        """bool [1 or B, 1, stop - start, S]: what queries start to stop - 1 may attend to."""
        at, size = {"device": device, "dtype": torch.int32}, (self.batch or 1, 1)
        b = torch.arange(size[0], **at)[:, None, None, None]
        q, k = torch.arange(start, stop, **at)[:, None], torch.arange(self.seq_len, **at)
        allowed = self.mask_mod(device)(b, torch.zeros_like(b), q, k)
        return allowed.expand(*size, stop - start, self.seq_len).contiguous()

    def dense(self, device: Device) -> Tensor:
        """bool [1 or B, 1, S, S], True = may attend."""
        return self.rows(0, self.seq_len, device)

    def partial_and_full_blocks(
        self, device: Device, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(partial, full) blocks: bool [1 or B, 1, query blocks, key blocks]."""
        spans = []
        for step in size:
            first = torch.arange(0, self.seq_len, step, dtype=torch.int32, device=device)
            spans.append((first, (first + step).clamp(max=self.seq_len) - 1))
        q, k = (tuple(t[:, None] for t in spans[0])), spans[1]
        some, every = self.any_all_attend(q, k)
        # torch pads a block that juts out of the sequence with False: it is never full
        full = every & (q[1] - q[0] + 1 == size[0]) & (k[1] - k[0] + 1 == size[1])
        shape = (self.batch or 1, 1, len(q[0]), len(k[0]))
        return (some & ~full).expand(shape), full.expand(shape)

    def block_mask(self, device: Device, block_size: int | tuple[int, int] = 128) -> BlockMask:
        """What `create_block_mask` finds by search, block for block, counted from bounds.

        `block_size` is one number or (queries, keys). Never holds S x S.
        https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html
        """
        size = (block_size, block_size) if isinstance(block_size, int) else block_size
        partial, full = self.partial_and_full_blocks(device, size)
        return BlockMask(
            (self.seq_len, self.seq_len),
            *(*dense_to_block_indices(partial), *dense_to_block_indices(full)),
            *(*dense_to_block_indices(partial.mT), *dense_to_block_indices(full.mT)),
            BLOCK_SIZE=size,
            mask_mod=self.mask_mod(device),
        )


def to_device_async(tensor: Tensor, device: Device) -> Tensor:
    """`tensor` on `device`; to a GPU from pinned memory, for which the host does not wait."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def dense_to_block_indices(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """int32 [..., rows] how many columns of each row are chosen, and [..., rows, columns] which.

    The chosen columns come first, then the rest, both in order, as torch lists them; by counting,
    as a stable sort of 1024 x 1024 blocks takes 8 bytes of index for each.
    """
    columns = chosen.shape[-1]
    before = chosen.cumsum(-1, dtype=torch.int32)  # chosen ones up to and with each column
    count = before[..., -1].contiguous()
    at = torch.arange(columns, dtype=torch.int32, device=chosen.device)
    # a chosen column goes behind the chosen ones before it, another behind all chosen ones
    place = torch.where(chosen, before - 1, at - before + count[..., None])
    order = torch.empty(place.shape, dtype=torch.int32, device=chosen.device)
    return count, order.scatter_(-1, place.long(), at.expand_as(place))
