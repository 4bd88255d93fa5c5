"""Building a graph of cuDNN and running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import cudnn
import torch
from cudnn.datatypes import torch_to_cudnn_data_type
from torch import Tensor

from maskbench.attention import Unsupported

Side: TypeAlias = Literal["q", "k"]
"""Whether the sequences of a tensor are those of the queries or those of the keys."""


@cache
def cudnn_handle(device: torch.device) -> Any:
    """This process's cuDNN handle for a GPU."""
    with torch.cuda.device(device):
        return cudnn.create_handle()


def rejection_reason(error: Exception) -> str:
    """cuDNN's reason in one line, without the list of the engines that it tried.

    If no engine is left, the reason is "No valid engine configs for", a name of underscores, and a
    JSON object and several warnings for each engine.
    """
    reason, *_ = str(error).partition("\n{")
    return " ".join(word for word in reason.split() if word.strip("_")).removesuffix(" for")


@dataclass(frozen=True)
class PackedSequences:
    """Packed sequences with at least one query and one key each, on `device`.

    cuDNN before 9.25 returns NaN for a sequence without keys. So sequences without queries or
    without keys are left out: no offset refers to their tokens.

    Parameters
    ----------
    lengths
        For each side, int32 [sequences]: the number of tokens of each sequence.
    starts
        For each side, int64 [sequences + 1]: the first token of each sequence, then the end of the
        last.
    longest, total_tokens
        For each side, the longest length, and the number of all tokens.
    has_unused
        For each side, whether some of its tokens are in a sequence that is left out.
    """

    lengths: dict[Side, Tensor]
    starts: dict[Side, Tensor]
    longest: dict[Side, int]
    total_tokens: dict[Side, int]
    has_unused: dict[Side, bool]

    @classmethod
    def from_lengths(
        cls, q: Sequence[int], k: Sequence[int], device: torch.device
    ) -> PackedSequences:
        """Packed sequences with these numbers of queries and of keys."""
        kept = [i for i, both in enumerate(zip(q, k, strict=True)) if min(both) > 0]
        lengths: dict[Side, Tensor] = {}
        starts: dict[Side, Tensor] = {}
        sides: tuple[tuple[Side, Sequence[int]], ...] = ("q", q), ("k", k)
        for side, given in sides:
            ends = list(accumulate(given))
            first = [ends[i] - given[i] for i in kept]
            lengths[side] = torch.tensor([given[i] for i in kept], dtype=torch.int32, device=device)
            starts[side] = torch.tensor([*first, ends[kept[-1]]], dtype=torch.int64, device=device)
        return cls(
            lengths,
            starts,
            {side: max(given[i] for i in kept) for side, given in sides},
            {side: sum(given) for side, given in sides},
            {side: sum(given[i] for i in kept) < sum(given) for side, given in sides},
        )

    def with_statistics(self) -> PackedSequences:
        """The same sequences, for graphs that write or read the statistics.

        cuDNN has a kernel for sequences of one query. Its statistics of packed sequences are wrong
        (seen on 9.19), so the longest sequence is declared to have two.
        """
        return replace(self, longest={**self.longest, "q": max(2, self.longest["q"])})

    def new_result(
        self, side: Side, shape: Sequence[int], dtype: torch.dtype, fill: float = 0.0
    ) -> Tensor:
        """A tensor for results, with `fill` for the tokens that are left out."""
        device = self.starts[side].device
        if self.has_unused[side]:
            return torch.full(shape, fill, dtype=dtype, device=device)
        return torch.empty(shape, dtype=dtype, device=device)


@dataclass
class GraphBuilder:
    """A graph, and the tensors that are bound to it in each call, in the order of `uids`.

    Parameters
    ----------
    graph
        The cuDNN graph.
    packed
        The packed sequences; None for a batch of sequences of equal lengths.
    uids
        The graph's ids of the tensors that a call gets, then those of `constants`.
    constants
        Tensors that are the same in each call: lengths, offsets and the bias.
    """

    graph: Any
    packed: PackedSequences | None
    uids: list[int] = field(default_factory=list)
    constants: list[tuple[int, Tensor]] = field(default_factory=list)
    offsets: dict[tuple[Side, int], Any] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def for_tensor(cls, q: Tensor, packed: PackedSequences | None) -> GraphBuilder:
        """A new graph for tensors of q's data type and device."""
        graph = cudnn.pygraph(
            handle=cudnn_handle(q.device),
            io_data_type=torch_to_cudnn_data_type(q.dtype),
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
        )
        return cls(graph, packed)

    def _next_uid(self) -> int:
        self.count += 1
        return self.count

    def size_and_strides(self, tensor: Tensor, side: Side) -> tuple[list[int], list[int]]:
        """The size and strides of the tensor as [B, heads, S, head_dim], which cuDNN expects.

        The tensor is [B, S, heads, head_dim], or packed [tokens, heads, head_dim].
        """
        if self.packed is None:
            by_head = tensor.transpose(1, 2)
            return list(by_head.shape), list(by_head.stride())
        _, heads, head_dim = tensor.shape
        token, head, element = tensor.stride()
        longest = self.packed.longest[side]
        size = [len(self.packed.lengths[side]), heads, longest, head_dim]
        return size, [longest * token, head, token, element]

    def constant(self, tensor: Tensor) -> Any:
        """A tensor whose values are the same in each call."""
        uid = self._next_uid()
        self.constants.append((uid, tensor))
        return self.graph.tensor(
            dim=list(tensor.shape),
            stride=list(tensor.stride()),
            data_type=torch_to_cudnn_data_type(tensor.dtype),
            uid=uid,
        )

    def column(self, tensor: Tensor) -> Any:
        """A constant [n], as the [n, 1, 1, 1] that cuDNN takes."""
        return self.constant(tensor.view(-1, 1, 1, 1))

    def set_offsets(self, node: Any, tensor: Tensor, side: Side) -> None:
        """Say where each sequence of a packed tensor begins, in elements."""
        if self.packed is None:
            return
        token = tensor.stride(0)
        if (side, token) not in self.offsets:
            self.offsets[side, token] = self.column(self.packed.starts[side] * token)
        node.set_ragged_offset(self.offsets[side, token])

    def input(self, tensor: Tensor, side: Side) -> Any:
        """The next tensor of the call, which the graph reads."""
        size, strides = self.size_and_strides(tensor, side)
        uid = self._next_uid()
        self.uids.append(uid)
        data_type = torch_to_cudnn_data_type(tensor.dtype)
        node = self.graph.tensor(dim=size, stride=strides, data_type=data_type, uid=uid)
        self.set_offsets(node, tensor, side)
        return node

    def output(self, node: Any, tensor: Tensor, side: Side) -> None:
        """The next tensor of the call, to which the graph writes its result `node`."""
        size, strides = self.size_and_strides(tensor, side)
        uid = self._next_uid()
        self.uids.append(uid)
        node.set_uid(uid).set_output(True).set_dim(size).set_stride(strides)
        node.set_data_type(torch_to_cudnn_data_type(tensor.dtype))
        self.set_offsets(node, tensor, side)

    def length_arguments(self) -> dict[str, Any]:
        """The arguments of a graph's `sdpa` and `sdpa_backward` for packed sequences."""
        if self.packed is None:
            return {}
        lengths = self.packed.lengths
        return {
            "use_padding_mask": True,
            "seq_len_q": self.column(lengths["q"]),
            "seq_len_kv": self.column(lengths["k"]),
        }

    def build(self, device: torch.device) -> Plan:
        """Select and compile a kernel. Raises Unsupported, with cuDNN's reason, if it has none."""
        graph = self.graph
        try:
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
            graph.check_support()
            graph.build_plans()
        except cudnn.cudnnGraphNotSupportedError as error:
            version = cudnn.backend_version_string()
            raise Unsupported(f"cuDNN {version} refuses: {rejection_reason(error)}") from error
        size = max(1, graph.get_workspace_size())
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        constant_uids, constants = zip(*self.constants, strict=True) if self.constants else ((), ())
        return Plan(graph, (*self.uids, *constant_uids), constants, workspace)


@dataclass(frozen=True)
class Plan:
    """A graph with its kernel, its constants and its workspace."""

    graph: Any
    uids: tuple[int, ...]
    constants: tuple[Tensor, ...]
    workspace: Tensor

    def run(self, *tensors: Tensor) -> None:
        """Run the graph on torch's current stream."""
        device = self.workspace.device
        handle = cudnn_handle(device)
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream(device).cuda_stream)
        buffers = (*tensors, *self.constants)
        self.graph.execute(buffers, self.workspace, handle=handle, tensor_uids=self.uids)
