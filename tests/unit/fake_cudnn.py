"""The interface of nvidia-cudnn-frontend in plain torch, for test_library_calls.py.

A graph computes what its tensors' sizes, strides and offsets, and its arguments, say.
"""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

TOP_LEFT, BOTTOM_RIGHT = "top left", "bottom right"
STREAM = 7  # of the fake current stream
NO_BAND = {"diagonal_alignment": TOP_LEFT}


class GraphNotSupportedError(Exception):
    """cudnn.cudnnGraphNotSupportedError."""


@dataclass
class Node:
    """A tensor of a graph."""

    dim: list = None
    stride: list = None
    data_type: object = None
    uid: int = None
    offset: object = None
    is_output: bool = False

    def set_uid(self, uid):
        self.uid = uid
        return self

    def set_output(self, value):
        self.is_output = value
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self

    def set_data_type(self, data_type):
        self.data_type = data_type
        return self

    def set_ragged_offset(self, offset):
        self.offset = offset
        return self


@dataclass
class Graph:
    """cudnn.pygraph with one node."""

    handle: object
    io_data_type: object
    intermediate_data_type: object
    compute_data_type: object
    tensors: list = field(default_factory=list)
    stages: list = field(default_factory=list)

    def tensor(self, dim, stride, data_type, uid):
        assert uid not in [t.uid for t in self.tensors]
        self.tensors.append(Node(dim, stride, data_type, uid))
        return self.tensors[-1]

    def sdpa(self, q, k, v, *, generate_stats, **arguments):
        self.inputs, self.arguments = {"q": q, "k": k, "v": v}, NO_BAND | arguments
        self.outputs = [Node(), Node() if generate_stats else None]
        return self.outputs

    def sdpa_backward(self, q, k, v, o, d_o, stats, **arguments):
        self.inputs = {"q": q, "k": k, "v": v, "o": o, "dO": d_o, "stats": stats}
        self.arguments = NO_BAND | arguments
        if q.offset is None:
            assert not [name for name in arguments if name.startswith("max_total")]
        self.outputs = [Node(), Node(), Node()]
        return self.outputs

    def validate(self):
        for node in (*self.inputs.values(), *filter(None, self.outputs)):
            assert len(node.dim) == len(node.stride) == 4
            assert node.stride[3] == 1
        assert all(node.is_output for node in filter(None, self.outputs))
        if self.inputs["q"].dim[3] % 8 or self.inputs["v"].dim[3] % 8:
            raise GraphNotSupportedError("hidden_dim should be\nmultiple of 8")
        self.stages.append("validate")

    def build_operation_graph(self):
        self.stages.append("build_operation_graph")

    def create_execution_plans(self, modes):
        assert modes == ["A", "FALLBACK"]
        self.stages.append("create_execution_plans")

    def check_support(self):
        self.stages.append("check_support")

    def build_plans(self):
        self.stages.append("build_plans")

    def get_workspace_size(self):
        return 0

    def execute(self, buffers, workspace, handle, tensor_uids):
        assert self.stages == [
            *("validate", "build_operation_graph", "create_execution_plans"),
            *("check_support", "build_plans"),
        ]
        assert handle.stream == STREAM
        assert workspace.dtype == torch.uint8
        assert len(workspace) > 0
        self.buffers = dict(zip(tensor_uids, buffers, strict=True))
        for node in (*self.tensors, *filter(None, self.outputs)):
            assert self.buffers[node.uid].dtype == node.data_type
        for sequence in range(self.inputs["q"].dim[0]):
            self.compute(sequence)

    # --- one sequence ---

    def view(self, node, sequence, length):
        """[heads, length, head_dim] of a tensor."""
        buffer, start = self.buffers[node.uid], sequence * node.stride[0]
        if node.offset is not None:
            offsets = self.buffers[node.offset.uid]
            assert offsets.dtype == torch.int64
            assert offsets.shape == (node.dim[0] + 1, 1, 1, 1)
            start = int(offsets[sequence])
        size = (node.dim[1], length, node.dim[3])
        return buffer.as_strided(size, node.stride[1:], buffer.storage_offset() + start)

    def length(self, name, side, sequence):
        """The number of tokens of a sequence. cuDNN 9.19 returns NaN if it is 0."""
        node = self.inputs[side]
        if name not in self.arguments:
            assert node.offset is None, "ragged tensors need lengths"
            return node.dim[2]
        assert self.arguments["use_padding_mask"]
        lengths = self.buffers[self.arguments[name].uid]
        assert lengths.dtype == torch.int32
        assert lengths.shape == (node.dim[0], 1, 1, 1)
        length = int(lengths[sequence])
        assert 0 < length <= node.dim[2]
        return length

    def allowed(self, queries, keys):
        """bool [queries, keys]: the diagonal band."""
        row, column = torch.arange(queries)[:, None], torch.arange(keys)
        if self.arguments["diagonal_alignment"] == BOTTOM_RIGHT:
            row = row + keys - queries
        allowed = torch.ones(queries, keys, dtype=torch.bool)
        if (left := self.arguments.get("diagonal_band_left_bound")) is not None:
            assert left > 0
            allowed &= column > row - left  # columns at or before row - left are masked
        if (right := self.arguments.get("diagonal_band_right_bound")) is not None:
            allowed &= column <= row + right
        return allowed

    def bias(self, sequence, heads, queries, keys):
        node = self.arguments.get("bias")
        if node is None:
            return 0
        bias = self.buffers[node.uid].expand(self.inputs["q"].dim[0], heads, queries, keys)
        return bias[sequence]

    def compute(self, sequence):
        queries = self.length("seq_len_q", "q", sequence)
        keys = self.length("seq_len_kv", "k", sequence)
        lengths = dict.fromkeys(self.inputs, queries) | {"k": keys, "v": keys}
        given = {
            name: self.view(node, sequence, lengths[name]).double()
            for name, node in self.inputs.items()
        }
        q, k, v = given["q"], given["k"], given["v"]
        group = q.shape[0] // k.shape[0]
        wide_k, wide_v = (t.repeat_interleave(group, 0) for t in (k, v))
        scale = self.arguments["attn_scale"]
        assert math.isclose(scale, q.shape[-1] ** -0.5)
        scores = q @ wide_k.mT * scale + self.bias(sequence, q.shape[0], queries, keys)
        scores = scores.masked_fill(~self.allowed(queries, keys), -torch.inf)
        results = [self.view(n, sequence, queries) for n in self.outputs[:1]]
        if "dO" not in given:
            lse = scores.logsumexp(-1, keepdim=True)
            results[0].copy_((scores - lse).exp().nan_to_num(0) @ wide_v)
            if self.outputs[1] is not None:
                self.view(self.outputs[1], sequence, queries).copy_(lse)
            return
        p = (scores - given["stats"]).exp().nan_to_num(0)
        delta = (given["dO"] * given["o"]).sum(-1, keepdim=True)
        ds = p * (given["dO"] @ wide_v.mT - delta) * scale
        dk, dv = ds.mT @ q, p.mT @ given["dO"]
        results[0].copy_(ds @ wide_k)
        for node, wide in zip(self.outputs[1:], (dk, dv), strict=True):
            narrow = wide.unflatten(0, (-1, group)).sum(1)
            self.view(node, sequence, keys).copy_(narrow)


def set_stream(handle, stream):
    handle.stream = stream


def cudnn():
    """nvidia-cudnn-frontend 1.32. A data type is torch's own."""
    return {
        "cudnn": {
            "pygraph": Graph,
            "create_handle": lambda: SimpleNamespace(stream=0),
            "set_stream": set_stream,
            "backend_version": lambda: 91900,
            "backend_version_string": lambda: "9.19.0",
            "cudnnGraphNotSupportedError": GraphNotSupportedError,
            "data_type": SimpleNamespace(FLOAT=torch.float32),
            "diagonal_alignment": SimpleNamespace(TOP_LEFT=TOP_LEFT, BOTTOM_RIGHT=BOTTOM_RIGHT),
            "heur_mode": SimpleNamespace(A="A", FALLBACK="FALLBACK"),
        },
        "cudnn.datatypes": {"torch_to_cudnn_data_type": lambda dtype: dtype},
    }
