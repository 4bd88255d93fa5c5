"""The base class of all attention masks: `Mask`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, fields
from numbers import Integral
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from maskbench.masks.evaluation import DenseRows, count_pairs, partial_and_full_blocks

DeviceLike = torch.device | str
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TokenRange = tuple[Tensor, Tensor]
"""First and last token of a contiguous range, both inclusive. The tensors may hold many ranges."""

NON_NEGATIVE = MappingProxyType({"minimum": 0})
"""Field metadata for an integer >= 0: `left: int = field(metadata=NON_NEGATIVE)`."""
POSITIVE = MappingProxyType({"minimum": 1})
"""Field metadata for an integer >= 1: `width: int = field(metadata=POSITIVE)`."""
DISTANCE = MappingProxyType({"minimum": 0, "up_to_seq_len": True})
"""Field metadata for an integer >= 0 that means the same from `seq_len` on: it is stored as at most
`seq_len`, so that 32-bit integers on the device do not overflow."""
EXTENT = MappingProxyType({"minimum": 1, "up_to_seq_len": True})
"""The same for an integer >= 1."""
MAX_PARAMETER = 2**30  # the sum of two such integers has 32 bits


def to_int(value: object) -> int | None:
    """Convert a Python or NumPy integer to int. Return None for anything else, bool included."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return None


@dataclass(frozen=True)
class Mask(ABC):
    """Which keys each query may attend to, for `seq_len` queries and as many keys.

    A mask is a frozen dataclass, so that masks with equal parameters are equal and backends can
    select masks with `match`. In shapes, S is `seq_len` and B is `batch`.

    To write a mask, derive a frozen dataclass and define:

    1. `mask_mod`, always. It is enough: block masks and areas come from evaluating it in chunks.
    2. To be faster at large S, `key_range`, if the keys of every query are one contiguous range
       that contains the query and never moves back as the query grows. The base class derives
       the rest from it.
    3. Otherwise `any_all_attend` and `area`.

    Integer parameters declare their lower bound: `field(metadata=POSITIVE)` or
    `field(metadata=NON_NEGATIVE)`. Python and NumPy integers are accepted and stored as int.
    If every value from `seq_len` on means the same, as for the width of a window, declare
    `DISTANCE` or `EXTENT` instead: larger values are then stored as `seq_len`.

        @dataclass(frozen=True)
        class CausalWindow(Mask):
            width: int = field(metadata=EXTENT)

            def mask_mod(self, device):
                return lambda b, h, q, k: (k <= q) & (k > q - self.width)

            def key_range(self, q):
                return q - self.width + 1, q

    Raises
    ------
    ValueError
        If a declared parameter is not an integer, is below its lower bound, or is above 2**30.
    """

    _: KW_ONLY
    seq_len: int = field(metadata=POSITIVE)

    def __post_init__(self) -> None:
        for parameter in fields(self):
            minimum = parameter.metadata.get("minimum")
            if minimum is None:
                continue
            name, value = parameter.name, getattr(self, parameter.name)
            number = to_int(value)
            if number is None or number < minimum:
                raise ValueError(f"{name} is {value}, must be a whole number, {minimum} or more")
            if parameter.metadata.get("up_to_seq_len"):
                number = min(number, self.seq_len)
            if number > MAX_PARAMETER:
                raise ValueError(f"{name} is {number}, must be at most {MAX_PARAMETER}")
            object.__setattr__(self, name, number)

    @abstractmethod
    def mask_mod(self, device: DeviceLike) -> MaskMod:
        """Return FlexAttention's (b, h, q_idx, kv_idx) -> bool, in its fastest form.

        The arguments of the returned function are integer tensors that broadcast. Tensors that it
        captures must be on `device`.
        """

    def key_range(self, q: Tensor) -> TokenRange | None:
        """Return the first and last key of each query, or None.

        None means that the keys of a query are not one contiguous range. The range of a query
        must contain the query, and neither bound may decrease as q grows. Bounds may exceed the
        sequence; callers clamp them.

        Parameters
        ----------
        q
            Query indices: integers, any shape. The returned tensors have the same shape.
        """
        return None

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        """Return whether any pair of a query range and a key range attends, and whether all do.

        Block masks are built from this without evaluating each pair. The result must be exact,
        unless the class also overrides `partial_and_full_blocks` (see `Padded`).

        Parameters
        ----------
        q, k
            First and last token of the query ranges and of the key ranges. The shapes of q and k
            broadcast; both returned bool tensors have the broadcast shape, which may have
            leading dimensions [B, 1].
        """
        (first, last), (first_of_last, last_of_last) = map(self._require_key_range, q)
        any_attend = (first <= k[1]) & (last_of_last >= k[0])
        all_attend = (first_of_last <= k[0]) & (last >= k[1])
        return any_attend, all_attend

    def area(self, batch: int = 1) -> int:
        """Return the exact number of attended (query, key) pairs of one head over `batch`.

        Raises
        ------
        ValueError
            If the mask differs by batch element and is for another batch size.
        """
        found = self.key_range(torch.arange(self.seq_len))
        if found is None:
            elements = self.batch or 1
            if self.batch not in (None, batch):
                raise ValueError(f"batch is {batch}, the mask is for {self.batch}")
            pairs = count_pairs(self._dense_rows_on("cpu"), self.seq_len, elements)
            return pairs * batch // elements
        first, last = found
        return batch * int((last.clamp(max=self.seq_len - 1) - first.clamp(min=0) + 1).sum())

    def _require_key_range(self, q: Tensor) -> TokenRange:
        """Return `key_range(q)`. Raises NotImplementedError if the class defines none."""
        found = self.key_range(q)
        if found is None:
            raise NotImplementedError(f"{type(self).__name__} has no key_range")
        return found

    @property
    def knows_blocks(self) -> bool:
        """Whether `any_all_attend` can be used; else blocks are found by evaluating every pair."""
        own = type(self).any_all_attend is not Mask.any_all_attend
        return own or self.key_range(torch.zeros(1, dtype=torch.int32)) is not None

    def _dense_rows_on(self, device: DeviceLike) -> DenseRows:
        return lambda start, stop: self.dense_rows(start, stop, device)

    @property
    def batch(self) -> int | None:
        """The batch size, if the mask differs by batch element; else None."""
        return None

    @property
    def heads(self) -> int | None:
        """The number of heads, if the mask differs by head; else None."""
        return None

    @property
    def q_len(self) -> int:
        """The number of queries."""
        return self.seq_len

    def require_shapes(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Raise ValueError if the tensors are not of this mask.

        A mask of another length or batch would run in many libraries, with a wrong result.

        Parameters
        ----------
        q
            [B, heads, S, head_dim].
        k, v
            [B, kv_heads, S, head_dim]. `kv_heads` divides `heads`.
        """
        shapes = {name: list(t.shape) for name, t in zip("qkv", (q, k, v), strict=True)}
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        if any(len(shape) != 4 for shape in shapes.values()):
            raise ValueError(f"{given}: each must be [batch, heads, seq_len, head_dim]")
        lengths = {"q": self.q_len, "k": self.seq_len, "v": self.seq_len}
        if any(shape[2] != lengths[name] for name, shape in shapes.items()):
            raise ValueError(f"{given}: the mask is for a seq_len of {self.seq_len}")
        if len({shape[0] for shape in shapes.values()}) > 1:
            raise ValueError(f"{given}: must have the same batch")
        if self.batch not in (None, shapes["q"][0]):
            raise ValueError(f"{given}: the mask is for a batch of {self.batch}")
        if shapes["k"][1] != shapes["v"][1] or shapes["q"][1] % shapes["k"][1]:
            raise ValueError(f"{given}: the heads of k and v must be equal and divide those of q")

    def fully_masked_rows(self, device: DeviceLike) -> Tensor | None:
        """Return bool [B, 1, S, 1], True for a query without keys; None if every query has one."""
        return None

    def dense_rows(self, start: int, stop: int, device: DeviceLike) -> Tensor:
        """Return rows `start` to `stop - 1` of `dense`: bool [1 or B, 1, stop - start, S]."""
        batch = self.batch or 1
        b = torch.arange(batch, dtype=torch.int32, device=device)[:, None, None, None]
        q = torch.arange(start, stop, dtype=torch.int32, device=device)[:, None]
        k = torch.arange(self.seq_len, dtype=torch.int32, device=device)
        allowed = self.mask_mod(device)(b, torch.zeros_like(b), q, k)
        return allowed.expand(batch, 1, stop - start, self.seq_len).contiguous()

    def dense(self, device: DeviceLike) -> Tensor:
        """Return bool [1 or B, 1, S, S], True = may attend."""
        return self.dense_rows(0, self.q_len, device)

    def partial_and_full_blocks(
        self, device: DeviceLike, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the blocks in which some pairs attend, and those in which all do.

        Each is bool [1 or B, 1, query blocks, key blocks]. No block is in both. `size` is the
        number of queries and of keys of a block.
        """
        if not self.knows_blocks:
            rows = self._dense_rows_on(device)
            return partial_and_full_blocks(rows, self.seq_len, self.batch or 1, size)
        q_first, q_last = _block_ranges(self.seq_len, size[0], device)
        q_first, q_last = q_first[:, None], q_last[:, None]
        k_first, k_last = _block_ranges(self.seq_len, size[1], device)
        any_attend, all_attend = self.any_all_attend((q_first, q_last), (k_first, k_last))
        # torch pads an incomplete block at the end with False, so it is never full
        complete = (q_last - q_first + 1 == size[0]) & (k_last - k_first + 1 == size[1])
        full = all_attend & complete
        shape = (self.batch or 1, 1, len(q_first), len(k_first))
        return (any_attend & ~full).expand(shape), full.expand(shape)

    def block_mask(self, device: DeviceLike, block_size: int | tuple[int, int] = 128) -> BlockMask:
        """Return FlexAttention's block mask, equal to that of `create_block_mask`.

        It is computed from the bounds of each block if the mask `knows_blocks`, else in chunks of
        rows, so no S x S tensor is needed.
        https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html

        Parameters
        ----------
        block_size
            Tokens of a block: one number, or (queries, keys).
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


def _block_ranges(seq_len: int, size: int, device: DeviceLike) -> TokenRange:
    """Return the first and last token of each block: two int32 tensors [blocks]."""
    first = torch.arange(0, seq_len, size, dtype=torch.int32, device=device)
    return first, (first + size).clamp(max=seq_len) - 1


def to_device_async(tensor: Tensor, device: DeviceLike) -> Tensor:
    """Copy to `device`. A copy from CPU to GPU uses pinned memory and does not block the host."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def dense_to_block_indices(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a dense block map to the counts and indices of a BlockMask.

    Parameters
    ----------
    blocks
        bool [..., rows, columns], True for a block that is listed.

    Returns
    -------
    counts, indices
        int32 [..., rows], the number of listed columns of each row, and int32
        [..., rows, columns], the listed columns followed by the others, both in ascending order,
        as torch orders them.
    """
    # A stable sort gives the same, but takes 8 bytes of index for each block.
    columns = blocks.shape[-1]
    listed = blocks.cumsum(-1, dtype=torch.int32)  # up to and including each column
    counts = listed[..., -1].contiguous()
    column = torch.arange(columns, dtype=torch.int32, device=blocks.device)
    position = torch.where(blocks, listed - 1, counts[..., None] + column - listed)
    indices = torch.empty(position.shape, dtype=torch.int32, device=blocks.device)
    return counts, indices.scatter_(-1, position.long(), column.expand_as(position))
