"""The base class of all attention masks: `Mask`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from maskbench.masks import evaluation
from maskbench.masks.blocks import blocks_from_bounds, list_blocks
from maskbench.masks.evaluation import DenseRows, DenseShape
from maskbench.masks.parameters import POSITIVE, check_parameters

DeviceLike = torch.device | str
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
TokenRange = tuple[Tensor, Tensor]
"""First and last token of a contiguous range, both inclusive. The tensors may hold many ranges."""


@dataclass(frozen=True)
class Mask(ABC):
    """Which keys each query may attend to, for `seq_len` keys and, usually, as many queries.

    A mask is a frozen dataclass, so that masks with equal parameters are equal and backends can
    select masks with `match`. In shapes, S is `seq_len`, Q is `q_len`, B is `batch` and H is
    `heads`. Masks are combined with `&` and `|`.

    To write a mask, derive a frozen dataclass and define:

    1. `mask_mod`, always. It is enough: block masks and areas come from evaluating it in chunks.
    2. To be faster at large S, `key_range`, if the keys of every query are one contiguous range
       that contains the query and never moves back as the query grows. The base class derives
       the rest from it.
    3. Otherwise `any_all_attend` and `area`.

    Integer parameters declare their limits with the metadata of `maskbench.masks.parameters`.

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
        check_parameters(self, self.seq_len)

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
        `q` are query indices, integers of any shape. The returned tensors have the same shape.
        """
        return None

    def any_all_attend(self, q: TokenRange, k: TokenRange) -> tuple[Tensor, Tensor]:
        """Return whether any pair of a query and a key range attends, and whether all do.

        Block masks are built from this without evaluating each pair. The result must be exact,
        unless the class also overrides `partial_and_full_blocks` (see `Padded`).

        Parameters
        ----------
        q, k
            First and last token of the query ranges and of the key ranges. The shapes of q and k
            broadcast; both returned bool tensors have the broadcast shape, which may have
            leading dimensions [1 or B, 1 or H].
        """
        (first, last), (first_of_last, last_of_last) = map(self._require_key_range, q)
        any_attend = (first <= k[1]) & (last_of_last >= k[0])
        all_attend = (first_of_last <= k[0]) & (last >= k[1])
        return any_attend, all_attend

    def area(self, batch: int = 1) -> int:
        """Return the exact number of attended (query, key) pairs over `batch`.

        The pairs are those of one head, or of all heads if the mask differs by head.

        Raises
        ------
        ValueError
            If the mask differs by batch element and is for another batch size.
        """
        self._require_batch(batch)
        found = self.key_range(torch.arange(self.seq_len))
        if found is None:
            pairs = evaluation.count_pairs(*self._rows_on(self.evaluation_device))
            return pairs * batch // (self.batch or 1)
        first, last = found
        return batch * int((last.clamp(max=self.seq_len - 1) - first.clamp(min=0) + 1).sum())

    @property
    def attends_to_itself(self) -> bool:
        """Whether every query is known to see the key at its own position."""
        return self.key_range(torch.zeros(1, dtype=torch.int32)) is not None

    def attended_keys(self, batch: int = 1, kv_heads: int | None = None) -> int:
        """Return the number of keys over `batch` that at least one query sees.

        They are counted for one head. If the mask differs by head, they are counted for all
        `kv_heads` (default: `heads`); a key of such a head is seen by one or more query heads.
        """
        self._require_batch(batch)
        groups = (kv_heads or self.heads or 1) if self.heads else 1
        if self.attends_to_itself:
            return batch * self.seq_len * groups
        keys = evaluation.count_keys(*self._rows_on(self.evaluation_device), groups)
        return keys * batch // (self.batch or 1)

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

    def _require_batch(self, batch: int) -> None:
        """Raise ValueError if the mask is for another batch size."""
        if self.batch not in (None, batch):
            raise ValueError(f"batch is {batch}, the mask is for {self.batch}")

    @property
    def evaluation_device(self) -> DeviceLike:
        """The device on which pairs are evaluated where no device is given, as in `area`."""
        return "cpu"

    def _rows_on(self, device: DeviceLike) -> tuple[DenseRows, DenseShape]:
        return lambda start, stop: self.dense_rows(start, stop, device), self.dense_shape

    @property
    def batch(self) -> int | None:
        """The batch size, if the mask differs by batch element; else None."""
        return None

    @property
    def heads(self) -> int | None:
        """The number of query heads, if the mask differs by head; else None."""
        return None

    @property
    def q_len(self) -> int:
        """The number of queries."""
        return self.seq_len

    @property
    def dense_shape(self) -> DenseShape:
        """The shape of `dense`: 1 or B, 1 or H, Q, S."""
        return self.batch or 1, self.heads or 1, self.q_len, self.seq_len

    def __and__(self, other: Mask) -> Intersection:
        """Return the mask of the pairs that attend in both masks."""
        return Intersection(self, other)

    def __or__(self, other: Mask) -> Union:
        """Return the mask of the pairs that attend in one of the masks or in both."""
        return Union(self, other)

    def fully_masked_rows(self, device: DeviceLike) -> Tensor | None:
        """Return bool [1 or B, 1 or H, Q, 1], True for a query without keys.

        None means that every query has one.
        """
        if self.attends_to_itself:
            return None
        rows = evaluation.rows_without_keys(*self._rows_on(device))
        return rows if bool(rows.any()) else None

    def dense_rows(self, start: int, stop: int, device: DeviceLike) -> Tensor:
        """Return rows `start` to `stop - 1` of `dense`: bool [1 or B, 1 or H, stop - start, S]."""
        batch, heads, _, seq_len = self.dense_shape
        b, h, q, k = (
            torch.arange(first, last, dtype=torch.int32, device=device)
            for first, last in ((0, batch), (0, heads), (start, stop), (0, seq_len))
        )
        allowed = self.mask_mod(device)(b.view(-1, 1, 1, 1), h.view(-1, 1, 1), q.view(-1, 1), k)
        return allowed.expand(batch, heads, stop - start, seq_len).contiguous()

    def dense(self, device: DeviceLike) -> Tensor:
        """Return bool [1 or B, 1 or H, Q, S], True = may attend."""
        return self.dense_rows(0, self.q_len, device)

    def partial_and_full_blocks(
        self, device: DeviceLike, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the blocks in which some pairs attend, and those in which all do.

        Each is bool [1 or B, 1 or H, query blocks, key blocks]. No block is in both. `size` is
        the number of queries and of keys of a block.
        """
        if not self.knows_blocks:
            return evaluation.partial_and_full_blocks(*self._rows_on(device), size)
        partial, full = blocks_from_bounds(self.any_all_attend, self.seq_len, size, device)
        shape = (*self.dense_shape[:2], *partial.shape[-2:])
        return partial.expand(shape), full.expand(shape)

    def block_mask(self, device: DeviceLike, block_size: int | tuple[int, int] = 128) -> BlockMask:
        """Return FlexAttention's block mask, equal to that of `create_block_mask`.

        It is computed from block bounds if the mask `knows_blocks`, else in chunks of rows.
        https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html

        Parameters
        ----------
        block_size
            Tokens of a block: one number, or (queries, keys).
        """
        size = (block_size, block_size) if isinstance(block_size, int) else block_size
        partial, full = self.partial_and_full_blocks(device, size)
        return list_blocks(partial, full, self.dense_shape[2:], size, self.mask_mod(device))


@dataclass(frozen=True)
class Combination(Mask):
    """Two masks. Raises ValueError if they are not for the same tokens, batch and heads."""

    first: Mask
    second: Mask
    seq_len: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("seq_len", "q_len", "batch", "heads"):
            sizes = getattr(self.first, name), getattr(self.second, name)
            if None not in sizes and sizes[0] != sizes[1]:
                raise ValueError(f"the masks have a {name} of {sizes[0]} and of {sizes[1]}")
        object.__setattr__(self, "seq_len", self.first.seq_len)

    @property
    def q_len(self) -> int:
        return self.first.q_len

    @property
    def batch(self) -> int | None:
        return self.first.batch or self.second.batch

    @property
    def heads(self) -> int | None:
        return self.first.heads or self.second.heads

    @property
    def evaluation_device(self) -> DeviceLike:
        first = self.first.evaluation_device
        return self.second.evaluation_device if first == "cpu" else first


@dataclass(frozen=True)
class Intersection(Combination):
    """The pairs that attend in both masks."""

    @property
    def attends_to_itself(self) -> bool:
        return self.first.attends_to_itself and self.second.attends_to_itself

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        first, second = self.first.mask_mod(device), self.second.mask_mod(device)
        return lambda b, h, q, k: first(b, h, q, k) & second(b, h, q, k)


@dataclass(frozen=True)
class Union(Combination):
    """The pairs that attend in one of the masks or in both."""

    @property
    def attends_to_itself(self) -> bool:
        return self.first.attends_to_itself or self.second.attends_to_itself

    def mask_mod(self, device: DeviceLike) -> MaskMod:
        first, second = self.first.mask_mod(device), self.second.mask_mod(device)
        return lambda b, h, q, k: first(b, h, q, k) | second(b, h, q, k)
